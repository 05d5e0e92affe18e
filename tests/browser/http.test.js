/* The transports over HTTP, with fake requests, fake streams and a fake clock: node --test */
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const {makeWorld} = require('./fakes.js');

const WELCOME = {type: 'welcome', client: 'secret', user: {id: 'u1', name: 'Ann', guest: true}, rooms: 50};
const message = (offset, room) => ({type: 'message', room: room || 'lobby', position: 'e:' + offset, event: 'message', data: offset,
  from: {id: 'u2', name: 'Bob'}, at: 1, key: 'k' + offset});
const property = (name, offset) => ({type: 'property', room: 'lobby', name, data: offset, position: 'e:' + offset,
  from: {id: 'u2', name: 'Bob'}, at: 1});
const joined = ({room, properties}) => ({type: 'joined', room, position: 'e:0', top: 'e:0', recovered: true,
  ...(properties && {properties: {position: 'e:1', top: 'e:1', full: true, values: [property('a', 1)]}})});
const REPLIES = {
  hello: () => WELCOME, join: joined, leave: ({room}) => ({type: 'left', room}), state: () => ({type: 'ok'}), ping: () => ({type: 'pong'})
};
const reply = (command) => ({id: command.id, ...REPLIES[command.type](command)});

/** Lets what waits for the next turn happen. */
const turn = (world) => new Promise((resolve) => { setImmediate(() => { world.advance(0); resolve(); }); });

/** A page on one transport, whose rooms' messages are in `got`. */
function makePage(kind, names, options) {
  const world = makeWorld();
  world.got = [];
  world.errors = [];
  world.window.Realtime.transports[kind] = world.transports[kind];
  world.rt = world.connect({transports: [kind], name: 'Ann', ...options});
  world.rt.on('$error', ({code, room}) => world.errors.push([code, room]));
  world.rooms = names.map((name) => world.rt.room(name));
  world.rooms.forEach((room) => room.on('*', (data) => world.got.push(data)));
  world.open = (path) => world.requests.filter(({url, aborted, readyState}) => url.includes('/' + path) && !aborted && !readyState);
  world.posted = () => world.requests.filter(({method}) => method === 'POST').map(({body}) => body.map(({type}) => type));
  world.answerCommands = async () => {
    await turn(world);
    for (let [request] = world.open('commands'); request; [request] = world.open('commands')) {
      request.answer(200, request.body.map(reply));
      await turn(world);
    }
  };
  world.answerPoll = async (events, index) => {
    const poll = world.open('poll')[index || 0], names = poll.query.getAll('room');
    poll.answer(200, {client: 'secret', events, presence: Object.fromEntries(names.map((name) => [name, 'v1']))});
    await turn(world);
  };
  return world;
}

async function polling(names, options) {
  const world = makePage('poll', names, options);
  world.advance(0);
  await world.answerCommands();
  return world;
}

async function connected(names, options) {
  const world = await polling(names, options);
  await world.answerPoll([]);
  world.advance(1);
  return world;
}

test('posts hello and joins in one request, and is connected when a poll has answered', async () => {
  const world = await polling(['lobby'], {});
  assert.deepEqual(world.posted(), [['hello', 'join']]);
  assert.equal(world.requests[0].url, 'http://example.com/chat/commands?name=Ann');
  const [poll] = world.open('poll');
  assert.deepEqual([...poll.query], [['room', 'lobby'], ['since', 'e:0'], ['presence', ''], ['wait', '0'], ['name', 'Ann']]);
  assert.deepEqual([poll.method, poll.headers, world.rt.state], ['GET', {'Realtime-Client': 'secret'}, 'connecting']);
  await world.answerPoll([{type: 'presence', room: 'lobby', count: 1, members: [{id: 'u1', name: 'Ann'}]}, message(1)]);
  assert.deepEqual([world.rt.state, world.rt.transport, world.rooms[0].count, world.rooms[0].members.length, world.got], ['connected', 'poll', 1, 1, [1]]);
  const [next] = world.open('poll');
  assert.deepEqual([next.query.get('since'), next.query.get('presence'), next.query.get('wait')], ['e:1', 'v1', '25']);
});

test('polls again, after the time that the server gives, when a limit refused it', async () => {
  const world = await polling(['lobby']);
  await world.answerPoll([message(1)]);
  world.open('poll')[0].answer(429, {type: 'error', code: 'rate_limited', message: 'no', temporary: true, after: 3});
  await world.advance(2.9);
  assert.deepEqual([world.open('poll').length, world.rt.state], [0, 'connected']);
  await world.advance(0.2);
  assert.equal(world.open('poll').length, 1);
});

test('polls again at once after events, and not at once if a poll returns at once without any', async () => {
  const world = await polling(['lobby']);
  await world.answerPoll([message(1)]);
  assert.equal(world.open('poll').length, 1);
  await world.answerPoll([]);
  assert.equal(world.open('poll').length, 0);
  world.advance(0.7);
  assert.equal(world.open('poll').length, 0);
  world.advance(0.1);
  world.advance(2);
  await world.answerPoll([]);
  assert.equal(world.open('poll').length, 1, 'a poll that has waited is repeated at once');
});

test('gives a request fifteen seconds without progress, and a large one the time that it takes on a slow line', async () => {
  for (const [text, seconds] of [['', 15], ['x'.repeat(19800), 24.9]]) {
    const world = await connected(['lobby']);
    world.rooms[0].publish(text);
    await turn(world);
    const [request] = world.open('commands');
    world.advance(seconds);
    assert.deepEqual([request.aborted, world.rt.state], [false, 'connected']);
    await world.answerPoll([]);
    request.onprogress();
    world.advance(seconds);
    assert.deepEqual([request.aborted, world.rt.state], [false, 'connected']);
    world.advance(0.2);
    assert.deepEqual([request.aborted, world.rt.state], [true, 'reconnecting']);
  }
});

test('asks other pages of its origin for a connection when the first poll waits for a second, and polls on at once', async () => {
  const world = await polling(['lobby']), stored = [];
  world.window.localStorage.setItem = (name, value) => stored.push([name, value]);
  world.advance(1);
  assert.deepEqual([stored, world.rt.state], [[['realtime crowded', 1]], 'connecting']);
  await world.answerPoll([]);
  assert.deepEqual([world.rt.state, world.open('poll').map(({query}) => query.get('wait'))], ['connected', ['25']]);
});

test('asks other pages of its origin for a connection when a request waits for a second', async () => {
  const world = await connected(['lobby']), stored = [];
  world.window.localStorage.setItem = (name, value) => stored.push([name, value]);
  world.rooms[0].publish(1);
  await turn(world);
  world.advance(0.9);
  assert.deepEqual(stored, []);
  world.advance(0.1);
  assert.deepEqual(stored, [['realtime crowded', 1]]);
});

test('sends its state when the server knows that it reads', async () => {
  const world = makePage('poll', ['lobby']);
  world.rt.setState({page: 'x'});
  world.advance(0);
  await world.answerCommands();
  assert.deepEqual(world.posted(), [['hello', 'join']]);
  await world.answerPoll([]);
  await turn(world);
  assert.deepEqual(world.posted(), [['hello', 'join'], ['state']]);
});

test('sends commands one by one if a batch is refused, so that only the bad one fails', async () => {
  const world = await connected(['lobby']), entries = [1, 2].map((number) => world.rooms[0].publish(number));
  await turn(world);
  assert.deepEqual(world.posted().pop(), ['publish', 'publish']);
  world.open('commands')[0].answer(413, {type: 'error', code: 'too_large', message: 'no'});
  await turn(world);
  const [first] = world.open('commands');
  assert.equal(first.body.length, 1);
  first.answer(413, {type: 'error', code: 'too_large', message: 'no'});
  await turn(world);
  const [second] = world.open('commands');
  second.answer(200, [{type: 'published', id: second.body[0].id, room: 'lobby', position: 'e:1'}]);
  assert.deepEqual(entries.map(({state}) => state), ['failed', 'sent']);
});

test('posts at most 100 commands, and at most 16,000 characters, in one request', async () => {
  const world = await connected(['lobby']);
  for (let number = 0; number < 101; number += 1) {
    world.rooms[0].publish(number);
  }
  await turn(world);
  const [many] = world.open('commands');
  assert.equal(many.body.length, 100);
  many.answer(200, many.body.map(({id}, index) => ({type: 'published', id, room: 'lobby', position: 'e:' + (index + 1)})));
  await turn(world);
  assert.equal(world.open('commands')[0].body.length, 1);
  world.open('commands')[0].answer(200, [{type: 'published', id: world.open('commands')[0].body[0].id, room: 'lobby', position: 'e:101'}]);
  [1, 2, 3].forEach(() => world.rooms[0].publish('x'.repeat(6000)));
  await turn(world);
  assert.equal(world.open('commands')[0].body.length, 2);
});

test('waits as long as an error says, and says that no server answers if there is no answer', async () => {
  const world = makePage('poll', ['lobby']);
  world.advance(0);
  await turn(world);
  const unavailable = {type: 'error', code: 'overloaded', message: 'no', temporary: true};
  world.open('commands')[0].answer(503, unavailable, {'Retry-After': '7'});
  assert.deepEqual([world.states.at(-1).reason.code, world.states.at(-1).retryIn], ['overloaded', 7.75]);
  world.advance(8);
  await turn(world);
  world.open('commands')[0].answer(502, '<html>');
  assert.equal(world.states.at(-1).reason.code, 'unreachable');
  world.advance(20);
  await turn(world);
  world.open('commands')[0].answer(0, '');
  assert.deepEqual([world.states.at(-1).reason.code, world.rt.state], ['unreachable', 'connecting']);
});

test('closes when another client is answered than it is, and reads on with a new one', async () => {
  const world = await connected(['lobby']);
  world.open('poll')[0].answer(200, {client: 'another', events: [], presence: {}});
  assert.equal(world.rt.state, 'reconnecting');
});

test('reads on without a room that is refused', async () => {
  const world = await connected(['lobby', 'private']);
  world.open('poll')[0].answer(403, {type: 'error', code: 'forbidden', message: 'no', room: 'private', temporary: false});
  await turn(world);
  assert.deepEqual(world.open('poll')[0].query.getAll('room'), ['lobby']);
  assert.deepEqual(world.errors, [['forbidden', 'private']]);
  await world.answerPoll([message(1)]);
  assert.deepEqual([world.rt.state, world.got], ['connected', [1]]);
});

test('counts its rooms, as the server names the most', async () => {
  const names = Array.from({length: 51}, (_, index) => 'room' + index), world = await polling(names);
  assert.equal(world.open('poll')[0].query.getAll('room').length, 50);
  await world.answerPoll([]);
  assert.deepEqual(world.errors.filter(([, room]) => room), [['too_many', 'room50']]);
});

test('reads many rooms by several requests, of which two wait at once, and halves a line that is too long', async () => {
  const names = Array.from({length: 40}, (_, index) => 'r'.repeat(380) + index), world = await polling(names);
  const polls = world.open('poll');
  assert.deepEqual([polls.length, polls.every(({url}) => url.length < 8000)], [2, true]);
  assert.ok(polls.every(({query}) => Number(query.get('wait')) < 8), 'groups take turns');
  const most = Math.max(...polls.map(({query}) => query.getAll('room').length));
  polls[0].answer(414, '<html>');
  await turn(world);
  const shorter = Math.max(...world.open('poll').map(({query}) => query.getAll('room').length));
  assert.ok(shorter <= most / 2 && shorter > most / 3, `${most} and then ${shorter} rooms`);
});

test('shortens its lines down to 500 bytes, and then takes the answer for what it is', async () => {
  const world = await connected(['lobby']);
  for (let shortened = 0; shortened < 4; shortened += 1) {
    world.open('poll')[0].answer(414, '<html>');
    await turn(world);
    assert.deepEqual([world.rt.state, world.open('poll').length], ['connected', 1]);
  }
  world.open('poll')[0].answer(414, '<html>');
  assert.deepEqual([world.rt.state, world.open('poll')], ['reconnecting', []]);
});

test('ends its link when a poll fails, unless it knows how to go on', async () => {
  for (const [status, answer, code] of [[502, '<html>', 'unreachable'], [503, {type: 'error', code: 'overloaded', message: 'no', temporary: true}, 'overloaded']]) {
    const world = await connected(['lobby']);
    world.open('poll')[0].answer(status, answer);
    assert.deepEqual([world.rt.state, world.states.at(-1).reason.code, world.open('poll')], ['reconnecting', code, []]);
  }
});

test('takes the parts of an answer for a sign of life', async () => {
  const world = await connected(['lobby']);
  world.advance(28);
  world.open('poll')[0].onprogress();
  world.advance(29);
  await turn(world);
  assert.deepEqual(world.posted().pop(), ['hello', 'join']);
  world.advance(1);
  await turn(world);
  assert.deepEqual(world.posted().pop(), ['ping']);
});

test('starts the polls again when it is pinged, as a proxy may have forgotten one', async () => {
  const world = await connected(['lobby']), [before] = world.open('poll');
  world.window.fire('online');
  await turn(world);
  assert.deepEqual([before.aborted, world.open('poll').length, world.posted().pop()], [true, 1, ['ping']]);
});

test('tells the server by a beacon that it leaves', async () => {
  const world = await connected(['lobby', 'garden']);
  world.rt.close();
  assert.deepEqual(world.beacons, [{
    url: 'http://example.com/chat/commands?name=Ann&client=secret',
    body: [{type: 'leave', room: 'lobby'}, {type: 'leave', room: 'garden'}]
  }]);
  assert.deepEqual([world.open('poll'), world.clock.timers.size], [[], 0]);
});

test('leaves a room: it is no longer read', async () => {
  const world = await connected(['lobby', 'garden']);
  world.rooms[1].leave();
  await world.answerCommands();
  assert.deepEqual([world.posted().pop(), world.open('poll')[0].query.getAll('room')], [['leave'], ['lobby']]);
});

test('does not wait in polls while pages of this origin wait for connections', async () => {
  const world = await connected(['lobby']);
  world.window.fire('storage', {key: 'realtime crowded', newValue: '1'});
  assert.equal(world.open('poll')[0].query.get('wait'), '0');
  world.advance(61 + 30);
  await turn(world);
  assert.equal(world.open('poll').every(({query}) => query.get('wait') === '25'), true);
});

// Server-sent events

async function streaming(names) {
  const world = makePage('sse', names);
  world.advance(0);
  await world.answerCommands();
  world.stream = world.streams.at(-1);
  return world;
}

const opened = (world, names) => {
  world.streams.at(-1).say({type: 'welcome', client: 'secret'});
  names.forEach((room) => world.streams.at(-1).say({...joined({room}), count: 1, members: []}));
};

test('opens one stream for its rooms, and is connected when it has begun', async () => {
  const world = await streaming(['lobby', 'garden']);
  assert.deepEqual(new URL(world.stream.url).searchParams.getAll('room'), ['lobby', 'garden']);
  assert.equal(world.rt.state, 'connecting');
  opened(world, ['lobby', 'garden']);
  world.stream.say(message(1));
  world.stream.say({type: 'reset', room: 'lobby', position: 'e:7'});
  assert.deepEqual([world.rt.transport, world.got, world.rooms[0].position], ['sse', [1], 'e:7']);
});

test('reads the old stream until a new one, for other rooms, has begun', async () => {
  const world = await streaming(['lobby']), first = world.stream;
  opened(world, ['lobby']);
  const garden = world.rt.room('garden');
  await world.answerCommands();
  first.say(message(1));
  assert.deepEqual([world.streams.length, first.closed, world.got], [2, false, [1]]);
  opened(world, ['lobby', 'garden']);
  assert.deepEqual([first.closed, garden.joined], [true, true]);
});

test('notices messages that were missed between a join and its stream', async () => {
  const world = await streaming(['lobby']), resets = [];
  world.rooms[0].on('$reset', ({position}) => resets.push(position));
  world.stream.say({type: 'welcome', client: 'secret'});
  world.stream.say({...joined({room: 'lobby'}), recovered: false, position: 'e:9', count: 1, members: []});
  assert.deepEqual(resets, ['e:9']);
});

test('answers a ping by a new stream', async () => {
  const world = await streaming(['lobby']);
  opened(world, ['lobby']);
  world.advance(60);
  assert.equal(world.streams.length, 2);
  opened(world, ['lobby']);
  world.advance(59);
  assert.equal(world.rt.state, 'connected');
  world.advance(1 + 8);
  assert.equal(world.rt.state, 'reconnecting', 'the stream that was the next ping never began');
});

test('asks by a poll why a stream did not begin, and goes on without the room that is refused', async () => {
  const world = await streaming(['lobby', 'private']);
  world.stream.fail();
  const [poll] = world.open('poll');
  assert.equal(poll.query.get('wait'), '0');
  poll.answer(403, {type: 'error', code: 'forbidden', message: 'no', room: 'private', temporary: false});
  assert.deepEqual(new URL(world.streams.at(-1).url).searchParams.getAll('room'), ['lobby']);
  opened(world, ['lobby']);
  assert.equal(world.rt.state, 'connected');
  world.streams.at(-1).fail();
  assert.equal(world.rt.state, 'reconnecting', 'a stream that had begun is lost');
});

test('polls while the browser has no connections for streams', async () => {
  const world = await streaming(['lobby']);
  opened(world, ['lobby']);
  world.window.fire('storage', {key: 'realtime crowded', newValue: '1'});
  assert.deepEqual([world.open('poll').length, world.rt.state], [1, 'connected']);
});

test('gives streams up if one does not begin within a second after other pages were asked for a connection', async () => {
  const world = await streaming(['lobby']);
  world.advance(1.9);
  assert.equal(world.stream.closed, false);
  world.advance(0.1);
  assert.deepEqual([world.stream.closed, world.states.at(-1).reason.code], [true, 'unreachable']);
});

test('loses a stream that is of another client', async () => {
  const world = await streaming(['lobby']);
  opened(world, ['lobby']);
  world.streams.at(-1).say({type: 'welcome', client: 'another'});
  assert.equal(world.rt.state, 'reconnecting');
});

test('reads many rooms by four streams at most, which begin after the old ones are closed, and refuses the others', async () => {
  const names = Array.from({length: 45}, (_, index) => 'r'.repeat(780) + index), world = await streaming(names.slice(0, 12));
  assert.equal(world.streams.length, 2);
  world.streams.forEach((stream) => stream.say({type: 'welcome', client: 'secret'}));
  world.streams.forEach((stream) => new URL(stream.url).searchParams.getAll('room').forEach((room) => {
    stream.say({...joined({room}), count: 1, members: []});
  }));
  names.slice(12).forEach((name) => world.rt.room(name));
  await world.answerCommands();
  const open = world.streams.filter(({closed}) => !closed), counts = open.map(({url}) => new URL(url).searchParams.getAll('room').length);
  assert.deepEqual([open.length, world.streams.slice(0, 2).every(({closed}) => closed)], [4, true]);
  assert.equal(world.errors.filter(([code, room]) => code === 'too_many' && room).length, 45 - counts.reduce((sum, count) => sum + count));
});

// Properties

/** A page that reads the properties of one of its two rooms. */
async function readingProperties(kind) {
  const world = makePage(kind, []);
  world.lobby = world.rt.room('lobby', {properties: true});
  world.lobby.on('$property', ({name, data}) => world.got.push(name + data));
  world.rt.room('garden');
  world.advance(0);
  await world.answerCommands();
  return world;
}

test('polls by the positions in the properties of its rooms', async () => {
  const world = await readingProperties('poll'), [poll] = world.open('poll');
  assert.deepEqual(poll.query.getAll('properties'), ['e:1', '']);
  poll.answer(200, {client: 'secret', events: [property('b', 2)], presence: {}, properties: {lobby: 'e:4'}});
  await turn(world);
  assert.deepEqual([world.open('poll')[0].query.getAll('properties'), world.got], [['e:4', ''], ['a1', 'b2']]);
});

test('reads streams by the positions in the properties of its rooms', async () => {
  const world = await readingProperties('sse'), first = world.streams.at(-1);
  assert.deepEqual(new URL(first.url).searchParams.getAll('properties'), ['e:1', '']);
  first.say({type: 'welcome', client: 'secret'});
  first.say({...joined({room: 'lobby'}), properties: {position: 'e:2', top: 'e:2', full: false, values: [property('b', 2)]}});
  first.say(joined({room: 'garden'}));
  first.say(property('c', 3));
  assert.deepEqual(world.got, ['a1', 'b2', 'c3']);
  world.rt.room('shop');
  await world.answerCommands();
  assert.deepEqual(new URL(world.streams.at(-1).url).searchParams.getAll('properties'), ['e:3', '', '']);
});
