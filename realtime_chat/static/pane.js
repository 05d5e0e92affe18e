/* The part that scrolls: shows one conversation, and stays at its end or where the reader has put it. */
(function (Chat) {
  'use strict';

  var dom = Chat.dom;
  var NEAR = 60; // pixels
  var NEAR_THE_TOP = 200; // pixels

  /** @param {Object} listener `reachedEnd(conversation)`. */
  function Pane(node, newer, listener) {
    var self = this;
    this.node = node;
    this.newer = newer;
    this.listener = listener;
    this.current = null;
    this.placed = {height: 0, visible: 0};
    node.onscroll = function () { self.scrolled(); };
    newer.onclick = function () { self.goToEnd(); };
    window.addEventListener('resize', function () { self.keepUp(); }, false);
    this.watchSize();
  }

  // Whatever stands above and below takes its room from here.
  Pane.prototype.watchSize = function () {
    var self = this;
    if (window.ResizeObserver) {
      new window.ResizeObserver(function () { self.keepUp(); }).observe(this.node);
    }
  };

  Pane.prototype.show = function (conversation) {
    if (this.current) {
      this.current.scrollTop = this.node.scrollTop;
      dom.remove(this.current.node);
    }
    this.current = null;
    this.node.appendChild(conversation.node);
    this.current = conversation;
    this.placed.visible = 0;
    this.restore();
  };

  // Where something is new the reader begins there.
  Pane.prototype.restore = function () {
    var conversation = this.current, divider = conversation.log.divider;
    if (conversation.unread && divider && conversation.following) {
      this.node.scrollTop = Math.max(0, divider.offsetTop - this.node.offsetTop - NEAR);
      conversation.following = this.isAtEnd();
    } else {
      this.node.scrollTop = conversation.scrollTop;
    }
    this.keepUp();
    this.settle();
  };

  Pane.prototype.isAtEnd = function () {
    return this.node.scrollHeight - this.node.scrollTop - this.node.clientHeight < NEAR;
  };

  Pane.prototype.scrolled = function () {
    if (this.current) {
      this.current.following = this.isAtEnd();
      this.settle();
    }
  };

  Pane.prototype.settle = function () {
    if (this.current.following && document.hidden !== true) {
      this.listener.reachedEnd(this.current);
    }
    this.showNewer();
    this.fill();
  };

  // Towards the beginning, and where little is there. Without styles nothing scrolls, and all of it counts.
  Pane.prototype.fill = function () {
    var node = this.node, enough = 2 * Math.min(node.clientHeight, window.innerHeight);
    if (this.current.caughtUp && node.scrollTop < NEAR_THE_TOP &&
        (!this.current.following || node.scrollHeight < enough)) {
      this.loadEarlier();
    }
  };

  Pane.prototype.keepUp = function () {
    var node = this.node;
    if (this.current && this.isFollowing()) {
      node.scrollTop = node.scrollHeight;
      this.placed = {height: node.scrollHeight, visible: node.clientHeight};
    }
  };

  // Browsers tell late that somebody has scrolled; what comes in between must not drag the reader back. A pane that
  // shrinks meanwhile leaves its place as it was, and one that grows moves it.
  Pane.prototype.isFollowing = function () {
    var conversation = this.current, node = this.node, placed = this.placed;
    if (conversation.following && node.clientHeight <= placed.visible && !this.isAtEnd() &&
        node.scrollTop + placed.visible < placed.height - NEAR) {
      conversation.following = false;
    }
    return conversation.following;
  };

  /** A conversation has become longer. */
  Pane.prototype.grew = function (conversation) {
    if (conversation === this.current) {
      this.keepUp();
      this.showNewer();
      this.fill();
    }
  };

  Pane.prototype.showNewer = function () {
    var count = this.current.unread;
    if (count) {
      dom.setText(this.newer, count + ' new');
      this.newer.setAttribute('aria-label', Chat.text.counted(count, 'new message', 'new messages') + ', go to the end');
    }
    dom.show(this.newer, count > 0 && !this.current.following);
  };

  // A button that goes takes the focus with it, unless it is handed on.
  Pane.prototype.goToEnd = function () {
    var hadFocus = document.activeElement === this.newer;
    this.current.following = true;
    this.placed.visible = 0;
    this.keepUp();
    this.settle();
    if (hadFocus) {
      this.node.focus();
    }
  };

  /** Load what was said before, and keep what is read where it is. */
  Pane.prototype.loadEarlier = function () {
    var self = this, conversation = this.current;
    conversation.loadEarlier(function (put) { self.hold(conversation, put); });
  };

  Pane.prototype.hold = function (conversation, put) {
    var node = this.node, fromEnd = node.scrollHeight - node.scrollTop;
    put();
    if (conversation !== this.current) {
      conversation.scrollTop = 0;
      return;
    }
    node.scrollTop = node.scrollHeight - fromEnd;
    this.keepUp();
    this.fill();
  };

  Chat.Pane = Pane;
}(window.Chat = window.Chat || {}));
