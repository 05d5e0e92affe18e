/* What the browser remembers: the own name, and the rooms that were visited with how far they were read. */
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
      // It then lasts as long as the page.
    }
  }

  // Who one is outlasts the page, or where the browser keeps nothing, a change of the name at least.
  var secrets = {
    kept: {},
    getItem: function (key) {
      try {
        return window.sessionStorage.getItem(key);
      } catch (error) {
        return secrets.kept[key] || null;
      }
    },
    setItem: function (key, value) {
      secrets.kept[key] = value;
      window.sessionStorage.setItem(key, value);
    },
    removeItem: function (key) {
      delete secrets.kept[key];
      window.sessionStorage.removeItem(key);
    }
  };

  function isEntry(entry) {
    return Boolean(entry) && Chat.text.isRoom(entry.name) && (!entry.read || typeof entry.read === 'string');
  }

  /** The rooms that were visited, `{name, read}` each, the latest one first; `read` is a position or null. */
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

  /** Other windows remember too, so one entry at a time is changed. */
  function keepRoom(name, position) {
    write(ROOMS, JSON.stringify([{name: name, read: position}].concat(others(name)).slice(0, ROOMS_KEPT)));
  }

  function dropRoom(name) {
    write(ROOMS, JSON.stringify(others(name)));
  }

  Chat.memory = {
    secrets: secrets, rooms: rooms, keepRoom: keepRoom, dropRoom: dropRoom,
    name: function () { return read(NAME); },
    keepName: function (name) { write(NAME, name); }
  };
}(window.Chat = window.Chat || {}));
