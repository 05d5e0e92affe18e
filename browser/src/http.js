  var ANSWER_WITHIN = 15;
  var SLOWEST = 2000; // characters a second that are sent
  var BATCH = 100;
  var BATCH_LENGTH = 16000;
  var LONGEST_LINE = 7900; // bytes; nginx takes 8192 of a request's line, and we keep below 8000

  var CROWDED_AFTER = 1;
  var CROWDED_FOR = 60000; // milliseconds, and up to as many more
  var crowdedUntil = 0;

  /** Has the other pages of this origin let go of the browser's connections to the host: ours waits for one. */
  function makeRoom() {
    var memory = new Memory('localStorage');
    memory.set('crowded', 1);
    memory.set('crowded', 0);
  }

  function isCrowded() {
    return now() < crowdedUntil;
  }

  function isForeign(base) {
    return base.indexOf(window.location.protocol + '//' + window.location.host + '/') !== 0;
  }

  /** Whether pages may ask another origin by XMLHttpRequest here. */
  function canAsk(base) {
    return window.XMLHttpRequest && (!isForeign(base) || 'withCredentials' in new window.XMLHttpRequest());
  }

  function readAnswer(xhr) {
    var answer = readObject(xhr.responseText);
    if (!answer || (xhr.status >= 300 && answer.type !== 'error')) {
      answer = trouble('unreachable', 'The server answered ' + xhr.status, true);
    }
    answer.status = xhr.status;
    if (answer.type === 'error' && !answer.after) {
      answer.after = +xhr.getResponseHeader('Retry-After');
    }
    return answer;
  }

  /**
   * Asks by XMLHttpRequest.
   *
   * @param seconds  in which the answer, or the next piece of it, has to come; more where much is sent
   * @param answered  called once, with the JSON that was answered, or null where there was no answer
   * @param came  called when a piece comes
   * @returns a function that gives up, after which nothing is called
   */
  function ask(url, body, client, seconds, answered, came) {
    var xhr = new window.XMLHttpRequest(), timer, waiting;

    function wait() {
      cancel(waiting);
      cancel(timer);
      timer = later(seconds, giveUp);
    }

    function giveUp() {
      end(null);
      xhr.abort();
    }

    function end(answer) {
      cancel(waiting);
      cancel(timer);
      xhr.onreadystatechange = xhr.onprogress = noop;
      answered(answer);
    }

    xhr.open(body ? 'POST' : 'GET', url);
    if (client) {
      xhr.setRequestHeader('Realtime-Client', client);
    }
    xhr.onreadystatechange = function () {
      if (xhr.readyState === 4) {
        end(xhr.status ? readAnswer(xhr) : null);
      }
    };
    xhr.onprogress = function () {
      wait();
      came();
    };
    waiting = seconds > ANSWER_WITHIN || later(CROWDED_AFTER, makeRoom);
    seconds += (body || '').length / SLOWEST;
    timer = later(seconds, giveUp);
    xhr.send(body);
    return function () {
      answered = noop;
      giveUp();
    };
  }

  /**
   * What transports over HTTP share: commands go to /commands, one request at a time and so in order; what a `join`
   * answers is where to read from.
   *
   * To be added: read(), which begins to read `rooms` anew, by now others; and stop(), which ends that.
   *
   * What a server or a proxy takes of a request's line is less than many rooms need: they are read by several requests,
   * each with a part of them.
   */
  function HttpSocket(base) {
    var self = this;
    this.base = base;
    // client, name, state, isSending, isReading, hasChanged and isOver come later.
    // By name: {since: position, version: of presence, and as `entering` the
    // `joined` that is told when reading the room has begun}
    this.rooms = table();
    this.longestLine = LONGEST_LINE;
    this.queue = [];
    this.abortSending = noop;
    this.most = BATCH;
    this.longest = BATCH_LENGTH;
    this.timer = later(0, function () { self.onopen(); });
  }

  HttpSocket.prototype.send = function (command) {
    if (command.type === 'hello') {
      this.name = command.name;
    }
    if (command.type === 'state' && !this.isReading) {
      this.state = command; // which only who is in a room may say
    } else {
      this.queue.push({id: command.id, text: JSON.stringify(command)});
      this.sendLater();
    }
  };

  HttpSocket.prototype.sendLater = function () {
    var self = this;
    if (!this.isSending && this.queue.length && !this.isOver) {
      this.isSending = true;
      soon(function () {
        if (!self.isOver) {
          self.flush();
        }
      });
    }
  };

  HttpSocket.prototype.flush = function () {
    var self = this, batch = this.takeBatch();
    this.abortSending = this.request('commands', [], arrayOf(batch), ANSWER_WITHIN, function (answer) {
      self.isSending = false;
      self.answered(batch, answer);
    });
  };

  function arrayOf(batch) {
    return '[' + batch.map(function (waiting) { return waiting.text; }).join(',') + ']';
  }

  HttpSocket.prototype.takeBatch = function () {
    var queue = this.queue, count = 1, length = queue[0].text.length;
    while (count < queue.length && count < this.most && length + queue[count].text.length < this.longest) {
      length += queue[count].text.length;
      count += 1;
    }
    return queue.splice(0, count);
  };

  HttpSocket.prototype.answered = function (batch, answer) {
    if (!answer) {
      this.end({unreachable: true});
    } else if (answer.type === 'error') {
      this.refused(batch, answer);
    } else {
      answer.forEach(this.replied, this);
      if (!this.isOver && this.hasChanged) {
        this.hasChanged = false;
        this.read();
      }
    }
    this.sendLater();
  };

  // What is wrong with one command is its own error, and not that of those beside it.
  HttpSocket.prototype.refused = function (batch, error) {
    if (error.code !== 'too_large' && error.code !== 'bad_request') {
      this.end({error: error});
    } else if (batch.length > 1) {
      this.most = 1;
      this.queue = batch.concat(this.queue);
    } else {
      error.id = batch[0].id;
      this.onmessage(error);
    }
  };

  HttpSocket.prototype.replied = function (reply) {
    if (this.isOver || reply.type === 'ok') {
      return;
    }
    if (reply.type === 'welcome') {
      this.client = reply.client;
      this.mostRooms = reply.rooms;
    } else if (reply.type === 'joined') {
      this.admit(reply);
      return;
    } else if (reply.type === 'left') {
      this.enter(reply);
      delete this.rooms[reply.room];
      this.hasChanged = true;
    }
    this.onmessage(reply);
  };

  // The server counts those of one request alone. One that says nothing has no limit.
  HttpSocket.prototype.admit = function (reply) {
    this.rooms[reply.room] = {since: reply.position, version: '', entering: reply};
    if (this.names().length > this.mostRooms) {
      this.refuse(reply.room);
    } else {
      this.hasChanged = true;
      this.onmessage({}); // there is progress
    }
  };

  HttpSocket.prototype.refuse = function (name) {
    this.exclude({type: 'error', code: 'too_many', message: 'Too many rooms.', temporary: true, room: name});
  };

  /** Reading a room has begun; `event` says who is there. Gives whether that is news. */
  HttpSocket.prototype.enter = function (event) {
    var room = this.rooms[event.room] || {}, reply = room.entering;
    room.entering = null;
    if (reply && !this.isOver) {
      reply.count = event.count;
      reply.members = event.members;
      this.onmessage(reply);
    }
    return reply;
  };

  /** An event was read. */
  HttpSocket.prototype.received = function (event) {
    var room = this.rooms[event.room];
    if (room && (event.type === 'message' || event.type === 'reset')) {
      room.since = event.position;
    }
    if (!this.isOver) {
      this.onmessage(event);
    }
    if (event.type === 'goodbye') {
      this.end({});
    }
  };

  /** Reading has begun. */
  HttpSocket.prototype.begun = function () {
    var state = this.state;
    this.isReading = true;
    this.state = null;
    if (state) {
      this.send(state);
    }
  };

  HttpSocket.prototype.names = function () {
    return Object.keys(this.rooms);
  };

  /** Takes so many of `names` as one request has room for, and gives them with the parameters that say what to read. */
  HttpSocket.prototype.takePart = function (names, path) {
    var taken = [], query = [], left = this.longestLine - this.address(path, [], this.client).length, room, wish;
    while (names.length) {
      room = this.rooms[names[0]]; // all of it are the server's words, which need no encoding
      wish = 'room=' + names[0] + '&since=' + room.since + '&presence=' + room.version;
      left -= wish.length + 1;
      if (left < 0 && taken.length) {
        break;
      }
      taken.push(names.shift());
      query.push(wish);
    }
    return {names: taken, query: query};
  };

  /** Reads a room no longer, and tells why. */
  HttpSocket.prototype.exclude = function (error) {
    var room = this.rooms[error.room];
    delete this.rooms[error.room];
    error.id = room.entering && room.entering.id;
    this.onmessage(error);
  };

  /** What one room has is that room's trouble, and what is too long can be shorter: then it reads on, and gives true. */
  HttpSocket.prototype.survives = function (answer) {
    var error = answer || {}, survives = true;
    if (error.room && this.rooms[error.room]) {
      this.exclude(error);
    } else if ((/414|431/).test(error.status) && this.longestLine > 500) {
      this.longestLine /= 2;
    } else {
      survives = false;
    }
    if (survives && !this.isOver) {
      this.read();
    }
    return survives;
  };

  /** An address below the base. Its `client` saves pages of other origins the question whether a header is allowed. */
  HttpSocket.prototype.address = function (path, query, client) {
    query = query.slice();
    if (this.name) {
      query.push('name=' + encodeURIComponent(this.name));
    }
    if (client) {
      query.push('client=' + client);
    }
    return this.base + path + '?' + query.join('&');
  };

  HttpSocket.prototype.request = function (path, query, body, seconds, answered) {
    var self = this, foreign = isForeign(this.base), client = this.client;
    return ask(this.address(path, query, foreign && client), body, !foreign && client, seconds, answered, function () {
      self.onmessage({}); // there is progress
    });
  };

  HttpSocket.prototype.end = function (why) {
    if (!this.isOver) {
      this.close();
      this.onclose(why);
    }
  };

  HttpSocket.prototype.close = function () {
    this.isOver = true;
    cancel(this.timer);
    this.abortSending();
    this.stop();
  };

  HttpSocket.prototype.leave = function () {
    this.queue = this.names().map(function (name) { return {text: JSON.stringify({type: 'leave', room: name})}; });
    this.close();
    while (this.queue.length && this.client) {
      this.bid(arrayOf(this.takeBatch()));
    }
  };

  // What the browser sends although the page has gone.
  HttpSocket.prototype.bid = function (text) {
    var address = this.address('commands', [], this.client), navigator = window.navigator;
    if (!navigator.sendBeacon || !navigator.sendBeacon(address, text)) {
      ask(address, text, null, ANSWER_WITHIN, noop, noop);
    }
  };
