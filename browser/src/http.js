  var ANSWER_WITHIN = 15;
  var BATCH = 100;
  var BATCH_LENGTH = 16000;

  function isForeign(base) {
    return base.indexOf(window.location.protocol + '//' + window.location.host + '/') !== 0;
  }

  /** Whether pages may ask another origin by XMLHttpRequest here. */
  function canAsk(base) {
    return !!window.XMLHttpRequest && (!isForeign(base) || 'withCredentials' in new window.XMLHttpRequest());
  }

  function readAnswer(xhr) {
    var answer = readObject(xhr.responseText);
    if (!answer || (xhr.status >= 300 && answer.type !== 'error')) {
      answer = trouble('unreachable', 'The server answered ' + xhr.status + ' ' + xhr.statusText, true);
      answer.type = 'error';
    }
    if (answer.type === 'error' && !answer.after) {
      answer.after = Number(xhr.getResponseHeader('Retry-After')) || 0;
    }
    return answer;
  }

  /**
   * Asks by XMLHttpRequest.
   *
   * @param answered  called once, with the JSON that was answered, or null where there was no answer
   * @returns a function that gives up, after which nothing is called
   */
  function ask(url, body, client, seconds, answered) {
    var xhr = new window.XMLHttpRequest(), timer;

    function end(answer) {
      window.clearTimeout(timer);
      xhr.onreadystatechange = noop;
      answered(answer);
    }

    xhr.open(body ? 'POST' : 'GET', url, true);
    if (client) {
      xhr.setRequestHeader('Realtime-Client', client);
    }
    if (body) {
      xhr.setRequestHeader('Content-Type', 'text/plain');
    }
    xhr.onreadystatechange = function () {
      if (xhr.readyState === 4) {
        end(xhr.status ? readAnswer(xhr) : null);
      }
    };
    timer = later(seconds, function () {
      end(null);
      xhr.abort();
    });
    xhr.send(body);
    return function () {
      answered = noop;
      end();
      xhr.abort();
    };
  }

  /**
   * What transports over HTTP share: commands go to /commands, one request at a time and so in order; what a `join`
   * answers is where to read from.
   *
   * To be added: read(), which begins to read `rooms` anew, by now others; and stop(), which ends that.
   */
  function HttpSocket(base) {
    var self = this;
    this.base = base;
    this.client = null;
    this.name = null;
    this.rooms = {}; // by name: {since: position, version: of presence}
    this.entering = {}; // by name: the `joined` that is told when reading the room has begun
    this.queue = [];
    this.isSending = false;
    this.abortSending = noop;
    this.state = null;
    this.isReading = false;
    this.hasChanged = false;
    this.isOver = false;
    this.most = BATCH;
    this.longest = BATCH_LENGTH;
    this.timer = later(0, function () {
      self.timer = null;
      self.onopen();
    });
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
    if (!this.timer && !this.isSending && this.queue.length && !this.isOver) {
      this.timer = later(0, function () {
        self.timer = null;
        self.flush();
      });
    }
  };

  HttpSocket.prototype.flush = function () {
    var self = this, batch = this.takeBatch();
    var texts = batch.map(function (waiting) { return waiting.text; });
    this.isSending = true;
    this.abortSending = this.request('commands', [], '[' + texts.join(',') + ']', ANSWER_WITHIN, function (answer) {
      self.isSending = false;
      self.answered(batch, answer);
    });
  };

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
    } else if (reply.type === 'joined') {
      this.rooms[reply.room] = {since: reply.position, version: ''};
      this.entering[reply.room] = reply;
      this.hasChanged = true;
      return;
    } else if (reply.type === 'left') {
      this.enter(this.entering[reply.room] || {});
      delete this.rooms[reply.room];
      this.hasChanged = true;
    }
    this.onmessage(reply);
  };

  /** Reading a room has begun; `event` says who is there. Gives whether that is news. */
  HttpSocket.prototype.enter = function (event) {
    var reply = this.entering[event.room];
    delete this.entering[event.room];
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

  /** The parameters that say what to read. */
  HttpSocket.prototype.wishes = function (versions) {
    var rooms = this.rooms, query = [];
    this.names().forEach(function (name) {
      query.push('room=' + encodeURIComponent(name), 'since=' + rooms[name].since);
      if (versions) {
        query.push('presence=' + encodeURIComponent(rooms[name].version));
      }
    });
    return query;
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
    var foreign = isForeign(this.base), client = this.client;
    return ask(this.address(path, query, foreign && client), body, !foreign && client, seconds, answered);
  };

  HttpSocket.prototype.end = function (why) {
    if (!this.isOver) {
      this.close();
      this.onclose(why);
    }
  };

  HttpSocket.prototype.close = function () {
    this.isOver = true;
    window.clearTimeout(this.timer);
    this.abortSending();
    this.stop();
  };

  HttpSocket.prototype.leave = function () {
    var leaves = this.names().map(function (name) { return {type: 'leave', room: name}; });
    this.close();
    if (leaves.length && this.client) {
      this.bid(JSON.stringify(leaves));
    }
  };

  // What the browser sends although the page has gone.
  HttpSocket.prototype.bid = function (text) {
    var address = this.address('commands', [], this.client), navigator = window.navigator;
    if (!navigator.sendBeacon || !navigator.sendBeacon(address, text)) {
      ask(address, text, null, ANSWER_WITHIN, noop);
    }
  };
