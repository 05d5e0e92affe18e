  var LAST = 50;

  /**
   * A room of one connection. Its position is the page's own: whatever brings the messages, each is told once.
   *
   * A page may have several users of it, each with listeners of its own: what they share is their prototype.
   */
  function Room(name, options, connection) {
    this.users = [];
    this.name = name;
    this.connection = connection;
    this.position = options.since || null;
    this.top = null;
    this.last = options.last === undefined ? LAST : options.last;
    this.joined = this.membersKnown = false;
    // trouble, why it can't be joined, gone and timer come later.
    this.count = this.refusals = 0;
    this.members = [];
    this.outbox = new Outbox(this, connection);
  }

  inherit(Room, Emitter);

  Room.prototype.share = function () {
    var user = Object.create(this);
    Emitter.call(user);
    this.users.push(user);
    return user;
  };

  Room.prototype.emit = function (event, first, second) {
    this.users.slice().forEach(function (user) { Emitter.prototype.emit.call(user, event, first, second); });
  };

  Room.prototype.publish = function (event, data, options, callback) {
    if (typeof event !== 'string' || data === undefined || typeof data === 'function') {
      callback = options;
      options = data;
      data = event;
      event = 'message';
    }
    if (typeof options === 'function') {
      callback = options;
      options = null;
    }
    return this.outbox.add(event, data, options && options.key, callback);
  };

  /** Told to those who are here now, and nobody else; not even kept for a moment where we aren't connected. */
  Room.prototype.signal = function (event, data) {
    if (this.joined) {
      this.connection.link.tell(
        {type: 'signal', room: this.name, event: event, data: data === undefined ? null : data});
    }
    return this.joined;
  };

  Room.prototype.history = function (options, callback) {
    var self = this, command;
    options = options || {};
    command = {type: 'history', room: this.name, before: options.before, since: options.since, limit: options.limit};
    return this.connection.read(command, callback, function (reply, done) {
      var messages = reply.messages.map(self.dress, self);
      done({
        messages: messages,
        position: reply.position,
        more: messages.length > 0 &&
          (options.since ? reply.position !== reply.top : offsetOf(messages[0].position) > 1)
      });
    });
  };

  Room.prototype.loadMembers = function (callback) {
    var connection = this.connection, command = {type: 'members', room: this.name}, all = [];
    return connection.read(command, callback, function (reply, done) {
      all = all.concat(reply.members);
      if (reply.after) {
        command.after = reply.after;
        return true; // there is another page
      }
      done(all);
    });
  };

  // The server is told by the last one.
  Room.prototype.leave = function () {
    if (this.users.length > 1) {
      this.users.splice(this.users.indexOf(this), 1);
      this.users = [this];
      this.gone = true;
      this.joined = false;
      this.outbox = new Outbox(this, this.connection);
    } else if (!this.gone) {
      this.connection.forget(this.name);
    }
  };

  // What the connection calls:

  Room.prototype.attend = function (link) {
    var self = this, command = {type: 'join', room: this.name, last: this.last};
    if (this.position) {
      command.since = this.position;
    }
    link.ask(command, function (reply) {
      if (!self.gone) {
        (reply.type === 'joined' ? self.entered : self.refused).call(self, reply, command.since, link);
      }
    }, !link.isUp);
  };

  Room.prototype.entered = function (reply, since) {
    var present = applyPresence(this, reply);
    this.joined = true;
    this.refusals = 0;
    this.trouble = null;
    this.top = reply.top;
    if (since && !reply.recovered) {
      this.skip(reply.position, 'resume');
    } else if (!this.position) {
      this.position = reply.position;
    }
    this.emit('$joined', {recovered: reply.recovered, count: this.count});
    this.emit('$presence', present);
    this.checkCaughtUp();
  };

  // One need not read a room to publish to it, so what waits is sent.
  Room.prototype.refused = function (error, since, link) {
    var self = this;
    if (error.code === 'bad_position' && since) {
      this.skip(null, 'resume');
      this.attend(link);
    } else {
      if (error.temporary) {
        this.timer = later((error.after || 0) + backOff(this.refusals), function () { self.attend(link); });
        this.refusals += 1;
      } else {
        this.outbox.missed();
        this.outbox.proceed();
      }
      // Once, though it is tried again with each connection.
      if (this.trouble !== error.code) {
        this.trouble = error.code;
        error = told(error);
        error.room = this.name;
        this.emit('$error', error);
        this.connection.emit('$error', error);
      }
    }
  };

  Room.prototype.skip = function (position, reason) {
    this.outbox.missed(this.position && position && !isSameLog(this.position, position));
    this.position = position;
    this.emit('$reset', {position: position, recovered: false, reason: reason});
  };

  // Until then one can't know what of one's own is there already.
  Room.prototype.checkCaughtUp = function () {
    if (this.joined && (!isSameLog(this.position, this.top) || hasSeen(this.position, this.top))) {
      this.outbox.proceed();
    }
  };

  Room.prototype.received = function (event) {
    if (!this.joined) {
      return; // This is of before we left.
    }
    if (event.type === 'message') {
      this.arrived(event);
    } else if (event.type === 'signal') {
      this.show(this.dress(event));
    } else if (event.type === 'presence') {
      this.emit('$presence', applyPresence(this, event));
    } else if (event.type === 'reset') {
      this.skip(event.position, 'trimmed');
      this.checkCaughtUp();
    }
  };

  Room.prototype.arrived = function (message) {
    if (hasSeen(this.position, message.position)) {
      return;
    }
    this.position = message.position;
    if (!this.top || !hasSeen(this.top, message.position)) {
      this.top = message.position;
    }
    if (message.key) {
      this.outbox.arrived(message);
    }
    this.show(this.dress(message));
    this.checkCaughtUp();
  };

  /** A message or signal as the page gets it. */
  Room.prototype.dress = function (message) {
    var user = this.connection.user;
    message.signal = message.type === 'signal';
    message.own = !!(user && message.from && message.from.id === user.id);
    return message;
  };

  Room.prototype.show = function (message) {
    this.emit(message.event, message.data, message);
    this.emit('*', message.data, message);
  };

  /** The connection is gone. */
  Room.prototype.pause = function () {
    cancel(this.timer);
    this.joined = false;
    this.outbox.pause();
  };
