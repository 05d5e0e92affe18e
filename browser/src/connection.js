  var KINDS = ['websocket', 'sse', 'poll', 'jsonp'];
  var UP_WITHIN = 2;
  var UP_WITHIN_AT_MOST = 10;
  var STABLE_AFTER = 10000; // milliseconds
  var SHAKY = 3;
  var FIRST_PROBE = 10;
  var LONGEST_PROBE = 300;
  var LAST_CODE_TO_RECONNECT = 4499;
  var LAST_CODE_OF_OURS = 4999;

  /**
   * What a page holds: rooms, over whatever connection there is at the moment.
   *
   * It tries the transports from the best one down, and stays with what works. While that isn't the best, it tries the
   * better ones again now and then, and moves over when one is up.
   */
  function Connection(base, options) {
    var kept = options.storage === undefined ? 'session' : options.storage;
    Emitter.call(this);
    this.base = base;
    this.wanted = options;
    this.state = 'connecting';
    this.transport = null;
    this.user = null;
    this.rooms = table();
    // link, the one that is used; trying, the one that may be; barred, what the server says to pages of this origin; and
    // wasUp, ownState and timers come later.
    this.attempts = this.probes = this.shaky = 0;
    this.reads = [];
    this.places = new Memory(kept && 'localStorage');
    this.secrets = new Memory(typeof kept === 'string' ? kept + 'Storage' : kept);
    this.client = options.client || this.secrets.get('client ' + base);
    // Scripts are for where XMLHttpRequest doesn't reach.
    this.kinds = (options.transports || KINDS).filter(function (kind) {
      return transports[kind] && transports[kind].works(base) && (options.transports || kind !== 'jsonp' || isForeign(base));
    });
    this.first = Math.max(0, this.kinds.indexOf(this.places.get('transport ' + base)));
    this.listen();
    this.retryTimer = later(0, this.retry.bind(this));
  }

  inherit(Connection, Emitter);

  // The page's side

  Connection.prototype.room = function (name, options) {
    var room = this.rooms[name];
    if (!room) {
      room = this.rooms[name] = new Room(name, options || {}, this);
      this.eachLink(function (link) { room.attend(link); });
    }
    return room.share();
  };

  Connection.prototype.setState = function (state) {
    this.ownState = state;
    this.eachLink(function (link) { link.tell({type: 'state', state: state}); });
  };

  Connection.prototype.close = function () {
    this.stop();
  };

  /** Tries at once, wherever it waits. */
  Connection.prototype.retry = function () {
    if (this.state !== 'closed' && !this.link && !this.trying) {
      cancel(this.retryTimer);
      this.say(this.wasUp ? 'reconnecting' : 'connecting');
      this.attempt(this.first);
    }
  };

  // Connecting

  Connection.prototype.attempt = function (index) {
    var self = this, kind = this.kinds[index];
    this.getToken(function (token) {
      if (!self.begin(kind, token)) {
        self.next(index);
        return;
      }
      self.trying.onup = function () { self.adopt(index); };
      self.trying.ondown = function (why) { self.attemptFailed(index, why); };
    });
  };

  Connection.prototype.getToken = function (proceed) {
    var options = this.wanted, self = this, given;

    function take(error, token) {
      if (error) {
        self.retryLater(0, error);
      } else if (self.state !== 'closed' && !self.trying) {
        proceed(token);
      }
    }

    if (!options.getToken) {
      take(null, options.token);
      return;
    }
    given = options.getToken(take);
    if (given && given.then) {
      given.then(take.bind(null, null), take);
    } else if (given) {
      take(null, given);
    }
  };

  Connection.prototype.begin = function (kind, token) {
    var self = this, link;
    try {
      this.trying = new Link(kind, this.base, this.patience(kind), function (link) { self.greet(link, token); });
    } catch (error) {
      return false; // A browser that forbids it throws.
    }
    link = this.trying;
    link.onevent = function (event) { self.received(event, link); };
    return true;
  };

  // What a proxy swallows isn't waited for, where there is another way; a slow network has more time at each attempt.
  Connection.prototype.patience = function (kind) {
    var isQuick = !this.link && (kind === 'websocket' || kind === 'sse');
    return isQuick ? Math.min(UP_WITHIN_AT_MOST, UP_WITHIN * (1 + this.attempts)) : UP_WITHIN_AT_MOST;
  };

  Connection.prototype.greet = function (link, token) {
    link.ask({
      type: 'hello', v: 1, client: this.client || undefined, name: this.wanted.name || undefined, token: token || undefined
    }, noop, true);
    if (this.ownState) {
      link.tell({type: 'state', state: this.ownState});
    }
    this.eachRoom(function (room) { room.attend(link); });
  };

  Connection.prototype.attemptFailed = function (index, why) {
    var error = why.error || why.bye || {}, isBarred = error.code === 'bad_origin';
    this.trying = null;
    if (isBarred && !this.barred) {
      this.barred = told(error);
      window.console.warn(error.message);
    }
    if (error.code && !isBarred) {
      this.refused(error);
    } else {
      this.next(index, isBarred || why.unreachable);
    }
  };

  // Where nothing answered, only a script may get another answer.
  Connection.prototype.next = function (index, isUnreachable) {
    var following = this.kinds.slice(index + 1).filter(function (kind) { return !isUnreachable || kind === 'jsonp'; });
    if (this.link) {
      this.probe(index + 1);
    } else if (following.length && !(following[0] === 'jsonp' && this.wasUp)) {
      this.attempt(this.kinds.indexOf(following[0]));
    } else {
      this.first = 0;
      this.retryLater(0, this.barred || trouble('unreachable', 'No server answers.', true));
    }
  };

  /** The server answered the attempt with an error or a goodbye. */
  Connection.prototype.refused = function (error) {
    var reason = told(error);
    if (error.code === 'unauthorized' && (this.client || this.wanted.getToken) && !this.wanted.client) {
      this.remember(null);
      this.retryLater(0, reason);
    } else if (reason.temporary || this.link) {
      this.retryLater(error.after, reason);
    } else {
      this.stop(reason);
    }
  };

  Connection.prototype.adopt = function (index) {
    var self = this, old = this.link, link = this.link = this.trying;
    this.trying = null;
    cancel(this.probeTimer);
    if (old) {
      old.close();
      this.eachRoom(function (room) { room.pause(); });
    }
    this.upSince = now();
    this.wasUp = true;
    this.first = index;
    this.transport = link.kind;
    this.places.set('transport ' + this.base, index && link.kind);
    this.user = link.welcome.user;
    this.remember(link.welcome.client);
    link.ondown = function (why) { self.down(index, why); };
    this.say('connected');
    link.held.forEach(link.handle, link);
    this.reads.forEach(function (read) { read(link); });
    this.probes = index ? this.probes : 0;
    this.probeLater();
  };

  Connection.prototype.remember = function (client) {
    this.client = client;
    this.secrets.set('client ' + this.base, client);
  };

  Connection.prototype.down = function (index, why) {
    var goodbye = why.bye || why.error, isStable = now() - this.upSince > STABLE_AFTER;
    this.link = null;
    this.pause();
    this.attempts = isStable ? 0 : this.attempts;
    this.shaky = isStable || goodbye ? 0 : this.shaky + 1;
    if (why.unfit || this.shaky >= SHAKY) {
      this.first = (index + 1) % this.kinds.length;
      this.shaky = 0;
    }
    if (!goodbye && why.code > LAST_CODE_TO_RECONNECT && why.code <= LAST_CODE_OF_OURS) {
      goodbye = {code: why.code, reason: 'It was closed.'};
    }
    if (goodbye) {
      this.refused(goodbye);
    } else if (why.unfit) {
      this.retry();
    } else {
      this.retryLater(0, trouble('lost', 'It was lost.', true));
    }
  };

  Connection.prototype.retryLater = function (after, reason) {
    var delay = (+after || 0) + backOff(this.attempts);
    if (this.link || this.state === 'closed') {
      this.probeLater();
      return;
    }
    cancel(this.retryTimer);
    this.attempts += 1;
    this.retryTimer = later(delay, this.retry.bind(this));
    this.say(this.wasUp ? 'reconnecting' : 'connecting', delay, reason);
  };

  // Better transports

  Connection.prototype.probeLater = function () {
    var delay = Math.min(LONGEST_PROBE, FIRST_PROBE * Math.pow(2, this.probes));
    cancel(this.probeTimer);
    if (this.first && this.link) {
      this.probes += 1;
      this.probeTimer = later(delay, this.probe.bind(this, 0));
    }
  };

  Connection.prototype.probe = function (index) {
    if (index < this.first && !this.trying) {
      this.attempt(index);
    } else {
      this.probeLater();
    }
  };

  // What was asked for and changes nothing: it is asked again on the next connection, if need be.

  Connection.prototype.read = function (command, callback, take) {
    var self = this;
    return promise(function (resolve, reject) {
      function end(error, result) {
        self.reads = self.reads.filter(function (other) { return other !== read; });
        if (callback) {
          callOut(callback, error, result);
        }
        (error ? reject : resolve)(error || result);
      }

      function read(link) {
        link.ask(command, function (reply) {
          if (reply.type === 'error') {
            end(told(reply));
          } else if (take(reply, end.bind(null, null))) {
            read(link);
          }
        });
      }

      read.end = end;
      self.reads.push(read);
      if (self.state === 'closed') {
        end(closed());
      } else if (self.link) {
        read(self.link);
      }
    });
  };

  // Events

  Connection.prototype.received = function (event, link) {
    var room = this.rooms[event.room];
    if (event.type === 'error' && room) {
      room.pause();
      room.refused(event, room.position, link);
    } else if (event.type === 'error') {
      this.emit('$error', told(event));
    } else if (room) {
      room.received(event);
    }
  };

  Connection.prototype.say = function (state, retryIn, reason) {
    this.state = state;
    this.emit('$state', {
      state: state,
      transport: this.transport,
      retryIn: retryIn || null,
      reason: reason || null
    });
  };

  // Rooms

  Connection.prototype.eachLink = function (action) {
    [this.link, this.trying].forEach(function (link) {
      if (link && link.isOpen) {
        action(link);
      }
    });
  };

  Connection.prototype.eachRoom = function (action) {
    var rooms = this.rooms;
    Object.keys(rooms).forEach(function (name) { action(rooms[name]); });
  };

  Connection.prototype.forget = function (name) {
    var room = this.rooms[name];
    room.gone = true;
    room.pause();
    room.outbox.close();
    delete this.rooms[name];
    this.eachLink(function (link) { link.ask({type: 'leave', room: name}, noop); });
  };

  // The end, and pauses

  Connection.prototype.pause = function () {
    this.transport = null;
    cancel(this.probeTimer);
    this.eachRoom(function (room) { room.pause(); });
  };

  /** Lets go of what there is of a connection. */
  Connection.prototype._drop = function () {
    var link = this.link, trying = this.trying;
    this.link = this.trying = null;
    cancel(this.retryTimer);
    this.pause();
    if (link) {
      link.close(true);
    }
    if (trying) {
      trying.close();
    }
  };

  Connection.prototype.stop = function (reason) {
    if (this.state !== 'closed') {
      this._drop();
      this.hear('removeEventListener');
      this.say('closed', null, reason);
      this.eachRoom(function (room) { room.outbox.close(); });
      this.reads.slice().forEach(function (read) { read.end(closed()); });
    }
  };
