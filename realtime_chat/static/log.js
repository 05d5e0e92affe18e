/* The messages of one room as a list: grouped by sender, parted by days, with what the page itself has to say. */
(function (Chat) {
  'use strict';

  var dom = Chat.dom;
  var SHOWN = 1000;
  var MOST = 5000; // even while somebody reads further up
  var ONE_BREATH = 5 * 60 * 1000; // milliseconds within which a sender's name isn't repeated

  // An item is {message, node, day}: what it shows, its element, and the day's that stands before it. Without a message
  // it is one of the page's own.
  function Log(room) {
    this.node = dom.make('div', 'log');
    this.node.setAttribute('role', 'log');
    this.node.setAttribute('aria-label', 'Messages in ' + room);
    this.list = dom.make('ol', 'messages');
    this.node.appendChild(this.list);
    this.items = [];
    this.divider = null;
  }

  /** A message as it is shown. One that can't be is plain text, and harms no other. */
  function bubble(message) {
    var item = dom.make('li', message.own ? 'message own' : 'message'), text = dom.make('div', 'text');
    try {
      fill(item, text, message);
    } catch (error) {
      dom.empty(item);
      dom.empty(text);
      text.appendChild(document.createTextNode(Chat.text.textOf(message.data)));
    }
    item.appendChild(text);
    return item;
  }

  function fill(item, text, message) {
    text.dir = 'auto';
    Chat.text.write(text, Chat.text.textOf(message.data));
    if (message.from) {
      item.appendChild(headline(message));
    }
  }

  function headline(message) {
    var head = dom.make('div', 'head');
    head.appendChild(dom.make('bdi', 'name ' + Chat.text.colourOf(message.from.id),
      Chat.text.plain(message.from.name)));
    head.appendChild(document.createTextNode(' '));
    head.appendChild(Chat.times.makeTime(message.at));
    return head;
  }

  function isSameSender(one, two) {
    return Boolean(one.from && two.from) && one.from.id === two.from.id && one.from.name === two.from.name;
  }

  function isSameDay(one, two) {
    return Chat.times.dayOf(one.at) === Chat.times.dayOf(two.at);
  }

  function continues(message, before) {
    return Boolean(before) && isSameSender(message, before) && isSameDay(message, before) &&
      message.at - before.at < ONE_BREATH;
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

  // Join an item to what stands before it.
  Log.prototype.fit = function (index) {
    var item = this.items[index], before = this.lastMessageBefore(index), above = this.items[index - 1];
    if (!item || !item.message) {
      return;
    }
    dom.setClass(item.node, 'continued', continues(item.message, above && above.message));
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
    this.fit(this.items.length - 1);
  };

  Log.prototype.add = function (message) {
    this.append(message, bubble(message));
  };

  /** Put messages, in their order, before all others. */
  Log.prototype.addBefore = function (messages) {
    var first = this.list.firstChild, self = this, i;
    var items = messages.map(function (message) {
      var node = bubble(message);
      self.list.insertBefore(node, first);
      return {message: message, node: node, day: null};
    });
    this.items = items.concat(this.items);
    for (i = 0; i <= items.length; i += 1) {
      this.fit(i);
    }
  };

  /** Say something that nobody sent. */
  Log.prototype.note = function (text) {
    this.append(null, dom.make('li', 'notice', text));
  };

  /** From here on it is new to the reader. */
  Log.prototype.divide = function () {
    this.undivide();
    this.divider = dom.make('li', 'divider', 'New');
    this.append(null, this.divider);
  };

  Log.prototype.undivide = function () {
    var self = this, at = -1;
    this.items.forEach(function (item, index) {
      if (item.node === self.divider) {
        at = index;
      }
    });
    if (at >= 0) {
      this.removeAt(at);
      this.fit(at);
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

  /** Let go of the oldest ones, where there are many, or very many for who reads them; tells whether there were. */
  Log.prototype.trim = function (isRead) {
    var many = this.items.length > (isRead ? MOST : SHOWN);
    while (many && this.items.length > SHOWN) {
      this.removeAt(0);
    }
    if (many) {
      this.fit(0);
    }
    return many;
  };

  /** The first message that is shown, or null. */
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
  Chat.bubble = bubble;
}(window.Chat = window.Chat || {}));
