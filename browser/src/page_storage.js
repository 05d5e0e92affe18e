  /**
   * Stores strings beyond the page's life, in sessionStorage or localStorage. A browser may have none, forbid it, or be
   * full: then nothing is stored, and there is no error.
   *
   * @param {string} kind  the window's name for the storage; or an object like it, or false for none
   */
  function PageStorage(kind) {
    try {
      this.area = typeof kind === 'string' ? window[kind] : kind;
    } catch (error) {
      noop();
    }
  }

  PageStorage.prototype.get = function (name) {
    try {
      return this.area.getItem('realtime ' + name);
    } catch (error) {
      return null;
    }
  };

  PageStorage.prototype.set = function (name, value) {
    try {
      this.area[value ? 'setItem' : 'removeItem']('realtime ' + name, value);
    } catch (error) {
      noop();
    }
  };
