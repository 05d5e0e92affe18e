// Runs scenarios with an official Socket.IO client from npm, and prints a line of JSON for each: its name, and what went
// wrong, or null. Arguments: the folder of the packages, the package, the URL, and the client's options.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

const [modules, name, base, json] = process.argv.slice(2);
const io = createRequire(modules + '/')(name);
const options = { forceNew: true, reconnectionDelay: 50, reconnectionDelayMax: 100, ...JSON.parse(json) };
const isOld = name.endsWith('-2');
const isNew = !/-\d$/.test(name);
const url = base.replace(/\/$/, '');

let open = [];
function connect(namespace = '/', more = {}) {
  const socket = io(url + namespace, { ...options, ...more });
  open.push(socket);
  return socket;
}
const withAuth = (auth) => (isOld ? { query: auth } : { auth });
const once = (socket, event) => new Promise((resolve) => socket.once(event, (...args) => resolve(args)));
const ask = (socket, ...args) => new Promise((resolve) => socket.emit(...args, (...answer) => resolve(answer)));
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const bytes = (data) => [...new Uint8Array(data.buffer ?? data, data.byteOffset ?? 0, data.byteLength)];

async function connected(namespace, more) {
  const socket = connect(namespace, more);
  await once(socket, 'connect');
  return socket;
}
// Loses the connection, and stays away.
async function lose(socket) {
  const lost = once(socket, 'disconnect');
  socket.io.reconnection(false);
  socket.io.engine.close();
  await lost;
}
async function comeBack(socket) {
  socket.connect();
  await once(socket, 'connect');
}
const several = (count) => Promise.all(Array.from({ length: count }, () => connected()));
function collect(socket, event = 'told') {
  const got = [];
  socket.on(event, (...args) => got.push(args));
  return got;
}
async function until(condition, what) {
  for (let waited = 0; !condition(); waited += 10) {
    assert.ok(waited < 20000, 'not in time: ' + what());
    await sleep(10);
  }
}
// What is sent to a socket comes in order: after an answer, all that was sent to it before has come.
const settled = (...sockets) => Promise.all(sockets.map((socket) => ask(socket, 'sum')));

const scenarios = {
  async 'an event comes back with its arguments'() {
    const socket = await connected();
    socket.emit('echo', 1, 'zwei é € \u{1f600}', { three: [true, null, 4.5] });
    assert.deepEqual(await once(socket, 'echo'), [1, 'zwei é € \u{1f600}', { three: [true, null, 4.5] }]);
  },
  async 'what is emitted in on_connect comes'() {
    const socket = connect('/custom');
    assert.equal((await once(socket, 'welcome')).length, 1);
  },
  async 'events stay in order while the transport is upgraded'() {
    const socket = connect();
    const got = collect(socket, 'echo');
    await once(socket, 'connect');
    for (let number = 0; number < 400; number++) {
      socket.emit('echo', number);
      if (number % 20 === 0) await sleep(2);
    }
    await until(() => got.length >= 400, () => got.length);
    assert.deepEqual(got.map(([number]) => number), [...Array(400).keys()]);
  },
  async 'many events at once stay in order'() {
    const socket = await connected();
    const got = collect(socket, 'number');
    socket.emit('many', 1000);
    await until(() => got.length >= 1000, () => got.length);
    assert.deepEqual(got.map(([number]) => number), [...Array(1000).keys()]);
  },
  async 'binary data goes both ways'() {
    const socket = await connected();
    socket.emit('echo', Buffer.from([0, 1, 255]), { deep: [Buffer.from([7])] }, 'text');
    const [first, second, text] = await once(socket, 'echo');
    assert.deepEqual([bytes(first), bytes(second.deep[0]), text], [[0, 1, 255], [7], 'text']);
  },
  async 'large events come'() {
    const socket = await connected();
    const text = 'x€'.repeat(10000);
    socket.emit('echo', text);
    assert.deepEqual(await once(socket, 'echo'), [text]);
  },
  async 'the server acknowledges'() {
    const socket = await connected();
    assert.deepEqual(await ask(socket, 'sum', 1, 2, 3), [6]);
    const [one, two, three] = await ask(socket, 'several');
    assert.deepEqual([one, two, bytes(three)], [1, 'two', [3]]);
    assert.deepEqual(await ask(socket, 'spaced name', [1]), [[1]]);
  },
  async 'the client acknowledges'() {
    const socket = await connected();
    socket.on('question', (text, answer) => answer(text + '!'));
    assert.deepEqual(await ask(socket, 'ask', 'well'), [['well!']]);
  },
  async 'a client that does not acknowledge is not waited for'() {
    const socket = await connected();
    assert.deepEqual(await ask(socket, 'ask_in_vain'), ['timed out']);
  },
  async 'a room acknowledges'() {
    const sockets = await several(3);
    sockets.forEach((socket, number) => socket.on('number', (answer) => answer(number)));
    const room = 'asked ' + Math.random();
    await Promise.all(sockets.map((socket) => ask(socket, 'enter', room)));
    assert.deepEqual(await ask(sockets[0], 'ask_room', room), [[0, 1, 2]]);
  },
  async 'a slow method holds nobody up'() {
    const socket = await connected();
    const order = [];
    const slow = ask(socket, 'later', 0.3, 'slow').then(() => order.push('slow'));
    await ask(socket, 'sum', 1).then(() => order.push('fast'));
    await slow;
    assert.deepEqual(order, ['fast', 'slow']);
  },
  async 'a method that raises harms nobody'() {
    const socket = await connected();
    socket.emit('raise');
    assert.deepEqual(await ask(socket, 'sum', 4), [4]);
  },
  async 'namespaces share a connection'() {
    const main = await connected();
    const custom = main.io.socket('/custom', {});
    open.push(custom);
    await once(custom, 'connect');
    assert.equal(main.io, custom.io);
    assert.deepEqual(await ask(custom, 'sum', 1), [1]);
    custom.disconnect();
    assert.deepEqual(await ask(main, 'sum', 2), [2]);
  },
  async 'a namespace gets what the client gives'() {
    const socket = connect('/custom', withAuth({ token: 'abc' }));
    const [auth] = await once(socket, 'welcome');
    assert.equal(auth.token, 'abc');
  },
  async 'a namespace lets in who knows the token'() {
    const socket = connect('/private', withAuth({ token: 'open' }));
    assert.deepEqual(await once(socket, 'welcome'), [{ private: true }]);
  },
  async 'a namespace refuses who does not'() {
    const socket = connect('/private', withAuth({ token: 'wrong' }));
    const [error] = await once(socket, isOld ? 'error' : 'connect_error');
    assert.deepEqual(isOld ? error : [error.message, error.data], isOld ? { code: 'E1' } : ['wrong token', { code: 'E1' }]);
  },
  async 'a namespace that is not there is refused'() {
    const socket = connect('/nowhere');
    const [error] = await once(socket, isOld ? 'error' : 'connect_error');
    assert.equal(isOld ? error : error.message, 'Invalid namespace');
  },
  async 'a pattern stands for many namespaces'() {
    const [one, two] = [await connected('/tenant-1'), await connected('/tenant-2')];
    const got = [collect(one), collect(two)];
    await ask(one, 'enter', 'room');
    two.emit('tell_all', 'hello');
    await settled(one, two);
    assert.deepEqual(got, [[], [['hello']]]);
  },
  async 'rooms get what is sent to them'() {
    const sockets = await several(3);
    const got = sockets.map((socket) => collect(socket));
    const room = 'room ' + Math.random();
    await ask(sockets[0], 'enter', room);
    await ask(sockets[1], 'enter', room);
    await ask(sockets[2], 'tell_room', room, 'from outside');
    await settled(...sockets);
    await ask(sockets[0], 'tell_room', room, 'from inside');
    await settled(...sockets);
    await ask(sockets[1], 'leave', room);
    await ask(sockets[2], 'tell_room', room, 'once more');
    await settled(...sockets);
    assert.deepEqual(got, [[['from outside'], ['once more']], [['from outside'], ['from inside']], []]);
  },
  async 'a socket gets what is sent to its id'() {
    const sockets = await several(3);
    const got = sockets.map((socket) => collect(socket));
    await ask(sockets[0], 'tell_room', sockets[1].id, 'for you', Buffer.from([1]));
    await settled(...sockets);
    assert.deepEqual(got.map((one) => one.length), [0, 1, 0]);
    assert.deepEqual(bytes(got[1][0][1]), [1]);
  },
  async 'all get what is sent to all, others, and all but one'() {
    const sockets = await several(3);
    const got = sockets.map((socket) => collect(socket));
    await ask(sockets[0], 'tell_all', 1);
    await ask(sockets[0], 'tell_others', 2);
    await ask(sockets[0], 'tell_except', sockets[2].id, 3);
    await settled(...sockets);
    assert.deepEqual(got.map((one) => one.map(([number]) => number)), [[1, 3], [1, 2, 3], [1, 2]]);
  },
  async 'volatile events come where they can'() {
    const socket = await connected();
    const got = collect(socket);
    for (let tries = 0; !got.length; tries++) {
      assert.ok(tries < 100);
      socket.emit('tell_volatile', 1);
      await sleep(20);
    }
  },
  async 'the server learns that a client disconnects'() {
    const [one, other] = await several(2);
    const label = 'label ' + Math.random();
    one.emit('label', label);
    await settled(one);
    one.disconnect();
    let reason = null;
    for (let tries = 0; !reason; tries++) {
      assert.ok(tries < 200);
      [reason] = await ask(other, 'reason', label);
    }
    assert.ok(['client namespace disconnect', 'transport close'].includes(reason), reason);
  },
  async 'the server disconnects a client, which may come back'() {
    const socket = await connected();
    socket.emit('disconnect_me', false);
    assert.deepEqual((await once(socket, 'disconnect')).slice(0, 1), ['io server disconnect']);
    socket.connect();
    await once(socket, 'connect');
    assert.deepEqual(await ask(socket, 'sum', 5), [5]);
  },
  async 'the server closes a connection'() {
    const socket = await connected();
    socket.emit('disconnect_me', true);
    assert.deepEqual((await once(socket, 'disconnect')).slice(0, 1), ['io server disconnect']);
  },
  async 'a client comes back by itself'() {
    const socket = await connected();
    const before = socket.id;
    socket.emit('break_off');
    await once(socket, 'disconnect');
    await once(socket, 'connect');
    assert.notEqual(socket.id, before);
    assert.deepEqual(await ask(socket, 'sum', 6), [6]);
  },
  async 'a client that comes back is a new socket, in no room'() {
    const [one, other] = await several(2);
    const got = collect(one);
    const room = 'room ' + Math.random();
    const before = one.id;
    await ask(one, 'enter', room);
    await lose(one);
    await ask(other, 'tell_all', 1);
    await comeBack(one);
    await ask(other, 'tell_room', room, 2);
    await ask(other, 'tell_all', 3);
    await settled(one);
    assert.deepEqual([got, Boolean(one.recovered), one.id === before], [[[3]], false, false]);
  },
  async 'a client of version 4 that comes back is recovered, and gets what it missed'() {
    const [one, other] = [await connected('/recovering'), await connected('/recovering')];
    const got = collect(one);
    const room = 'room ' + Math.random();
    const before = one.id;
    await ask(one, 'enter', room);
    await ask(other, 'tell_room', room, 1);
    await until(() => got.length === 1, () => got);
    await lose(one);
    await ask(other, 'tell_room', room, 2, Buffer.from([2]));
    await ask(other, 'tell_except', room, 3);
    await ask(other, 'tell_all', 4);
    await comeBack(one);
    await ask(other, 'tell_room', room, 5);
    await ask(other, 'tell_all', 6);
    const expected = isNew ? [1, 2, 4, 5, 6] : [1, 6];
    await until(() => got.length >= expected.length, () => got);
    await settled(one);
    assert.deepEqual(got.map(([number]) => number), expected);
    assert.deepEqual([Boolean(one.recovered), one.id === before], [isNew, isNew]);
  },
};

for (const [title, run] of Object.entries(scenarios)) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error('not in time')), 20000);
  });
  const wrong = await Promise.race([run(), limit]).then(() => null, (error) => String(error.stack ?? error));
  clearTimeout(timer);
  process.stdout.write(JSON.stringify({ title, wrong }) + '\n');
  open.forEach((socket) => socket.disconnect());
  open = [];
}
process.exit();
