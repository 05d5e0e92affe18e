  var KINDS = ['websocket', 'sse', 'poll', 'jsonp'];
  var UP_WITHIN = 2;
  var UP_WITHIN_AT_MOST = 10;
  var STABLE_AFTER = 10000; // milliseconds
  var MAX_SHORT_CONNECTIONS = 3;
  var FIRST_PROBE = 10;
  var LONGEST_PROBE = 300;
  var LAST_CODE_TO_RECONNECT = 4499;
  var LAST_OWN_CODE = 4999;
  var STATE_ID = 'state'; // A state has no reply unless it is refused.

  /**
   * Keeps a page's rooms connected, over one link after the other.
   *
   * It tries the transports in order, the best one first, and uses the first one that works. While that isn't the best,
   * it tries the better ones again from time to time (a probe), and switches when one is up.
   */
  function Connection(base, options) {
    var storage = options.storage === undefined ? 'session' : options.storage;
    Emitter.call(this);
    this.base = base;
    this.settings = options;
    this.state = 'connecting';
    this.transport = null;
    this.user = null;
    this.roomsByName = emptyMap();
    // Set later: link (the one in use), candidate (the one being opened), originError (the server refuses this origin),
    // everConnected, memberState, and timers. Of tokens: token (until it is
    // answered), expiredToken, isAsking, tokenWarned, renewalDue, and who waits for it: useToken and tokenFailed.
    this.attempts = this.probeCount = this.shortConnections = this.renewFailures = 0;
    this.queries = [];
    this.transportStorage = new PageStorage(storage && 'localStorage');
    this.clientStorage = new PageStorage(typeof storage === 'string' ? storage + 'Storage' : storage);
    this.client = options.client || this.clientStorage.get('client ' + base);
    this.isUser = !options.client && !!this.clientStorage.get('user ' + base);
    this.needsToken = this.hasTokens = !!(options.tokenUrl || options.token);
    // JSONP is only tried by itself where another origin has to be reached.
    this.transportNames = (options.transports || KINDS).filter(function (kind) {
      return transports[kind] && transports[kind].works(base) &&
        (options.transports || kind !== 'jsonp' || isCrossOrigin(base));
    });
    this.startIndex = Math.max(0, this.transportNames.indexOf(this.transportStorage.get('transport ' + base)));
    this.addPageListeners();
    this.retryTimer = later(0, this.retry.bind(this));
  }

  inherit(Connection, Emitter);

  // What the page calls

  Connection.prototype.room = function (name, options) {
    var room = this.roomsByName[name];
    options = options || {};
    if (!room) {
      room = this.roomsByName[name] = new Room(name, options, this);
      this.eachLink(function (link) { room.joinOn(link); });
    } else if (options.properties && !room.readsProperties) {
      room.readsProperties = true;
      room.pause();
      this.eachLink(function (link) {
        link.request({type: 'leave', room: name}, noop);
        room.joinOn(link);
      });
    }
    return room.newHandle();
  };

  Connection.prototype.setState = function (state) {
    this.memberState = state;
    this.sendState();
  };

  Connection.prototype.sendState = function () {
    var self = this;
    this.eachLink(function (link) { link.sendCommand({type: 'state', id: STATE_ID, state: self.memberState}); });
  };

  /** A limit refused a state: send the last one again later. */
  Connection.prototype.stateRefused = function (after) {
    var self = this;
    cancel(this.stateTimer);
    this.stateTimer = later(after || 1, function () { self.sendState(); });
  };

  Connection.prototype.close = function () {
    this.stop();
  };

  /** Connects now, if it waits for the next attempt. */
  Connection.prototype.retry = function () {
    if (this.state !== 'closed' && !this.link && !this.candidate) {
      cancel(this.retryTimer);
      this.changeState(this.everConnected ? 'reconnecting' : 'connecting');
      this.attempt(this.startIndex);
    }
  };

  // Connecting

  Connection.prototype.attempt = function (index) {
    var self = this;
    this.withToken(function () {
      if (self.candidate) {
        return;
      }
      if (!self.openLink(self.transportNames[index])) {
        self.tryNext(index);
      } else {
        self.candidate.onup = function () { self.promote(index); };
        self.candidate.ondown = function (cause) { self.attemptFailed(index, cause); };
      }
    });
  };

  // JSONP has our client in its addresses, where a user's is refused.
  Connection.prototype.openLink = function (kind) {
    var self = this, link;
    if (kind === 'jsonp' && (this.token || this.isUser)) {
      return false;
    }
    try {
      this.candidate = new Link(kind, this.base, this.openTimeout(kind), function (link) { self.sayHello(link); });
    } catch (error) {
      return false; // A browser that forbids it throws.
    }
    link = this.candidate;
    link.onevent = function (event) { self.received(event, link); };
    return true;
  };

  // A proxy may swallow WebSocket and SSE, so these get little time at first; each attempt gives a slow network more.
  Connection.prototype.openTimeout = function (kind) {
    var isQuick = !this.link && (kind === 'websocket' || kind === 'sse');
    return isQuick ? Math.min(UP_WITHIN_AT_MOST, UP_WITHIN * (1 + this.attempts)) : UP_WITHIN_AT_MOST;
  };

  // A user has the name that the site gave.
  Connection.prototype.sayHello = function (link) {
    link.request({
      type: 'hello', v: 1,
      client: this.client || undefined,
      name: (!this.token && !this.isUser && this.settings.name) || undefined,
      token: this.token || undefined
    }, noop, true);
    if (this.memberState) {
      link.sendCommand({type: 'state', id: STATE_ID, state: this.memberState});
    }
    this.eachRoom(function (room) { room.joinOn(link); });
  };

  Connection.prototype.attemptFailed = function (index, cause) {
    var error = cause.error || cause.bye || {}, isOriginRefused = error.code === 'bad_origin';
    this.candidate = null;
    if (isOriginRefused && !this.originError) {
      this.originError = toError(error);
      window.console.warn(error.message);
    }
    if (error.code && !isOriginRefused) {
      this.refused(error);
    } else {
      this.tryNext(index, isOriginRefused || cause.unreachable);
    }
  };

  // If there was no answer at all, only JSONP may still get one.
  Connection.prototype.tryNext = function (index, isUnreachable) {
    var following = this.transportNames.slice(index + 1).filter(function (kind) {
      return !isUnreachable || kind === 'jsonp';
    });
    if (this.link) {
      this.probe(index + 1);
    } else if (following.length && !(following[0] === 'jsonp' && this.everConnected)) {
      this.attempt(this.transportNames.indexOf(following[0]));
    } else {
      this.startIndex = 0;
      this.retryLater(0, this.originError || makeError('unreachable', 'No server answers.', true));
    }
  };

  /** The server answered with an error or a goodbye: retry, or stop. */
  Connection.prototype.refused = function (error) {
    var reason = toError(error);
    if (this.link) {
      this.probeLater();
    } else if (this.isIdentityRefused(error)) {
      this.identityRefused(error, reason);
    } else if (reason.temporary) {
      this.retryLater(error.after, reason);
    } else {
      this.stop(reason);
    }
  };

  Connection.prototype.promote = function (index) {
    var self = this, old = this.link, link = this.candidate;
    if (this.welcomed(link.welcome)) {
      this.startOver();
      return;
    }
    this.link = link;
    this.candidate = null;
    cancel(this.probeTimer);
    if (old) {
      old.close();
      this.eachRoom(function (room) { room.pause(); });
    }
    this.connectedAt = now();
    this.everConnected = true;
    this.startIndex = index;
    this.transport = link.kind;
    this.transportStorage.set('transport ' + this.base, index && link.kind);
    link.ondown = function (cause) { self.linkLost(index, cause); };
    this.changeState('connected');
    link.heldEvents.forEach(link.handle, link);
    this.queries.forEach(function (sendQuery) { sendQuery(link); });
    this.probeCount = index ? this.probeCount : 0;
    this.probeLater();
    if (this.renewalDue) {
      this.renew();
    }
  };

  Connection.prototype.linkLost = function (index, cause) {
    var goodbye = cause.bye || cause.error, isStable = now() - this.connectedAt > STABLE_AFTER;
    this.link = null;
    this.pause();
    this.attempts = isStable ? 0 : this.attempts;
    this.shortConnections = isStable || goodbye ? 0 : this.shortConnections + 1;
    if (cause.unusable || this.shortConnections >= MAX_SHORT_CONNECTIONS) {
      this.startIndex = (index + 1) % this.transportNames.length;
      this.shortConnections = 0;
    }
    if (!goodbye && cause.code > LAST_CODE_TO_RECONNECT && cause.code <= LAST_OWN_CODE) {
      goodbye = {code: cause.code, reason: 'It was closed.'};
    }
    if (goodbye) {
      this.refused(goodbye);
    } else if (cause.unusable) {
      this.retry();
    } else {
      this.retryLater(0, makeError('lost', 'It was lost.', true));
    }
  };

  Connection.prototype.retryLater = function (after, reason) {
    var delay = (+after || 0) + backoffDelay(this.attempts);
    if (this.link || this.state === 'closed') {
      this.probeLater();
      return;
    }
    cancel(this.retryTimer);
    this.attempts += 1;
    this.retryTimer = later(delay, this.retry.bind(this));
    this.changeState(this.everConnected ? 'reconnecting' : 'connecting', delay, reason);
  };

  // Better transports

  Connection.prototype.probeLater = function () {
    var delay = Math.min(LONGEST_PROBE, FIRST_PROBE * Math.pow(2, this.probeCount));
    cancel(this.probeTimer);
    if (this.startIndex && this.link) {
      this.probeCount += 1;
      this.probeTimer = later(delay, this.probe.bind(this, 0));
    }
  };

  Connection.prototype.probe = function (index) {
    if (index < this.startIndex && !this.candidate) {
      this.attempt(index);
    } else {
      this.probeLater();
    }
  };

  // Queries: they change nothing, so they are sent again on each new connection until they are answered.

  Connection.prototype.runQuery = function (command, callback, onPage) {
    var self = this;
    return makePromise(function (resolve, reject) {
      function end(error, result) {
        self.queries = self.queries.filter(function (other) { return other !== sendQuery; });
        if (callback) {
          safeCall(callback, error, result);
        }
        (error ? reject : resolve)(error || result);
      }

      function sendQuery(link) {
        link.request(command, function (reply) {
          if (reply.code === 'rate_limited' || (command.key && (/unavailable|in_doubt|stopping/).test(reply.code))) {
            later(reply.after || 1, function () {
              if (self.link === link && self.queries.indexOf(sendQuery) >= 0) {
                sendQuery(link); // another link has been sent it already
              }
            });
          } else if (reply.type === 'error') {
            end(toError(reply));
          } else if (onPage(reply, end.bind(null, null))) {
            sendQuery(link);
          }
        });
      }

      sendQuery.end = end;
      self.queries.push(sendQuery);
      if (self.state === 'closed') {
        end(closedError());
      } else if (self.link) {
        sendQuery(self.link);
      }
    });
  };

  // Events

  Connection.prototype.received = function (event, link) {
    var room = this.roomsByName[event.room];
    if (event.type === 'error' && room) {
      room.pause();
      room.joinRefused(event, room.position, link);
    } else if (event.id === STATE_ID && event.code === 'rate_limited') {
      this.stateRefused(event.after);
    } else if (event.type === 'error') {
      this.emit('$error', toError(event));
    } else if (event.type === 'left' && room) {
      this.endRoom(room);
      room.emit('$left', {reason: event.reason});
    } else if (room) {
      room.received(event);
    }
  };

  Connection.prototype.changeState = function (state, retryIn, reason) {
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
    [this.link, this.candidate].forEach(function (link) {
      if (link && link.isOpen) {
        action(link);
      }
    });
  };

  Connection.prototype.eachRoom = function (action) {
    var rooms = this.roomsByName;
    Object.keys(rooms).forEach(function (name) { action(rooms[name]); });
  };

  Connection.prototype.removeRoom = function (name) {
    this.endRoom(this.roomsByName[name]);
    this.eachLink(function (link) { link.request({type: 'leave', room: name}, noop); });
  };

  Connection.prototype.endRoom = function (room) {
    room.isLeft = true;
    room.pause();
    room.outbox.close();
    delete this.roomsByName[room.name];
  };

  // The end, and pauses

  Connection.prototype.pause = function () {
    this.transport = null;
    cancel(this.probeTimer);
    this.eachRoom(function (room) { room.pause(); });
  };

  /** Closes the link and the candidate. */
  Connection.prototype._drop = function () {
    var link = this.link, candidate = this.candidate;
    this.link = this.candidate = null;
    cancel(this.retryTimer);
    this.pause();
    if (link) {
      link.close(true);
    }
    if (candidate) {
      candidate.close();
    }
  };

  Connection.prototype.stop = function (reason) {
    if (this.state !== 'closed') {
      this._drop();
      cancel(this.renewTimer);
      this.eachPageListener('removeEventListener');
      this.changeState('closed', null, reason);
      this.eachRoom(function (room) { room.outbox.close(); });
      this.endQueries();
    }
  };

  Connection.prototype.endQueries = function () {
    this.queries.slice().forEach(function (sendQuery) { sendQuery.end(closedError()); });
  };
