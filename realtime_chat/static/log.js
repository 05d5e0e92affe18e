/* The messages of one room as a list: grouped by sender, separated by days, with the page's own notices. */
(function (Chat) {
  'use strict';

  var dom = Chat.dom;
  var SHOWN = 1000;
  var MAX_SHOWN = 5000; // while the reader has scrolled up
  var GROUP_WITHIN = 5 * 60 * 1000; // milliseconds within which a sender's name isn't repeated

  // An item is {message, node, day}: the message, its element, and the element of the day above it. A notice of the page
  // has no message.
  function Log(room) {
    this.node = dom.make('div', 'log');
    this.node.setAttribute('role', 'log');
    this.node.setAttribute('aria-label', 'Messages in ' + room);
    this.list = dom.make('ol', 'messages');
    this.node.appendChild(this.list);
    this.items = [];
    this.divider = null;
  }

  /** The element of a message. If it can't be shown as usual, it is shown as plain text. */
  function makeMessage(message) {
    var item = dom.make('li', message.own ? 'message own' : 'message'), text = dom.make('div', 'text');
    try {
      fillMessage(item, text, message);
    } catch (error) {
      dom.empty(item);
      dom.empty(text);
      text.appendChild(document.createTextNode(Chat.text.textOf(message.data)));
    }
    item.appendChild(text);
    return item;
  }

  function fillMessage(item, text, message) {
    text.dir = 'auto';
    Chat.text.writeWithLinks(text, Chat.text.textOf(message.data));
    if (message.from) {
      item.appendChild(makeHead(message));
    }
  }

  function makeHead(message) {
    var head = dom.make('div', 'head');
    head.appendChild(dom.make('bdi', 'name ' + Chat.text.colourOf(message.from.id),
      Chat.text.toText(message.from.name)));
    head.appendChild(document.createTextNode(' '));
    if (message.from.guest) {
      head.appendChild(dom.make('span', 'guest', 'guest'));
      head.appendChild(document.createTextNode(' '));
    }
    head.appendChild(Chat.times.makeTime(message.at));
    return head;
  }

  function isSameSender(one, two) {
    return Boolean(one.from && two.from) && one.from.id === two.from.id && one.from.name === two.from.name;
  }

  function isSameDay(one, two) {
    return Chat.times.dayOf(one.at) === Chat.times.dayOf(two.at);
  }

  function isContinuation(message, before) {
    return Boolean(before) && isSameSender(message, before) && isSameDay(message, before) &&
      message.at - before.at < GROUP_WITHIN;
  }

  Log.prototype.lastMessageBefore = function (index) {
    while (index > 0) {
      index -= 1;
      if (this.items[index].message) {
        return this.items[index].message;
      }
    }
    return null;
  };

  // Show or hide the head and the day of an item, depending on what is above it.
  Log.prototype.updateItem = function (index) {
    var item = this.items[index], before = this.lastMessageBefore(index), above = this.items[index - 1];
    if (!item || !item.message) {
      return;
    }
    dom.setClass(item.node, 'continued', isContinuation(item.message, above && above.message));
    this.setDay(item, !before || !isSameDay(item.message, before));
  };

  Log.prototype.setDay = function (item, on) {
    if (on && !item.day) {
      item.day = Chat.times.makeDay(item.message.at);
      this.list.insertBefore(item.day, item.node);
    } else if (!on && item.day) {
      dom.remove(item.day);
      item.day = null;
    }
  };

  Log.prototype.append = function (message, node) {
    this.list.appendChild(node);
    this.items.push({message: message, node: node, day: null});
    this.updateItem(this.items.length - 1);
  };

  Log.prototype.add = function (message) {
    this.append(message, makeMessage(message));
  };

  /** Add earlier messages, in order, before all others. */
  Log.prototype.addBefore = function (messages) {
    var first = this.list.firstChild, self = this, i;
    var items = messages.map(function (message) {
      var node = makeMessage(message);
      self.list.insertBefore(node, first);
      return {message: message, node: node, day: null};
    });
    this.items = items.concat(this.items);
    for (i = 0; i <= items.length; i += 1) {
      this.updateItem(i);
    }
  };

  /** Remove everything. */
  Log.prototype.clear = function () {
    while (this.items.length) {
      this.removeAt(0);
    }
    this.divider = null;
  };

  /** Add a notice of the page. */
  Log.prototype.note = function (text) {
    this.append(null, dom.make('li', 'notice', text));
  };

  /** Mark that what follows is new to the reader. */
  Log.prototype.addDivider = function () {
    this.removeDivider();
    this.divider = dom.make('li', 'divider', 'New');
    this.append(null, this.divider);
  };

  Log.prototype.removeDivider = function () {
    var self = this, at = -1;
    this.items.forEach(function (item, index) {
      if (item.node === self.divider) {
        at = index;
      }
    });
    if (at >= 0) {
      this.removeAt(at);
      this.updateItem(at);
    }
    this.divider = null;
  };

  Log.prototype.removeAt = function (index) {
    var item = this.items.splice(index, 1)[0];
    dom.remove(item.node);
    if (item.day) {
      dom.remove(item.day);
    }
  };

  /** Remove the oldest items if there are too many; more may stay while they are read. Returns whether there were. */
  Log.prototype.trim = function (isRead) {
    var many = this.items.length > (isRead ? MAX_SHOWN : SHOWN);
    while (many && this.items.length > SHOWN) {
      this.removeAt(0);
    }
    if (many) {
      this.updateItem(0);
    }
    return many;
  };

  /** The first message, or null. */
  Log.prototype.first = function () {
    var shown = this.items.filter(function (item) { return item.message; });
    return shown.length ? shown[0].message : null;
  };

  Log.prototype.nameDays = function () {
    this.items.forEach(function (item) {
      if (item.day) {
        Chat.times.nameDay(item.day);
      }
    });
  };

  Chat.Log = Log;
  Chat.makeMessage = makeMessage;
}(window.Chat = window.Chat || {}));
