/* The field for a new message: Enter sends it, Shift and Enter start a new line. */
(function (Chat) {
  'use strict';

  /** @param {Object} listener has `written(text)`, which returns whether it was sent, `typing(on)`, `resized()`. */
  function Composer(form, field, listener) {
    var self = this;
    this.form = form;
    this.field = field;
    this.listener = listener;
    this.grows = !(window.CSS && window.CSS.supports && window.CSS.supports('field-sizing', 'content'));
    form.onsubmit = function () {
      self.send();
      field.focus();
      return false;
    };
    field.onkeydown = function (event) { return self.onKey(event); };
    field.oninput = function () { self.onInput(); };
  }

  Composer.prototype.onKey = function (event) {
    var composing = event.isComposing || event.keyCode === 229;
    if (event.keyCode !== 13 || event.shiftKey || composing) {
      return true;
    }
    this.send();
    return false;
  };

  Composer.prototype.onInput = function () {
    this.grow();
    this.listener.typing(Boolean(this.field.value.trim()));
  };

  // For browsers without `field-sizing` in their style sheets.
  Composer.prototype.grow = function () {
    if (this.grows) {
      this.field.style.height = 'auto';
      this.field.style.height = this.field.scrollHeight + this.field.offsetHeight - this.field.clientHeight + 'px';
    }
    this.listener.resized();
  };

  Composer.prototype.set = function (text) {
    this.field.value = text;
    this.grow();
  };

  Composer.prototype.send = function () {
    var text = Chat.text.wholeCharacters(this.field.value);
    if (text.trim() && this.listener.written(text)) {
      this.set('');
    }
  };

  Chat.Composer = Composer;
}(window.Chat = window.Chat || {}));
