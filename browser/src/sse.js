  var STREAM_WITHIN = 1; // after CROWDED_AFTER
  var MAX_STREAMS = 4;
  var STREAM_EVENTS = ['message', 'welcome', 'joined', 'presence', 'signal', 'reset', 'left', 'rights',
    'property', 'properties', 'goodbye'];

  /** Server-sent events. It polls while the browser has no connections for streams. */
  function SSETransport(base) {
    PollTransport.call(this, base);
    this.sources = []; // the open streams
    this.opening = []; // the streams that will replace them
    this.unopened = 0; // how many of those have not begun yet
    this.abortDiagnosis = noop;
    this.pendingPings = [];
  }

  inherit(SSETransport, PollTransport);

  SSETransport.prototype.idleTimeout = 60;

  SSETransport.works = function (base) {
    return window.EventSource && supportsXhr(base);
  };

  SSETransport.prototype.send = function (command) {
    if (command.type === 'ping') {
      this.pendingPings.push({type: 'pong', id: command.id});
      this.read();
    } else {
      HttpTransport.prototype.send.call(this, command);
    }
  };

  // A stream's rooms are fixed by its URL, so changed rooms need a new stream. The old one is read until the new one has
  // begun; what both bring is recognised by its position. Browsers hide the heartbeat, so a new stream also serves as a
  // ping. If several streams are needed, the old ones are closed first, as a browser has six connections.
  SSETransport.prototype.read = function () {
    var self = this, names = this.roomNames(), groups = [];
    if (isCrowded()) {
      PollTransport.prototype.read.call(this);
      return;
    }
    PollTransport.prototype.stop.call(this);
    this.closeOpening();
    while (names.length && groups.length < MAX_STREAMS) {
      groups.push(this.takeGroup(names, 'sse'));
    }
    this.unopened = groups.length;
    if (groups.length !== 1) {
      this.closeAll(this.sources);
    }
    if (!groups.length) {
      this.answerPings();
      return;
    }
    this.openTimer = later(CROWDED_AFTER, function () {
      freeConnections();
      self.openTimer = later(self.isReading ? ANSWER_WITHIN : STREAM_WITHIN, function () {
        self.end({unusable: true});
      });
    });
    groups.forEach(this.openSource, this);
    names.forEach(this.refuseRoom, this); // a browser doesn't have enough connections for more streams
  };

  SSETransport.prototype.openSource = function (group) {
    var self = this, source = new window.EventSource(this.urlFor('sse', group.query, this.address()));
    this.opening.push(source);
    STREAM_EVENTS.forEach(function (type) {
      source.addEventListener(type, function (event) { self.onEvent(parseJson(event.data) || {}); });
    });
    source.onerror = function () {
      if (self.opening.indexOf(source) >= 0) {
        self.diagnose(group);
      } else {
        self.end({});
      }
    };
  };

  // Browsers don't say why a stream did not begin, but the response to a poll says it.
  SSETransport.prototype.diagnose = function (group) {
    var self = this;
    this.closeOpening();
    this.abortDiagnosis = this.request('poll', group.query.concat('wait=0'), null, ANSWER_WITHIN, function (answer) {
      if (!self.canGoOn(answer)) {
        self.end({unusable: true});
      }
    });
  };

  SSETransport.prototype.onEvent = function (event) {
    if (event.type === 'welcome') {
      this.streamOpened(event);
    } else if (event.type === 'joined') {
      this.streamJoined(event);
    } else {
      this.received(event);
    }
  };

  SSETransport.prototype.streamOpened = function (welcome) {
    this.unopened -= 1;
    if ((welcome.reader || welcome.client) !== (this.reader || this.client)) {
      this.end({});
    } else if (!this.unopened) {
      cancel(this.openTimer);
      this.closeAll(this.sources);
      this.sources = this.opening.splice(0);
      this.readStarted();
      this.answerPings();
    }
  };

  SSETransport.prototype.answerPings = function () {
    this.pendingPings.splice(0).forEach(this.onmessage, this);
  };

  SSETransport.prototype.streamJoined = function (joined) {
    var isNew = this.finishJoin(joined);
    if (!joined.recovered) {
      this.received({type: 'reset', room: joined.room, position: joined.position});
    }
    if (joined.properties) {
      joined.properties.type = 'properties';
      joined.properties.room = joined.room;
      this.received(joined.properties);
    }
    if (!isNew && !this.isClosed) {
      joined.type = 'presence';
      this.onmessage(joined);
    }
  };

  SSETransport.prototype.closeOpening = function () {
    cancel(this.openTimer);
    this.abortDiagnosis();
    this.abortDiagnosis = noop;
    this.closeAll(this.opening);
  };

  SSETransport.prototype.closeAll = function (sources) {
    sources.splice(0).forEach(function (source) {
      source.onerror = null;
      source.close();
    });
  };

  SSETransport.prototype.readWaiting = function () {
    (isCrowded() ? PollTransport.prototype.readWaiting : this.read).call(this);
  };

  SSETransport.prototype.stop = function () {
    PollTransport.prototype.stop.call(this);
    this.closeOpening();
    this.closeAll(this.sources);
  };

  transports.sse = SSETransport;
