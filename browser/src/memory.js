  /**
   * A place for a few words that outlives the page, such as sessionStorage. A browser may have none, forbid it, or be
   * full; then nothing is kept, and nothing goes wrong.
   *
   * @param {string} kind  the window's name for it; or an object like it, or false for none
   */
  function Memory(kind) {
    try {
      this.kept = typeof kind === 'string' ? window[kind] : kind;
    } catch (error) {
      noop();
    }
  }

  Memory.prototype.get = function (name) {
    try {
      return this.kept.getItem('realtime ' + name);
    } catch (error) {
      return null;
    }
  };

  Memory.prototype.set = function (name, value) {
    try {
      this.kept[value ? 'setItem' : 'removeItem']('realtime ' + name, value);
    } catch (error) {
      noop();
    }
  };
