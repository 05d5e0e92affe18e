/* One room: its messages, those that are being sent, who is typing, and what the reader hasn't seen yet. */
(function (Chat) {
  'use strict';

  var dom = Chat.dom;
  var FIRST_PAGE = 50;
  var PAGE_SIZE = 50;
  var ENDED = 'You may no longer read this room.';
  var GAP = 'Some messages were missed here: the server no longer has them.';

  /**
   * @param {string} name the room's name.
   * @param {?string} read the position up to which the reader has seen it; null for a room that was never visited.
   * @param {Object} page is called: `isSeen(conversation)` returns whether a new message is seen at once; also `grew`,
   *   `changed`, `peopleChanged`, `typingChanged`, `rightsChanged`, `refused`, `cleared`, `earlierWanted`.
   */
  function Conversation(name, read, page) {
    var self = this;
    this.name = name;
    this.read = read;
    this.page = page;
    this.room = null;
    this.position = null;
    this.isRefused = false;
    this.isEnded = false;
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

  /** Read the room over a connection. A second connection goes on where the first one ended. */
  Conversation.prototype.open = function (rt) {
    var options = {last: FIRST_PAGE}, room;
    if (this.position) {
      options.since = this.position;
    }
    this.rt = rt;
    this.room = room = rt.room(this.name, options);
    this.listen(room, '*', function (data, message) { this.received(message); });
    this.listen(room, '$joined', function () { this.joined(); });
    this.listen(room, '$reset', function (gap) { this.onReset(gap.reason); });
    this.listen(room, '$rights', function () { this.page.rightsChanged(this); });
    this.listen(room, '$left', function () { this.ended(); });
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
      this.typing.clear();
    }
  };

  // Events of an earlier connection are ignored.
  Conversation.prototype.listen = function (room, event, listener) {
    var self = this;
    room.on(event, function (first, second) {
      if (self.room === room) {
        listener.call(self, first, second);
      }
    });
  };

  /** Stop reading the room. */
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

  // Temporary errors are retried, and not shown.
  function isRefusal(error) {
    return !error.temporary || error.code === 'too_many';
  }

  Conversation.prototype.joined = function () {
    this.isRefused = false;
    if (!this.read) {
      this.read = this.room.top;
    }
    this.checkCaughtUp();
    this.page.rightsChanged(this);
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

  Conversation.prototype.onReset = function (reason) {
    if (reason === 'identity') {
      this.clear();
    } else {
      this.onGap();
    }
  };

  /** Another user has come: nothing here is for that one. */
  Conversation.prototype.clear = function () {
    this.log.clear();
    this.outbox.clear();
    this.typing.clear();
    this.read = this.oldest = this.position = null;
    this.draft = '';
    this.unread = 0;
    this.more = this.caughtUp = this.isRefused = false;
    this.following = true;
    this.showEdges();
    this.page.cleared(this);
  };

  /** The server lets us read the room no longer. */
  Conversation.prototype.ended = function () {
    this.isEnded = true;
    this.typing.clear();
    this.log.note(ENDED);
    this.page.refused(this);
    this.page.grew(this);
  };

  Conversation.prototype.onGap = function () {
    this.outbox.dropSent();
    if (this.log.items.length) {
      this.log.note(GAP);
      this.page.grew(this);
    }
  };

  // ---- What arrives ----

  Conversation.prototype.received = function (message) {
    if (message.signal) {
      this.onSignal(message);
      return;
    }
    if (!this.oldest) {
      this.oldest = message.position;
      this.more = !Chat.positions.isFirst(message.position);
    }
    this.outbox.confirm(message.key);
    this.checkCaughtUp();
    if (isShown(message)) {
      this.addMessage(message);
    }
    this.showEdges();
  };

  // Other messages are events of other programs, or deleted.
  function isShown(message) {
    return message.event === 'message' && message.data !== null && message.data !== undefined;
  }

  Conversation.prototype.onSignal = function (signal) {
    if (signal.event === 'typing' && signal.from) {
      this.typing.setTyping(signal.from, signal.data !== false);
    }
  };

  Conversation.prototype.addMessage = function (message) {
    var seen = this.page.isSeen(this);
    if (!message.own && this.read && Chat.positions.isAfter(message.position, this.read) && !seen) {
      this.countUnread();
    }
    this.log.add(message);
    if (message.from) {
      this.typing.setTyping(message.from, false);
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

  Conversation.prototype.countUnread = function () {
    if (!this.unread) {
      this.log.addDivider();
    }
    this.unread += 1;
    this.page.changed(this);
  };

  /** The reader has seen all messages. */
  Conversation.prototype.markRead = function () {
    this.read = (this.room && this.room.position) || this.read;
    if (this.unread) {
      this.unread = 0;
      this.page.changed(this);
    }
  };

  // ---- Earlier messages ----

  /** Load a page of earlier messages. `done` is called with a function that shows them. */
  Conversation.prototype.loadEarlier = function (done) {
    var self = this, room = this.room;
    if (this.loading || !this.more || !this.oldest || !room.joined) {
      return;
    }
    this.loading = true;
    this.showBusy();
    this.showEdges();
    room.history({before: this.oldest, limit: PAGE_SIZE}, function (error, page) {
      self.loading = false;
      done(function () { self.earlierLoaded(error, page); });
    });
  };

  Conversation.prototype.earlierLoaded = function (error, page) {
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
    var any = Boolean(this.log.items.length || this.outbox.items.length);
    dom.show(this.earlier, this.more);
    dom.setText(this.earlier, this.loading ? 'Loading earlier messages …' : 'Earlier messages');
    dom.show(this.beginning, any && this.caughtUp && !this.more);
    dom.show(this.empty, !any && this.caughtUp);
  };

  // ---- Sending ----

  /** Whether we may do something here, by its letter. A server without tokens doesn't say, and lets us try. */
  Conversation.prototype.may = function (right) {
    var rights = this.room ? this.room.rights : null;
    return typeof rights !== 'string' || rights.indexOf(right) >= 0;
  };

  /** Whether to offer writing. Everybody may try to write to a private room of another user, which we can't read. */
  Conversation.prototype.canWrite = function () {
    return !this.isEnded && this.may('w') && (!this.isRefused || this.name.charAt(0) === '@');
  };

  Conversation.prototype.publishText = function (text) {
    this.send({text: text});
    this.sendTyping(false);
  };

  Conversation.prototype.send = function (data, key) {
    this.room.publish(data, key ? {key: key} : {}); // its events report the result
  };

  Conversation.prototype.outboxChanged = function () {
    this.showEdges();
    this.page.grew(this);
  };

  /** Tell the others whether we are typing. */
  Conversation.prototype.sendTyping = function (on) {
    if (this.rt.state === 'connected' && this.room.joined && this.may('s') && this.typing.shouldSend(on)) {
      this.room.signal('typing', on);
    }
  };

  Conversation.isRefusal = isRefusal;
  Chat.Conversation = Conversation;
}(window.Chat = window.Chat || {}));
