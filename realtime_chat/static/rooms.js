/* The list of rooms: visited rooms with their unread counts, and the other rooms of the server. */
(function (Chat) {
  'use strict';

  var dom = Chat.dom;
  var MAX_LISTED = 200;

  /** @param {Object} listener has `opened(name)` and `left(name)`. */
  function Rooms(list, listener) {
    this.list = list;
    this.listener = listener;
    this.rows = {};
    this.current = null;
  }

  // A row keeps its element while its room is listed, so that the focus is not lost.
  Rooms.prototype.row = function (name) {
    var id = '$' + name;
    if (!this.rows[id]) {
      this.rows[id] = this.makeRow(name);
      this.list.insertBefore(this.rows[id].node, this.rowAfter(name));
    }
    return this.rows[id];
  };

  Rooms.prototype.makeRow = function (name) {
    var row = {name: name, node: dom.make('li', 'room'), visited: false, count: 0}, self = this;
    row.link = dom.make('a');
    row.link.href = Chat.pageUrl.ofRoom(name);
    row.link.appendChild(dom.make('span', 'label', name));
    row.note = dom.make('span', 'note');
    row.link.appendChild(row.note);
    row.link.onclick = function (event) { return self.clicked(event || window.event, name); };
    row.leave = dom.makeButton('small leave', '×', function () { self.leave(row); });
    row.leave.setAttribute('aria-label', 'Leave ' + name);
    row.leave.title = 'Leave this room';
    row.node.appendChild(row.link);
    row.node.appendChild(row.leave);
    return row;
  };

  // With a modifier, the browser opens another tab or window.
  Rooms.prototype.clicked = function (event, name) {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey || event.button > 0) {
      return true;
    }
    this.listener.opened(name);
    return false;
  };

  Rooms.prototype.leave = function (row) {
    this.listener.left(row.name);
    (row.node.parentNode ? row.link : this.rows['$' + this.current].link).focus();
  };

  Rooms.prototype.names = function () {
    return Object.keys(this.rows).map(function (id) { return id.slice(1); }).sort();
  };

  Rooms.prototype.rowAfter = function (name) {
    var next = this.names().filter(function (other) { return other > name; })[0];
    return next ? this.rows['$' + next].node : null;
  };

  /** Show one as the one that is read. */
  Rooms.prototype.select = function (name) {
    this.current = name;
    this.row(name);
    this.names().forEach(function (other) { this.draw(this.row(other)); }, this);
  };

  /** Show a visited room and its unread count. */
  Rooms.prototype.visited = function (name, unread) {
    var row = this.row(name);
    row.visited = true;
    row.unread = unread;
    this.draw(row);
  };

  Rooms.prototype.left = function (name) {
    var row = this.row(name);
    row.visited = false;
    row.unread = 0;
    this.draw(row);
    this.drop(row);
  };

  Rooms.prototype.drop = function (row) {
    if (!row.visited && !row.listed && row.name !== this.current) {
      dom.remove(row.node);
      delete this.rows['$' + row.name];
    }
  };

  Rooms.prototype.draw = function (row) {
    var selected = row.name === this.current;
    row.node.className = 'room' + (row.visited ? ' visited' : '') + (row.unread ? ' unread' : '');
    if (selected) {
      row.link.setAttribute('aria-current', 'page');
    } else {
      row.link.removeAttribute('aria-current');
    }
    dom.show(row.leave, row.visited && !selected);
    this.drawNote(row);
  };

  Rooms.prototype.drawNote = function (row) {
    dom.setText(row.note, row.unread ? ' ' + (row.unread > 99 ? '99+' : row.unread) : '');
    row.link.setAttribute('aria-label', row.unread ? row.name + ', ' + row.unread + ' unread' : row.name);
  };

  /** Load the list of rooms that a client may read from the server. */
  Rooms.prototype.refresh = function (client) {
    var xhr = new window.XMLHttpRequest(), self = this;
    xhr.open('GET', 'rooms?limit=' + MAX_LISTED, true);
    xhr.setRequestHeader('Realtime-Client', client);
    xhr.onload = function () {
      if (xhr.status === 200) {
        self.listed(roomsIn(xhr.responseText));
      }
    };
    xhr.onerror = function () {}; // The status line shows that there is no connection.
    xhr.send();
  };

  // A proxy may answer instead of the server, with anything.
  function roomsIn(text) {
    try {
      return JSON.parse(text).rooms.filter(function (room) { return Chat.text.isRoom(room.room); });
    } catch (error) {
      return [];
    }
  }

  Rooms.prototype.listed = function (rooms) {
    var self = this;
    this.names().forEach(function (name) { self.row(name).listed = false; });
    rooms.forEach(function (room) {
      self.row(room.room).listed = true;
      self.draw(self.row(room.room));
    });
    this.names().forEach(function (name) { self.drop(self.row(name)); });
  };

  Chat.Rooms = Rooms;
}(window.Chat = window.Chat || {}));
