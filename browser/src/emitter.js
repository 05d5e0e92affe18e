  /** What has listeners: `on`, `off`, and `emit` for those who own it. */
  function Emitter() {
    this.listeners = table();
  }

  Emitter.prototype.on = function (event, fn) {
    (this.listeners[event] = this.listeners[event] || []).push(fn);
    return this;
  };

  /** Without `fn` all listeners of the event go. */
  Emitter.prototype.off = function (event, fn) {
    this.listeners[event] = (this.listeners[event] || []).filter(function (own) {
      return fn && own !== fn;
    });
    return this;
  };

  Emitter.prototype.emit = function (event, first, second) {
    (this.listeners[event] || []).slice().forEach(function (fn) { callOut(fn, first, second); });
  };

  function inherit(Child, Parent) {
    Child.prototype = Object.create(Parent.prototype);
  }
