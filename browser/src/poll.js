  var SIDE_BY_SIDE = 2;
  var LONGEST_PAUSE = 0.8; // seconds; browsers have a hidden page wait for whole ones
  var ROUND = 8; // seconds, which is less than the ten for which a poll keeps its client in a room

  /**
   * Long polls, and commands, by XMLHttpRequest.
   *
   * Rooms that don't go into one request go into two, which wait side by side; a browser has six connections to a host,
   * for all of its tabs. More take turns, and wait for so short a time that each has its turn often. Where the pages of
   * an origin have no connections left none waits: each asks about once a second.
   */
  function Poll(base) {
    HttpSocket.call(this, base);
    this.parts = []; // each asks, or pauses; `line` has the names of rooms whose turn it isn't, and `turns` there are
  }

  inherit(Poll, HttpSocket);

  Poll.works = canAsk;

  Poll.prototype.wait = 25;

  // A poll that waits may have been forgotten by whatever lies between: it is asked anew.
  Poll.prototype.send = function (command) {
    HttpSocket.prototype.send.call(this, command);
    if (command.type === 'ping' && this.isReading) {
      this.read();
    }
  };

  Poll.prototype.read = function () {
    var names = this.names();
    this.stop();
    this.line = names.slice();
    for (this.turns = 0; names.length; this.turns += 1) {
      this.takePart(names, 'poll');
    }
    this.readMore();
  };

  Poll.prototype.readMore = function () {
    while (this.line.length && this.parts.length < SIDE_BY_SIDE) {
      this.askPart(this.takePart(this.line, 'poll'));
    }
  };

  Poll.prototype.askPart = function (part) {
    var self = this, begun = now(), wait = isCrowded() ? 0 : this.turns > SIDE_BY_SIDE ? Math.floor(ROUND / this.turns) : this.wait;
    this.parts.push(part);
    part.query.push('wait=' + wait);
    part.stop = this.request('poll', part.query, null, wait + ANSWER_WITHIN, function (answer) {
      self.polled(answer, part, now() - begun);
    });
  };

  Poll.prototype.polled = function (answer, part, took) {
    var self = this;
    part.stop = noop;
    if (!answer || answer.client !== this.client) {
      if (!this.survives(answer)) {
        this.end(answer && answer.type === 'error' ? {error: answer} : {});
      }
    } else {
      if (!this.isReading) {
        this.begun();
      }
      this.onmessage(answer);
      answer.events.forEach(function (event) {
        if (event.type === 'presence') {
          self.enter(event);
        }
      });
      part.names.forEach(function (name) { self.enter({room: name}); });
      answer.events.forEach(this.received, this);
      part.names.forEach(function (name) { (self.rooms[name] || {}).version = answer.presence[name]; });
      this.readAgain(part, answer.events.length || took > 1000 ? 0 : Math.min(LONGEST_PAUSE, ROUND / this.turns));
    }
  };

  // What doesn't wait although it has nothing is not asked again at once, lest this become a loop.
  Poll.prototype.readAgain = function (part, seconds) {
    var self = this, timer;
    if (this.parts.indexOf(part) >= 0) { // else all was begun anew meanwhile
      timer = later(seconds, function () {
        self.parts.splice(self.parts.indexOf(part), 1);
        self.line = self.line.concat(part.names);
        self.readMore();
      });
      part.stop = function () { cancel(timer); };
    }
  };

  Poll.prototype.stop = function () {
    this.parts.splice(0).forEach(function (part) { part.stop(); });
  };

  transports.poll = Poll;
