/* Who is typing in a room, and telling it of oneself. At most once, and over by itself. */
(function (Chat) {
  'use strict';

  var TOLD_EVERY = 3000; // milliseconds
  var LASTS = 6000; // milliseconds
  var NAMED = 3;

  function Typing(changed) {
    this.changed = changed;
    this.people = {};
    this.told = 0;
  }

  // ---- Others ----

  Typing.prototype.heard = function (from, on) {
    var id = '$' + Chat.text.plain(from.id), self = this;
    if (this.people[id]) {
      window.clearTimeout(this.people[id].timer);
      delete this.people[id];
    }
    if (on) {
      this.people[id] = {name: from.name, timer: window.setTimeout(function () { self.heard(from, false); }, LASTS)};
    }
    this.changed();
  };

  /** Nobody can be heard any more. */
  Typing.prototype.forget = function () {
    Object.keys(this.people).forEach(function (id) { window.clearTimeout(this.people[id].timer); }, this);
    this.people = {};
    this.told = 0;
    this.changed();
  };

  Typing.prototype.names = function () {
    return Object.keys(this.people).map(function (id) { return this.people[id].name; }, this);
  };

  /** Say it in words. */
  Typing.prototype.write = function (node) {
    var names = this.names();
    Chat.dom.empty(node);
    if (names.length > NAMED) {
      node.appendChild(document.createTextNode(names.length + ' people are typing …'));
      return;
    }
    names.forEach(function (name, index) {
      if (index) {
        node.appendChild(document.createTextNode(index === names.length - 1 ? ' and ' : ', '));
      }
      node.appendChild(Chat.dom.make('bdi', '', Chat.text.plain(name)));
    });
    if (names.length) {
      node.appendChild(document.createTextNode(names.length === 1 ? ' is typing …' : ' are typing …'));
    }
  };

  // ---- Oneself ----

  /** Whether others should be told now that somebody writes (`true`), or stopped (`false`). */
  Typing.prototype.shouldTell = function (on) {
    var should = on ? Chat.times.elapsed() - this.told > TOLD_EVERY : this.told > 0;
    if (should) {
      this.told = on ? Chat.times.elapsed() : 0;
    }
    return should;
  };

  Chat.Typing = Typing;
}(window.Chat = window.Chat || {}));
