/*
 * One room of a realtime_chat daemon, over WebSocket or, where that fails, over long poll.
 *
 *   var connection = new RealtimeConnection({base: URL, room: 'lobby', name: 'Ann'}, listener);
 *   connection.start();
 *   var entry = connection.publish({text: 'hi'});
 *
 * `base` is the URL of the directory that holds `ws`, `poll` and `commands`. The listener's methods:
 *
 *   stateChanged(state, detail)   'connecting'; 'connected', with 'websocket' or 'poll'; 'reconnecting';
 *                                 'waiting', with the seconds until the next attempt; 'stopped', with a reason
 *   caughtUp()                    everything that the room had when the connection came up has been delivered
 *   messageArrived(message, own)  `own`: the entry of publish() that it was; true where it is ours from before; or null
 *   missed()                      messages were lost to this page
 *   entryAcknowledged(entry)      it is stored, and will arrive as a message
 *   entryPassed(entry)            it is stored, but fell into a gap and will not arrive
 *   entryRefused(entry, reason)   it will not be sent
 *   complained(reason)            the server reports an error that belongs to nothing else here
 */
(function (window) {
  'use strict';

  // All times are seconds.
  var HISTORY = 50;
  var OPEN_WITHIN = 3;
  var ANSWER_WITHIN = 10;
  var SILENCE_ALLOWED = 15;
  var POLL_WAIT = 25;
  var POLL_PAGE = 100;
  var PUBLISH_WITHIN = 20;
  var SHORTEST_DELAY = 0.5;
  var LONGEST_DELAY = 20;
  var STABLE_AFTER = 10;
  var FIRST_PROBE = 10;
  var LONGEST_PROBE = 300;
  var LAST_CODE_TO_RECONNECT = 4499;
  var LAST_CODE_OF_OURS = 4999;

  var LOST = {type: 'error', code: 'lost', message: 'The connection was lost.', temporary: true};

  function later(seconds, action) {
    return window.setTimeout(action, seconds * 1000);
  }

  function now() {
    return new Date().getTime() / 1000;
  }

  function backOff(attempts) {
    var most = Math.min(LONGEST_DELAY, Math.pow(2, attempts));
    return SHORTEST_DELAY + Math.random() * (most - SHORTEST_DELAY);
  }

  function randomText() {
    var numbers = [], text = '', i;
    if (window.crypto && window.crypto.getRandomValues && window.Uint32Array) {
      numbers = window.crypto.getRandomValues(new window.Uint32Array(4));
    }
    for (i = 0; i < 4; i += 1) {
      text += (numbers[i] || Math.floor(Math.random() * 4294967296)).toString(36);
    }
    return text;
  }

  function recall(key) {
    try {
      return window.sessionStorage.getItem(key);
    } catch (error) {
      return null;
    }
  }

  function remember(key, value) {
    try {
      if (value) {
        window.sessionStorage.setItem(key, value);
      } else {
        window.sessionStorage.removeItem(key);
      }
    } catch (error) {
      // Without storage a reload is a new client, and nothing else is lost.
    }
  }

  function readObject(text) {
    try {
      return JSON.parse(text) || {};
    } catch (error) {
      return {};
    }
  }

  function split(position) {
    var colon = position.lastIndexOf(':');
    return {epoch: position.slice(0, colon), offset: Number(position.slice(colon + 1))};
  }

  // Whether `position` is at or before `own`; what another epoch holds is never known.
  function isKnown(position, own) {
    var theirs = split(position), ours = split(own || ':');
    return theirs.epoch === ours.epoch && theirs.offset <= ours.offset;
  }

  function isSameLog(position, own) {
    return split(position).epoch === split(own || ':').epoch;
  }

  // ---- Messages on their way out ----

  // Sends one after the other: with two on their way, the first could fail for a moment and the second overtake it.
  function Outbox(connection) {
    this.connection = connection;
    this.entries = [];
    this.sending = null;
    this.open = false;
    this.failures = 0;
    this.timer = null;
  }

  // Everybody in the room sees a key once its message is there. So it must not tell the next one, with which somebody
  // could make this page believe that its next message has arrived.
  Outbox.prototype.add = function (data) {
    var entry = {key: randomText(), data: data, position: null};
    this.entries.push(entry);
    this.pump();
    return entry;
  };

  Outbox.prototype.resume = function () {
    this.open = true;
    this.wake();
  };

  Outbox.prototype.pause = function () {
    this.open = false;
    window.clearTimeout(this.timer);
    this.timer = null;
  };

  Outbox.prototype.wake = function () {
    window.clearTimeout(this.timer);
    this.timer = null;
    this.pump();
  };

  Outbox.prototype.pump = function () {
    var entry = this.firstUnsent(), self = this;
    if (!this.open || this.sending || this.timer || !entry) {
      return;
    }
    this.sending = entry;
    this.connection.link.publish(entry, function (reply) {
      self.sending = null;
      self.answered(entry, reply);
      self.pump();
    });
  };

  Outbox.prototype.firstUnsent = function () {
    return this.entries.filter(function (entry) { return !entry.position; })[0];
  };

  Outbox.prototype.answered = function (entry, reply) {
    if (this.entries.indexOf(entry) < 0) {
      return; // It has arrived before its reply.
    }
    if (reply.type === 'published') {
      this.failures = 0;
      entry.position = reply.position;
      this.connection.listener.entryAcknowledged(entry);
    } else if (reply.temporary) {
      this.retryLater(reply.after);
    } else {
      this.remove(entry);
      this.connection.listener.entryRefused(entry, reply.message || 'The server refused it.');
    }
  };

  Outbox.prototype.retryLater = function (after) {
    var self = this;
    if (this.open) {
      this.timer = later((after || 0) + backOff(this.failures), function () { self.wake(); });
      this.failures += 1;
    }
  };

  Outbox.prototype.remove = function (entry) {
    this.entries.splice(this.entries.indexOf(entry), 1);
  };

  // Answers the entry that has this key, which is now no longer on its way.
  Outbox.prototype.arrived = function (key) {
    var entry = key && this.entries.filter(function (candidate) { return candidate.key === key; })[0];
    if (!entry) {
      return null;
    }
    this.remove(entry);
    return entry;
  };

  // What is stored before `position`, or in a log that is no more, will not arrive.
  Outbox.prototype.pass = function (position) {
    var self = this;
    this.entries.filter(function (entry) {
      return entry.position && (isKnown(entry.position, position) || !isSameLog(entry.position, position));
    }).forEach(function (entry) {
      self.remove(entry);
      self.connection.listener.entryPassed(entry);
    });
  };

  // ---- Links: the two ways to reach the server, alike to their user ----

  function publishCommand(connection, entry, id) {
    return {type: 'publish', id: id, room: connection.room, data: entry.data, key: entry.key};
  }

  function WebSocketLink(connection) {
    var self = this;
    this.kind = 'websocket';
    this.up = false;
    this.connection = connection;
    this.ping = POLL_WAIT;
    this.top = null;
    this.lastId = 0;
    this.asked = {};
    this.publishing = null;
    this.goodbye = null;
    this.socket = new window.WebSocket(connection.base.replace(/^http/, 'ws') + 'ws');
    this.socket.onopen = function () { self.opened(); };
    this.socket.onmessage = function (frame) { self.received(readObject(frame.data)); };
    this.socket.onclose = function (event) { self.closed(event.code, event.reason); };
    this.expect(OPEN_WITHIN, function () { self.lost(); });
  }

  WebSocketLink.prototype.expect = function (seconds, otherwise) {
    window.clearTimeout(this.timer);
    this.timer = later(seconds, otherwise);
  };

  WebSocketLink.prototype.expectTraffic = function () {
    var self = this;
    this.expect(this.ping + SILENCE_ALLOWED, function () {
      self.ask({type: 'ping'}, function () {});
      self.expect(ANSWER_WITHIN, function () { self.lost(); });
    });
  };

  WebSocketLink.prototype.ask = function (command, answered) {
    this.lastId += 1;
    command.id = this.lastId;
    this.asked[command.id] = answered;
    this.socket.send(JSON.stringify(command));
  };

  WebSocketLink.prototype.opened = function () {
    var self = this, hello = {type: 'hello', v: 1, name: this.connection.name};
    if (this.connection.client) {
      hello.client = this.connection.client;
    }
    this.expect(ANSWER_WITHIN, function () { self.lost(); });
    this.ask(hello, function (reply) { self.welcomed(reply); });
  };

  WebSocketLink.prototype.welcomed = function (reply) {
    var self = this, join = {type: 'join', room: this.connection.room, last: HISTORY};
    if (reply.type !== 'welcome') {
      this.connection.linkRefused(this, reply);
      return;
    }
    this.connection.identified(reply.client, reply.user && reply.user.id);
    this.ping = Number(reply.ping) || this.ping;
    if (this.connection.position) {
      join.since = this.connection.position;
    }
    this.ask(join, function (answer) { self.joined(answer, join.since); });
  };

  WebSocketLink.prototype.joined = function (reply, since) {
    if (reply.type !== 'joined') {
      this.connection.linkRefused(this, reply);
      return;
    }
    this.up = true;
    this.top = reply.top;
    this.connection.linkUp(this);
    if (!since || !reply.recovered) {
      this.connection.startFrom(reply.position, Boolean(since));
    }
    this.checkCaughtUp();
  };

  WebSocketLink.prototype.checkCaughtUp = function () {
    var position = this.connection.position;
    if (this.top && (isKnown(this.top, position) || !isSameLog(this.top, position))) {
      this.top = null;
      this.connection.linkCaughtUp(this);
    }
  };

  WebSocketLink.prototype.received = function (event) {
    var answered = this.asked[event.id];
    this.expectTraffic();
    if (answered) {
      delete this.asked[event.id];
      answered(event);
    } else if (event.type === 'goodbye') {
      this.goodbye = event;
    } else {
      this.connection.eventReceived(event);
      this.checkCaughtUp();
    }
  };

  WebSocketLink.prototype.publish = function (entry, answered) {
    var self = this;
    this.publishing = answered;
    this.ask(publishCommand(this.connection, entry), function (reply) {
      self.publishing = null;
      answered(reply);
    });
  };

  WebSocketLink.prototype.closed = function (code, reason) {
    var goodbye = this.goodbye;
    if (!goodbye && code > LAST_CODE_TO_RECONNECT && code <= LAST_CODE_OF_OURS) {
      goodbye = {reconnect: false, reason: reason};
    }
    this.connection.linkDown(this, goodbye);
  };

  WebSocketLink.prototype.lost = function () {
    this.connection.linkDown(this, this.goodbye);
  };

  WebSocketLink.prototype.close = function () {
    var publishing = this.publishing, socket = this.socket;
    window.clearTimeout(this.timer);
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
    this.asked = {};
    this.publishing = null;
    if (publishing) {
      publishing(LOST);
    }
  };

  function PollLink(connection) {
    this.kind = 'poll';
    this.up = false;
    this.connection = connection;
    this.closed = false;
    this.lastId = 0;
    this.poll();
  }

  // The first poll doesn't wait: its answer tells that the server is there.
  PollLink.prototype.poll = function () {
    var connection = this.connection, self = this, asked = now(), wait = this.up ? POLL_WAIT : 0;
    var query = ['room=' + encodeURIComponent(connection.room), 'last=' + HISTORY, 'wait=' + wait];
    if (connection.position) {
      query.push('since=' + encodeURIComponent(connection.position));
    }
    this.request = request('GET', 'poll', query, connection, null, wait + SILENCE_ALLOWED, function (answer) {
      self.answered(answer, wait > 0 && now() - asked < 1);
    });
  };

  PollLink.prototype.answered = function (answer, hasty) {
    var self = this, events = answer.events || [];
    if (this.closed) {
      return;
    }
    if (answer.type !== 'poll') {
      this.connection.linkRefused(this, answer);
      return;
    }
    this.connection.identified(answer.client);
    if (!this.up) {
      this.up = true;
      this.connection.linkUp(this);
    }
    events.forEach(function (event) { self.connection.eventReceived(event); });
    this.connection.pollEnded(answer.positions || {});
    this.carryOn(events, hasty);
  };

  PollLink.prototype.carryOn = function (events, hasty) {
    var self = this, goodbye = events.filter(function (event) { return event.type === 'goodbye'; })[0];
    if (this.closed) {
      return;
    }
    if (goodbye) {
      this.connection.linkDown(this, goodbye);
      return;
    }
    if (events.length < POLL_PAGE) {
      this.connection.linkCaughtUp(this);
    }
    // What doesn't wait although it has nothing is not asked again at once, lest this become a loop.
    this.timer = later(hasty && !events.length ? 1 : 0, function () { self.poll(); });
  };

  PollLink.prototype.publish = function (entry, answered) {
    var body = [publishCommand(this.connection, entry, this.lastId += 1)];
    request('POST', 'commands', [], this.connection, body, PUBLISH_WITHIN, function (answer) {
      answered(Array.isArray(answer) ? answer[0] || LOST : answer);
    });
  };

  PollLink.prototype.leave = function () {
    var connection = this.connection, leave = {type: 'leave', room: connection.room};
    if (connection.client && window.navigator.sendBeacon) {
      window.navigator.sendBeacon(
        connection.base + 'commands?client=' + encodeURIComponent(connection.client), JSON.stringify(leave));
    }
  };

  // A message that is being posted is left to be answered: the outbox wants to know.
  PollLink.prototype.close = function () {
    this.closed = true;
    window.clearTimeout(this.timer);
    this.request.abort();
  };

  function request(method, path, query, connection, body, seconds, answered) {
    var xhr = new window.XMLHttpRequest();
    var parameters = query.concat('name=' + encodeURIComponent(connection.name));
    xhr.open(method, connection.base + path + '?' + parameters.join('&'), true);
    xhr.timeout = seconds * 1000;
    if (connection.client) {
      xhr.setRequestHeader('Realtime-Client', connection.client);
    }
    if (body) {
      xhr.setRequestHeader('Content-Type', 'application/json');
    }
    xhr.onload = function () { answered(readAnswer(xhr)); };
    xhr.onerror = xhr.ontimeout = function () { answered(LOST); };
    xhr.send(body && JSON.stringify(body));
    return xhr;
  }

  function readAnswer(xhr) {
    var answer = readObject(xhr.responseText);
    if (xhr.status >= 200 && xhr.status < 300 && (answer.type || Array.isArray(answer))) {
      return answer;
    }
    if (answer.type !== 'error') {
      answer = {
        type: 'error',
        message: 'The server answered ' + xhr.status + ' ' + xhr.statusText,
        temporary: xhr.status < 400 || xhr.status === 408 || xhr.status === 429 || xhr.status >= 500
      };
    }
    answer.after = Number(xhr.getResponseHeader('Retry-After')) || 0;
    return answer;
  }

  // ---- The connection ----

  function RealtimeConnection(options, listener) {
    this.base = options.base;
    this.room = options.room;
    this.name = options.name;
    this.listener = listener;
    this.storageKey = 'realtime-client ' + this.base;
    this.client = recall(this.storageKey);
    this.user = null;
    this.position = null;
    this.link = null;
    this.probe = null;
    this.retryTimer = null;
    this.probeTimer = null;
    this.everUp = false;
    this.upSince = 0;
    this.attempts = 0;
    this.probes = 0;
    this.outbox = new Outbox(this);
  }

  RealtimeConnection.prototype.start = function () {
    var self = this;
    window.addEventListener('online', function () {
      if (self.retryTimer) {
        self.hurry();
      }
    });
    // Browsers keep pages that were left, connections and all, and after a poll the server would wait for the next one.
    window.addEventListener('pagehide', function () {
      if (self.link && self.link.kind === 'poll') {
        self.link.leave();
      }
      self.drop();
    });
    window.addEventListener('pageshow', function (event) {
      if (event.persisted) {
        self.hurry();
      }
    });
    this.connect();
  };

  RealtimeConnection.prototype.publish = function (data) {
    return this.outbox.add(data);
  };

  // Takes effect at once, by connecting again as the same client.
  RealtimeConnection.prototype.rename = function (name) {
    this.name = name;
    this.connect();
  };

  // Connect now instead of at the end of a wait.
  RealtimeConnection.prototype.hurry = function () {
    if (!this.link) {
      this.connect();
    }
  };

  RealtimeConnection.prototype.connect = function () {
    this.drop();
    this.listener.stateChanged(this.everUp ? 'reconnecting' : 'connecting');
    this.link = this.openWebSocket() || new PollLink(this);
  };

  RealtimeConnection.prototype.openWebSocket = function () {
    try {
      return window.WebSocket ? new WebSocketLink(this) : null;
    } catch (error) {
      return null; // A browser that forbids it throws.
    }
  };

  RealtimeConnection.prototype.drop = function () {
    var link = this.link, probe = this.probe;
    window.clearTimeout(this.retryTimer);
    window.clearTimeout(this.probeTimer);
    this.link = this.probe = this.retryTimer = null;
    this.outbox.pause();
    if (link) {
      link.close();
    }
    if (probe) {
      probe.close();
    }
  };

  // What a link tells:

  RealtimeConnection.prototype.identified = function (client, user) {
    if (client && client !== this.client) {
      this.client = client;
      remember(this.storageKey, client);
    }
    this.user = user || this.user;
  };

  RealtimeConnection.prototype.linkUp = function (link) {
    if (link === this.probe) {
      this.probe = null;
      this.drop();
      this.link = link;
    }
    this.everUp = true;
    this.upSince = now();
    this.listener.stateChanged('connected', link.kind);
    if (link.kind === 'poll') {
      this.probeLater();
    } else {
      this.probes = 0;
    }
  };

  RealtimeConnection.prototype.linkCaughtUp = function (link) {
    if (link === this.link && !this.outbox.open) {
      this.outbox.resume();
      this.listener.caughtUp();
    }
  };

  RealtimeConnection.prototype.linkDown = function (link, goodbye) {
    var wasUp = link.up;
    if (link === this.probe) {
      this.probe = null;
      link.close();
      this.probeLater();
      return;
    }
    this.drop();
    if (wasUp && now() - this.upSince > STABLE_AFTER) {
      this.attempts = 0;
    }
    if (goodbye && goodbye.reconnect === false) {
      this.listener.stateChanged('stopped', goodbye.reason || 'the server closed the connection');
    } else if (!goodbye && !wasUp && link.kind === 'websocket') {
      this.link = new PollLink(this);
    } else {
      this.retryLater(goodbye && goodbye.after);
    }
  };

  // The server answered the attempt to connect, or a poll, with an error.
  RealtimeConnection.prototype.linkRefused = function (link, error) {
    if (link === this.probe || error === LOST) {
      this.linkDown(link);
    } else if (error.code === 'unauthorized' && this.client) {
      this.forgetClient();
      this.connect();
    } else if (error.code === 'bad_position' && this.position) {
      this.startFrom(null, true);
      this.connect();
    } else {
      this.linkDown(link, {reconnect: error.temporary === true, reason: error.message, after: error.after});
    }
  };

  RealtimeConnection.prototype.forgetClient = function () {
    this.client = this.user = null;
    remember(this.storageKey, null);
  };

  RealtimeConnection.prototype.retryLater = function (after) {
    var self = this, delay = (Number(after) || 0) + backOff(this.attempts);
    this.attempts += 1;
    this.listener.stateChanged('waiting', delay);
    this.retryTimer = later(delay, function () { self.connect(); });
  };

  RealtimeConnection.prototype.probeLater = function () {
    var self = this, delay = Math.min(LONGEST_PROBE, FIRST_PROBE * Math.pow(2, this.probes));
    window.clearTimeout(this.probeTimer);
    this.probes += 1;
    this.probeTimer = later(delay, function () { self.probe = self.openWebSocket(); });
  };

  // Events, and what moves the position: these three and nothing else.

  RealtimeConnection.prototype.eventReceived = function (event) {
    if (event.type === 'error') {
      this.listener.complained(event.message || event.code);
    } else if (event.room === this.room && event.type === 'message') {
      this.messageReceived(event);
    } else if (event.room === this.room && event.type === 'reset') {
      this.startFrom(event.position, true);
    }
  };

  RealtimeConnection.prototype.messageReceived = function (message) {
    var entry, sender = message.from || {};
    if (isKnown(message.position, this.position)) {
      return;
    }
    this.position = message.position;
    entry = this.outbox.arrived(message.key);
    if (entry) {
      this.user = sender.id;
    }
    this.listener.messageArrived(message, entry || (Boolean(sender.id) && sender.id === this.user) || null);
  };

  RealtimeConnection.prototype.startFrom = function (position, missed) {
    this.position = position;
    if (missed) {
      this.listener.missed();
      this.outbox.pass(position);
    }
  };

  RealtimeConnection.prototype.pollEnded = function (positions) {
    var position = positions[this.room];
    if (position && !isKnown(position, this.position)) {
      this.position = position;
    }
  };

  window.RealtimeConnection = RealtimeConnection;
}(window));
