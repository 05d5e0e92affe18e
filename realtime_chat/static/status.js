/* The status line: the state of the connection. */
(function (Chat) {
  'use strict';

  var dom = Chat.dom;
  var TRANSPORTS = {
    websocket: 'WebSocket', sse: 'server-sent events', poll: 'long poll', jsonp: 'scripts (JSONP)'
  };

  /**
   * @param {Object} nodes `{line, text, countdown, retry}`
   * @param {Object} listener has `resized()`.
   */
  function Status(nodes, listener) {
    var self = this;
    this.nodes = nodes;
    this.listener = listener;
    this.retryAt = 0;
    this.state = {state: 'connecting'};
    this.timer = null;
    window.addEventListener('offline', function () { self.draw(); }, false);
    window.addEventListener('online', function () { self.draw(); }, false);
  }

  Status.prototype.set = function (state) {
    this.state = state;
    this.retryAt = state.retryIn ? Chat.times.elapsed() + state.retryIn * 1000 : 0;
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
      return this.retryAt ? 'The server can not be reached.' : 'Connecting …';
    case 'reconnecting':
      return (isOffline() ? 'Your device is offline.' : 'Connection lost.') + ' What you write is kept, and sent later.';
    default:
      if (this.state.reason && this.state.reason.code === 'unauthorized') {
        return 'Not connected: this site doesn\'t say who you are. Log in, and come back.';
      }
      return 'Not connected' + (this.state.reason ? ': ' + this.state.reason.message : '.');
    }
  };

  Status.prototype.draw = function () {
    var state = this.state.state;
    dom.setText(this.nodes.text, this.words());
    this.nodes.line.className = 'status ' + (this.retryAt ? 'reconnecting' : state);
    dom.show(this.nodes.retry, state === 'closed' || this.retryAt > 0);
    this.count();
    this.listener.resized();
  };

  // In an element of its own: screen readers would read the status again each second.
  Status.prototype.count = function () {
    var left = Math.ceil((this.retryAt - Chat.times.elapsed()) / 1000), self = this;
    window.clearTimeout(this.timer);
    if (!this.retryAt && this.state.state !== 'reconnecting') {
      dom.setText(this.nodes.countdown, '');
      return;
    }
    dom.setText(this.nodes.countdown, left > 0 ? 'Trying again in ' + left + ' s.' : 'Trying again …');
    this.timer = left > 0 ? window.setTimeout(function () { self.count(); }, 1000) : null;
  };

  Chat.Status = Status;
}(window.Chat = window.Chat || {}));
