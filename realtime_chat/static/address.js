/* The room in the page's address: ?room=NAME, or #NAME, which wins. */
(function (Chat) {
  'use strict';

  var USUAL = 'lobby';

  function decode(text) {
    try {
      return decodeURIComponent(text.replace(/\+/g, ' '));
    } catch (error) {
      return text;
    }
  }

  function ofThePage() {
    var query = /[?&]room=([^&]*)/.exec(window.location.search);
    return decode(window.location.hash.slice(1)) || (query && decode(query[1])) || USUAL;
  }

  function of(name) {
    return '?room=' + encodeURIComponent(name);
  }

  /** Write a room into the address, without loading the page again where the browser can. */
  function go(name) {
    if (window.history && window.history.pushState) {
      window.history.pushState(null, '', of(name));
      return true;
    }
    window.location.hash = name;
    return false; // 'hashchange' follows
  }

  Chat.address = {ofThePage: ofThePage, of: of, go: go};
}(window.Chat = window.Chat || {}));
