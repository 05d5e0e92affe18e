  var IDLE_TIMEOUT = 30;
  var PONG_WITHIN = 8;
  var BYTES_PER_SECOND = 16000; // bytes a second

  /**
   * One connection over one transport. It sends requests, and matches replies to them.
   *
   * It is open when the transport is. It is up when the server has welcomed us and has answered every `join`. Earlier
   * events are held back, so that another link can be used meanwhile.
   *
   * It calls onup(), onevent(event) and ondown(cause). `cause` is as in websocket.js, and may have `bye`, the goodbye.
   *
   * @param {string} kind  the transport's name
   * @param {number} seconds  how long it may take to be up, counted from the last event
   * @param {function(Link)} greet  says hello and joins rooms
   */
  function Link(kind, base, seconds, sayHello) {
    var self = this, socket = this.socket = new transports[kind](base);
    this.kind = kind;
    // Set later: isOpen, isUp, isClosed, welcome, bye and timer.
    this.unanswered = this.lastId = 0;
    this.pendingRequests = {};
    this.heldEvents = [];
    socket.onopen = function () {
      self.isOpen = true;
      sayHello(self);
    };
    socket.onmessage = function (event) { self.received(event); };
    socket.onclose = function (cause) { self.end(cause); };
    this.extendTimeout = function () {
      cancel(self.timer);
      self.timer = later(seconds, function () { self.end({unusable: true}); });
    };
    this.extendTimeout();
  }

  /** @param isFirst  whether the link is only up when this is answered */
  Link.prototype.request = function (command, onReply, isFirst) {
    this.unanswered += isFirst ? 1 : 0;
    command.id = this.lastId += 1;
    this.pendingRequests[command.id] = {onReply: onReply, type: command.type};
    this.sendCommand(command);
  };

  // The server can't say which command it could not read, and closes the connection if one is too large. So we refuse
  // such commands here.
  Link.prototype.sendCommand = function (command) {
    var self = this, error, text;
    try {
      text = serialize(command);
      if (this.welcome && encodeURIComponent(text).replace(/%../g, '%').length > this.welcome.size) {
        error = tooLargeError();
      }
    } catch (reason) {
      error = notJsonError(reason);
      error.code = command.type === 'join' ? 'bad_room' : error.code;
    }
    if (error) {
      error.id = command.id || -1;
      later(0, function () { self.received(error); });
    } else {
      this.socket.send(command);
    }
  };

  Link.prototype.received = function (event) {
    if (event.type === 'goodbye') {
      this.bye = event;
    }
    if (this.isUp) {
      this.restartWatchdog();
      this.handle(event);
    } else {
      this.hold(event);
    }
  };

  Link.prototype.hold = function (event) {
    var request = this.pendingRequests[event.id] || {};
    this.extendTimeout();
    if ((request.type === 'hello' && event.type === 'error') || isUnreadable(event)) {
      this.end({error: event});
      return;
    }
    if (event.type === 'welcome') {
      this.welcome = event;
    }
    this.heldEvents.push(event);
    this.unanswered -= request.type === 'hello' || request.type === 'join' ? 1 : 0;
    if (this.welcome && !this.unanswered) {
      this.isUp = true;
      this.restartWatchdog();
      this.onup();
    }
  };

  Link.prototype.handle = function (event) {
    var request = this.pendingRequests[event.id], ids = Object.keys(this.pendingRequests);
    if (this.isClosed) {
      return;
    }
    if (isUnreadable(event)) {
      event.isAmbiguous = ids.length > 1;
      ids.forEach(function (id) {
        event.id = id;
        this.handle(event);
      }, this);
    } else if (request) {
      delete this.pendingRequests[event.id];
      request.onReply(event);
    } else {
      this.onevent(event);
    }
  };

  // A dead connection may never be reported, so silence is noticed here.
  Link.prototype.restartWatchdog = function () {
    var self = this;
    cancel(this.timer);
    this.timer = later((this.socket.idleTimeout || IDLE_TIMEOUT) + this.transferTime(), function () { self.check(); });
  };

  // A browser doesn't report the progress of a message, so the largest one has its time.
  Link.prototype.transferTime = function () {
    return (this.welcome.size || 0) / BYTES_PER_SECOND;
  };

  /** Sends a ping; without an event in time, the link is closed. */
  Link.prototype.check = function () {
    var self = this;
    if (this.isUp && !this.isClosed) {
      cancel(this.timer);
      this.timer = later(PONG_WITHIN + this.transferTime(), function () { self.end({}); });
      this.request({type: 'ping'}, noop);
    }
  };

  Link.prototype.end = function (cause) {
    cause.bye = this.bye;
    if (!this.isClosed) {
      this.close();
      this.ondown(cause);
    }
  };

  Link.prototype.close = function (leaving) {
    this.isClosed = true;
    cancel(this.timer);
    this.socket[leaving ? 'leave' : 'close']();
  };

  /** Whether this error is about a command that the server could not read, and so could be any of them. */
  function isUnreadable(event) {
    return event.code === 'bad_request' && !event.id && !event.room;
  }
