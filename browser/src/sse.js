  var STREAM_WITHIN = 2;
  var STREAM_EVENTS = ['message', 'welcome', 'joined', 'presence', 'signal', 'reset', 'goodbye'];

  /** Server-sent events, and commands by XMLHttpRequest. */
  function EventStream(base) {
    HttpSocket.call(this, base);
    this.source = null; // the stream that is read
    this.opening = null; // the one that will take its place
    this.pings = [];
  }

  inherit(EventStream, HttpSocket);

  EventStream.prototype.silence = 60;

  EventStream.works = function (base) {
    return !!window.EventSource && canAsk(base);
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
  // by its position. Its heartbeat is shown to nobody here, so a new one is also how to ask whether it lives.
  EventStream.prototype.read = function () {
    var self = this, source;
    this.drop('opening');
    if (!this.names().length) {
      this.drop('source');
      this.alive();
      return;
    }
    source = this.opening = new window.EventSource(this.address('sse', this.wishes(), this.client));
    STREAM_EVENTS.forEach(function (type) {
      source.addEventListener(type, function (event) { self.heard(source, readObject(event.data) || {}); }, false);
    });
    source.onerror = function () { self.end({unfit: source === self.opening}); };
    this.deadline = later(STREAM_WITHIN, function () { self.end({unfit: true}); });
  };

  EventStream.prototype.heard = function (source, event) {
    if (event.type === 'welcome') {
      this.opened(source, event);
    } else if (event.type === 'joined') {
      this.entered(event);
    } else {
      this.received(event);
    }
  };

  EventStream.prototype.opened = function (source, welcome) {
    if (welcome.client !== this.client) {
      this.end({});
      return;
    }
    window.clearTimeout(this.deadline);
    this.drop('source');
    this.source = source;
    this.opening = null;
    this.begun();
    this.alive();
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

  EventStream.prototype.drop = function (which) {
    if (which === 'opening') {
      window.clearTimeout(this.deadline);
    }
    if (this[which]) {
      this[which].onerror = null;
      this[which].close();
      this[which] = null;
    }
  };

  EventStream.prototype.stop = function () {
    this.drop('opening');
    this.drop('source');
  };

  EventStream.prototype.leave = EventStream.prototype.close;

  transports.sse = EventStream;
