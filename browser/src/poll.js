  /** Long polls, and commands, by XMLHttpRequest. */
  function Poll(base) {
    HttpSocket.call(this, base);
    this.abort = noop;
    this.again = null;
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
    var self = this, begun = now(), query = this.wishes(true);
    this.stop();
    if (query.length) {
      query.push('wait=' + this.wait);
      this.abort = this.request('poll', query, null, this.wait + ANSWER_WITHIN, function (answer) {
        self.took = now() - begun;
        self.polled(answer);
      });
    }
  };

  Poll.prototype.polled = function (answer) {
    var self = this;
    if (!answer || answer.type === 'error') {
      this.end(answer ? {error: answer} : {});
    } else if (answer.client !== this.client) {
      this.end({});
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
      this.names().forEach(function (name) { self.enter(self.entering[name] || {}); });
      answer.events.forEach(this.received, this);
      this.names().forEach(function (name) { self.rooms[name].version = (answer.presence || {})[name] || ''; });
      if (answer.events.some(function (event) { return event.type === 'goodbye'; })) {
        this.end({});
      }
      this.readAgain(answer.events.length || this.took > 1000 ? 0 : 1);
    }
  };

  // What doesn't wait although it has nothing is not asked again at once, lest this become a loop.
  Poll.prototype.readAgain = function (seconds) {
    var self = this;
    if (!this.isOver) {
      this.again = later(seconds, function () { self.read(); });
    }
  };

  Poll.prototype.stop = function () {
    window.clearTimeout(this.again);
    this.abort();
    this.abort = noop;
  };

  transports.poll = Poll;
