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
    node.onscroll = function () { self.scrolled(); };
    newer.onclick = function () { self.goToEnd(); };
    window.addEventListener('resize', function () { self.keepUp(); }, false);
  }

  Pane.prototype.show = function (conversation) {
    if (this.current) {
      this.current.scrollTop = this.node.scrollTop;
      dom.remove(this.current.node);
    }
    this.current = null;
    this.node.appendChild(conversation.node);
    this.current = conversation;
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
    if (this.node.scrollTop < NEAR_THE_TOP) {
      this.loadEarlier();
    }
  };

  Pane.prototype.keepUp = function () {
    if (this.current && this.current.following) {
      this.node.scrollTop = this.node.scrollHeight;
    }
  };

  /** A conversation has become longer. */
  Pane.prototype.grew = function (conversation) {
    if (conversation === this.current) {
      this.keepUp();
      this.showNewer();
      if (conversation.caughtUp && this.isAllInSight()) {
        this.loadEarlier();
      }
    }
  };

  Pane.prototype.isAllInSight = function () {
    return this.node.clientHeight > 0 && this.node.scrollHeight <= this.node.clientHeight;
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
    if (this.isAllInSight()) {
      this.loadEarlier();
    }
  };

  Chat.Pane = Pane;
}(window.Chat = window.Chat || {}));
