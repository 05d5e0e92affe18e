/* The chat page: all parts, and how they are joined. */
(function (Chat) {
  'use strict';

  var dom = Chat.dom;
  var ROOMS_EVERY = 60 * 1000; // milliseconds
  var KEEP_AFTER = 1000; // milliseconds
  var SHOWN = 100; // characters of a name that is refused: an address has room for thousands

  function Page() {
    this.conversations = {};
    this.current = null;
    this.rt = null;
    this.typed = null; // the room that was asked for by its field, and may yet be refused
    this.name = Chat.text.cleanName(Chat.memory.name() || '') || 'Guest ' + Math.floor(1000 + Math.random() * 9000);
    this.status = new Chat.Status({
      line: dom.byId('status-line'), text: dom.byId('status-text'), countdown: dom.byId('status-countdown'),
      retry: dom.byId('status-retry')
    }, this.listener(['resized']));
    this.pane = new Chat.Pane(dom.byId('message-pane'), dom.byId('newer-button'), this.listener(['reachedEnd']));
    this.rooms = new Chat.Rooms(dom.byId('room-list'), this.listener(['opened', 'left']));
    this.people = new Chat.People({
      title: dom.byId('people-title'), count: dom.byId('people-count'), list: dom.byId('people-list'),
      all: dom.byId('people-all')
    });
    this.composer = new Chat.Composer(
      dom.byId('composer-form'), dom.byId('message-text'), this.listener(['written', 'typing', 'resized'])
    );
    this.roomField = new Chat.Field(dom.byId('room-name'), dom.byId('problem-text'));
    this.panels = new Chat.Panels([dom.byId('rooms-button'), dom.byId('people-button')]);
  }

  Page.prototype.listener = function (names) {
    var self = this, listener = {};
    names.forEach(function (name) {
      listener[name] = function (argument) { return self[name](argument); };
    });
    return listener;
  };

  Page.prototype.all = function () {
    return Object.keys(this.conversations).map(function (id) { return this.conversations[id]; }, this);
  };

  // ---- The connection ----

  Page.prototype.connect = function () {
    var self = this, rt = window.Realtime.connect('', {name: this.name, storage: Chat.memory.secrets});
    this.rt = rt;
    rt.on('$state', function (state) {
      if (self.rt === rt) {
        self.stateChanged(state);
      }
    });
    rt.on('$error', function (error) {
      if (self.rt === rt && (!error.room || self.isRefusedHere(error))) {
        self.complained(error.message);
      }
    });
    this.tellAway();
    this.all().forEach(function (conversation) { conversation.open(rt); });
  };

  Page.prototype.isRefusedHere = function (error) {
    return Boolean(this.current) && this.current.name === error.room && Chat.Conversation.isRefusal(error);
  };

  Page.prototype.stateChanged = function (state) {
    var connected = state.state === 'connected';
    this.status.set(state);
    this.all().forEach(function (conversation) { conversation.setConnected(connected); });
    if (this.current) {
      this.peopleChanged(this.current);
    }
    if (connected) {
      this.rooms.refresh();
    }
  };

  // One is in rooms under a name, so another name is another connection; it goes on where this one ends.
  Page.prototype.rename = function (name) {
    this.complained(name ? '' : 'This can\'t be a name: a name is 1 to 64 characters, and not only spaces');
    if (name && name !== this.name) {
      this.name = name;
      Chat.memory.keepName(name);
      this.reconnect();
    }
  };

  Page.prototype.reconnect = function () {
    var old = this.rt;
    this.rt = null;
    this.all().forEach(function (conversation) { conversation.close(); });
    old.close();
    this.status.set({state: 'connecting'});
    this.connect();
  };

  Page.prototype.retry = function () {
    if (this.rt.state === 'closed') {
      this.reconnect();
    } else {
      this.rt.retry();
    }
  };

  Page.prototype.tellAway = function () {
    this.rt.setState(document.hidden === true ? {away: true} : {});
  };

  Page.prototype.complained = function (text) {
    dom.setText(dom.byId('problem-text'), text);
    dom.show(dom.byId('problem-line'), Boolean(text));
    this.resized();
  };

  // ---- Rooms ----

  Page.prototype.conversation = function (name, read) {
    var id = '$' + name;
    if (!this.conversations[id]) {
      this.conversations[id] = new Chat.Conversation(name, read || null, this.listener([
        'isSeen', 'grew', 'changed', 'peopleChanged', 'typingChanged', 'refused', 'earlierWanted'
      ]));
      this.conversations[id].outbox.connected = this.rt !== null && this.rt.state === 'connected';
      if (this.rt) {
        this.conversations[id].open(this.rt);
      }
    }
    return this.conversations[id];
  };

  /** Show a room, and write it into the address. */
  Page.prototype.opened = function (name) {
    if (name === (this.current && this.current.name)) {
      this.complained('');
    } else if (Chat.address.go(name)) {
      this.show(name);
    }
    this.panels.close();
  };

  /** Show the room that was typed, if there can be one of that name. */
  Page.prototype.typedRoom = function () {
    var name = Chat.text.wholeCharacters(this.roomField.text());
    if (Chat.text.isRoom(name)) {
      this.roomField.empty();
      this.opened(name);
      this.typed = name;
    } else {
      this.refuse(name);
      this.roomField.refuse();
    }
  };

  Page.prototype.show = function (name) {
    var written = this.composer.field.value;
    if (!Chat.text.isRoom(name)) {
      this.showNone(name);
      return;
    }
    this.complained('');
    this.typed = null;
    if (this.current) {
      this.current.draft = written;
      this.current.tell(false);
    } else {
      this.conversation(name, this.remembered(name)).draft = written;
    }
    dom.setText(dom.byId('room-title'), name);
    this.showRoom(name);
  };

  // The room that is shown, if there is one, is still the one that is written to.
  Page.prototype.showNone = function (name) {
    this.refuse(name);
    if (!this.current) {
      dom.setText(dom.byId('room-title'), name);
    }
  };

  Page.prototype.refuse = function (name) {
    var shown = name.length > SHOWN ? Chat.text.wholeCharacters(name.slice(0, SHOWN)) + '…' : name;
    this.complained('“' + shown + '” can\'t be a room: a room\'s name is 1 to 128 of A–Z a–z 0–9 _ - . : @ ~');
  };

  Page.prototype.showRoom = function (name) {
    this.current = this.conversation(name, this.remembered(name));
    this.rooms.choose(name);
    this.pane.show(this.current);
    this.composer.set(this.current.draft);
    this.changed(this.current);
    this.peopleChanged(this.current);
    this.typingChanged(this.current);
    this.keepSoon();
  };

  Page.prototype.remembered = function (name) {
    var entry = Chat.memory.rooms().filter(function (other) { return other.name === name; })[0];
    return entry ? entry.read : null;
  };

  // Another's private room, or one too many: it isn't tried again the next time.
  Page.prototype.refused = function (conversation) {
    conversation.isRefused = true;
    Chat.memory.dropRoom(conversation.name);
    this.rooms.left(conversation.name);
    if (this.typed === conversation.name) {
      this.roomField.giveBack(this.typed);
      this.typed = null;
    }
  };

  Page.prototype.left = function (name) {
    this.conversation(name).close().leave();
    delete this.conversations['$' + name];
    Chat.memory.dropRoom(name);
    this.rooms.left(name);
    this.showTitle();
  };

  // ---- What conversations tell ----

  Page.prototype.isSeen = function (conversation) {
    return conversation === this.current && this.pane.isFollowing() && document.hidden !== true;
  };

  Page.prototype.grew = function (conversation) {
    this.pane.grew(conversation);
    this.keepSoon();
  };

  Page.prototype.changed = function (conversation) {
    if (!conversation.isRefused) {
      this.rooms.visited(conversation.name, conversation.unread);
    }
    this.showTitle();
    if (conversation === this.current) {
      this.pane.showNewer();
    }
  };

  Page.prototype.reachedEnd = function (conversation) {
    conversation.see();
    this.keepSoon();
  };

  Page.prototype.earlierWanted = function () {
    this.pane.loadEarlier();
  };

  Page.prototype.peopleChanged = function (conversation) {
    if (conversation === this.current && conversation.room) {
      this.people.draw(conversation.room, this.rt && this.rt.user);
    }
  };

  Page.prototype.typingChanged = function (conversation) {
    if (conversation === this.current) {
      conversation.typing.write(dom.byId('typing-line'));
    }
  };

  Page.prototype.showTitle = function () {
    var unread = this.all().reduce(function (sum, conversation) { return sum + conversation.unread; }, 0);
    var elsewhere = unread - (this.current ? this.current.unread : 0);
    dom.setText(dom.byId('rooms-count'), elsewhere ? String(elsewhere) : '');
    document.title = (unread ? '(' + unread + ') ' : '') + (this.current ? this.current.name + ' – ' : '') + 'chat';
  };

  // Not at each message: a browser may write to its disk then.
  Page.prototype.keepSoon = function () {
    var self = this;
    if (!this.keeping) {
      this.keeping = window.setTimeout(function () { self.keep(); }, KEEP_AFTER);
    }
  };

  Page.prototype.keep = function () {
    window.clearTimeout(this.keeping);
    this.keeping = null;
    this.all().concat(this.current || []).forEach(function (conversation) {
      if (!conversation.isRefused) {
        Chat.memory.keepRoom(conversation.name, conversation.read);
      }
    });
  };

  // ---- What the composer tells ----

  /** Tells whether there was a room to say it in. */
  Page.prototype.written = function (text) {
    if (this.current) {
      this.pane.goToEnd();
      this.current.say(text);
    } else {
      this.refuse(dom.byId('room-title').textContent);
    }
    return this.current !== null;
  };

  Page.prototype.typing = function (on) {
    if (this.current) {
      this.current.tell(on);
    }
  };

  Page.prototype.resized = function () {
    this.pane.keepUp();
  };

  // ---- What people and the browser do besides ----

  Page.prototype.listen = function () {
    var self = this, name = dom.byId('own-name');
    dom.byId('room-form').onsubmit = function () {
      self.typedRoom();
      return false;
    };
    name.value = this.name;
    dom.byId('name-form').onsubmit = name.onchange = function () {
      self.rename(Chat.text.cleanName(name.value));
      name.value = self.name;
      return false;
    };
    dom.byId('status-retry').onclick = function () { self.retry(); };
    dom.byId('problem-dismiss').onclick = function () { self.complained(''); };
    dom.byId('people-all').onclick = function () { self.people.loadAll(); };
    dom.byId('skip-link').onclick = function () {
      self.composer.field.focus();
      return false;
    };
    this.listenToBrowser();
  };

  Page.prototype.listenToBrowser = function () {
    var self = this;
    function showAddressed() { self.show(Chat.address.ofThePage()); }
    window.addEventListener(window.history.pushState ? 'popstate' : 'hashchange', showAddressed, false);
    document.addEventListener('visibilitychange', function () { self.visibilityChanged(); }, false);
    window.addEventListener('pagehide', function () { self.keep(); }, false);
    window.setInterval(function () { self.minutePassed(); }, ROOMS_EVERY);
  };

  Page.prototype.visibilityChanged = function () {
    this.tellAway();
    if (document.hidden !== true && this.current) {
      this.pane.settle();
      this.minutePassed();
    }
    this.keep();
  };

  Page.prototype.minutePassed = function () {
    this.all().forEach(function (conversation) { conversation.log.nameDays(); });
    if (document.hidden !== true && this.rt.state === 'connected') {
      this.rooms.refresh();
    }
  };

  Page.prototype.start = function () {
    var self = this;
    this.listen();
    this.connect();
    this.show(Chat.address.ofThePage());
    Chat.memory.rooms().forEach(function (entry) {
      self.changed(self.conversation(entry.name, entry.read));
    });
  };

  new Page().start();
}(window.Chat = window.Chat || {}));
