/*
 * The room in the page's URL: ?room=NAME or #NAME; the latter takes precedence. With ?room=NAME&only the page shows that
 * room alone.
 */
(function (Chat) {
  'use strict';

  var DEFAULT_ROOM = 'lobby';

  function isSingle() {
    return /[?&]only(?:=[^&]*)?(?:&|$)/.test(window.location.search);
  }

  function decode(text) {
    try {
      return decodeURIComponent(text.replace(/\+/g, ' '));
    } catch (error) {
      return text;
    }
  }

  function currentRoom() {
    var query = /[?&]room=([^&]*)/.exec(window.location.search);
    return (!isSingle() && decode(window.location.hash.slice(1))) || (query && decode(query[1])) || DEFAULT_ROOM;
  }

  function ofRoom(name) {
    return '?room=' + encodeURIComponent(name);
  }

  /** Put a room into the page's URL. Returns false if the browser can only do so with a 'hashchange' event. */
  function showRoom(name) {
    if (window.history && window.history.pushState) {
      window.history.pushState(null, '', ofRoom(name));
      return true;
    }
    window.location.hash = name;
    return false;
  }

  Chat.pageUrl = {currentRoom: currentRoom, isSingle: isSingle, ofRoom: ofRoom, showRoom: showRoom};
}(window.Chat = window.Chat || {}));
