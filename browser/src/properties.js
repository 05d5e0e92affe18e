  /**
   * The properties of a room: what the server tells of them, and what we set.
   *
   * Of each name one value is on its way at a time. A value that is set meanwhile replaces the one that waits.
   */
  function Properties(room, connection) {
    this.room = room;
    this.connection = connection;
    this.position = this.end = null; // up to where we know them, and where their log ended when all were sent
    this.values = emptyMap();
    this.unseen = emptyMap(); // names that we know, and that the server has not confirmed since it sent all
    this.sets = emptyMap(); // by name: {data, waiting: functions that are told the result}
  }

  // What the page calls

  Properties.prototype.set = function (name, data, callback) {
    var self = this, isUnderWay = this.sets[name], setting = isUnderWay || {waiting: []};
    this.sets[name] = setting;
    setting.data = data;
    return makePromise(function (resolve, reject) {
      setting.waiting.push(function (error, result) {
        if (callback) {
          safeCall(callback, error, result);
        }
        (error ? reject : resolve)(error || result);
      });
      if (!isUnderWay) {
        self.send(name, setting);
      }
    });
  };

  // Under its key it is set only once. If it were set again, it would replace what others have set meanwhile.
  Properties.prototype.send = function (name, setting) {
    var self = this, waiting = setting.waiting.splice(0), command =
      {type: 'set', room: this.room.name, name: name, data: setting.data, key: randomKey()};
    this.connection.runQuery(command, function (error, result) {
      if (setting.waiting.length) {
        self.send(name, setting);
      } else {
        delete self.sets[name];
      }
      waiting.forEach(function (settle) { settle(error, result); });
    }, function (reply, done) { done({position: reply.position}); });
  };

  // What the room calls

  /** The server sends all properties, or those that have changed since our position. */
  Properties.prototype.received = function (event) {
    if (event.full) { // the first page of a large log may end before our position
      this.unseen = emptyMap();
      Object.keys(this.values).forEach(function (name) { this.unseen[name] = true; }, this);
      this.position = null;
      this.end = event.top;
    }
    if (!hasSeen(this.position, event.position)) {
      event.values.forEach(this.changed, this);
      this.moveTo(event.position);
    }
  };

  Properties.prototype.changed = function (property) {
    if (!hasSeen(this.position, property.position)) {
      delete this.unseen[property.name];
      this.apply(property);
      this.moveTo(property.position);
    }
  };

  // What the server has not sent by the end of the log doesn't exist.
  Properties.prototype.moveTo = function (position) {
    this.position = position;
    if (this.end && hasSeen(position, this.end)) {
      this.end = null;
      Object.keys(this.unseen).forEach(this.remove, this);
      this.unseen = emptyMap();
    }
  };

  Properties.prototype.remove = function (name) {
    this.apply({type: 'property', room: this.room.name, name: name, position: this.position});
  };

  Properties.prototype.apply = function (property) {
    if (property.data === undefined) {
      delete this.values[property.name];
    } else {
      this.values[property.name] = property.data;
    }
    this.room.emit('$property', this.room.decorate(property));
  };

  /** We are another user, who begins anew. */
  Properties.prototype.forget = function () {
    this.position = this.end = null;
    Object.keys(this.values).forEach(this.remove, this);
  };
