/* One room: what was said, what is on its way, who is typing, and what the reader hasn't seen yet. */
(function (Chat) {
  'use strict';

  var dom = Chat.dom;
  var AT_FIRST = 50;
  var AT_ONCE = 50;
  var GAP = 'Some messages were missed here: the server no longer has them.';

  /**
   * @param {string} name the room's.
   * @param {?string} read the position up to which the reader has seen it; null for a room never visited.
   * @param {Object} page is told: `isSeen(conversation)` asks whether what arrives is seen at once; `grew`, `changed`,
   *   `peopleChanged`, `typingChanged`, `refused`, `earlierWanted`.
   */
  function Conversation(name, read, page) {
    var self = this;
    this.name = name;
    this.read = read;
    this.page = page;
    this.room = null;
    this.position = null;
    this.isRefused = false;
    this.unread = 0;
    this.draft = '';
    this.following = true;
    this.scrollTop = 0;
    this.oldest = null;
    this.more = false;
    this.loading = false;
    this.caughtUp = false;
    this.log = new Chat.Log(name);
    this.typing = new Chat.Typing(function () { page.typingChanged(self); });
    this.outbox = new Chat.Outbox(
      function (entry) { self.send(entry.data, entry.key); }, function () { self.outboxChanged(); }
    );
    this.makeNode();
  }

  Conversation.prototype.makeNode = function () {
    var self = this;
    this.node = dom.make('div', 'conversation');
    this.earlier = dom.makeButton('small earlier', 'Earlier messages', function () { self.page.earlierWanted(self); });
    this.beginning = dom.make('p', 'beginning', 'This is where the room begins.');
    this.empty = dom.make('p', 'empty', 'Nothing has been said here yet.');
    [this.earlier, this.beginning, this.log.node, this.empty, this.outbox.node].forEach(function (part) {
      self.node.appendChild(part);
    });
    this.showEdges();
  };

  // ---- The room of a connection ----

  /** Read the room by a connection; by another one than before, go on where that one ended. */
  Conversation.prototype.open = function (rt) {
    var options = {last: AT_FIRST}, room;
    if (this.position) {
      options.since = this.position;
    }
    this.rt = rt;
    this.room = room = rt.room(this.name, options);
    this.listen(room, '*', function (data, message) { this.received(message); });
    this.listen(room, '$joined', function () { this.joined(); });
    this.listen(room, '$reset', function () { this.missed(); });
    this.listen(room, '$presence', function () { this.page.peopleChanged(this); });
    this.listen(room, '$error', function (error) { this.failed(error); });
    this.listen(room, '$pending', function (entry) { this.outbox.pending(entry); });
    this.listen(room, '$sent', function (entry) { this.outbox.sent(entry); });
    this.listen(room, '$failed', function (entry) { this.outbox.failed(entry); });
    this.outbox.resume();
  };

  Conversation.prototype.setConnected = function (connected) {
    this.outbox.setConnected(connected);
    if (!connected) {
      this.typing.forget();
    }
  };

  // What a connection that was given up may still say is not listened to.
  Conversation.prototype.listen = function (room, event, heard) {
    var self = this;
    room.on(event, function (first, second) {
      if (self.room === room) {
        heard.call(self, first, second);
      }
    });
  };

  /** Hear no more of the room. */
  Conversation.prototype.close = function () {
    var room = this.room;
    this.position = room.position;
    this.room = null;
    return room;
  };

  Conversation.prototype.failed = function (error) {
    if (isRefusal(error)) {
      this.page.refused(this);
    }
  };

  // What is over in a while is tried again, and nobody needs to know.
  function isRefusal(error) {
    return !error.temporary || error.code === 'too_many';
  }

  Conversation.prototype.joined = function () {
    this.isRefused = false;
    if (!this.read) {
      this.read = this.room.top;
    }
    this.checkCaughtUp();
    this.page.peopleChanged(this);
    this.page.changed(this);
    this.page.grew(this);
  };

  Conversation.prototype.checkCaughtUp = function () {
    var room = this.room;
    this.caughtUp = Boolean(room.position) && !(room.top && Chat.positions.isAfter(room.top, room.position));
    this.showBusy();
    this.showEdges();
  };

  Conversation.prototype.showBusy = function () {
    this.log.node.setAttribute('aria-busy', String(this.loading || !this.caughtUp));
  };

  Conversation.prototype.missed = function () {
    this.outbox.dropSent();
    if (this.log.items.length) {
      this.log.note(GAP);
      this.page.grew(this);
    }
  };

  // ---- What arrives ----

  Conversation.prototype.received = function (message) {
    if (message.signal) {
      this.signalled(message);
      return;
    }
    if (!this.oldest) {
      this.oldest = message.position;
      this.more = !Chat.positions.isFirst(message.position);
    }
    this.outbox.arrived(message.key);
    this.checkCaughtUp();
    if (isShown(message)) {
      this.arrived(message);
    }
    this.showEdges();
  };

  // Others are other programs' events, and what was deleted.
  function isShown(message) {
    return message.event === 'message' && message.data !== null && message.data !== undefined;
  }

  Conversation.prototype.signalled = function (signal) {
    if (signal.event === 'typing' && signal.from) {
      this.typing.heard(signal.from, signal.data !== false);
    }
  };

  Conversation.prototype.arrived = function (message) {
    var seen = this.page.isSeen(this);
    if (!message.own && this.read && Chat.positions.isAfter(message.position, this.read) && !seen) {
      this.count();
    }
    this.log.add(message);
    if (message.from) {
      this.typing.heard(message.from, false);
    }
    if (seen) {
      this.read = message.position;
    }
    if (this.log.trim(!this.following)) {
      this.oldest = this.log.first().position;
      this.more = true;
    }
    this.page.grew(this);
  };

  Conversation.prototype.count = function () {
    if (!this.unread) {
      this.log.divide();
    }
    this.unread += 1;
    this.page.changed(this);
  };

  /** The reader has seen all of it. */
  Conversation.prototype.see = function () {
    this.read = (this.room && this.room.position) || this.read;
    if (this.unread) {
      this.unread = 0;
      this.page.changed(this);
    }
  };

  // ---- What was said before ----

  /** Load a page of what stands before; `done` is called when it is shown, or couldn't be had. */
  Conversation.prototype.loadEarlier = function (done) {
    var self = this, room = this.room;
    if (this.loading || !this.more || !this.oldest || !room.joined) {
      return;
    }
    this.loading = true;
    this.showBusy();
    this.showEdges();
    room.history({before: this.oldest, limit: AT_ONCE}, function (error, page) {
      self.loading = false;
      done(function () { self.earlierCame(error, page); });
    });
  };

  Conversation.prototype.earlierCame = function (error, page) {
    if (!error && page.messages.length) {
      this.log.addBefore(page.messages.filter(isShown));
      this.oldest = page.messages[0].position;
      this.more = page.more && !Chat.positions.isFirst(this.oldest);
    } else if (!error) {
      this.more = false;
    }
    this.showBusy();
    this.showEdges();
  };

  Conversation.prototype.showEdges = function () {
    var any = Boolean(this.log.items.length || this.outbox.parcels.length);
    dom.show(this.earlier, this.more);
    dom.setText(this.earlier, this.loading ? 'Loading earlier messages …' : 'Earlier messages');
    dom.show(this.beginning, any && this.caughtUp && !this.more);
    dom.show(this.empty, !any && this.caughtUp);
  };

  // ---- What goes out ----

  Conversation.prototype.say = function (text) {
    this.send({text: text});
    this.tell(false);
  };

  Conversation.prototype.send = function (data, key) {
    this.room.publish(data, key ? {key: key} : {}); // its fate is told by events
  };

  Conversation.prototype.outboxChanged = function () {
    this.showEdges();
    this.page.grew(this);
  };

  /** Tell the others whether one is typing. */
  Conversation.prototype.tell = function (on) {
    if (this.rt.state === 'connected' && this.room.joined && this.typing.shouldTell(on)) {
      this.room.signal('typing', on);
    }
  };

  Conversation.isRefusal = isRefusal;
  Chat.Conversation = Conversation;
}(window.Chat = window.Chat || {}));
