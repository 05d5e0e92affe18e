  var STREAM_WITHIN = 1; // after CROWDED_AFTER
  var STREAMS = 4;
  var STREAM_EVENTS = ['message', 'welcome', 'joined', 'presence', 'signal', 'reset', 'goodbye'];

  /** Server-sent events, and commands by XMLHttpRequest; polls where the browser has no connections for streams. */
  function EventStream(base) {
    Poll.call(this, base);
    this.sources = []; // the streams that are read
    this.opening = []; // those that will take their places
    this.awaited = 0; // those of them that haven't begun
    this.stopAsking = noop;
    this.pings = [];
  }

  inherit(EventStream, Poll);

  EventStream.prototype.silence = 60;

  EventStream.works = function (base) {
    return window.EventSource && canAsk(base);
  };

  EventStream.prototype.send = function (command) {
    if (command.type === 'ping') {
      this.pings.push({type: 'pong', id: command.id});
      this.read();
    } else {
      HttpSocket.prototype.send.call(this, command);
    }
  };

  // A stream's rooms are those of its address. The old one is read until the new one is there: what both bring is known
  // by its position. Its heartbeat is shown to nobody here, so a new one is also how to ask whether it lives. Where it
  // takes several, the old ones go first: a browser has six connections.
  EventStream.prototype.read = function () {
    var self = this, names = this.names(), parts = [];
    if (isCrowded()) {
      Poll.prototype.read.call(this);
      return;
    }
    Poll.prototype.stop.call(this);
    this.dropOpening();
    while (names.length && parts.length < STREAMS) {
      parts.push(this.takePart(names, 'sse'));
    }
    this.awaited = parts.length;
    if (parts.length !== 1) {
      this.drop(this.sources);
    }
    if (!parts.length) {
      this.alive();
      return;
    }
    this.deadline = later(CROWDED_AFTER, function () {
      makeRoom();
      self.deadline = later(self.isReading ? ANSWER_WITHIN : STREAM_WITHIN, function () {
        self.end({unfit: true});
      });
    });
    parts.forEach(this.begin, this);
    names.forEach(this.refuse, this); // a browser has no connections for more streams
  };

  EventStream.prototype.begin = function (part) {
    var self = this, source = new window.EventSource(this.address('sse', part.query, this.client));
    this.opening.push(source);
    STREAM_EVENTS.forEach(function (type) {
      source.addEventListener(type, function (event) { self.heard(readObject(event.data) || {}); });
    });
    source.onerror = function () {
      if (self.opening.indexOf(source) >= 0) {
        self.askWhy(part);
      } else {
        self.end({});
      }
    };
  };

  // Nobody is told why a stream didn't begin; but a poll is.
  EventStream.prototype.askWhy = function (part) {
    var self = this;
    this.dropOpening();
    this.stopAsking = this.request('poll', part.query.concat('wait=0'), null, ANSWER_WITHIN, function (answer) {
      if (!self.survives(answer)) {
        self.end({unfit: true});
      }
    });
  };

  EventStream.prototype.heard = function (event) {
    if (event.type === 'welcome') {
      this.opened(event);
    } else if (event.type === 'joined') {
      this.entered(event);
    } else {
      this.received(event);
    }
  };

  EventStream.prototype.opened = function (welcome) {
    this.awaited -= 1;
    if (welcome.client !== this.client) {
      this.end({});
    } else if (!this.awaited) {
      cancel(this.deadline);
      this.drop(this.sources);
      this.sources = this.opening.splice(0);
      this.begun();
      this.alive();
    }
  };

  EventStream.prototype.alive = function () {
    this.pings.splice(0).forEach(this.onmessage, this);
  };

  EventStream.prototype.entered = function (joined) {
    var isNew = this.enter(joined);
    if (!joined.recovered) {
      this.received({type: 'reset', room: joined.room, position: joined.position});
    }
    if (!isNew && !this.isOver) {
      joined.type = 'presence';
      this.onmessage(joined);
    }
  };

  EventStream.prototype.dropOpening = function () {
    cancel(this.deadline);
    this.stopAsking();
    this.stopAsking = noop;
    this.drop(this.opening);
  };

  EventStream.prototype.drop = function (sources) {
    sources.splice(0).forEach(function (source) {
      source.onerror = null;
      source.close();
    });
  };

  EventStream.prototype.readMore = function () {
    (isCrowded() ? Poll.prototype.readMore : this.read).call(this);
  };

  EventStream.prototype.stop = function () {
    Poll.prototype.stop.call(this);
    this.dropOpening();
    this.drop(this.sources);
  };

  transports.sse = EventStream;
