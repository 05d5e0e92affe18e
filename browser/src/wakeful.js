  /*
   * What the browser says of the network and of the page: a connection is tried again at once when either is back,
   * and asked whether it lives. Where another page has no connection left, we let go of ours. A page that goes says
   * so; one that comes back out of the browser's cache begins anew.
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
      [window, 'storage', function (event) {
        if (event.key === 'realtime crowded' && event.newValue) {
          crowdedUntil = now() + CROWDED_FOR * (1 + Math.random());
          self.eachLink(function (link) {
            if (link.socket.read) {
              link.socket.read();
            }
          });
        }
      }],
      [window, 'pagehide', function () { self._drop(); }]
    ];
    this.hear('addEventListener');
  };

  Connection.prototype.hear = function (how) {
    this.heard.forEach(function (heard) { heard[0][how](heard[1], heard[2]); });
  };
