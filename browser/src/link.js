  var SILENCE = 30;
  var PONG_WITHIN = 8;
  var SLOWEST_MESSAGE = 16000; // bytes a second

  /**
   * One connection, or an attempt at one: asks and is answered over one transport, greets, and knows when it is up: the
   * server has welcomed us and answered every `join`. What comes until then is held back, so that another connection
   * can go on being used meanwhile.
   *
   * onup(), onevent(event) and ondown(why) are called; `why` as in websocket.js, and `goodbye`, the event.
   *
   * @param {string} kind  the transport's name
   * @param {number} seconds  in which it has to be up, or to hear something
   * @param {function(Link)} greet  says hello and joins rooms
   */
  function Link(kind, base, seconds, greet) {
    var self = this, socket = this.socket = new transports[kind](base);
    this.kind = kind;
    // isOpen, isUp, isOver, welcome and bye come later.
    this.expected = this.lastId = 0;
    this.asked = {};
    this.held = [];
    socket.onopen = function () {
      self.isOpen = true;
      greet(self);
    };
    socket.onmessage = function (event) { self.received(event); };
    socket.onclose = function (why) { self.end(why); };
    this.extend = function () {
      cancel(self.timer);
      self.timer = later(seconds, function () { self.end({unfit: true}); });
    };
    this.extend();
  }

  /** @param isFirst  whether it has to be answered before the connection is up */
  Link.prototype.ask = function (command, answered, isFirst) {
    this.expected += isFirst ? 1 : 0;
    command.id = this.lastId += 1;
    this.asked[command.id] = {answered: answered, type: command.type};
    this.tell(command);
  };

  // What the server can't read it refuses without saying what that was, and what is too large ends the connection: so
  // it is refused here.
  Link.prototype.tell = function (command) {
    var self = this, error, text;
    try {
      text = spell(command);
      if (this.welcome && encodeURIComponent(text).replace(/%../g, '%').length > this.welcome.size) {
        error = tooLarge();
      }
    } catch (reason) {
      error = unsayable(reason);
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
      this.watch();
      this.handle(event);
    } else {
      this.hold(event);
    }
  };

  Link.prototype.hold = function (event) {
    var asked = this.asked[event.id] || {};
    this.extend();
    if ((asked.type === 'hello' && event.type === 'error') || isUnreadable(event)) {
      this.end({error: event});
      return;
    }
    if (event.type === 'welcome') {
      this.welcome = event;
    }
    this.held.push(event);
    this.expected -= asked.type === 'hello' || asked.type === 'join' ? 1 : 0;
    if (this.welcome && !this.expected) {
      this.isUp = true;
      this.watch();
      this.onup();
    }
  };

  Link.prototype.handle = function (event) {
    var asked = this.asked[event.id], ids = Object.keys(this.asked);
    if (this.isOver) {
      return;
    }
    if (isUnreadable(event)) {
      event.vague = ids.length > 1;
      ids.forEach(function (id) {
        event.id = id;
        this.handle(event);
      }, this);
    } else if (asked) {
      delete this.asked[event.id];
      asked.answered(event);
    } else {
      this.onevent(event);
    }
  };

  // A connection can be dead without anybody having been told.
  Link.prototype.watch = function () {
    var self = this;
    cancel(this.timer);
    this.timer = later((this.socket.silence || SILENCE) + this.slack(), function () { self.check(); });
  };

  // A browser doesn't tell that a message is coming: the largest one has its time.
  Link.prototype.slack = function () {
    return (this.welcome.size || 0) / SLOWEST_MESSAGE;
  };

  /** Finds out whether it lives. */
  Link.prototype.check = function () {
    var self = this;
    if (this.isUp && !this.isOver) {
      cancel(this.timer);
      this.timer = later(PONG_WITHIN + this.slack(), function () { self.end({}); });
      this.ask({type: 'ping'}, noop);
    }
  };

  Link.prototype.end = function (why) {
    why.bye = this.bye;
    if (!this.isOver) {
      this.close();
      this.ondown(why);
    }
  };

  Link.prototype.close = function (leaving) {
    this.isOver = true;
    cancel(this.timer);
    this.socket[leaving ? 'leave' : 'close']();
  };

  /** Whether this is about a command that the server could not read, and so may be about any of them. */
  function isUnreadable(event) {
    return event.code === 'bad_request' && !event.id && !event.room;
  }
