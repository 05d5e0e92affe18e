/* The chat page: creates all parts, and connects them. */
(function (Chat) {
  'use strict';

  var dom = Chat.dom;
  var REFRESH_EVERY = 60 * 1000; // milliseconds
  var SAVE_AFTER = 1000; // milliseconds
  var MAX_NAME_SHOWN = 100; // characters of an invalid name: a URL may have thousands

  function Page() {
    this.conversations = {};
    this.current = null;
    this.rt = null;
    this.isUnauthorized = false;
    this.requestedRoom = null; // the room that was typed, until the server has accepted it
    this.name = Chat.text.cleanName(Chat.storage.name() || '') || 'Guest ' + Math.floor(1000 + Math.random() * 9000);
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
    var self = this, rt = window.Realtime.connect('', {
      name: this.name, storage: Chat.storage.clientStorage, tokenUrl: document.body.getAttribute('data-token-url') || undefined
    });
    this.rt = rt;
    rt.on('identity', function (user) {
      if (self.rt === rt) {
        self.showIdentity(user);
      }
    });
    rt.on('unauthorized', function (error) {
      if (self.rt === rt) {
        self.unauthorized(error);
      }
    });
    rt.on('$state', function (state) {
      if (self.rt === rt) {
        self.stateChanged(state);
      }
    });
    rt.on('$error', function (error) {
      if (self.rt === rt && (!error.room || self.isRefusedHere(error))) {
        self.showProblem(error.message);
      }
    });
    this.sendAway();
    this.all().forEach(function (conversation) { conversation.open(rt); });
  };

  // A user has the name that the site gave, and can't change it here.
  Page.prototype.showIdentity = function (user) {
    dom.setText(dom.byId('own-user'), Chat.text.toText(user.name));
    dom.show(dom.byId('own-identity'), !user.guest);
    dom.show(dom.byId('name-form'), user.guest);
  };

  // The site refuses guests, or its token is wrong. What is shown was for another user.
  Page.prototype.unauthorized = function (error) {
    this.isUnauthorized = true;
    window.console.warn(error.message); // is for the site's owner
    this.all().forEach(function (conversation) { conversation.clear(); });
    [dom.byId('own-identity'), dom.byId('name-form'), this.composer.form].forEach(function (part) {
      dom.show(part, false);
    });
  };

  /** The visitor may have logged in or out in another tab. */
  Page.prototype.checkIdentity = function () {
    if (this.isUnauthorized) {
      window.location.reload();
    } else {
      this.rt.renew();
    }
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
      this.refreshRooms();
    }
  };

  Page.prototype.refreshRooms = function () {
    if (!Chat.pageUrl.isSingle()) {
      this.rooms.refresh(this.rt.client);
    }
  };

  // A connection has one name, so a new name needs a new connection. It goes on where the old one ended.
  Page.prototype.rename = function (name) {
    this.showProblem(name ? '' : 'This can\'t be a name: a name is 1 to 64 characters, and not only spaces');
    if (name && name !== this.name) {
      this.name = name;
      Chat.storage.saveName(name);
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
    if (this.isUnauthorized) {
      this.checkIdentity();
    } else if (this.rt.state === 'closed') {
      this.reconnect();
    } else {
      this.rt.retry();
    }
  };

  Page.prototype.sendAway = function () {
    this.rt.setState(document.hidden === true ? {away: true} : {});
  };

  Page.prototype.showProblem = function (text) {
    dom.setText(dom.byId('problem-text'), text);
    dom.show(dom.byId('problem-line'), Boolean(text));
    this.resized();
  };

  // ---- Rooms ----

  Page.prototype.conversation = function (name, read) {
    var id = '$' + name;
    if (!this.conversations[id]) {
      this.conversations[id] = new Chat.Conversation(name, read || null, this.listener([
        'isSeen', 'grew', 'changed', 'peopleChanged', 'typingChanged', 'rightsChanged', 'refused', 'cleared', 'earlierWanted'
      ]));
      this.conversations[id].outbox.connected = this.rt !== null && this.rt.state === 'connected';
      if (this.rt) {
        this.conversations[id].open(this.rt);
      }
    }
    return this.conversations[id];
  };

  /** Show a room, and put it into the page's URL. */
  Page.prototype.opened = function (name) {
    if (name === (this.current && this.current.name)) {
      this.showProblem('');
    } else if (Chat.pageUrl.showRoom(name)) {
      this.show(name);
    }
    this.panels.close();
  };

  /** Show the room that was typed, if its name is valid. */
  Page.prototype.openTypedRoom = function () {
    var name = Chat.text.wholeCharacters(this.roomField.text());
    if (Chat.text.isRoom(name)) {
      this.roomField.empty();
      this.opened(name);
      this.requestedRoom = name;
    } else {
      this.rejectRoom(name);
      this.roomField.reject();
    }
  };

  Page.prototype.show = function (name) {
    var written = this.composer.field.value;
    if (!Chat.text.isRoom(name)) {
      this.showNone(name);
      return;
    }
    this.showProblem('');
    this.requestedRoom = null;
    if (this.current) {
      this.current.draft = written;
      this.current.sendTyping(false);
    } else {
      this.conversation(name, this.savedPosition(name)).draft = written;
    }
    dom.setText(dom.byId('room-title'), name);
    this.showRoom(name);
  };

  // Messages still go to the room that is shown, if there is one.
  Page.prototype.showNone = function (name) {
    this.rejectRoom(name);
    if (!this.current) {
      dom.setText(dom.byId('room-title'), name);
    }
  };

  Page.prototype.rejectRoom = function (name) {
    var shown = name.length > MAX_NAME_SHOWN ? Chat.text.wholeCharacters(name.slice(0, MAX_NAME_SHOWN)) + '…' : name;
    this.showProblem('“' + shown + '” can\'t be a room: a room\'s name is 1 to 128 of A–Z a–z 0–9 _ - . : @ ~');
  };

  Page.prototype.showRoom = function (name) {
    this.current = this.conversation(name, this.savedPosition(name));
    this.rooms.select(name);
    this.pane.show(this.current);
    this.composer.set(this.current.draft);
    this.changed(this.current);
    this.peopleChanged(this.current);
    this.typingChanged(this.current);
    this.rightsChanged(this.current);
    this.saveSoon();
  };

  Page.prototype.savedPosition = function (name) {
    var entry = Chat.storage.rooms().filter(function (other) { return other.name === name; })[0];
    return entry ? entry.read : null;
  };

  // The server has refused the room, so the next page doesn't join it by itself.
  Page.prototype.refused = function (conversation) {
    conversation.isRefused = true;
    Chat.storage.forgetRoom(conversation.name);
    this.rooms.left(conversation.name);
    this.rightsChanged(conversation);
    if (this.requestedRoom === conversation.name) {
      this.roomField.restore(this.requestedRoom);
      this.requestedRoom = null;
    }
  };

  Page.prototype.left = function (name) {
    this.conversation(name).close().leave();
    delete this.conversations['$' + name];
    Chat.storage.forgetRoom(name);
    this.rooms.left(name);
    this.showTitle();
  };

  // ---- Events of conversations ----

  Page.prototype.isSeen = function (conversation) {
    return conversation === this.current && this.pane.isFollowing() && document.hidden !== true;
  };

  Page.prototype.grew = function (conversation) {
    this.pane.grew(conversation);
    this.saveSoon();
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
    conversation.markRead();
    this.saveSoon();
  };

  Page.prototype.earlierWanted = function () {
    this.pane.loadEarlier();
  };

  Page.prototype.peopleChanged = function (conversation) {
    if (conversation === this.current && conversation.room) {
      this.people.draw(conversation.room, this.rt && this.rt.user);
    }
  };

  Page.prototype.rightsChanged = function (conversation) {
    if (conversation === this.current) {
      dom.show(this.composer.form, conversation.canWrite());
      dom.show(dom.byId('read-only'), !conversation.canWrite());
      dom.show(dom.byId('skip-link'), conversation.canWrite());
      this.peopleChanged(conversation);
      this.resized();
    }
  };

  /** Another user has come. */
  Page.prototype.cleared = function (conversation) {
    if (conversation === this.current) {
      this.composer.set('');
      this.showProblem('');
    }
    Chat.storage.forgetRoom(conversation.name);
    this.changed(conversation);
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

  // Not after each message, as the browser may write to its disk.
  Page.prototype.saveSoon = function () {
    var self = this;
    if (!this.saveTimer) {
      this.saveTimer = window.setTimeout(function () { self.saveRooms(); }, SAVE_AFTER);
    }
  };

  Page.prototype.saveRooms = function () {
    window.clearTimeout(this.saveTimer);
    this.saveTimer = null;
    this.all().concat(this.current || []).forEach(function (conversation) {
      if (!conversation.isRefused) {
        Chat.storage.saveRoom(conversation.name, conversation.read);
      }
    });
  };

  // ---- Events of the composer ----

  /** Send a text. Returns whether there is a room. */
  Page.prototype.written = function (text) {
    if (this.current) {
      this.pane.goToEnd();
      this.current.publishText(text);
    } else {
      this.rejectRoom(dom.byId('room-title').textContent);
    }
    return this.current !== null;
  };

  Page.prototype.typing = function (on) {
    if (this.current) {
      this.current.sendTyping(on);
    }
  };

  Page.prototype.resized = function () {
    this.pane.followEnd();
  };

  // ---- Events of elements and of the browser ----

  Page.prototype.listen = function () {
    var self = this, name = dom.byId('own-name');
    dom.byId('room-form').onsubmit = function () {
      self.openTypedRoom();
      return false;
    };
    name.value = this.name;
    dom.byId('name-form').onsubmit = name.onchange = function () {
      self.rename(Chat.text.cleanName(name.value));
      name.value = self.name;
      return false;
    };
    dom.byId('status-retry').onclick = function () { self.retry(); };
    dom.byId('problem-dismiss').onclick = function () { self.showProblem(''); };
    dom.byId('people-all').onclick = function () { self.people.loadAll(); };
    dom.byId('skip-link').onclick = function () {
      self.composer.field.focus();
      return false;
    };
    this.listenToBrowser();
  };

  Page.prototype.listenToBrowser = function () {
    var self = this;
    function showRoomOfUrl() { self.show(Chat.pageUrl.currentRoom()); }
    window.addEventListener(window.history.pushState ? 'popstate' : 'hashchange', showRoomOfUrl, false);
    document.addEventListener('visibilitychange', function () { self.visibilityChanged(); }, false);
    window.addEventListener('pagehide', function () { self.saveRooms(); }, false);
    window.setInterval(function () { self.minutePassed(); }, REFRESH_EVERY);
  };

  Page.prototype.visibilityChanged = function () {
    this.sendAway();
    if (document.hidden !== true) {
      this.checkIdentity();
    }
    if (document.hidden !== true && this.current) {
      this.pane.settle();
      this.minutePassed();
    }
    this.saveRooms();
  };

  Page.prototype.minutePassed = function () {
    this.all().forEach(function (conversation) { conversation.log.nameDays(); });
    if (document.hidden !== true && this.rt.state === 'connected') {
      this.refreshRooms();
    }
  };

  Page.prototype.start = function () {
    var self = this;
    this.listen();
    this.connect();
    this.show(Chat.pageUrl.currentRoom());
    if (Chat.pageUrl.isSingle()) {
      dom.setClass(document.body, 'single', true);
      return;
    }
    Chat.storage.rooms().forEach(function (entry) {
      self.changed(self.conversation(entry.name, entry.read));
    });
  };

  new Page().start();
}(window.Chat = window.Chat || {}));
