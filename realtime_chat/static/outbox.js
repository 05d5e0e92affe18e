/* Messages on their way out: pending, then sent; or failed, to be tried again or dropped. */
(function (Chat) {
  'use strict';

  var dom = Chat.dom;

  // A parcel is {entry, state, node, delivery}: what the library knows of it, what became of it here ('pending', 'sent',
  // 'failed'), its element, and where that is said.
  function Outbox(publish, changed) {
    this.publish = publish;
    this.changed = changed;
    this.node = dom.make('ol', 'messages outbox');
    this.node.setAttribute('aria-label', 'Messages on their way');
    this.parcels = [];
    this.connected = false;
  }

  Outbox.prototype.find = function (key) {
    return this.parcels.filter(function (parcel) { return parcel.entry.key === key; })[0];
  };

  /** Something waits to be sent, for the first time or again. */
  Outbox.prototype.pending = function (entry) {
    var parcel = this.find(entry.key) || this.make(entry);
    parcel.entry = entry;
    this.tellPending(parcel);
  };

  Outbox.prototype.tellPending = function (parcel) {
    this.tell(parcel, this.connected ? 'Sending …' : 'Waiting for the connection', 'pending');
  };

  Outbox.prototype.make = function (entry) {
    var parcel = {
      entry: entry,
      state: 'pending',
      node: Chat.bubble({data: entry.data, own: true}),
      delivery: dom.make('div', 'delivery')
    };
    parcel.node.appendChild(parcel.delivery);
    this.parcels.push(parcel);
    this.node.appendChild(parcel.node);
    this.changed();
    return parcel;
  };

  Outbox.prototype.tell = function (parcel, text, state) {
    parcel.state = state;
    parcel.node.className = 'message own ' + state;
    dom.setText(parcel.delivery, text);
  };

  /** It is stored, and will arrive as a message. */
  Outbox.prototype.sent = function (entry) {
    var parcel = this.find(entry.key);
    if (parcel) {
      parcel.entry = entry;
      this.tell(parcel, 'Sent', 'sent');
    }
  };

  Outbox.prototype.failed = function (entry) {
    var parcel = this.find(entry.key) || this.make(entry);
    parcel.entry = entry;
    this.offer(parcel, entry.state === 'unknown' ? 'It is not known whether this was sent. ' : 'Not sent: ' +
      ((entry.error && entry.error.message) || 'the server refused it') + ' ');
  };

  // The key stays the same one, so that trying again can't double it.
  Outbox.prototype.offer = function (parcel, words) {
    var self = this, reason = dom.make('span', '', words);
    this.tell(parcel, '', 'failed');
    reason.setAttribute('role', 'alert');
    parcel.delivery.appendChild(reason);
    parcel.delivery.appendChild(dom.makeButton('small again', 'Try again', function () {
      self.publish(parcel.entry);
    }));
    parcel.delivery.appendChild(dom.makeButton('small drop', 'Discard', function () { self.remove(parcel); }));
    this.changed();
  };

  Outbox.prototype.remove = function (parcel) {
    this.parcels.splice(this.parcels.indexOf(parcel), 1);
    dom.remove(parcel.node);
    this.changed();
  };

  /** It has come back as a message. */
  Outbox.prototype.arrived = function (key) {
    var parcel = key && this.find(key);
    if (parcel) {
      this.remove(parcel);
    }
  };

  /** What is stored already will not arrive where there is a gap. */
  Outbox.prototype.dropSent = function () {
    this.inState('sent').forEach(this.remove, this);
  };

  Outbox.prototype.inState = function (state) {
    return this.parcels.filter(function (parcel) { return parcel.state === state; });
  };

  Outbox.prototype.setConnected = function (connected) {
    this.connected = connected;
    this.inState('pending').forEach(this.tellPending, this);
  };

  /** Publish what is still on its way once more, on another connection. */
  Outbox.prototype.resume = function () {
    this.inState('pending').forEach(function (parcel) { this.publish(parcel.entry); }, this);
  };

  Chat.Outbox = Outbox;
}(window.Chat = window.Chat || {}));
