  /*
   * Reacts to events of the browser. When the network or the page comes back, it reconnects at once, or pings. When
   * another page of this origin has no connection left, it closes its streams. A page that is closed leaves its rooms;
   * one that the browser restores from its cache connects again.
   */

  Connection.prototype.addPageListeners = function () {
    var self = this;

    function wake() {
      if (self.link) {
        self.link.check();
      } else {
        self.retry();
      }
    }

    this.pageListeners = [
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
    this.eachPageListener('addEventListener');
  };

  Connection.prototype.eachPageListener = function (how) {
    this.pageListeners.forEach(function (listener) { listener[0][how](listener[1], listener[2]); });
  };
