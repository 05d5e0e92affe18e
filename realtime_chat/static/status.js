/* The state of the connection, in words. */
(function (Chat) {
  'use strict';

  var dom = Chat.dom;
  var TRANSPORTS = {
    websocket: 'WebSocket', sse: 'server-sent events', poll: 'long poll', jsonp: 'scripts (JSONP)'
  };

  /**
   * @param {Object} nodes `{line, text, countdown, retry}`
   * @param {Object} listener `resized()`.
   */
  function Status(nodes, listener) {
    var self = this;
    this.nodes = nodes;
    this.listener = listener;
    this.until = 0;
    this.state = {state: 'connecting'};
    this.timer = null;
    window.addEventListener('offline', function () { self.draw(); }, false);
    window.addEventListener('online', function () { self.draw(); }, false);
  }

  Status.prototype.set = function (state) {
    this.state = state;
    this.until = state.retryIn ? Chat.times.elapsed() + state.retryIn * 1000 : 0;
    this.draw();
  };

  function isOffline() {
    return window.navigator.onLine === false;
  }

  Status.prototype.words = function () {
    switch (this.state.state) {
    case 'connected':
      return 'Connected by ' + TRANSPORTS[this.state.transport];
    case 'connecting':
      return this.until ? 'The server can not be reached.' : 'Connecting …';
    case 'reconnecting':
      return (isOffline() ? 'Your device is offline.' : 'Connection lost.') + ' What you write is kept, and sent later.';
    default:
      return 'Not connected' + (this.state.reason ? ': ' + this.state.reason.message : '.');
    }
  };

  Status.prototype.draw = function () {
    var state = this.state.state;
    dom.setText(this.nodes.text, this.words());
    this.nodes.line.className = 'status ' + (this.until ? 'reconnecting' : state);
    dom.show(this.nodes.retry, state === 'closed' || this.until > 0);
    this.count();
    this.listener.resized();
  };

  // Beside what is read out, which would otherwise be said anew each second.
  Status.prototype.count = function () {
    var left = Math.ceil((this.until - Chat.times.elapsed()) / 1000), self = this;
    window.clearTimeout(this.timer);
    if (!this.until && this.state.state !== 'reconnecting') {
      dom.setText(this.nodes.countdown, '');
      return;
    }
    dom.setText(this.nodes.countdown, left > 0 ? 'Trying again in ' + left + ' s.' : 'Trying again …');
    this.timer = left > 0 ? window.setTimeout(function () { self.count(); }, 1000) : null;
  };

  Chat.Status = Status;
}(window.Chat = window.Chat || {}));
