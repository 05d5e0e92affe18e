/* What the browser stores: our own name, and the visited rooms with the position up to which each was read. */
(function (Chat) {
  'use strict';

  var NAME = 'realtime-name';
  var ROOMS = 'realtime-rooms';
  var ROOMS_KEPT = 20;

  function read(key) {
    try {
      return window.localStorage.getItem(key);
    } catch (error) {
      return null;
    }
  }

  function write(key, value) {
    try {
      window.localStorage.setItem(key, value);
    } catch (error) {
      // Then it is not stored.
    }
  }

  // Stores the client's secret for the tab; without storage, for the page, so that a new name keeps the identity.
  var clientStorage = {
    fallback: {},
    getItem: function (key) {
      try {
        return window.sessionStorage.getItem(key);
      } catch (error) {
        return clientStorage.fallback[key] || null;
      }
    },
    setItem: function (key, value) {
      clientStorage.fallback[key] = value;
      window.sessionStorage.setItem(key, value);
    },
    removeItem: function (key) {
      delete clientStorage.fallback[key];
      window.sessionStorage.removeItem(key);
    }
  };

  function isEntry(entry) {
    return Boolean(entry) && Chat.text.isRoom(entry.name) && (!entry.read || typeof entry.read === 'string');
  }

  /** The visited rooms as `{name, read}`, the latest one first; `read` is a position or null. */
  function rooms() {
    try {
      return JSON.parse(read(ROOMS) || '[]').filter(isEntry).slice(0, ROOMS_KEPT);
    } catch (error) {
      return [];
    }
  }

  function others(name) {
    return rooms().filter(function (entry) { return entry.name !== name; });
  }

  /** Save one room: other windows may have saved others meanwhile. */
  function saveRoom(name, position) {
    write(ROOMS, JSON.stringify([{name: name, read: position}].concat(others(name)).slice(0, ROOMS_KEPT)));
  }

  function forgetRoom(name) {
    write(ROOMS, JSON.stringify(others(name)));
  }

  Chat.storage = {
    clientStorage: clientStorage, rooms: rooms, saveRoom: saveRoom, forgetRoom: forgetRoom,
    name: function () { return read(NAME); },
    saveName: function (name) { write(NAME, name); }
  };
}(window.Chat = window.Chat || {}));
