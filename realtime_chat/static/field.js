/* A field whose text may be refused: it stays as it was typed, and is called wrong until it is another. */
(function (Chat) {
  'use strict';

  /** @param {Element} reason where it is said why. */
  function Field(node, reason) {
    var self = this;
    this.node = node;
    this.reason = reason;
    node.oninput = function () { self.mark(false); };
  }

  Field.prototype.text = function () {
    return this.node.value.trim();
  };

  Field.prototype.mark = function (wrong) {
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
    this.mark(false);
  };

  /** Somebody has to change what stands there. */
  Field.prototype.refuse = function () {
    this.mark(true);
    this.node.focus();
  };

  /** What was taken at first is refused after all; what was typed since counts more. */
  Field.prototype.giveBack = function (text) {
    if (!this.node.value) {
      this.node.value = text;
      this.mark(true);
    }
  };

  Chat.Field = Field;
}(window.Chat = window.Chat || {}));
