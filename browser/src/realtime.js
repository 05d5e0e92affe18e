  /** Where this script came from: a directory, with its slash. */
  function ownBase() {
    var scripts = window.document.getElementsByTagName('script'), script = window.document.currentScript;
    script = script || scripts[scripts.length - 1];
    return ((script && script.src) || window.location.href).replace(/[?#].*$/, '').replace(/[^\/]*$/, '');
  }

  var home = window.document && ownBase();

  /** An absolute address with a slash at its end. */
  function resolve(url) {
    var anchor = window.document.createElement('a');
    anchor.href = url;
    return anchor.href.replace(/[?#].*$/, '').replace(/\/?$/, '/');
  }

  var Realtime = window.Realtime = {
    connect: function (url, options) {
      if (!window.document) {
        throw new Error('connect() needs a page.');
      }
      return typeof url === 'object' && url ? Realtime.connect('', url) :
        new Connection(url ? resolve(url) : home, options || {});
    },
    transports: transports
  };

  if (typeof module === 'object') {
    module.exports = Realtime;
  }
