/*
 * The built realtime.js in a window of its own, with a clock, a transport and a random source that a test controls.
 *
 *   const world = makeWorld();
 *   world.advance(seconds), world.random = 0.5, world.fire('online'), world.storage
 *   world.ahead = milliseconds by which the wall clock is set ahead
 *   world.requests: all HTTP requests, each with `method`, `url`, `headers`, `body`, `aborted`, and `answer(status, object)`
 *   world.streams: all event streams, each with `url`, `closed`, and `say(object)`, `fail()`
 *   world.sockets: all sockets of the transport `websocket`, each with `sent`, and `open()`, `say(object)`, `drop(cause)`
 */
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const vm = require('node:vm');

const built = fs.readFileSync(path.join(__dirname, '../../realtime_chat/static/realtime.js'), 'utf8');

class Clock {
  constructor() {
    this.now = 1e12;
    this.slept = 0;
    this.timers = new Map();
    this.last = 0;
  }

  set(action, milliseconds) {
    this.timers.set(this.last += 1, {action, at: this.now + (milliseconds || 0)});
    return this.last;
  }

  advance(seconds) {
    const end = this.now + seconds * 1000;
    for (;;) {
      const due = [...this.timers].filter(([, timer]) => timer.at <= end).sort((a, b) => a[1].at - b[1].at || a[0] - b[0])[0];
      if (!due) {
        this.now = end;
        return;
      }
      this.timers.delete(due[0]);
      this.now = Math.max(this.now, due[1].at);
      due[1].action();
    }
  }
}

class Target {
  constructor() {
    this.heard = [];
  }

  addEventListener(type, fn) {
    this.heard.push([type, fn]);
  }

  removeEventListener(type, fn) {
    this.heard = this.heard.filter((own) => own[0] !== type || own[1] !== fn);
  }

  fire(type, event) {
    this.heard.filter((own) => own[0] === type).forEach((own) => own[1](event || {}));
  }
}

/** Makes the window's XMLHttpRequest and EventSource, whose answers are the test's. */
function makeHttp(world) {
  class XMLHttpRequest {
    constructor() {
      Object.assign(this, {headers: {}, aborted: false, status: 0, withCredentials: false});
    }

    open(method, url) {
      Object.assign(this, {method, url});
    }

    setRequestHeader(name, value) {
      this.headers[name] = value;
    }

    getResponseHeader(name) {
      return this.answered[name] || null;
    }

    send(body) {
      this.body = body && JSON.parse(body);
      world.requests.push(this);
    }

    abort() {
      this.aborted = true;
    }

    get query() {
      return new URL(this.url).searchParams;
    }

    answer(status, object, headers) {
      if (this.aborted) {
        throw new Error('this request was aborted');
      }
      Object.assign(this, {status, readyState: 4, responseText: typeof object === 'string' ? object : JSON.stringify(object), answered: headers || {}});
      this.onreadystatechange();
    }
  }

  class EventSource {
    constructor(url) {
      Object.assign(this, {url, closed: false, heard: {}, onerror: null});
      world.streams.push(this);
    }

    addEventListener(type, fn) {
      this.heard[type] = fn;
    }

    close() {
      this.closed = true;
    }

    say(object) {
      this.heard[object.type]({data: JSON.stringify(object)});
    }

    fail() {
      this.onerror();
    }
  }

  return {XMLHttpRequest, EventSource};
}

exports.makeWorld = function makeWorld(storage) {
  const clock = new Clock(), window = new Target(), document = new Target(), world = {clock, window, document, sockets: [], requests: [], streams: [], beacons: []};
  let keys = 0;
  world.random = 0.5;
  world.ahead = 0;
  world.storage = storage || {};
  world.advance = (seconds) => clock.advance(seconds);
  const kept = {
    getItem: (name) => (name in world.storage ? world.storage[name] : null),
    setItem: (name, value) => { world.storage[name] = value; },
    removeItem: (name) => { delete world.storage[name]; }
  };

  class FakeDate extends Date {
    static now() {
      return clock.now + world.ahead;
    }
  }

  Object.assign(window, {
    document,
    location: {protocol: 'http:', host: 'example.com', href: 'http://example.com/page'},
    setTimeout: (action, milliseconds) => clock.set(action, milliseconds),
    clearTimeout: (timer) => clock.timers.delete(timer),
    sessionStorage: kept,
    localStorage: kept,
    crypto: {getRandomValues: (numbers) => numbers.map(() => (keys += 1))},
    Uint32Array,
    atob,
    ...makeHttp(world),
    console: {warn: () => undefined},
    navigator: {sendBeacon: (url, text) => world.beacons.push({url, body: JSON.parse(text)})},
    performance: {now: () => clock.now - clock.slept},
    Promise
  });
  document.hidden = false;
  document.getElementsByTagName = () => [{src: 'http://example.com/chat/realtime.js'}];
  const context = vm.createContext({window, Date: FakeDate, Math: {
    random: () => world.random, floor: Math.floor, pow: Math.pow, min: Math.min, max: Math.max
  }});
  vm.runInContext(built, context);

  function Socket(base) {
    this.base = base;
    this.sent = [];
    this.closed = false;
    world.sockets.push(this);
  }
  Socket.works = () => true;
  Object.assign(Socket.prototype, {
    send(command) { this.sent.push(JSON.parse(JSON.stringify(command))); },
    close() { this.closed = true; },
    leave() { this.closed = 'left'; },
    open() { this.onopen(); },
    say(object) {
      if (this.closed) {
        throw new Error('this socket is closed');
      }
      this.onmessage(JSON.parse(JSON.stringify(object)));
    },
    drop(why) {
      this.closed = true;
      this.onclose(why || {});
    },
    // Answers the last command of this type.
    answer(type, reply) {
      const asked = this.sent.filter((command) => command.type === type).pop();
      this.say(Object.assign({id: asked.id}, reply));
      return asked;
    },
    welcome(room, joined, user) {
      this.open();
      this.answer('hello', {type: 'welcome', client: 'secret-' + (user || 'u1'), user: {id: user || 'u1', name: 'Ann', guest: true}});
      this.answer('join', Object.assign(
        {type: 'joined', room, position: 'e:0', top: 'e:0', recovered: true, count: 1, members: []}, joined));
    },
    message(offset, more) {
      this.say(Object.assign({type: 'message', room: 'lobby', position: 'e:' + offset, event: 'message', data: offset,
        from: {id: 'u2', name: 'Bob'}, at: 1, key: 'k' + offset}, more));
    }
  });
  const {Realtime} = window;
  world.transports = {...Realtime.transports};
  Realtime.transports.websocket = Socket;
  Realtime.transports.sse = class extends Socket {};
  Realtime.transports.sse.works = () => true;
  world.connect = (options) => {
    const rt = Realtime.connect('', Object.assign({transports: ['websocket']}, options));
    world.states = [];
    rt.on('$state', (state) => world.states.push(state));
    return rt;
  };
  // Waits for the next attempt.
  world.retry = () => {
    while (world.socket.closed) {
      clock.advance(0.1);
    }
  };
  Object.defineProperty(world, 'socket', {get: () => world.sockets[world.sockets.length - 1]});
  return world;
};
