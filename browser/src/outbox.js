  var QUEUE = 100;
  var KEYS_KEPT = 240000; // milliseconds, less than the five minutes for which a server knows a key in any case

  /** One message on its way. `state` is pending, sent, failed or unknown. */
  function Entry(event, data, key) {
    this.key = key;
    this.event = event;
    this.data = data;
    this.state = 'pending';
    this.error = null;
    this.position = null;
  }

  /** A promise, where the browser has promises, else null. Who doesn't ask isn't told of its failure. */
  function promise(begin) {
    var made = null;
    if (window.Promise) {
      made = new window.Promise(begin);
      made.then(null, noop);
    } else {
      begin(noop, noop);
    }
    return made;
  }

  /**
   * A room's messages on their way out: in order, each under a key by which it is known when it arrives, and by which
   * sending it again is safe.
   */
  function Outbox(room, connection) {
    this.room = room;
    this.connection = connection;
    // {entry, settle, link: where it was sent, since: when first, or 0, inDoubt: whether the server doesn't know its fate}
    this.waiting = [];
    this.isOpen = false;
    this.failures = 0;
    this.timer = null;
  }

  Outbox.prototype.add = function (event, data, key, callback) {
    var self = this, entry = new Entry(event, data, key || randomKey());
    var made = promise(function (resolve, reject) {
      self.put({entry: entry, link: null, since: 0, settle: function (error) {
        var result = {position: entry.position, key: entry.key};
        if (callback) {
          callOut(callback, error, result);
        }
        (error ? reject : resolve)(error || result);
      }});
    });
    if (made) {
      entry.then = function (done, failed) { return made.then(done, failed); };
      entry['catch'] = function (failed) { return made.then(null, failed); };
    }
    return entry;
  };

  Outbox.prototype.put = function (item) {
    var error = this.objection(item.entry);
    this.waiting.push(item);
    if (error) {
      later(0, this.settle.bind(this, item, 'failed', error));
    } else {
      this.room.emit('$pending', item.entry);
      this.flush();
    }
  };

  Outbox.prototype.objection = function (entry) {
    try {
      entry.data = JSON.parse(JSON.stringify(entry.data)); // as it is now: the page may go on to change it
    } catch (error) {
      return trouble('bad_request', 'This can not be said in JSON: ' + error.message);
    }
    if (this.connection.state === 'closed' || this.room.left) {
      return closed();
    }
    return this.isOpen || this.connection.countWaiting() < QUEUE ? null :
      trouble('queue_full', 'Not connected, and ' + QUEUE + ' messages wait already.', true);
  };

  Outbox.prototype.flush = function () {
    var self = this, link = this.connection.link;
    if (this.isOpen && link && !this.timer) {
      this.giveUp(function (item) { return item.inDoubt && now() - item.since > KEYS_KEPT; });
      this.waiting.forEach(function (item) {
        if (item.link !== link && item.entry.state === 'pending') {
          self.send(item, link);
        }
      });
    }
  };

  Outbox.prototype.send = function (item, link) {
    var self = this, entry = item.entry;
    item.link = link;
    item.since = item.since || now();
    link.ask({type: 'publish', room: this.room.name, event: entry.event, data: entry.data, key: entry.key},
      function (reply) { self.answered(item, reply); });
  };

  Outbox.prototype.answered = function (item, reply) {
    if (reply.type === 'published') {
      this.failures = 0;
      this.stored(item, reply.position);
    } else if (reply.temporary) {
      item.link = null;
      item.inDoubt = item.inDoubt || reply.code === 'in_doubt';
      this.flushLater(reply.after);
    } else {
      this.settle(item, 'failed', trouble(reply.code, reply.message));
    }
  };

  Outbox.prototype.flushLater = function (after) {
    var self = this;
    if (!this.timer && this.isOpen) {
      this.timer = later((after || 0) + backOff(this.failures), function () {
        self.timer = null;
        self.flush();
      });
      this.failures += 1;
    }
  };

  Outbox.prototype.stored = function (item, position) {
    item.entry.position = position;
    this.settle(item, 'sent', null);
  };

  Outbox.prototype.settle = function (item, state, error) {
    var index = this.waiting.indexOf(item);
    if (index >= 0) {
      this.waiting.splice(index, 1);
      item.entry.state = state;
      item.entry.error = error;
      this.room.emit(error ? '$failed' : '$sent', item.entry);
      item.settle(error);
    }
  };

  /** A message under one of our keys is there. */
  Outbox.prototype.arrived = function (message) {
    var self = this;
    this.waiting.slice().forEach(function (item) {
      if (item.since && item.entry.key === message.key) {
        self.stored(item, message.position);
      }
    });
  };

  /** Messages are missing: what was sent long ago may be among them, and its key forgotten. */
  Outbox.prototype.missed = function () {
    this.giveUp(function (item) { return item.since && now() - item.since > KEYS_KEPT; });
  };

  /** We are another user now, whose keys are others. */
  Outbox.prototype.disown = function () {
    this.waiting.forEach(function (item) { item.since = item.since && 1; });
  };

  Outbox.prototype.close = function () {
    this.pause();
    this.giveUp(function () { return true; });
  };

  Outbox.prototype.giveUp = function (concerns) {
    var self = this;
    this.waiting.filter(concerns).forEach(function (item) {
      self.settle(item, item.since ? 'unknown' : 'failed', item.since ?
        trouble('unknown', 'It was sent, and whether it was stored can not be known any more.') :
        closed());
    });
  };

  Outbox.prototype.open = function () {
    if (!this.isOpen) {
      this.isOpen = true;
      this.flush();
    }
  };

  Outbox.prototype.pause = function () {
    this.isOpen = false;
    window.clearTimeout(this.timer);
    this.timer = null;
  };

  /** What was sent and not answered is too large for one of them; so for the largest. */
  Outbox.prototype.largest = function () {
    var found = null;
    this.waiting.forEach(function (item) {
      item.size = JSON.stringify(item.entry.data).length;
      found = item.link && (!found || item.size > found.size) ? item : found;
    });
    return found;
  };
