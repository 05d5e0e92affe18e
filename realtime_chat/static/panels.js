/* On narrow screens, a button each opens the lists of rooms and people. */
(function (Chat) {
  'use strict';

  var dom = Chat.dom;
  var ESCAPE = 27;

  function Panels(buttons) {
    var self = this;
    this.buttons = buttons;
    buttons.forEach(this.listen, this);
    document.addEventListener('keydown', function (event) { self.onKey(event); }, false);
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

  /** Close the open panel; if it had the focus, its button gets it. */
  Panels.prototype.close = function () {
    this.buttons.filter(isOpen).forEach(function (button) {
      var had = panelOf(button).contains(document.activeElement);
      set(button, false);
      if (had && button.offsetWidth) {
        button.focus();
      }
    });
  };

  Panels.prototype.onKey = function (event) {
    if (event.keyCode === ESCAPE) {
      this.close();
    }
  };

  Chat.Panels = Panels;
}(window.Chat = window.Chat || {}));
