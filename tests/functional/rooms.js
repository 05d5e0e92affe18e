/*
 * Rooms that can't be joined, and more than one request has room for. runRooms(name, kind) runs one of the cases over one
 * transport, and gives what was wrong, or null. tests/client/test_rooms.py has the same list for Python.
 */
/* global Realtime, until, same, Intrinsic, numbers */
'use strict';

const ODD = ['__proto__', 'constructor', 'toString', 'hasOwnProperty', 'undefined', 'null', 'valueOf', 'lobby'];
const LONGEST_LINE = 8000;

/** Joins rooms at once; gives the connection with its rooms, and `errors`: those told of the connection. */
function joinAll(kind, names) {
  const rt = Realtime.connect('', {transports: [kind], storage: false, name: 'Zoë'}), all = {rt, states: [], errors: []};
  rt.on('$state', (state) => all.states.push(state.state));
  rt.on('$error', (error) => all.errors.push(error));
  all.rooms = names.map((name) => {
    const room = rt.room(name, {last: 0});
    room.got = [];
    room.told = [];
    room.on('message', (data) => room.got.push(data));
    room.on('$error', (error) => room.told.push(error.code));
    return room;
  });
  return all;
}

/** In each room, what is published comes, once. */
async function checkWorks(rooms) {
  rooms.forEach((room) => { room.got.length = 0; });
  await until(() => rooms.every((room) => room.joined),
    () => 'not joined: ' + rooms.filter((room) => !room.joined).map((room) => room.name), 30);
  rooms.forEach((room) => room.publish(room.name));
  await until(() => rooms.every((room) => room.got.length),
    () => 'nothing came in ' + rooms.filter((room) => !room.got.length).map((room) => room.name), 30);
  rooms.forEach((room) => same(room.got, [room.name], 'messages'));
}

async function told(room, code) {
  await until(() => room.told.length, () => `nothing was told of ${room.name}`, 20);
  same(room.told, [code], room.name);
}

const calm = (all) => same(all.states, ['connecting', 'connected'], 'states');

const CASES = {
  async forbidden(kind) {
    const all = joinAll(kind, ['a', '@somebody', 'no room', '', '..', '\ud800', new Array(130).join('x'), 'b']);
    await checkWorks([all.rooms[0], all.rooms[7]]);
    await told(all.rooms[1], 'forbidden');
    for (const room of all.rooms.slice(2, 7)) {
      await told(room, 'bad_room');
    }
    same(all.errors.map((error) => error.room).sort(), all.rooms.slice(1, 7).map((room) => room.name).sort(), 'rooms');
    calm(all);
    return all;
  },

  async odd(kind) {
    const all = joinAll(kind, ODD);
    await checkWorks(all.rooms);
    await checkWorks(all.rooms);
    same(all.rooms.map((room) => room.told), all.rooms.map(() => []), 'errors');
    calm(all);
    return all;
  },

  async many(kind) {
    const all = joinAll(kind, numbers(1, 101).map((number) => 'r' + number));
    await checkWorks(all.rooms.slice(0, 100));
    await told(all.rooms[100], 'too_many');
    all.rooms[50].leave();
    await checkWorks([all.rooms[100], all.rooms[0]]);
    calm(all);
    return all;
  },

  async long(kind) {
    const all = joinAll(kind, numbers(100, 199).map((number) => number + new Array(126).join(':')));
    await checkWorks(all.rooms);
    await checkWorks(all.rooms);
    const longest = Math.max(...window.addresses.map((address) => address.length));
    same(longest <= LONGEST_LINE, true, `the longest address has ${longest}`);
    calm(all);
    return all;
  },

  async sick(kind) {
    const all = joinAll(kind, ['sick-' + kind, 'well']);
    await checkWorks([all.rooms[1]]);
    await told(all.rooms[0], 'store_unavailable');
    await checkWorks([all.rooms[1]]);
    window.isTold = true;
    await checkWorks(all.rooms);
    calm(all);
    return all;
  }
};

window.addresses = [];

(function watch() {
  const Source = window.EventSource, open = XMLHttpRequest.prototype.open;
  const src = Object.getOwnPropertyDescriptor(HTMLScriptElement.prototype, 'src');
  window.EventSource = function (url) {
    window.addresses.push(url);
    return new Source(url);
  };
  XMLHttpRequest.prototype.open = function (method, url) {
    window.addresses.push(url);
    return open.apply(this, arguments);
  };
  Object.defineProperty(HTMLScriptElement.prototype, 'src', {
    get: src.get,
    set(url) {
      window.addresses.push(url);
      src.set.call(this, url);
    }
  });
}());

window.runRooms = async (name, kind) => {
  try {
    (await CASES[name](kind)).rt.close();
    return null;
  } catch (error) {
    return name + ' over ' + kind + ': ' + error.message;
  }
};
