/* realtime.js with a fake socket and a fake clock: node --test */
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const {makeWorld} = require('./fakes.js');

/** A world that is connected and has joined the lobby. */
function connected(options, joined) {
  const world = makeWorld();
  world.rt = world.connect(options);
  world.room = world.rt.room('lobby');
  world.got = [];
  world.told = [];
  world.room.on('*', (data) => world.got.push(data));
  ['$reset', '$joined', '$sent', '$failed'].forEach((name) => {
    world.room.on(name, (value) => world.told.push([name, value.state || value.recovered]));
  });
  world.advance(0);
  world.socket.welcome('lobby', joined);
  return world;
}

/** Lose the connection, and open the next one. */
function again(world, joined, user) {
  world.socket.drop({code: 1006});
  world.retry();
  world.socket.welcome('lobby', joined, user);
}

const publishes = (world) => world.socket.sent.filter((command) => command.type === 'publish').map((command) => command.data);

test('sends hello, its state and its joins at once, and is connected when all are answered', () => {
  const world = makeWorld(), rt = world.connect({name: 'Ann'});
  rt.room('lobby', {last: 7});
  rt.setState({page: 'x'});
  world.advance(0);
  world.socket.open();
  assert.deepEqual(world.socket.sent.map((command) => command.type), ['hello', 'state', 'join']);
  assert.deepEqual([world.socket.sent[0].v, world.socket.sent[0].name, world.socket.sent[2].last], [1, 'Ann', 7]);
  world.socket.answer('hello', {type: 'welcome', client: 'c', user: {id: 'u1', name: 'Ann', guest: true}});
  assert.equal(rt.state, 'connecting');
  world.socket.answer('join', {type: 'joined', room: 'lobby', position: 'e:0', top: 'e:0', recovered: true, count: 1});
  assert.deepEqual([rt.state, rt.transport, rt.user.id], ['connected', 'websocket', 'u1']);
});

test('waits a random time from half a second to 20 seconds, with a bound that grows with each attempt', () => {
  for (const [random, expected] of [[0, [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]], [1, [1, 2, 4, 8, 16, 20, 20]]]) {
    const world = makeWorld();
    world.random = random;
    world.connect();
    const waits = expected.map(() => {
      world.advance(world.states.length ? world.states[world.states.length - 1].retryIn : 0);
      world.socket.drop({unreachable: true});
      return world.states[world.states.length - 1].retryIn;
    });
    assert.deepEqual(waits, expected);
  }
});

test('waits at least as long as a goodbye says, and does not reconnect if it says so', () => {
  const world = connected();
  world.socket.say({type: 'goodbye', code: 4000, reason: 'stopping', reconnect: true, after: 7});
  world.socket.drop({code: 4000});
  assert.equal(world.states.pop().retryIn, 7.75);
  world.advance(8);
  world.socket.say({type: 'goodbye', code: 4500, reason: 'too_many_errors', reconnect: false});
  world.socket.drop({code: 4500});
  assert.equal(world.rt.state, 'closed');
  world.advance(100);
  assert.equal(world.sockets.length, 2);
});

test('reconnects at once when the network is back, and pings an open connection', () => {
  const world = connected();
  world.window.fire('online');
  assert.equal(world.socket.sent.pop().type, 'ping');
  world.window.fire('offline');
  assert.equal(world.rt.state, 'reconnecting');
  world.window.fire('online');
  assert.equal(world.sockets.length, 2);
});

test('closes a silent connection that does not answer a ping', () => {
  const world = connected();
  world.advance(30);
  world.socket.answer('ping', {type: 'pong'});
  assert.equal(world.rt.state, 'connected');
  world.advance(30 + 8);
  assert.equal(world.rt.state, 'reconnecting');
});

test('emits each message once, and reads on from its position', () => {
  const world = connected();
  [1, 2, 2, 1, 3].forEach((offset) => world.socket.message(offset));
  assert.deepEqual([world.got, world.room.position], [[1, 2, 3], 'e:3']);
  again(world, {position: 'e:3', top: 'e:4'});
  assert.equal(world.socket.sent.find((command) => command.type === 'join').since, 'e:3');
  world.socket.message(3);
  world.socket.message(4);
  assert.deepEqual(world.got, [1, 2, 3, 4]);
});

test('reports a gap, and goes on from the position of the server', () => {
  const world = connected();
  world.socket.message(1);
  again(world, {position: 'e:40', top: 'e:41', recovered: false});
  world.socket.message(41);
  world.socket.say({type: 'reset', room: 'lobby', position: 'e:50'});
  world.socket.message(51);
  assert.deepEqual([world.got, world.room.position], [[1, 41, 51], 'e:51']);
  assert.equal(world.told.filter(([name]) => name === '$reset').length, 2);
});

test('publishes again, in order and under the same keys, what is not in the log, after it has caught up', () => {
  const world = connected();
  const entries = [1, 2, 3].map((number) => world.room.publish(number));
  assert.deepEqual(publishes(world), [1, 2, 3]);
  again(world, {position: 'e:0', top: 'e:2'});
  world.room.publish(4);
  assert.deepEqual(publishes(world), []);
  world.socket.message(1);
  world.socket.message(2, {key: entries[1].key, data: 2, from: {id: 'u1', name: 'Ann'}});
  assert.deepEqual(publishes(world), [1, 3, 4]);
  assert.deepEqual(entries.map((entry) => entry.state), ['pending', 'sent', 'pending']);
  assert.equal(world.socket.sent.filter((command) => command.type === 'publish')[0].key, entries[0].key);
});

test('publishes again after a temporary error, and not after another one', () => {
  const world = connected();
  const first = world.room.publish(1), second = world.room.publish('$bad', 2);
  world.socket.answer('publish', {type: 'error', code: 'bad_request', message: 'no', temporary: false});
  world.socket.say({type: 'error', id: world.socket.sent.find((command) => command.data === 1).id, code: 'store_unavailable', temporary: true});
  assert.deepEqual([first.state, second.state, second.error.code], ['pending', 'failed', 'bad_request']);
  world.advance(1);
  assert.deepEqual(publishes(world), [1, 2, 1]);
});

test('sends one message alone after a temporary error, and the others when it is stored', () => {
  const world = connected(), refused = {type: 'error', code: 'store_unavailable', temporary: true};
  [1, 2, 3].forEach((number) => world.room.publish(number));
  const ids = world.socket.sent.filter((command) => command.type === 'publish').map((command) => command.id);
  ids.forEach((id) => world.socket.say({...refused, id}));
  for (let attempt = 0; attempt < 3; attempt += 1) {
    world.advance(20);
    const ahead = world.socket.sent.filter((command) => command.type === 'publish').slice(3 + attempt);
    assert.deepEqual(ahead.map((command) => command.data), [1]);
    world.socket.say({...refused, id: ahead[0].id});
  }
  world.advance(20);
  world.socket.answer('publish', {type: 'published', room: 'lobby', position: 'e:1'});
  assert.deepEqual(publishes(world), [1, 2, 3, 1, 1, 1, 1, 2, 3]);
});

test('publishes a message in doubt again under its key, until the key may have expired: then its state is unknown', () => {
  const world = connected(), entry = world.room.publish(1), code = {type: 'error', temporary: true};
  world.socket.answer('publish', {...code, code: 'in_doubt'});
  world.advance(1);
  const sent = world.socket.sent.filter((command) => command.type === 'publish');
  assert.deepEqual([publishes(world), entry.state, sent[1].key], [[1, 1], 'pending', sent[0].key]);
  for (let passed = 0; passed < 300 && entry.state === 'pending'; passed += 10) {
    world.socket.answer('publish', {...code, code: 'store_unavailable'});
    world.advance(10);
  }
  assert.equal(entry.state, 'unknown');
});

test('does not publish again what may be stored under an expired key: its state is unknown', () => {
  for (const [away, user, state] of [[10, 'u1', 'pending'], [300, 'u1', 'unknown'], [10, 'u9', 'unknown']]) {
    const world = connected(), entry = world.room.publish(1);
    world.socket.drop({code: 1006});
    const late = world.room.publish(2);
    world.advance(away);
    world.retry();
    world.socket.welcome('lobby', {position: 'e:40', top: 'e:40', recovered: false}, user);
    assert.deepEqual([entry.state, late.state], [state, 'pending'], `after ${away} s as ${user}`);
  }
});

test('measures the age of a key correctly if the clock is set, and while the machine sleeps', () => {
  for (const [ahead, slept, away, state] of [
    [-3600e3, 0, 300, 'unknown'], [0, 300e3, 300, 'unknown'], [-3600e3, 0, 10, 'pending']
  ]) {
    const world = connected(), entry = world.room.publish(1);
    world.socket.drop({code: 1006});
    world.ahead = ahead;
    world.advance(away);
    world.clock.slept = slept;
    world.retry();
    world.socket.welcome('lobby', {position: 'e:40', top: 'e:40', recovered: false});
    assert.equal(entry.state, state, `set by ${ahead} ms, slept for ${slept} ms, after ${away} s`);
  }
});

test('keeps 100 messages while offline, and refuses more', async () => {
  const world = makeWorld(), rt = world.connect(), room = rt.room('lobby');
  const entries = Array.from({length: 101}, (_, index) => room.publish(index));
  world.advance(0);
  assert.deepEqual([entries[99].state, entries[100].state], ['pending', 'failed']);
  await assert.rejects(async () => entries[100], {code: 'queue_full', temporary: true});
});

test('publishes the data as it was, although the page changes it later', () => {
  const world = makeWorld(), room = world.connect().room('lobby'), data = {text: 'a'};
  room.publish(data);
  data.text = 'b';
  world.advance(0);
  world.socket.welcome('lobby');
  assert.deepEqual(publishes(world), [{text: 'a'}]);
});

test('resolves each publish once, and calls back, whether the reply or the message comes first', async () => {
  const world = connected(), calls = [];
  const entry = world.room.publish({text: 'x'}, {key: 'mine'}, (error, result) => calls.push([error, result]));
  world.socket.message(1, {key: 'mine', from: {id: 'u1', name: 'Ann'}});
  world.socket.answer('publish', {type: 'published', room: 'lobby', position: 'e:1'});
  assert.deepEqual({...await entry}, {position: 'e:1', key: 'mine'});
  assert.equal(calls.length, 1);
  assert.deepEqual(world.told.filter(([name]) => name !== '$joined'), [['$sent', 'sent']]);
});

test('refuses data that the server could not read before it is sent, and goes on', () => {
  const world = connected(), half = 'abc\ud83d', errors = [];
  let deep = 1;
  for (let level = 0; level < 40; level += 1) {
    deep = [deep];
  }
  world.rt.on('$error', ({code}) => errors.push(code));
  for (const value of [half, [half], {[half]: 1}, {a: NaN}, [Infinity], deep, undefined, 10n]) {
    const entry = world.room.publish({text: 1, value: value === undefined ? NaN : value});
    world.advance(0);
    assert.deepEqual([entry.state, entry.error && entry.error.code], ['failed', 'bad_request']);
  }
  for (const entry of [world.room.publish(half, 1), world.room.publish('x', 1, {key: half})]) {
    world.advance(0);
    assert.deepEqual([entry.state, entry.error.code], ['failed', 'bad_request']);
  }
  world.room.signal('x', half);
  world.rt.setState({half});
  world.rt.room(half);
  world.advance(0);
  assert.deepEqual(errors, ['bad_request', 'bad_request', 'bad_room']);
  assert.deepEqual(world.socket.sent.map(({type}) => type), ['hello', 'join']);
  world.room.publish('\ud83d\ude00');
  assert.deepEqual(publishes(world), ['\ud83d\ude00']);
});

test('reports an invalid room name at once', () => {
  const world = makeWorld(), rt = world.connect({name: 'abc\ud83d'});
  world.advance(0);
  world.socket.open();
  world.advance(1);
  assert.deepEqual([rt.state, world.states.pop().reason.code, world.socket.sent], ['closed', 'bad_request', []]);
});

test('falls back within two seconds, remembers the transport, and switches when a better one is up', () => {
  const world = makeWorld(), both = {transports: ['websocket', 'sse']}, rt = world.connect(both), room = rt.room('lobby');
  world.advance(2);
  assert.equal(world.sockets.length, 2);
  world.socket.welcome('lobby');
  const slow = world.socket;
  assert.equal(rt.transport, 'sse');
  assert.deepEqual(Object.keys(world.storage).map((name) => world.storage[name]).sort(), ['secret-u1', 'sse']);
  world.advance(10);
  assert.equal(world.sockets.length, 3);
  slow.message(1);
  world.socket.welcome('lobby', {top: 'e:1'});
  assert.deepEqual([rt.transport, slow.closed, room.position], ['websocket', true, 'e:1']);
  world.socket.message(1);
  assert.deepEqual(Object.keys(world.storage).length, 1);
  const next = makeWorld({...world.storage, 'realtime transport http://example.com/chat/': 'sse'});
  next.connect(both);
  next.advance(0);
  assert.equal(next.socket.constructor.name, next.window.Realtime.transports.sse.name);
});

const PAGE = {type: 'history', room: 'lobby', messages: [], position: 'e:0', top: 'e:0', recovered: true};

/** What has become of promises: their results, the codes of their errors, or null for those that are pending. */
async function settled(promises) {
  const results = promises.map(() => null);
  promises.forEach((promise, index) => promise.then(
    (result) => { results[index] = result; }, (error) => { results[index] = error.code; }));
  await new Promise((resolve) => { setImmediate(resolve); });
  return results;
}

test('asks for history and members once it is connected, and again on the next connection until they come', async () => {
  const world = makeWorld(), room = world.connect().room('lobby');
  const calls = [], asked = [room.history({limit: 5}, (error, page) => calls.push(page)), room.loadMembers()];
  world.advance(0);
  world.socket.welcome('lobby');
  assert.deepEqual(await settled(asked), [null, null]);
  world.socket.drop({code: 1006});
  world.retry();
  world.socket.welcome('lobby');
  const sent = world.socket.sent.filter(({type}) => type === 'history' || type === 'members');
  assert.deepEqual(sent.map(({type, limit}) => [type, limit]), [['history', 5], ['members', undefined]]);
  world.socket.answer('history', PAGE);
  world.socket.answer('members', {type: 'members', members: [1], after: 'u1'});
  assert.equal(world.socket.answer('members', {type: 'members', members: [2]}).after, 'u1');
  const [page, members] = await settled(asked);
  assert.deepEqual([page.messages.length, page.position, page.more, calls], [0, 'e:0', false, [page]]);
  assert.deepEqual([...members], [1, 2]);
  const count = world.socket.sent.length;
  world.socket.drop({code: 1006});
  world.retry();
  world.socket.welcome('lobby');
  assert.ok(count > 3);
  assert.deepEqual(world.socket.sent.map(({type}) => type), ['hello', 'join'], 'nothing is asked again that was answered');
});

test('fails a read that the server refuses, and each that waits when it is closed, or is asked later', async () => {
  for (const online of [true, false]) {
    const world = connected();
    const refused = world.room.history();
    world.socket.answer('history', {type: 'error', code: 'forbidden', message: 'no', temporary: false});
    if (!online) {
      world.socket.drop({code: 1006});
    }
    const waiting = [world.room.history(), world.room.loadMembers()];
    world.rt.close();
    const late = [world.room.history(), world.room.loadMembers()];
    assert.deepEqual(await settled([refused, ...waiting, ...late]), ['forbidden', 'closed', 'closed', 'closed', 'closed']);
  }
});

test('asks again, after the time that the server gives, what a limit refused, unless a new connection has asked', async () => {
  const limited = {type: 'error', code: 'rate_limited', message: 'no', temporary: true, after: 3};
  for (const isLost of [false, true]) {
    const world = connected(), asked = world.room.history(), count = () => world.socket.sent.filter(({type}) => type === 'history').length;
    world.socket.answer('history', limited);
    if (isLost) {
      again(world);
    } else {
      world.advance(2.9);
      assert.equal(count(), 1);
    }
    world.advance(4);
    assert.equal(count(), isLost ? 1 : 2);
    world.socket.answer('history', PAGE);
    assert.equal((await asked).position, 'e:0');
  }
});

test('sends the last state again that a limit refused, after the time that the server gives', () => {
  const limited = {type: 'error', id: 'state', code: 'rate_limited', message: 'no', temporary: true, after: 3};
  const world = connected(), errors = [];
  const states = () => world.socket.sent.filter(({type}) => type === 'state').map(({state}) => state);
  world.rt.on('$error', (error) => errors.push(error.code));
  [1, 2].forEach((state) => world.rt.setState(state));
  world.socket.say(limited);
  world.socket.say(limited);
  world.advance(2.9);
  assert.deepEqual(states(), [1, 2]);
  world.advance(0.2);
  assert.deepEqual(states(), [1, 2, 2]);
  world.socket.say(limited);
  again(world);
  world.advance(4);
  assert.ok(states().every((state) => state === 2));
  world.socket.say({...limited, code: 'too_large'});
  world.socket.say(limited);
  world.rt.close();
  world.advance(9);
  assert.deepEqual(errors, ['too_large']);
});

test('sends a message again that a limit refused, and joins a room again, after the time that the server gives', () => {
  const limited = {type: 'error', code: 'rate_limited', message: 'no', temporary: true, after: 7}, world = connected();
  const entries = [world.room.publish(1), world.room.publish(2)];
  world.socket.sent.filter(({type}) => type === 'publish').forEach(({id}) => world.socket.say({...limited, id}));
  world.advance(7);
  assert.deepEqual(publishes(world), [1, 2]);
  world.advance(1);
  assert.deepEqual(publishes(world), [1, 2, 1]);
  world.socket.answer('publish', {type: 'published', position: 'e:1'});
  world.socket.answer('publish', {type: 'published', position: 'e:2'});
  assert.deepEqual(entries.map(({state}) => state), ['sent', 'sent']);
  const joins = () => world.socket.sent.filter(({room, type}) => type === 'join' && room === 'other').length;
  world.rt.room('other');
  world.socket.answer('join', limited);
  world.advance(7);
  assert.equal(joins(), 1);
  world.advance(1);
  assert.equal(joins(), 2);
});

test('says whether there is more history, in both directions', async () => {
  const message = (offset) => ({type: 'message', room: 'lobby', position: 'e:' + offset, event: 'message', data: offset, from: {id: 'u1', name: 'Ann'}});
  for (const [options, offsets, more] of [
    [{}, [1, 2], false], [{}, [2, 3], true], [{before: 'e:1'}, [], false], [{since: 'e:3'}, [4, 5], true], [{since: 'e:7'}, [8, 9], false]
  ]) {
    const world = connected(), asked = world.room.history(options), messages = offsets.map(message);
    const command = world.socket.answer('history', {...PAGE, messages, position: 'e:' + (offsets[1] || 0), top: 'e:9'});
    const [page] = await settled([asked]);
    assert.deepEqual([command.since, command.before, page.more], [options.since, options.before, more]);
    assert.deepEqual(page.messages.map(({own}) => own), offsets.map(() => true));
  }
});

test('joins anew from the end if the server can not read its position any more, and says what was missed', () => {
  const world = makeWorld(), room = world.connect().room('lobby', {since: 'stale:9', last: 3}), told = [], got = [];
  room.on('$reset', ({position, reason}) => told.push([position, reason]));
  room.on('*', (data) => got.push(data));
  world.advance(0);
  world.socket.open();
  world.socket.answer('hello', {type: 'welcome', client: 'c', user: {id: 'u1', name: 'Ann', guest: true}});
  assert.equal(world.socket.answer('join', {type: 'error', code: 'bad_position', message: 'no'}).since, 'stale:9');
  const again = world.socket.sent.filter(({type}) => type === 'join');
  assert.deepEqual([again.length, again[1].since, again[1].last, told], [2, undefined, 3, [[null, 'resume']]]);
  world.socket.answer('join', {type: 'joined', room: 'lobby', position: 'e:4', top: 'e:5', recovered: true, count: 1});
  world.socket.message(5);
  assert.deepEqual([room.joined, room.position, got], [true, 'e:5', [5]]);
});

/** The seconds until a command of a type is sent again. */
function secondsUntil(world, type) {
  const count = () => world.socket.sent.filter((command) => command.type === type).length, before = count();
  for (let passed = 0; passed < 100; passed += 0.25) {
    if (count() > before) {
      return passed;
    }
    world.advance(0.25);
  }
  return null;
}

test('waits longer each time a room or a message is refused for a while, and no longer after a success', () => {
  const refused = {type: 'error', code: 'store_unavailable', message: 'no', temporary: true};
  for (const [type, success] of [
    ['join', {type: 'joined', room: 'lobby', position: 'e:0', top: 'e:0', recovered: true, count: 1}],
    ['publish', {type: 'published', room: 'lobby', position: 'e:1'}]
  ]) {
    const world = connected();
    const begin = () => {
      if (type === 'join') {
        again(world);
        world.socket.say({...refused, room: 'lobby'});
      } else {
        world.room.publish(1);
        world.socket.answer(type, refused);
      }
    };
    const repeat = () => {
      const waited = secondsUntil(world, type);
      world.socket.answer(type, refused);
      return waited;
    };
    begin();
    assert.deepEqual([1, 2, 3, 4, 5, 6, 7].map(repeat), [0.75, 1.25, 2.25, 4.25, 8.25, 10.25, 10.25], type);
    secondsUntil(world, type);
    world.socket.answer(type, success);
    begin();
    assert.equal(repeat(), 0.75, type);
    const hint = {...refused, after: 7};
    secondsUntil(world, type);
    world.socket.answer(type, hint);
    assert.equal(secondsUntil(world, type), 7 + 2.25, 'the server names seconds, to which the wait is added');
  }
});

test('begins its delays anew after a stable connection, and not after short ones', () => {
  const world = connected(), delay = () => world.states.at(-1).retryIn, delays = [];
  const lose = (after) => {
    world.advance(after);
    world.socket.drop({code: 1006});
    delays.push(delay());
    world.retry();
    world.socket.welcome('lobby');
  };
  [1, 9, 9, 11, 9].forEach(lose);
  assert.deepEqual(delays, [0.75, 1.25, 2.25, 0.75, 1.25]);
});

test('tries only transports that the browser has', () => {
  const world = makeWorld();
  world.window.Realtime.transports.websocket.works = () => false;
  world.connect({transports: ['websocket', 'sse']});
  world.advance(0);
  assert.deepEqual(world.sockets.map((socket) => socket instanceof world.window.Realtime.transports.sse), [true]);
});

test('gives a transport up after three connections that did not last, but not if the server said goodbye', () => {
  for (const [goodbye, after] of [[false, 'sse'], [true, 'websocket']]) {
    const world = connected({transports: ['websocket', 'sse']});
    for (let lost = 0; lost < 3; lost += 1) {
      if (goodbye) {
        world.socket.say({type: 'goodbye', code: 4000, reason: 'stopping', reconnect: true});
      }
      world.socket.drop({code: 1006});
      world.retry();
      world.socket.welcome('lobby');
    }
    assert.equal(world.rt.transport, after);
  }
});

test('tries a better transport after 10 seconds, and after twice as long each time, up to 300 seconds', () => {
  const world = makeWorld(), times = [];
  world.connect({transports: ['websocket', 'sse']}).room('lobby');
  world.advance(2);
  world.socket.welcome('lobby');
  const slow = world.socket;
  for (let passed = 0; passed < 1500; passed += 1) {
    const count = world.sockets.length;
    world.advance(1);
    if (world.sockets.length > count) {
      times.push(passed + 1);
      world.socket.drop({});
    }
    slow.say({type: 'pong'});
  }
  const between = times.map((time, index) => time - (times[index - 1] || 0));
  assert.deepEqual(between, [10, 20, 40, 80, 160, 300, 300, 300]);
});

test('gives a slow network two seconds more with each attempt, and ten at most', () => {
  const world = makeWorld(), waits = [];
  world.connect({transports: ['websocket']});
  world.advance(0);
  for (let attempt = 0; attempt < 7; attempt += 1) {
    let waited = 0;
    while (!world.socket.closed) {
      world.advance(0.5);
      waited += 0.5;
    }
    waits.push(waited);
    world.retry();
  }
  assert.deepEqual(waits, [2, 4, 6, 8, 10, 10, 10]);
});

test('gives the largest message the time that it takes on a slow line, in silence and after a ping', () => {
  const world = makeWorld();
  world.connect().room('lobby');
  world.advance(0);
  world.socket.open();
  world.socket.answer('hello', {type: 'welcome', client: 'c', user: {id: 'u1', name: 'Ann', guest: true}, size: 32000});
  world.socket.answer('join', {type: 'joined', room: 'lobby', position: 'e:0', top: 'e:0', recovered: true, count: 1});
  const pings = () => world.socket.sent.filter(({type}) => type === 'ping').length;
  world.advance(31.9);
  assert.equal(pings(), 0);
  world.advance(0.1);
  assert.equal(pings(), 1);
  world.advance(9.9);
  assert.equal(world.socket.closed, false);
  world.advance(0.1);
  assert.equal(world.socket.closed, true);
});

test('refuses a command that is larger than the server takes, counted in bytes', () => {
  const world = makeWorld(), room = world.connect().room('lobby');
  world.advance(0);
  world.socket.open();
  world.socket.answer('hello', {type: 'welcome', client: 'c', user: {id: 'u1', name: 'Ann', guest: true}, size: 1000});
  world.socket.answer('join', {type: 'joined', room: 'lobby', position: 'e:0', top: 'e:0', recovered: true, count: 1});
  const entries = ['x'.repeat(700), 'x'.repeat(1000), 'é'.repeat(700)].map((text) => room.publish(text));
  world.advance(0);
  assert.deepEqual(entries.map(({state, error}) => error ? error.code : state), ['pending', 'too_large', 'too_large']);
  assert.deepEqual(publishes(world).map((text) => text.length), [700]);
});

test('says once that a room can not be joined, although it tries again', () => {
  const world = connected(), errors = [], refused = {type: 'error', code: 'store_unavailable', message: 'no', temporary: true};
  world.room.on('$error', ({code, room}) => errors.push([code, room]));
  world.rt.on('$error', ({code, room}) => errors.push([code, room]));
  world.socket.say({...refused, room: 'lobby'});
  for (let attempt = 0; attempt < 3; attempt += 1) {
    world.advance(5);
    world.socket.answer('join', refused);
  }
  assert.deepEqual(errors, [['store_unavailable', 'lobby'], ['store_unavailable', 'lobby']]);
});

test('ignores what still comes of a room that it does not read', () => {
  const world = connected();
  world.socket.say({type: 'error', code: 'store_unavailable', message: 'no', temporary: true, room: 'lobby'});
  world.socket.message(1);
  assert.deepEqual([world.got, world.room.position, world.room.joined], [[], 'e:0', false]);
  world.room.leave();
  world.socket.message(2);
  assert.deepEqual([world.got, world.socket.sent.at(-1).type], [[], 'leave']);
});

test('says who came, who left and who changed', () => {
  const world = connected({}, {count: 1, members: [{id: 'u1', name: 'Ann'}]}), told = [];
  const ids = (members) => members.map(({id}) => id).join();
  world.room.on('$presence', ({joined, left, changed, members, count}) => told.push([ids(joined), ids(left), ids(changed), ids(members), count]));
  world.socket.say({type: 'presence', room: 'lobby', count: 2, joined: [{id: 'u2', name: 'Bob'}]});
  world.socket.say({type: 'presence', room: 'lobby', count: 2, joined: [{id: 'u3', name: 'Cat'}, {id: 'u1', name: 'Eve'}], left: [{id: 'u2', name: 'Bob'}]});
  world.socket.say({type: 'presence', room: 'lobby', count: 5000});
  world.socket.say({type: 'presence', room: 'lobby', count: 1, members: [{id: 'u1', name: 'Eve'}]});
  assert.deepEqual(told, [
    ['u2', '', '', 'u1,u2', 2], ['u3', 'u2', 'u1', 'u1,u3', 2], ['', '', '', '', 5000], ['u1', '', '', 'u1', 1]
  ]);
});

test('publishes on when messages have come beyond the end that its join named', () => {
  const world = connected();
  world.socket.message(1);
  world.socket.message(2);
  again(world, {position: 'e:2', top: 'e:3'});
  world.room.publish('late');
  assert.deepEqual(publishes(world), []);
  world.socket.message(3);
  assert.deepEqual([publishes(world), world.room.top], [['late'], 'e:3']);
  world.socket.message(4);
  assert.equal(world.room.top, 'e:4');
});

test('publishes what waits to a room that it may not read', () => {
  const world = makeWorld(), room = world.connect().room('lobby');
  room.publish(1);
  world.advance(0);
  world.socket.open();
  world.socket.answer('hello', {type: 'welcome', client: 'c', user: {id: 'u1', name: 'Ann', guest: true}});
  assert.deepEqual(publishes(world), []);
  world.socket.answer('join', {type: 'error', code: 'forbidden', message: 'no', temporary: false});
  assert.deepEqual(publishes(world), [1]);
});

test('asks for a new client if the server no longer knows its own, unless the page named it', () => {
  const unauthorized = {type: 'error', code: 'unauthorized', message: 'no', temporary: false};
  for (const named of [false, true]) {
    const world = makeWorld({'realtime client http://example.com/chat/': 'old'});
    const rt = world.connect(named ? {client: 'mine'} : {});
    rt.room('lobby');
    world.advance(0);
    world.socket.open();
    assert.equal(world.socket.answer('hello', unauthorized).client, named ? 'mine' : 'old');
    assert.equal(rt.state, named ? 'closed' : 'connecting');
    if (!named) {
      world.retry();
      world.socket.welcome('lobby');
      assert.deepEqual([world.socket.sent[0].client, rt.state, Object.values(world.storage)], [undefined, 'connected', ['secret-u1']]);
    }
  }
});

test('wakes when the page is shown again, and closes its connection when the page goes', () => {
  const world = connected(), pings = () => world.socket.sent.filter(({type}) => type === 'ping').length;
  world.document.hidden = true;
  world.document.fire('visibilitychange');
  assert.equal(pings(), 0);
  world.document.hidden = false;
  world.document.fire('visibilitychange');
  world.window.fire('pageshow', {persisted: false});
  assert.equal(pings(), 1);
  world.window.fire('pageshow', {persisted: true});
  world.document.fire('resume');
  assert.equal(pings(), 3);
  const before = world.socket;
  world.window.fire('pagehide');
  assert.deepEqual([before.closed, world.clock.timers.size], ['left', 0]);
  world.window.fire('pageshow', {persisted: true});
  world.advance(0);
  world.socket.welcome('lobby');
  assert.deepEqual([world.sockets.length, world.rt.state], [2, 'connected']);
});

test('calls a listener no more when it is removed, alone or with all of its event', () => {
  const world = connected(), calls = [], listeners = [1, 2, 3].map((number) => () => calls.push(number));
  listeners.forEach((listener) => world.room.on('message', listener));
  world.room.off('message', listeners[1]);
  world.socket.message(1);
  world.room.off('message');
  world.socket.message(2);
  assert.deepEqual([calls, world.got], [[1, 3], [1, 2]]);
});

test('leaves no timer and no listener behind', () => {
  const world = connected();
  world.room.publish(1);
  world.rt.close();
  assert.deepEqual([world.clock.timers.size, world.window.heard, world.document.heard], [0, [], []]);
  assert.equal(world.socket.closed, 'left');
  assert.equal(world.told.pop()[1], 'unknown');
});

test('goes on when a listener of the page fails', () => {
  const world = connected();
  world.room.on('message', () => { throw new Error('the mistake of a page'); });
  world.socket.message(1);
  assert.throws(() => world.advance(0), /the mistake of a page/);
  world.socket.message(2);
  assert.deepEqual(world.got, [1, 2]);
});
