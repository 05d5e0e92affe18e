/* The properties of rooms in realtime.js, with a fake socket and a fake clock: node --test */
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const {makeWorld} = require('./fakes.js');

const property = (name, offset, data, more) => Object.assign(
  {type: 'property', room: 'lobby', name, data, position: 'e:' + offset, from: {id: 'u2', name: 'Bob'}, at: 1}, more);

const snapshot = (values, position, more) => Object.assign({position, top: position, full: true, values}, more);

/** A world that reads the properties of the lobby, with those that a test gives. */
function reading(properties) {
  const world = makeWorld();
  world.rt = world.connect();
  world.room = world.rt.room('lobby', {properties: true});
  world.got = [];
  world.room.on('$property', ({name, data}) => world.got.push([name, data]));
  world.advance(0);
  world.socket.welcome('lobby', {properties: properties || snapshot([], 'e:0')});
  return world;
}

function again(world, properties) {
  world.socket.drop({code: 1006});
  world.retry();
  world.socket.welcome('lobby', {properties});
}

const sets = (world) => world.socket.sent.filter((command) => command.type === 'set');
const values = (room) => Object.assign({}, room.properties);

test('reads the properties only if the page asks for them', () => {
  const world = makeWorld(), rt = world.connect();
  rt.room('lobby');
  rt.room('shop', {properties: true});
  world.advance(0);
  world.socket.open();
  assert.deepEqual(world.socket.sent.slice(1).map((command) => command.properties), [undefined, true]);
});

test('has all properties when the room is joined, and emits each', () => {
  const world = makeWorld(), room = world.connect().room('lobby', {properties: true}), got = [];
  room.on('$property', (event) => got.push([event.name, event.data, event.own]));
  room.on('$joined', () => got.push(values(room)));
  world.advance(0);
  world.socket.welcome('lobby', {properties: snapshot(
    [property('a', 1, null), property('b', 3, {x: 1}, {from: {id: 'u1', name: 'Ann'}})], 'e:3')});
  assert.deepEqual(got, [['a', null, false], ['b', {x: 1}, true], {a: null, b: {x: 1}}]);
});

test('takes all properties anew, also if their first page ends before the position', () => {
  const world = reading(snapshot([property('a', 1, 1), property('b', 5, 5)], 'e:5'));
  again(world, snapshot([property('a', 1, 1)], 'e:1', {top: 'e:9'}));
  world.socket.say(snapshot([property('c', 8, 8)], 'e:9', {type: 'properties', room: 'lobby', full: false}));
  assert.deepEqual(values(world.room), {a: 1, c: 8});
});

test('follows changes, each once, and forgets what was removed', () => {
  const world = reading(snapshot([property('a', 1, 1)], 'e:1'));
  [property('a', 2, 2), property('a', 2, 2), property('a', 1, 1), property('b', 5, 5), property('a', 6)].forEach(
    (event) => world.socket.say(event));
  assert.deepEqual(world.got, [['a', 1], ['a', 2], ['b', 5], ['a', undefined]]);
  assert.deepEqual(values(world.room), {b: 5});
});

test('resumes from its position, and takes what has changed since', () => {
  const world = reading(snapshot([property('a', 1, 1), property('b', 2, 2)], 'e:2'));
  again(world, snapshot([property('a', 4, 4)], 'e:4', {full: false}));
  assert.equal(world.socket.sent.find((command) => command.type === 'join').properties, 'e:2');
  assert.deepEqual(values(world.room), {a: 4, b: 2});
});

test('drops what is not among all properties, once all have come', () => {
  const world = reading(snapshot([property('a', 1, 1), property('b', 2, 2), property('c', 3, 3)], 'e:3'));
  again(world, snapshot([property('a', 7, 7)], 'e:7', {top: 'e:9'}));
  assert.deepEqual(values(world.room), {a: 7, b: 2, c: 3});
  world.socket.say(property('c', 9, 3));
  assert.deepEqual(values(world.room), {a: 7, c: 3});
  assert.deepEqual(world.got.slice(3), [['a', 7], ['c', 3], ['b', undefined]]);
});

test('replaces everything when another log has taken the place of the old one', () => {
  const world = reading(snapshot([property('a', 1, 1), property('b', 2, 2)], 'e:2'));
  world.socket.say(Object.assign({type: 'properties', room: 'lobby'},
    snapshot([property('a', 1, 'new', {position: 'f:1'})], 'f:1')));
  assert.deepEqual(values(world.room), {a: 'new'});
});

test('of one name sends one value at a time, and the last one next', async () => {
  const world = reading(), results = [];
  const promises = [1, 2, 3].map((value) => world.room.set('a', value, (error, result) => results.push(result.position)));
  world.room.set('b', 9);
  assert.deepEqual(sets(world).map(({name, data}) => [name, data]), [['a', 1], ['b', 9]]);
  world.socket.say({type: 'set', id: sets(world)[0].id, room: 'lobby', name: 'a', position: 'e:1'});
  assert.deepEqual(sets(world).map(({data}) => data), [1, 9, 3]);
  world.socket.say({type: 'set', id: sets(world)[2].id, room: 'lobby', name: 'a', position: 'e:3'});
  assert.deepEqual(results, ['e:1', 'e:3', 'e:3']);
  assert.deepEqual((await Promise.all(promises)).map(({position}) => position), ['e:1', 'e:3', 'e:3']);
});

test('sets again under the same key what was not answered', () => {
  const world = reading();
  world.room.set('a', 1);
  const [{key}] = sets(world);
  assert.match(key, /./);
  again(world, snapshot([], 'e:0'));
  assert.deepEqual(sets(world).map((command) => [command.data, command.key]), [[1, key]]);
  world.socket.say({type: 'error', id: sets(world)[0].id, code: 'store_unavailable', message: '?', temporary: true});
  world.advance(2);
  assert.deepEqual(sets(world).map((command) => command.key), [key, key]);
});

test('tells why a property can not be set', async () => {
  const world = reading(), made = world.room.set('a', 1);
  world.socket.say({type: 'error', id: sets(world)[0].id, code: 'too_many', message: 'Too many.', temporary: false});
  await assert.rejects(made, {code: 'too_many'});
  world.room.set('a', 2);
  assert.equal(sets(world)[1].data, 2);
});

test('removes a property without data', () => {
  const world = reading();
  world.room.set('a');
  assert.equal('data' in sets(world)[0], false);
});

test('joins again if a later handle asks for the properties', () => {
  const world = makeWorld(), rt = world.connect(), first = rt.room('lobby');
  world.advance(0);
  world.socket.welcome('lobby');
  const second = rt.room('lobby', {properties: true});
  assert.deepEqual(world.socket.sent.slice(-2).map(({type, since}) => [type, since]), [['leave', undefined], ['join', 'e:0']]);
  world.socket.answer('leave', {type: 'left', room: 'lobby'});
  world.socket.answer('join', {type: 'joined', room: 'lobby', position: 'e:0', top: 'e:0', recovered: true,
    properties: snapshot([property('a', 1, 1)], 'e:1')});
  assert.deepEqual([values(first), values(second)], [{a: 1}, {a: 1}]);
});
