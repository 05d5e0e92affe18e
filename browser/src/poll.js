  var MAX_WAITING_POLLS = 2;
  var MAX_PAUSE = 0.8; // seconds; timers of a hidden page fire once a second
  var CYCLE = 8; // seconds; a client stays in a room for ten seconds after a poll

  /**
   * Long polling by XMLHttpRequest.
   *
   * If one request can't read all rooms, two requests wait side by side: a browser has six connections to a host, for
   * all of its tabs. If these are not enough either, groups of rooms take turns, and each poll waits for a short time. If
   * the pages of an origin have no connections left, no poll waits, and each page polls about once a second. The first
   * poll doesn't wait either: its answer says that there is a connection, and that we are connected.
   */
  function PollTransport(base) {
    HttpTransport.call(this, base);
    this.groups = []; // polled now, or pausing. Set later: waitingRooms, whose turn it isn't, and groupCount, of all
  }

  inherit(PollTransport, HttpTransport);

  PollTransport.works = supportsXhr;

  PollTransport.prototype.wait = 25;

  // A proxy may have forgotten a poll that waits, so a ping starts the polls again.
  PollTransport.prototype.send = function (command) {
    HttpTransport.prototype.send.call(this, command);
    if (command.type === 'ping' && this.isReading) {
      this.read();
    }
  };

  PollTransport.prototype.read = function () {
    var names = this.roomNames();
    this.stop();
    this.waitingRooms = names.slice();
    for (this.groupCount = 0; names.length; this.groupCount += 1) {
      this.takeGroup(names, 'poll');
    }
    this.readWaiting();
  };

  PollTransport.prototype.readWaiting = function () {
    while (this.waitingRooms.length && this.groups.length < MAX_WAITING_POLLS) {
      this.startPoll(this.takeGroup(this.waitingRooms, 'poll'));
    }
  };

  PollTransport.prototype.startPoll = function (group) {
    var self = this, started = now(), isFirst = !this.isReading, wait = isCrowded() || isFirst ? 0 :
      this.groupCount > MAX_WAITING_POLLS ? Math.floor(CYCLE / this.groupCount) : this.wait;
    this.groups.push(group);
    group.query.push('wait=' + wait);
    group.stop = this.request('poll', group.query, null, wait + ANSWER_WITHIN, function (answer) {
      self.handlePoll(answer, group, isFirst || now() - started > 1000);
    });
  };

  PollTransport.prototype.handlePoll = function (answer, group, isRepeatedAtOnce) {
    var self = this;
    group.stop = noop;
    if (answer && answer.code === 'rate_limited' && !answer.room) {
      this.pollAgain(group, answer.after);
    } else if (!answer || (answer.client !== this.client && !(this.reader && answer.client))) {
      if (!this.canGoOn(answer)) {
        this.end(answer && answer.type === 'error' ? {error: answer} : {});
      }
    } else {
      if (!this.isReading) {
        this.readStarted();
      }
      this.onmessage(answer);
      answer.events.forEach(function (event) {
        if (event.type === 'presence') {
          self.finishJoin(event);
        }
      });
      group.roomNames.forEach(function (name) { self.finishJoin({room: name}); });
      answer.events.forEach(this.received, this);
      group.roomNames.forEach(function (name) {
        var room = self.roomsByName[name] || {};
        room.presenceVersion = answer.presence[name];
        room.properties = (answer.properties || {})[name] || '';
        self.received({type: 'rights', room: name, rights: (answer.rights || {})[name]});
      });
      this.pollAgain(group, answer.events.length || isRepeatedAtOnce ? 0 : Math.min(MAX_PAUSE, CYCLE / this.groupCount));
    }
  };

  // A poll that returns at once without events is not repeated at once: that would be a busy loop.
  PollTransport.prototype.pollAgain = function (group, seconds) {
    var self = this, timer;
    if (this.groups.indexOf(group) >= 0) { // else reading was started again meanwhile
      timer = later(seconds, function () {
        self.groups.splice(self.groups.indexOf(group), 1);
        self.waitingRooms = self.waitingRooms.concat(group.roomNames.filter(function (name) {
          return self.roomsByName[name]; // else the server has ended it
        }));
        self.readWaiting();
      });
      group.stop = function () { cancel(timer); };
    }
  };

  PollTransport.prototype.stop = function () {
    this.groups.splice(0).forEach(function (group) { group.stop(); });
  };

  transports.poll = PollTransport;
