  var DEFAULT_LAST = 50;

  /**
   * A room of one connection. Its position is independent of links, so each message is emitted once.
   *
   * A page may get several handles of it, each with its own listeners. The room itself is their prototype.
   */
  function Room(name, options, connection) {
    this.handles = [];
    this.name = name;
    this.connection = connection;
    this.position = options.since || null;
    this.top = null;
    this.last = options.last === undefined ? DEFAULT_LAST : options.last;
    this.joined = this.membersKnown = false;
    this.rights = null;
    // Set later: lastError (why it can't be joined), isLeft and timer.
    this.count = this.joinFailures = 0;
    this.members = [];
    this.outbox = new Outbox(this, connection);
    this.propertyLog = new Properties(this, connection);
    this.properties = this.propertyLog.values;
    this.readsProperties = options.properties;
  }

  inherit(Room, Emitter);

  Room.prototype.newHandle = function () {
    var handle = Object.create(this);
    Emitter.call(handle);
    this.handles.push(handle);
    return handle;
  };

  Room.prototype.emit = function (event, first, second) {
    this.handles.slice().forEach(function (handle) { Emitter.prototype.emit.call(handle, event, first, second); });
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

  /** Sends a signal to those who are in the room now. It is dropped if we are not connected. */
  Room.prototype.signal = function (event, data) {
    if (this.joined) {
      this.connection.link.sendCommand(
        {type: 'signal', room: this.name, event: event, data: data === undefined ? null : data});
    }
    return this.joined;
  };

  /**
   * Sets a property of the room; without data it is removed. It is sent when there is a connection.
   *
   * If it is set again before that, only the last value is sent.
   */
  Room.prototype.set = function (name, data, callback) {
    return this.propertyLog.set(name, data, callback);
  };

  Room.prototype.history = function (options, callback) {
    var self = this, command;
    options = options || {};
    command = {type: 'history', room: this.name, before: options.before, since: options.since, limit: options.limit};
    return this.connection.runQuery(command, callback, function (reply, done) {
      var messages = reply.messages.map(self.decorate, self);
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
    return connection.runQuery(command, callback, function (reply, done) {
      all = all.concat(reply.members);
      if (reply.after) {
        command.after = reply.after;
        return true; // ask for the next page
      }
      done(all);
    });
  };

  // The room is left when its last handle is.
  Room.prototype.leave = function () {
    if (this.handles.length > 1) {
      this.handles.splice(this.handles.indexOf(this), 1);
      this.handles = [this];
      this.isLeft = true;
      this.joined = false;
      this.outbox = new Outbox(this, this.connection);
    } else if (!this.isLeft) {
      this.connection.removeRoom(this.name);
    }
  };

  // What the connection calls:

  Room.prototype.joinOn = function (link) {
    var self = this, command = {type: 'join', room: this.name, last: this.last};
    if (this.position) {
      command.since = this.position;
    }
    if (this.readsProperties) {
      command.properties = this.propertyLog.position || true;
    }
    link.request(command, function (reply) {
      if (!self.isLeft) {
        (reply.type === 'joined' ? self.joinAccepted : self.joinRefused).call(self, reply, command.since, link);
      }
    }, !link.isUp);
  };

  Room.prototype.joinAccepted = function (reply, since) {
    var present = applyPresence(this, reply);
    this.joined = true;
    this.joinFailures = 0;
    this.lastError = null;
    this.top = reply.top;
    this.setRights(reply.rights);
    if (since && !reply.recovered) {
      this.resetTo(reply.position, 'resume');
    } else if (!this.position) {
      this.position = reply.position;
    }
    if (reply.properties) {
      this.propertyLog.received(reply.properties);
    }
    this.emit('$joined', {recovered: reply.recovered, count: this.count});
    this.emit('$presence', present);
    this.checkCaughtUp();
  };

  /** Sets what we may do in the room: the letters of our rights. A server without tokens doesn't say. */
  Room.prototype.setRights = function (rights) {
    if (rights !== undefined && rights !== this.rights) {
      this.rights = rights;
      this.emit('$rights', rights);
    }
  };

  // A room that can't be read may still be published to, so what waits is sent.
  Room.prototype.joinRefused = function (error, since, link) {
    var self = this;
    if (error.code === 'bad_position' && since) {
      this.resetTo(null, 'resume');
      this.joinOn(link);
    } else {
      if (error.temporary) {
        this.timer = later((error.after || 0) + backoffDelay(this.joinFailures), function () { self.joinOn(link); });
        this.joinFailures += 1;
      } else {
        this.outbox.onGap();
        this.outbox.unpause();
      }
      // Only once, although each connection tries to join again.
      if (this.lastError !== error.code) {
        this.lastError = error.code;
        error = toError(error);
        error.room = this.name;
        this.emit('$error', error);
        this.connection.emit('$error', error);
      }
    }
  };

  Room.prototype.resetTo = function (position, reason) {
    this.outbox.onGap(this.position && position && !isSameLog(this.position, position));
    this.position = position;
    this.emit('$reset', {position: position, recovered: false, reason: reason});
  };

  /** We are another user, who begins anew. */
  Room.prototype.forget = function () {
    this.outbox.close();
    this.top = this.lastError = null;
    this.resetTo(null, 'identity');
    this.setRights(null);
    this.propertyLog.forget();
    this.emit('$presence', applyPresence(this, {count: 0, members: []}));
  };

  // Before that we can't know which of our own messages are stored already.
  Room.prototype.checkCaughtUp = function () {
    if (this.joined && (!isSameLog(this.position, this.top) || hasSeen(this.position, this.top))) {
      this.outbox.unpause();
    }
  };

  Room.prototype.received = function (event) {
    if (!this.joined) {
      return; // a late event of a room that was left
    }
    if (event.type === 'message') {
      this.arrived(event);
    } else if (event.type === 'signal') {
      this.emitMessage(this.decorate(event));
    } else if (event.type === 'property') {
      this.propertyLog.changed(event);
    } else if (event.type === 'properties') {
      this.propertyLog.received(event);
    } else if (event.type === 'presence') {
      this.emit('$presence', applyPresence(this, event));
    } else if (event.type === 'rights') {
      this.setRights(event.rights);
    } else if (event.type === 'reset') {
      this.resetTo(event.position, 'trimmed');
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
      this.outbox.confirmFromLog(message);
    }
    this.emitMessage(this.decorate(message));
    this.checkCaughtUp();
  };

  /** Adds what the page needs to a message, a signal or a property. */
  Room.prototype.decorate = function (message) {
    var user = this.connection.user;
    message.signal = message.type === 'signal';
    message.own = !!(user && message.from && message.from.id === user.id);
    return message;
  };

  Room.prototype.emitMessage = function (message) {
    this.emit(message.event, message.data, message);
    this.emit('*', message.data, message);
  };

  /** The connection is gone. */
  Room.prototype.pause = function () {
    cancel(this.timer);
    this.joined = false;
    this.outbox.pause();
  };
