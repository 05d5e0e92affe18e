  // All times are seconds, but for those called `at`, which are milliseconds since 1970.

  var DEEPEST = 33; // values in each other that the server takes: 32 levels of JSON, of which a command is the first
  var clock = window.performance, elapsed = 0, lastDate = 0, lastSteady = 0;

  function noop() {}

  function later(seconds, action) {
    return window.setTimeout(action, seconds * 1000);
  }

  function cancel(timer) {
    window.clearTimeout(timer);
  }

  /** By any name, even __proto__. */
  function table() {
    return Object.create(null);
  }

  /** When what runs now has ended. Timers of a hidden page take a second. */
  function soon(action) {
    if (window.Promise) {
      window.Promise.resolve().then(action);
    } else {
      later(0, action);
    }
  }

  /**
   * Milliseconds that only grow, for how long something takes: of the clock that can be set and the one that can't, which
   * may stand still while the machine sleeps, whichever has gone further since the last call. One that is set back holds
   * nothing up; one that is set forward looks like sleep, which only makes us more careful.
   */
  function now() {
    var date = Date.now(), steady = clock && clock.now ? clock.now() : 0;
    elapsed += Math.max(0, date - lastDate, steady - lastSteady);
    lastDate = date;
    lastSteady = steady;
    return elapsed;
  }

  /** An error as the page gets it, and as the server words it. */
  function trouble(code, message, temporary) {
    var error = new Error(message);
    error.type = 'error';
    error.code = code;
    error.temporary = !!temporary;
    return error;
  }

  /** The error of a reply, or of a goodbye. */
  function told(reply) {
    return trouble(reply.code, reply.message || reply.reason, reply.temporary || reply.reconnect);
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
      throw new Error('deep');
    }
    return text;
  }

  /** How many values stand in each other. */
  function depth(value) {
    var most = 0, name;
    if (typeof value === 'object') {
      for (name in value) {
        most = Math.max(most, depth(value[name]));
      }
    }
    return most + 1;
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
    return +position.slice(position.lastIndexOf(':') + 1);
  }

  function isSameLog(position, other) {
    return epochOf(position) === epochOf(other);
  }

  /** Whether who holds `own` has seen what is at `position`. Of another log one has seen nothing. */
  function hasSeen(own, position) {
    return own && isSameLog(own, position) && offsetOf(position) <= offsetOf(own);
  }
