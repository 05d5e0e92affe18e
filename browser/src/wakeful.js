  /*
   * What the browser says of the network and of the page: a connection is tried again at once when either is back, and
   * asked whether it lives. A page that goes says so; one that comes back out of the browser's cache begins anew.
   */

  Connection.prototype.listen = function () {
    var self = this;

    function wake() {
      if (self.link) {
        self.link.check();
      } else {
        self.retry();
      }
    }

    this.heard = [
      [window, 'online', wake],
      [window, 'focus', function () { self.retry(); }],
      [window, 'pageshow', function (event) { if (event.persisted) { wake(); } }],
      [window.document, 'visibilitychange', function () { if (!window.document.hidden) { wake(); } }],
      [window.document, 'resume', wake],
      [window, 'offline', function () {
        if (self.link) {
          self.link.end({});
        }
      }],
      [window, 'pagehide', function () { self._drop(); }]
    ];
    this.heard.forEach(function (heard) { heard[0].addEventListener(heard[1], heard[2], false); });
  };

  Connection.prototype.unlisten = function () {
    this.heard.forEach(function (heard) { heard[0].removeEventListener(heard[1], heard[2], false); });
  };
