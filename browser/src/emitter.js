  /** Has listeners: the page calls `on` and `off`, and we call `emit`. */
  function Emitter() {
    this.listeners = emptyMap();
  }

  Emitter.prototype.on = function (event, fn) {
    (this.listeners[event] = this.listeners[event] || []).push(fn);
    return this;
  };

  /** Removes a listener; without `fn`, all listeners of the event. */
  Emitter.prototype.off = function (event, fn) {
    this.listeners[event] = (this.listeners[event] || []).filter(function (own) {
      return fn && own !== fn;
    });
    return this;
  };

  Emitter.prototype.emit = function (event, first, second) {
    (this.listeners[event] || []).slice().forEach(function (fn) { safeCall(fn, first, second); });
  };

  function inherit(Child, Parent) {
    Child.prototype = Object.create(Parent.prototype);
  }
