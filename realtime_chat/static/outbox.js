/* Messages that are being sent: pending, then sent; or failed, to be retried or discarded. */
(function (Chat) {
  'use strict';

  var dom = Chat.dom;

  // An item is {entry, state, node, delivery}: the library's entry, 'pending', 'sent' or 'failed', the element, and the
  // element that shows the state.
  function Outbox(publish, changed) {
    this.publish = publish;
    this.changed = changed;
    this.node = dom.make('ol', 'messages outbox');
    this.node.setAttribute('aria-label', 'Messages on their way');
    this.items = [];
    this.connected = false;
  }

  Outbox.prototype.find = function (key) {
    return this.items.filter(function (item) { return item.entry.key === key; })[0];
  };

  /** A message waits to be sent, for the first time or again. */
  Outbox.prototype.pending = function (entry) {
    var item = this.find(entry.key) || this.make(entry);
    item.entry = entry;
    this.showPending(item);
  };

  Outbox.prototype.showPending = function (item) {
    this.setStatus(item, this.connected ? 'Sending …' : 'Waiting for the connection', 'pending');
  };

  Outbox.prototype.make = function (entry) {
    var item = {
      entry: entry,
      state: 'pending',
      node: Chat.makeMessage({data: entry.data, own: true}),
      delivery: dom.make('div', 'delivery')
    };
    item.node.appendChild(item.delivery);
    this.items.push(item);
    this.node.appendChild(item.node);
    this.changed();
    return item;
  };

  Outbox.prototype.setStatus = function (item, text, state) {
    item.state = state;
    item.node.className = 'message own ' + state;
    dom.setText(item.delivery, text);
  };

  /** A message is stored, and will come as an event. */
  Outbox.prototype.sent = function (entry) {
    var item = this.find(entry.key);
    if (item) {
      item.entry = entry;
      this.setStatus(item, 'Sent', 'sent');
    }
  };

  Outbox.prototype.failed = function (entry) {
    var item = this.find(entry.key) || this.make(entry);
    item.entry = entry;
    this.offerRetry(item, entry.state === 'unknown' ? 'It is not known whether this was sent. ' : 'Not sent: ' +
      ((entry.error && entry.error.message) || 'the server refused it') + ' ');
  };

  // A retry uses the same key, so the message can't be stored twice.
  Outbox.prototype.offerRetry = function (item, words) {
    var self = this, reason = dom.make('span', '', words);
    this.setStatus(item, '', 'failed');
    reason.setAttribute('role', 'alert');
    item.delivery.appendChild(reason);
    item.delivery.appendChild(dom.makeButton('small again', 'Try again', function () {
      self.publish(item.entry);
    }));
    item.delivery.appendChild(dom.makeButton('small drop', 'Discard', function () { self.remove(item); }));
    this.changed();
  };

  Outbox.prototype.remove = function (item) {
    this.items.splice(this.items.indexOf(item), 1);
    dom.remove(item.node);
    this.changed();
  };

  /** A message has come as an event. */
  Outbox.prototype.confirm = function (key) {
    var item = key && this.find(key);
    if (item) {
      this.remove(item);
    }
  };

  /** Drop everything: it was written by another user. */
  Outbox.prototype.clear = function () {
    this.items.slice().forEach(this.remove, this);
  };

  /** After a gap, messages that are stored already may not come as events. */
  Outbox.prototype.dropSent = function () {
    this.inState('sent').forEach(this.remove, this);
  };

  Outbox.prototype.inState = function (state) {
    return this.items.filter(function (item) { return item.state === state; });
  };

  Outbox.prototype.setConnected = function (connected) {
    this.connected = connected;
    this.inState('pending').forEach(this.showPending, this);
  };

  /** Publish pending messages again, on another connection. */
  Outbox.prototype.resume = function () {
    this.inState('pending').forEach(function (item) { this.publish(item.entry); }, this);
  };

  Chat.Outbox = Outbox;
}(window.Chat = window.Chat || {}));
