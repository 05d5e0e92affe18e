  /** The directory that this script was loaded from, with a slash at the end. */
  function scriptBase() {
    var scripts = window.document.getElementsByTagName('script'), script = window.document.currentScript;
    script = script || scripts[scripts.length - 1];
    return ((script && script.src) || window.location.href).replace(/[?#].*$/, '').replace(/[^\/]*$/, '');
  }

  var defaultBase = window.document && scriptBase();

  /** An absolute URL with a slash at the end. */
  function absoluteUrl(url) {
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
        new Connection(url ? absoluteUrl(url) : defaultBase, options || {});
    },
    transports: transports
  };

  if (typeof module === 'object') {
    module.exports = Realtime;
  }
