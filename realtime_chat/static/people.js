/* The members of the room. */
(function (Chat) {
  'use strict';

  var dom = Chat.dom;

  function People(node) {
    this.title = node.title;
    this.count = node.count;
    this.list = node.list;
    this.all = node.all;
    this.room = null;
    this.user = null;
  }

  function byName(one, two) {
    var first = Chat.text.toText(one.name).toLowerCase(), second = Chat.text.toText(two.name).toLowerCase();
    return first < second ? -1 : Number(first > second);
  }

  /** Show the members of a room; `user` is our own user. */
  People.prototype.draw = function (room, user) {
    var hidden = typeof room.rights === 'string' && room.rights.indexOf('p') < 0;
    dom.setText(this.title, hidden ? 'Who is here isn\'t shown to you' : room.joined ?
      Chat.text.pluralize(room.count, 'person', 'people') + ' here' : 'People (not up to date)');
    dom.setText(this.count, room.joined && !hidden ? String(room.count) : '');
    dom.show(this.all, room.joined && !room.membersKnown && !hidden);
    this.user = user;
    this.room = room;
    this.fill(room.membersKnown ? room.members : []);
  };

  People.prototype.fill = function (members) {
    var self = this;
    dom.empty(this.list);
    members.slice().sort(function (one, two) {
      return self.isSelf(two) - self.isSelf(one) || byName(one, two);
    }).forEach(function (member) { self.list.appendChild(self.row(member)); });
  };

  People.prototype.isSelf = function (member) {
    return Number(Boolean(this.user) && member.id === this.user.id);
  };

  People.prototype.row = function (member) {
    var away = Boolean(member.state && member.state.away), row = dom.make('li', away ? 'person away' : 'person');
    var notes = [this.isSelf(member) ? 'you' : '', member.guest ? 'guest' : '', away ? 'away' : ''];
    row.appendChild(dom.make('bdi', 'name ' + Chat.text.colourOf(member.id), Chat.text.toText(member.name)));
    row.appendChild(document.createTextNode(' '));
    row.appendChild(dom.make('span', 'note', notes.filter(Boolean).join(', ')));
    return row;
  };

  /** Load all members of a room that is so large that the server doesn't list them. */
  People.prototype.loadAll = function () {
    var self = this, room = this.room;
    room.loadMembers(function (error, members) {
      if (!error && room === self.room && !room.membersKnown) {
        self.fill(members);
      }
    });
  };

  Chat.People = People;
}(window.Chat = window.Chat || {}));
