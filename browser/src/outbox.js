  var MAX_PENDING = 100;
  var KEYS_KEPT = 240000; // milliseconds, less than the five minutes for which a server knows a key in any case

  /** A promise, or null if the browser has none. An unhandled rejection is not reported. */
  function makePromise(begin) {
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
   * A room's messages that are not acknowledged yet, in order. Each has a key: under it the message is stored only once,
   * and by it we recognise the message in the log. docs/protocol.rst has the rules ("Publishing again").
   */
  function Outbox(room, connection) {
    this.room = room;
    this.connection = connection;
    // {publication, settle, link: the one on which it waits for a reply, firstSent: when it may first have been stored, or
    // 0, sentBy: the user's id, covered: whether the room was read without a gap since then, inDoubt: whether it may be
    // stored, logChanged: whether the room has another log}
    this.queue = [];
    this.failures = 0; // set later: isOpen and timer
  }

  Outbox.prototype.add = function (event, data, key, callback) {
    // What the page gets for one message. `state` is pending, sent, failed or unknown.
    var self = this, entry = {
      key: key || randomKey(), event: event, data: data, state: 'pending', error: null, position: null
    };
    var made = makePromise(function (resolve, reject) {
      self.enqueue({publication: entry, settle: function (error) {
        var result = {position: entry.position, key: entry.key};
        if (callback) {
          safeCall(callback, error, result);
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

  Outbox.prototype.enqueue = function (item) {
    var self = this, entry = item.publication, error = this.validate(entry);
    if (error) {
      later(0, function () { self.finish(item, 'failed', error); });
    } else {
      this.queue.push(item);
      this.room.emit('$pending', entry);
      this.flush();
    }
  };

  Outbox.prototype.validate = function (entry) {
    var count = 0;
    try {
      // A copy, as the page may change the object later.
      entry.data = JSON.parse(serialize([entry.data, entry.event, entry.key]))[0];
    } catch (error) {
      return notJsonError(error);
    }
    if (this.connection.state === 'closed' || this.room.isLeft) {
      return closedError();
    }
    this.connection.eachRoom(function (room) { count += room.outbox.queue.length; });
    return !this.isOpen && count >= MAX_PENDING &&
      makeError('queue_full', 'Too many wait.', true);
  };

  // Each names the one before it. After a temporary error only the first is sent; the others follow when it is stored.
  Outbox.prototype.flush = function () {
    var self = this, link = this.connection.link, user = this.connection.user, previousKey;
    if (this.isOpen && link && !this.timer) {
      this.failWhere(function (item) {
        return item.firstSent && !item.covered &&
          (item.logChanged || item.sentBy !== user.id || now() - item.firstSent > KEYS_KEPT);
      });
      this.queue.slice().every(function (item) {
        if (item.link !== link) {
          self.send(item, link, previousKey);
        }
        previousKey = item.publication.key;
        return !self.failures;
      });
    }
  };

  Outbox.prototype.send = function (item, link, previousKey) {
    var self = this, entry = item.publication;
    item.inDoubt = item.inDoubt || item.link;
    item.link = link;
    if (!item.firstSent) {
      item.firstSent = now();
      item.covered = this.room.joined;
    }
    item.sentBy = this.connection.user.id;
    link.request(
      {type: 'publish', room: this.room.name, event: entry.event, data: entry.data, key: entry.key, after: previousKey},
      function (reply) { self.handleReply(item, reply); });
  };

  Outbox.prototype.handleReply = function (item, reply) {
    if (reply.type === 'published') {
      this.succeed(item, reply.position);
    } else if (reply.temporary) {
      item.link = null;
      if ((/in_doubt|internal/).test(reply.code)) {
        item.inDoubt = true;
        item.covered = false;
      } else if (!item.inDoubt) {
        item.firstSent = 0;
      }
      this.retryLater(reply.after);
    } else {
      this.settle(item, reply.isAmbiguous ? 'unknown' : 'failed', toError(reply));
    }
  };

  Outbox.prototype.retryLater = function (after) {
    var self = this;
    if (!this.timer && this.isOpen) {
      this.timer = later((after || 0) + backoffDelay(this.failures++), function () {
        self.timer = null;
        self.flush();
      });
    }
  };

  Outbox.prototype.succeed = function (item, position) {
    this.failures = 0;
    item.publication.position = position;
    this.settle(item, 'sent', null);
  };

  Outbox.prototype.settle = function (item, state, error) {
    var index = this.queue.indexOf(item);
    if (index >= 0) {
      this.queue.splice(index, 1);
      this.finish(item, state, error);
      this.flush();
    }
  };

  Outbox.prototype.finish = function (item, state, error) {
    item.publication.state = state;
    item.publication.error = error;
    this.room.emit(error ? '$failed' : '$sent', item.publication);
    item.settle(error);
  };

  /** A message is in the log under one of our keys. It is ours if its sender is the user as whom we sent it. */
  Outbox.prototype.confirmFromLog = function (message) {
    var self = this;
    this.queue.some(function (item) {
      var isIt = item.sentBy === message.from.id && item.publication.key === message.key;
      if (isIt) {
        self.succeed(item, message.position);
      }
      return isIt; // a message of another user may have the same key
    });
  };

  /** Messages were missed; those that we sent may be among them. */
  Outbox.prototype.onGap = function (isOtherLog) {
    this.queue.forEach(function (item) {
      item.covered = false;
      item.logChanged |= item.firstSent && isOtherLog;
    });
  };

  Outbox.prototype.close = function () {
    this.pause();
    this.failWhere(function () { return true; });
  };

  Outbox.prototype.failWhere = function (predicate) {
    var self = this;
    this.queue.filter(predicate).forEach(function (item) {
      self.settle(item, item.firstSent ? 'unknown' : 'failed', item.firstSent ?
        makeError('unknown', 'It may be stored.') :
        closedError());
    });
  };

  Outbox.prototype.unpause = function () {
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
