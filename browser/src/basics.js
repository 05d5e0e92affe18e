  // All times are seconds, but for those called `at`, which are milliseconds since 1970.

  var DEEPEST = 32; // levels of JSON that the server takes, of which a command is the first

  function noop() {}

  function later(seconds, action) {
    return window.setTimeout(action, seconds * 1000);
  }

  function now() {
    return new Date().getTime();
  }

  /** An error as the page gets it, and as the server words it. */
  function trouble(code, message, temporary) {
    return {type: 'error', code: code, message: message, temporary: !!temporary};
  }

  function closed() {
    return trouble('closed', 'It is closed.');
  }

  function tooLarge() {
    return trouble('too_large', 'It is too large.');
  }

  function readObject(text) {
    try {
      return JSON.parse(text);
    } catch (error) {
      return null;
    }
  }

  /** What JSON says of a value; throws where the server could not read it. */
  function spell(value) {
    var text = JSON.stringify(value, function (name, part) {
      encodeURIComponent(name + ' ' + (typeof part === 'string' ? part : '')); // throws for half a character
      if (typeof part === 'number' && !isFinite(part)) {
        throw new Error(part);
      }
      return part;
    });
    if (depth(JSON.parse(text)) > DEEPEST) {
      throw new Error('too deep');
    }
    return text;
  }

  function depth(value) {
    return value && typeof value === 'object' ? Object.keys(value).reduce(function (most, name) {
      return Math.max(most, 1 + depth(value[name]));
    }, 1) : 0;
  }

  function unsayable(error) {
    return trouble('bad_request', 'Not JSON: ' + error.message);
  }

  /** Calls what is the page's own: its mistakes are reported as such, and don't stop us. */
  function callOut(fn, first, second) {
    try {
      fn(first, second);
    } catch (error) {
      later(0, function () { throw error; });
    }
  }

  /** 128 random bits: everybody in a room sees its keys, so one must not tell the next. */
  function randomKey() {
    var crypto = window.crypto || window.msCrypto, numbers = [], text = '', i;
    if (crypto && crypto.getRandomValues && window.Uint32Array) {
      numbers = crypto.getRandomValues(new window.Uint32Array(4));
    }
    for (i = 0; i < 4; i += 1) {
      text += (numbers[i] || Math.floor(Math.random() * 4294967296)).toString(36);
    }
    return text;
  }

  function epochOf(position) {
    return position.slice(0, position.lastIndexOf(':'));
  }

  function offsetOf(position) {
    return Number(position.slice(position.lastIndexOf(':') + 1));
  }

  function isSameLog(position, other) {
    return epochOf(position) === epochOf(other);
  }

  /** Whether who holds `own` has seen what is at `position`. Of another log one has seen nothing. */
  function hasSeen(own, position) {
    return !!own && isSameLog(own, position) && offsetOf(position) <= offsetOf(own);
  }
