  // Times are in seconds, except those called `at`: these are milliseconds since 1970.

  var MAX_DEPTH = 33; // levels of nested values: the server accepts 32 levels of JSON in a command
  var clock = window.performance, elapsed = 0, lastDate = 0, lastSteady = 0;

  function noop() {}

  function later(seconds, action) {
    return window.setTimeout(action, seconds * 1000);
  }

  function cancel(timer) {
    window.clearTimeout(timer);
  }

  /** An object whose keys may be any string, even __proto__. */
  function emptyMap() {
    return Object.create(null);
  }

  /** Runs an action after the current code: as a microtask, since timers of a hidden page take a second. */
  function nextTick(action) {
    if (window.Promise) {
      window.Promise.resolve().then(action);
    } else {
      later(0, action);
    }
  }

  /**
   * Milliseconds that never decrease. The monotonic clock may stop while the machine sleeps, and the wall clock may be
   * set; so each call adds what the faster of the two has advanced. A wall clock that is set forward looks like sleep,
   * which only makes us more careful.
   */
  function now() {
    var date = Date.now(), steady = clock && clock.now ? clock.now() : 0;
    elapsed += Math.max(0, date - lastDate, steady - lastSteady);
    lastDate = date;
    lastSteady = steady;
    return elapsed;
  }

  /** An error for the page, with the fields of an `error` of the server. */
  function makeError(code, message, temporary) {
    var error = new Error(message);
    error.type = 'error';
    error.code = code;
    error.temporary = !!temporary;
    return error;
  }

  /** Makes an error from an `error` or a `goodbye` of the server. */
  function toError(reply) {
    return makeError(reply.code, reply.message || reply.reason, reply.temporary || reply.reconnect);
  }

  function closedError() {
    return makeError('closed', 'It is closed.');
  }

  function tooLargeError() {
    return makeError('too_large', 'It is too large.');
  }

  function parseJson(text) {
    try {
      return JSON.parse(text);
    } catch (error) {
      return null;
    }
  }

  /** Serializes a value as JSON. Throws if the server could not read it. */
  function serialize(value) {
    var text = JSON.stringify(value, function (name, part) {
      encodeURIComponent(name + ' ' + (typeof part === 'string' ? part : '')); // throws for a lone surrogate
      if (typeof part === 'number' && !isFinite(part)) {
        throw new Error(part);
      }
      return part;
    });
    if (depth(JSON.parse(text)) > MAX_DEPTH) {
      throw new Error('deep');
    }
    return text;
  }

  /** How many levels of nested values there are. */
  function depth(value) {
    var most = 0, name;
    if (typeof value === 'object') {
      for (name in value) {
        most = Math.max(most, depth(value[name]));
      }
    }
    return most + 1;
  }

  function notJsonError(error) {
    return makeError('bad_request', 'Not JSON: ' + error.message);
  }

  /** Calls a function of the page. An error that it throws is reported to the browser, and doesn't stop us. */
  function safeCall(fn, first, second) {
    try {
      fn(first, second);
    } catch (error) {
      later(0, function () { throw error; });
    }
  }

  /** 128 random bits. Everybody in a room sees its keys, so nobody may guess the next one. */
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
    return +position.slice(position.lastIndexOf(':') + 1);
  }

  function isSameLog(position, other) {
    return epochOf(position) === epochOf(other);
  }

  /** Whether a reader at `own` has seen the message at `position`. It has seen nothing of another log. */
  function hasSeen(own, position) {
    return own && isSameLog(own, position) && offsetOf(position) <= offsetOf(own);
  }
