  var QUEUE = 100;
  var KEYS_KEPT = 240000; // milliseconds, less than the five minutes for which a server knows a key in any case

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
   * sending it again is safe. docs/protocol.rst has the rules ("Publishing again").
   */
  function Outbox(room, connection) {
    this.room = room;
    this.connection = connection;
    // {letter, settle, link: where it was sent and isn't answered, since: when first it may have been stored, or 0, by: the
    // user's id, covered: whether the room was read ever since, doubtful: whether it may be stored, vanished: its log is}
    this.waiting = [];
    this.failures = 0; // isOpen and timer come later
  }

  Outbox.prototype.add = function (event, data, key, callback) {
    // One message on its way. `state` is pending, sent, failed or unknown.
    var self = this, entry = {
      key: key || randomKey(), event: event, data: data, state: 'pending', error: null, position: null
    };
    var made = promise(function (resolve, reject) {
      self.put({letter: entry, settle: function (error) {
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
    var self = this, entry = item.letter, error = this.objection(entry);
    if (error) {
      later(0, function () { self.end(item, 'failed', error); });
    } else {
      this.waiting.push(item);
      this.room.emit('$pending', entry);
      this.flush();
    }
  };

  Outbox.prototype.objection = function (entry) {
    var count = 0;
    try {
      // As it is now: the page may go on to change it.
      entry.data = JSON.parse(spell([entry.data, entry.event, entry.key]))[0];
    } catch (error) {
      return unsayable(error);
    }
    if (this.connection.state === 'closed' || this.room.gone) {
      return closed();
    }
    this.connection.eachRoom(function (room) { count += room.outbox.waiting.length; });
    return !this.isOpen && count >= QUEUE &&
      trouble('queue_full', 'Too many wait.', true);
  };

  // Each is sent behind the one before it. After a refusal one goes ahead, and the others when that is stored.
  Outbox.prototype.flush = function () {
    var self = this, link = this.connection.link, user = this.connection.user, before;
    if (this.isOpen && link && !this.timer) {
      this.giveUp(function (item) {
        return item.since && !item.covered && (item.vanished || item.by !== user.id || now() - item.since > KEYS_KEPT);
      });
      this.waiting.slice().every(function (item) {
        if (item.link !== link) {
          self.send(item, link, before);
        }
        before = item.letter.key;
        return !self.failures;
      });
    }
  };

  Outbox.prototype.send = function (item, link, before) {
    var self = this, entry = item.letter;
    item.doubtful = item.doubtful || item.link;
    item.link = link;
    if (!item.since) {
      item.since = now();
      item.covered = this.room.joined;
    }
    item.by = this.connection.user.id;
    link.ask(
      {type: 'publish', room: this.room.name, event: entry.event, data: entry.data, key: entry.key, after: before},
      function (reply) { self.answered(item, reply); });
  };

  Outbox.prototype.answered = function (item, reply) {
    if (reply.type === 'published') {
      this.stored(item, reply.position);
    } else if (reply.temporary) {
      item.link = null;
      if ((/in_doubt|internal/).test(reply.code)) {
        item.doubtful = true;
        item.covered = false;
      } else if (!item.doubtful) {
        item.since = 0;
      }
      this.flushLater(reply.after);
    } else {
      this.settle(item, reply.vague ? 'unknown' : 'failed', told(reply));
    }
  };

  Outbox.prototype.flushLater = function (after) {
    var self = this;
    if (!this.timer && this.isOpen) {
      this.timer = later((after || 0) + backOff(this.failures++), function () {
        self.timer = null;
        self.flush();
      });
    }
  };

  Outbox.prototype.stored = function (item, position) {
    this.failures = 0;
    item.letter.position = position;
    this.settle(item, 'sent', null);
  };

  Outbox.prototype.settle = function (item, state, error) {
    var index = this.waiting.indexOf(item);
    if (index >= 0) {
      this.waiting.splice(index, 1);
      this.end(item, state, error);
      this.flush();
    }
  };

  Outbox.prototype.end = function (item, state, error) {
    item.letter.state = state;
    item.letter.error = error;
    this.room.emit(error ? '$failed' : '$sent', item.letter);
    item.settle(error);
  };

  /** A message under one of our keys is there: ours, if it is of who we were when we sent it. */
  Outbox.prototype.arrived = function (message) {
    var self = this;
    this.waiting.some(function (item) {
      var isIt = item.by === message.from.id && item.letter.key === message.key;
      if (isIt) {
        self.stored(item, message.position);
      }
      return isIt; // another one under this key is its own affair
    });
  };

  /** Messages are missing, and what was sent may be among them. */
  Outbox.prototype.missed = function (isOtherLog) {
    this.waiting.forEach(function (item) {
      item.covered = false;
      item.vanished |= item.since && isOtherLog;
    });
  };

  Outbox.prototype.close = function () {
    this.pause();
    this.giveUp(function () { return true; });
  };

  Outbox.prototype.giveUp = function (concerns) {
    var self = this;
    this.waiting.filter(concerns).forEach(function (item) {
      self.settle(item, item.since ? 'unknown' : 'failed', item.since ?
        trouble('unknown', 'It may be stored.') :
        closed());
    });
  };

  Outbox.prototype.proceed = function () {
    if (!this.isOpen) {
      this.isOpen = true;
      this.flush();
    }
  };

  Outbox.prototype.pause = function () {
    this.isOpen = false;
    cancel(this.timer);
    this.timer = null;
  };
