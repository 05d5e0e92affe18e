  var ANSWER_WITHIN = 15;
  var CHARACTERS_PER_SECOND = 2000; // the slowest upload that is waited for
  var MAX_BATCH = 100;
  var MAX_BATCH_LENGTH = 16000;
  var MAX_LINE_LENGTH = 7900; // bytes; nginx accepts a request line of 8192, other proxies 8000

  var CLASSIC_LENGTH = 32; // characters of a client that holds no name

  var CROWDED_AFTER = 1;
  var CROWDED_FOR = 60000; // milliseconds, up to twice as long
  var crowdedUntil = 0;

  /** Makes other pages of this origin close their streams, as a request waits for one of the browser's connections. */
  function freeConnections() {
    var memory = new PageStorage('localStorage');
    memory.set('crowded', 1);
    memory.set('crowded', 0);
  }

  function isCrowded() {
    return now() < crowdedUntil;
  }

  function isCrossOrigin(base) {
    return base.indexOf(window.location.protocol + '//' + window.location.host + '/') !== 0;
  }

  /** Whether this browser can reach the server by XMLHttpRequest, from this origin. */
  function supportsXhr(base) {
    return window.XMLHttpRequest && (!isCrossOrigin(base) || 'withCredentials' in new window.XMLHttpRequest());
  }

  function readResponse(xhr) {
    var answer = parseJson(xhr.responseText);
    if (!answer || (xhr.status >= 300 && answer.type !== 'error')) {
      answer = makeError('unreachable', 'The server answered ' + xhr.status, true);
    }
    answer.status = xhr.status;
    if (answer.type === 'error' && !answer.after) {
      answer.after = +xhr.getResponseHeader('Retry-After');
    }
    return answer;
  }

  /**
   * Sends a request by XMLHttpRequest.
   *
   * @param seconds  how long there may be no progress; a large body has more time
   * @param answered  called once, with the JSON of the response, or with null if there was none
   * @param came  called when a part of the response comes
   * @returns a function that aborts the request; nothing is called after it
   */
  function sendRequest(url, body, client, seconds, onResponse, onProgress) {
    var xhr = new window.XMLHttpRequest(), timer, waiting;

    function wait() {
      cancel(waiting);
      cancel(timer);
      timer = later(seconds, abort);
    }

    function abort() {
      end(null);
      xhr.abort();
    }

    function end(answer) {
      cancel(waiting);
      cancel(timer);
      xhr.onreadystatechange = xhr.onprogress = noop;
      onResponse(answer);
    }

    xhr.open(body ? 'POST' : 'GET', url);
    if (client) {
      xhr.setRequestHeader('Realtime-Client', client);
    }
    xhr.onreadystatechange = function () {
      if (xhr.readyState === 4) {
        end(xhr.status ? readResponse(xhr) : null);
      }
    };
    xhr.onprogress = function () {
      wait();
      onProgress();
    };
    waiting = seconds > ANSWER_WITHIN || later(CROWDED_AFTER, freeConnections);
    seconds += (body || '').length / CHARACTERS_PER_SECOND;
    timer = later(seconds, abort);
    xhr.send(body);
    return function () {
      onResponse = noop;
      abort();
    };
  }

  /**
   * What the transports over HTTP share. Commands are posted to /commands, one request at a time, to keep their order.
   * The reply to a `join` says from which position to read.
   *
   * A subclass adds read(), which starts to read `rooms` again after they have changed, and stop(), which ends that.
   *
   * Servers and proxies limit the length of a request line. Many rooms need more than that, so several requests read
   * them in groups.
   */
  function HttpTransport(base) {
    var self = this;
    this.base = base;
    // Set later: readsProperties, client, reader (what stands for a user's client in addresses), name, state, isSending, isReading,
    // roomsChanged and isClosed.
    // Rooms by name: {since: position, presenceVersion, properties: the position in them, or '' if they are not read,
    // joinReply: the `joined` to report when the room is read}
    this.roomsByName = emptyMap();
    this.maxLineLength = MAX_LINE_LENGTH;
    this.queue = [];
    this.abortPost = noop;
    this.maxBatch = MAX_BATCH;
    this.maxBatchLength = MAX_BATCH_LENGTH;
    this.timer = later(0, function () { self.onopen(); });
  }

  HttpTransport.prototype.send = function (command) {
    if (command.type === 'hello') {
      this.name = command.name;
    }
    if (command.type === 'state' && !this.isReading) {
      this.state = command; // the server accepts it only of members of a room
    } else {
      this.queue.push({id: command.id, json: JSON.stringify(command)});
      this.postSoon();
    }
  };

  HttpTransport.prototype.postSoon = function () {
    var self = this;
    if (!this.isSending && this.queue.length && !this.isClosed) {
      this.isSending = true;
      nextTick(function () {
        if (!self.isClosed) {
          self.post();
        }
      });
    }
  };

  HttpTransport.prototype.post = function () {
    var self = this, batch = this.takeBatch();
    this.abortPost = this.request('commands', [], joinBatch(batch), ANSWER_WITHIN, function (answer) {
      self.isSending = false;
      self.handleResponse(batch, answer);
    });
  };

  function joinBatch(batch) {
    return '[' + batch.map(function (waiting) { return waiting.json; }).join(',') + ']';
  }

  HttpTransport.prototype.takeBatch = function () {
    var queue = this.queue, count = 1, length = queue[0].json.length;
    while (count < queue.length && count < this.maxBatch && length + queue[count].json.length < this.maxBatchLength) {
      length += queue[count].json.length;
      count += 1;
    }
    return queue.splice(0, count);
  };

  HttpTransport.prototype.handleResponse = function (batch, answer) {
    if (!answer) {
      this.end({unreachable: true});
    } else if (answer.type === 'error') {
      this.handleError(batch, answer);
    } else {
      answer.forEach(this.handleReply, this);
      if (!this.isClosed && this.roomsChanged) {
        this.roomsChanged = false;
        this.read();
      }
    }
    this.postSoon();
  };

  // An error in one command must not fail the others of its batch, so they are sent again one by one.
  HttpTransport.prototype.handleError = function (batch, error) {
    if (error.code !== 'too_large' && error.code !== 'bad_request') {
      this.end({error: error});
    } else if (batch.length > 1) {
      this.maxBatch = 1;
      this.queue = batch.concat(this.queue);
    } else {
      error.id = batch[0].id;
      this.onmessage(error);
    }
  };

  HttpTransport.prototype.handleReply = function (reply) {
    if (this.isClosed || reply.type === 'ok') {
      return;
    }
    if (reply.type === 'welcome') {
      this.welcomed(reply);
    } else if (reply.type === 'joined') {
      this.acceptJoin(reply);
      return;
    } else if (reply.type === 'left') {
      this.finishJoin(reply);
      delete this.roomsByName[reply.room];
      this.roomsChanged = true;
    }
    this.onmessage(reply);
  };

  // A client that is sealed holds its name. If it was renewed, what reads already is renewed by the server.
  HttpTransport.prototype.welcomed = function (welcome) {
    this.client = welcome.client;
    this.reader = welcome.reader;
    this.name = welcome.client.length > CLASSIC_LENGTH ? null : this.name;
    this.maxRooms = welcome.rooms;
  };

  // The server only counts the rooms of one request, so we count them all. A server that names no limit has none.
  HttpTransport.prototype.acceptJoin = function (reply) {
    this.roomsByName[reply.room] = {since: reply.position, presenceVersion: '', joinReply: reply,
      properties: (reply.properties || {}).position || ''};
    this.readsProperties |= !!reply.properties;
    if (this.roomNames().length > this.maxRooms) {
      this.refuseRoom(reply.room);
    } else {
      this.roomsChanged = true;
      this.onmessage({}); // a sign of progress
    }
  };

  HttpTransport.prototype.refuseRoom = function (name) {
    this.dropRoom({type: 'error', code: 'too_many', message: 'Too many rooms.', temporary: true, room: name});
  };

  /** Reports that a room is joined, with the members that `event` lists. Returns nothing if it was reported before. */
  HttpTransport.prototype.finishJoin = function (event) {
    var room = this.roomsByName[event.room] || {}, reply = room.joinReply;
    room.joinReply = null;
    if (reply && !this.isClosed) {
      reply.count = event.count;
      reply.members = event.members;
      this.onmessage(reply);
    }
    return reply;
  };

  /** Handles an event that was read. */
  HttpTransport.prototype.received = function (event) {
    var room = this.roomsByName[event.room];
    if (room && (event.type === 'message' || event.type === 'reset')) {
      room.since = event.position;
    } else if (room && (/^propert/).test(event.type)) {
      room.properties = event.position;
    } else if (event.type === 'left') {
      delete this.roomsByName[event.room];
    }
    if (!this.isClosed) {
      this.onmessage(event);
    }
    if (event.type === 'goodbye') {
      this.end({});
    }
  };

  /** The server knows that we read rooms: send what waited for that. */
  HttpTransport.prototype.readStarted = function () {
    var state = this.state;
    this.isReading = true;
    this.state = null;
    if (state) {
      this.send(state);
    }
  };

  HttpTransport.prototype.roomNames = function () {
    return Object.keys(this.roomsByName);
  };

  /** Removes from `names` what one request can read. Returns these rooms and the parameters of the request. */
  HttpTransport.prototype.takeGroup = function (names, path) {
    var room, parameters, taken = [], query = [];
    var left = this.maxLineLength - this.urlFor(path, [], this.address()).length;
    while (names.length) {
      room = this.roomsByName[names[0]]; // comes from the server, and needs no encoding
      parameters = 'room=' + names[0] + '&since=' + room.since + '&presence=' + room.presenceVersion +
        (this.readsProperties ? '&properties=' + room.properties : '');
      left -= parameters.length + 1;
      if (left < 0 && taken.length) {
        break;
      }
      taken.push(names.shift());
      query.push(parameters);
    }
    return {roomNames: taken, query: query};
  };

  /** Stops reading a room, and reports the error. */
  HttpTransport.prototype.dropRoom = function (error) {
    var room = this.roomsByName[error.room];
    delete this.roomsByName[error.room];
    error.id = room.joinReply && room.joinReply.id;
    this.onmessage(error);
    if (!room.joinReply && error.code === 'forbidden') {
      this.onmessage({type: 'left', room: error.room, reason: error.code}); // it was read until now
    }
  };

  /** Reads on without the one room that an error concerns, or with shorter requests. Returns false for other errors. */
  HttpTransport.prototype.canGoOn = function (answer) {
    var error = answer || {}, canGoOn = true;
    if (error.room && this.roomsByName[error.room]) {
      this.dropRoom(error);
    } else if ((/414|431/).test(error.status) && this.maxLineLength > 500) {
      this.maxLineLength /= 2;
    } else {
      canGoOn = false;
    }
    if (canGoOn && !this.isClosed) {
      this.read();
    }
    return canGoOn;
  };

  /** The parameter that says who we are, for addresses. */
  HttpTransport.prototype.address = function () {
    return this.reader ? 'reader=' + this.reader : this.client ? 'client=' + this.client : '';
  };

  /** A URL below the base, with a parameter that says who we are, or with ''. */
  HttpTransport.prototype.urlFor = function (path, query, identity) {
    query = query.slice();
    if (this.name) {
      query.push('name=' + encodeURIComponent(this.name));
    }
    if (identity) {
      query.push(identity);
    }
    return this.base + path + '?' + query.join('&');
  };

  // On another origin a guest's client goes into the query, as a header needs a CORS preflight. A user's never does.
  HttpTransport.prototype.request = function (path, query, body, seconds, onResponse) {
    var self = this, inQuery = isCrossOrigin(this.base) && !this.reader;
    return sendRequest(
      this.urlFor(path, query, inQuery && this.address()), body, !inQuery && this.client, seconds, onResponse,
      function () { self.onmessage({}); }); // a sign of progress
  };

  HttpTransport.prototype.end = function (cause) {
    if (!this.isClosed) {
      this.close();
      this.onclose(cause);
    }
  };

  HttpTransport.prototype.close = function () {
    this.isClosed = true;
    cancel(this.timer);
    this.abortPost();
    this.stop();
  };

  HttpTransport.prototype.leave = function () {
    this.queue = this.roomNames().map(function (name) { return {json: JSON.stringify({type: 'leave', room: name})}; });
    this.close();
    while (this.queue.length && this.client) {
      this.beacon(joinBatch(this.takeBatch()));
    }
  };

  // Sends commands while the page is being closed. A beacon has no headers, so a user says hello first.
  HttpTransport.prototype.beacon = function (text) {
    var url = this.urlFor('commands', [], this.reader ? '' : this.address()), navigator = window.navigator;
    if (this.reader) {
      text = '[' + JSON.stringify({type: 'hello', client: this.client}) + ',' + text.slice(1);
    }
    if (!navigator.sendBeacon || !navigator.sendBeacon(url, text)) {
      sendRequest(url, text, null, ANSWER_WITHIN, noop, noop);
    }
  };
