/* A field whose text may be rejected: the text stays, and is marked as invalid until it changes. */
(function (Chat) {
  'use strict';

  /** @param {Element} reason the element that says why. */
  function Field(node, reason) {
    var self = this;
    this.node = node;
    this.reason = reason;
    node.oninput = function () { self.setInvalid(false); };
  }

  Field.prototype.text = function () {
    return this.node.value.trim();
  };

  Field.prototype.setInvalid = function (wrong) {
    if (wrong) {
      this.node.setAttribute('aria-invalid', 'true');
      this.node.setAttribute('aria-describedby', this.reason.id);
    } else {
      this.node.removeAttribute('aria-invalid');
      this.node.removeAttribute('aria-describedby');
    }
  };

  Field.prototype.empty = function () {
    this.node.value = '';
    this.setInvalid(false);
  };

  /** Mark the text as invalid, and focus the field. */
  Field.prototype.reject = function () {
    this.setInvalid(true);
    this.node.focus();
  };

  /** The server has refused a text that was accepted at first: show it again, unless another one was typed since. */
  Field.prototype.restore = function (text) {
    if (!this.node.value) {
      this.node.value = text;
      this.setInvalid(true);
    }
  };

  Chat.Field = Field;
}(window.Chat = window.Chat || {}));
