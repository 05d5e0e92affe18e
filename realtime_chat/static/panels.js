/* Where there is no room for all, rooms and people are opened by a button each. */
(function (Chat) {
  'use strict';

  var dom = Chat.dom;
  var ESCAPE = 27;

  function Panels(buttons) {
    var self = this;
    this.buttons = buttons;
    buttons.forEach(this.listen, this);
    document.addEventListener('keydown', function (event) { self.pressed(event); }, false);
  }

  function panelOf(button) {
    return dom.byId(button.getAttribute('aria-controls'));
  }

  function isOpen(button) {
    return button.getAttribute('aria-expanded') === 'true';
  }

  function set(button, open) {
    button.setAttribute('aria-expanded', String(open));
    dom.setClass(panelOf(button), 'open', open);
  }

  Panels.prototype.listen = function (button) {
    var self = this;
    button.onclick = function () {
      var open = !isOpen(button);
      self.close();
      set(button, open);
    };
  };

  /** Close what is open; the focus that was in there goes to its button. */
  Panels.prototype.close = function () {
    this.buttons.filter(isOpen).forEach(function (button) {
      var had = panelOf(button).contains(document.activeElement);
      set(button, false);
      if (had && button.offsetWidth) {
        button.focus();
      }
    });
  };

  Panels.prototype.pressed = function (event) {
    if (event.keyCode === ESCAPE) {
      this.close();
    }
  };

  Chat.Panels = Panels;
}(window.Chat = window.Chat || {}));
