/* The part that scrolls: shows one conversation, and stays at its end or where the reader has scrolled to. */
(function (Chat) {
  'use strict';

  var dom = Chat.dom;
  var NEAR = 60; // pixels
  var NEAR_THE_TOP = 200; // pixels

  /** @param {Object} listener has `reachedEnd(conversation)`. */
  function Pane(node, newer, listener) {
    var self = this;
    this.node = node;
    this.newer = newer;
    this.listener = listener;
    this.current = null;
    this.lastPlace = {height: 0, visible: 0};
    node.onscroll = function () { self.scrolled(); };
    newer.onclick = function () { self.goToEnd(); };
    window.addEventListener('resize', function () { self.followEnd(); }, false);
    this.watchSize();
  }

  // The pane's size changes with the elements above and below it.
  Pane.prototype.watchSize = function () {
    var self = this;
    if (window.ResizeObserver) {
      new window.ResizeObserver(function () { self.followEnd(); }).observe(this.node);
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
    this.lastPlace.visible = 0;
    this.restore();
  };

  // Show the first new message, if there is one.
  Pane.prototype.restore = function () {
    var conversation = this.current, divider = conversation.log.divider;
    if (conversation.unread && divider && conversation.following) {
      this.node.scrollTop = Math.max(0, divider.offsetTop - this.node.offsetTop - NEAR);
      conversation.following = this.isAtEnd();
    } else {
      this.node.scrollTop = conversation.scrollTop;
    }
    this.followEnd();
    this.settle();
  };

  Pane.prototype.isAtEnd = function () {
    return this.node.scrollHeight - this.node.scrollTop - this.node.clientHeight < NEAR;
  };

  // When the event comes a banner may have made the pane smaller, and the reader hasn't scrolled.
  Pane.prototype.scrolled = function () {
    var conversation = this.current;
    if (conversation) {
      if (this.isAtEnd()) {
        conversation.following = true;
        this.rememberPlace();
      } else {
        conversation.following = conversation.following && this.isAtLastPlace();
      }
      this.settle();
    }
  };

  Pane.prototype.rememberPlace = function () {
    this.lastPlace = {height: this.node.scrollHeight, visible: this.node.clientHeight};
  };

  Pane.prototype.isAtLastPlace = function () {
    return this.node.scrollTop + this.lastPlace.visible >= this.lastPlace.height - NEAR;
  };

  Pane.prototype.settle = function () {
    if (this.current.following && document.hidden !== true) {
      this.listener.reachedEnd(this.current);
    }
    this.showNewer();
    this.fill();
  };

  // Load earlier messages near the top, or while there are few. Without styles nothing scrolls, so the window counts.
  Pane.prototype.fill = function () {
    var node = this.node, enough = 2 * Math.min(node.clientHeight, window.innerHeight);
    if (this.current.caughtUp && node.scrollTop < NEAR_THE_TOP &&
        (!this.current.following || node.scrollHeight < enough)) {
      this.loadEarlier();
    }
  };

  Pane.prototype.followEnd = function () {
    var node = this.node;
    if (this.current && this.isFollowing()) {
      node.scrollTop = node.scrollHeight;
      this.rememberPlace();
    }
  };

  // Scroll events come late; a message that comes first must not drag the reader back to the end. So the place is compared
  // with where we last scrolled to. A pane that has grown has moved it, and isn't compared.
  Pane.prototype.isFollowing = function () {
    var conversation = this.current;
    if (conversation.following && this.node.clientHeight <= this.lastPlace.visible && !this.isAtEnd() &&
        !this.isAtLastPlace()) {
      conversation.following = false;
    }
    return conversation.following;
  };

  /** A conversation has become longer. */
  Pane.prototype.grew = function (conversation) {
    if (conversation === this.current) {
      this.followEnd();
      this.showNewer();
      this.fill();
    }
  };

  Pane.prototype.showNewer = function () {
    var count = this.current.unread;
    if (count) {
      dom.setText(this.newer, count + ' new');
      this.newer.setAttribute('aria-label', Chat.text.pluralize(count, 'new message', 'new messages') + ', go to the end');
    }
    dom.show(this.newer, count > 0 && !this.current.following);
  };

  // The button disappears; if it had the focus, the pane gets it.
  Pane.prototype.goToEnd = function () {
    var hadFocus = document.activeElement === this.newer;
    this.current.following = true;
    this.lastPlace.visible = 0;
    this.followEnd();
    this.settle();
    if (hadFocus) {
      this.node.focus();
    }
  };

  /** Load earlier messages, and keep the reader's place. */
  Pane.prototype.loadEarlier = function () {
    var self = this, conversation = this.current;
    conversation.loadEarlier(function (put) { self.keepPlace(conversation, put); });
  };

  Pane.prototype.keepPlace = function (conversation, put) {
    var node = this.node, fromEnd = node.scrollHeight - node.scrollTop;
    put();
    if (conversation !== this.current) {
      conversation.scrollTop = 0;
      return;
    }
    node.scrollTop = node.scrollHeight - fromEnd;
    this.followEnd();
    this.fill();
  };

  Chat.Pane = Pane;
}(window.Chat = window.Chat || {}));
