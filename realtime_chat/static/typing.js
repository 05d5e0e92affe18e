/* Who is typing in a room, and when to tell others that we are. */
(function (Chat) {
  'use strict';

  var SEND_EVERY = 3000; // milliseconds
  var TIMEOUT = 6000; // milliseconds
  var MAX_NAMES = 3;

  function Typing(changed) {
    this.changed = changed;
    this.people = {};
    this.sentAt = 0;
  }

  // ---- Others ----

  Typing.prototype.setTyping = function (from, on) {
    var id = '$' + Chat.text.toText(from.id), self = this;
    if (this.people[id]) {
      window.clearTimeout(this.people[id].timer);
      delete this.people[id];
    }
    if (on) {
      this.people[id] = {
        name: from.name, guest: from.guest === true, timer: window.setTimeout(function () { self.setTyping(from, false); }, TIMEOUT)
      };
    }
    this.changed();
  };

  /** The connection is lost: nobody is known to be typing. */
  Typing.prototype.clear = function () {
    Object.keys(this.people).forEach(function (id) { window.clearTimeout(this.people[id].timer); }, this);
    this.people = {};
    this.sentAt = 0;
    this.changed();
  };

  Typing.prototype.all = function () {
    return Object.keys(this.people).map(function (id) { return this.people[id]; }, this);
  };

  /** Show who is typing. */
  Typing.prototype.write = function (node) {
    var people = this.all();
    Chat.dom.empty(node);
    if (people.length > MAX_NAMES) {
      node.appendChild(document.createTextNode(people.length + ' people are typing …'));
      return;
    }
    people.forEach(function (person, index) {
      if (index) {
        node.appendChild(document.createTextNode(index === people.length - 1 ? ' and ' : ', '));
      }
      node.appendChild(Chat.dom.make('bdi', '', Chat.text.toText(person.name)));
      node.appendChild(document.createTextNode(person.guest ? ' (guest)' : ''));
    });
    if (people.length) {
      node.appendChild(document.createTextNode(people.length === 1 ? ' is typing …' : ' are typing …'));
    }
  };

  // ---- Ourselves ----

  /** Whether to send now that we are typing (`true`) or have stopped (`false`). Calls count as sent. */
  Typing.prototype.shouldSend = function (on) {
    var shouldSend = on ? Chat.times.elapsed() - this.sentAt > SEND_EVERY : this.sentAt > 0;
    if (shouldSend) {
      this.sentAt = on ? Chat.times.elapsed() : 0;
    }
    return shouldSend;
  };

  Chat.Typing = Typing;
}(window.Chat = window.Chat || {}));
