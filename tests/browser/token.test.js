/* Who somebody is: tokens, renewal, and what happens when somebody else comes. Fake sockets, requests and clock: node --test */
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const {makeWorld} = require('./fakes.js');

const LIFE = 1000; // seconds
const SITE = {tokenUrl: '/token'};
const turn = () => new Promise((resolve) => { setImmediate(resolve); });
const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
const makeToken = (sub, claims) => ['h', encode({sub, iat: 100, exp: 100 + LIFE, name: 'Zoë ÿ¿?', ...claims}), 's'].join('.');
const user = (id, more) => ({id, name: id, guest: id.startsWith('~'), ...more});
const welcome = (id, more) => ({type: 'welcome', client: 'sealed-' + id + '-'.repeat(40), reader: id.startsWith('~') ? undefined : 'reader-' + id,
  user: user(id), expires: null, ...more});
const error = (code, more) => ({type: 'error', code, message: 'no', temporary: false, ...more});
const JOINED = {type: 'joined', room: 'lobby', position: 'e:5', top: 'e:5', recovered: true, count: 1, members: [], rights: 'rw'};

/** A page with one room; what it was told is in `told`. */
function makePage(options, storage, kinds) {
  const world = makeWorld(storage);
  world.told = [];
  world.got = [];
  for (const kind of kinds || []) {
    world.window.Realtime.transports[kind] = world.transports[kind];
  }
  world.rt = world.connect({...(kinds && {transports: kinds}), ...options});
  world.rt.on('identity', (who) => world.told.push(['identity', who && who.id]));
  world.rt.on('unauthorized', ({code}) => world.told.push(['unauthorized', code]));
  world.room = world.rt.room('lobby');
  world.room.on('*', (data) => world.got.push(data));
  for (const name of ['$reset', '$left']) {
    world.room.on(name, ({reason}) => world.told.push([name, reason]));
  }
  world.room.on('$rights', (rights) => world.told.push(['$rights', rights]));
  world.room.on('$failed', ({data, state}) => world.told.push([state, data]));
  world.asked = () => world.requests.filter(({url}) => url === '/token');
  world.site = (status, answer, headers) => world.asked().at(-1).answer(status, answer === undefined ? '' : answer, headers);
  world.hello = () => world.socket.sent.filter(({type}) => type === 'hello').at(-1);
  world.come = (id, more) => {
    world.socket.open();
    world.socket.answer('hello', welcome(id, more));
    world.socket.answer('join', JOINED);
  };
  world.refuse = (code) => {
    world.socket.open();
    world.socket.answer('hello', error(code));
  };
  world.advance(0);
  return world;
}

/** A page whose user has come with a token of a site. */
function loggedIn(id, more, storage) {
  const world = makePage({...SITE, ...more}, storage);
  world.site(200, {token: makeToken(id)});
  world.come(id);
  return world;
}

test('asks the site for a token with the cookies of the page, and says hello with it, without a name', () => {
  const world = makePage({...SITE, name: 'Support (staff)'});
  const [asked] = world.asked(), token = makeToken('u7');
  assert.deepEqual([asked.method, asked.withCredentials, asked.headers, world.sockets.length], ['GET', true, {}, 0]);
  world.site(200, {token});
  world.come('u7');
  assert.deepEqual([world.hello().token, 'name' in world.hello(), 'client' in world.hello()], [token, false, false]);
  assert.deepEqual([world.rt.state, world.rt.user, world.told], ['connected', user('u7'), [['identity', 'u7'], ['$rights', 'rw']]]);
  assert.equal(world.room.rights, 'rw');
});

test('takes a token from a function that returns it, promises it or calls back, and from a string', async () => {
  const token = makeToken('u7');
  for (const given of [token, () => token, async () => token, (callback) => { callback(null, token); }]) {
    const world = makePage({token: given});
    await turn();
    world.come('u7');
    assert.deepEqual([world.hello().token, world.rt.user.id, world.requests], [token, 'u7', []]);
  }
});

test('is a guest, with its name, if the site answers 204 or the function gives null', async () => {
  for (const options of [SITE, {token: async () => null}, {token: () => null}]) {
    const world = makePage({...options, name: 'Ann'});
    if (options === SITE) {
      world.site(204);
    }
    await turn();
    world.come('~u1');
    assert.deepEqual([world.hello().name, 'token' in world.hello(), world.told[0]], ['Ann', false, ['identity', '~u1']]);
    world.advance(100);
    assert.ok(world.asked().length <= 1, 'a guest has nothing to renew');
  }
});

test('ends with an event, and asks no more, if the site answers 401 or 403 or the function says so', async () => {
  const reject = (more) => async () => { throw Object.assign(new Error('no'), more); };
  for (const [options, status] of [[SITE, 401], [SITE, 403], [{token: reject({status: 401})}], [{token: reject({code: 'unauthorized'})}]]) {
    const world = makePage(options);
    if (status) {
      world.site(status, '<html>');
    }
    await turn();
    assert.deepEqual([world.told, world.rt.state], [[['unauthorized', 'unauthorized']], 'closed']);
    world.window.fire('focus');
    world.advance(1000);
    assert.deepEqual([world.asked().length, world.sockets.length], [status ? 1 : 0, 0]);
  }
});

test('asks again after a growing delay if the site fails, is silent, or answers something else', () => {
  for (const answer of [[500, ''], [502, '<html>'], [0, ''], [404, ''], [200, '<html>'], [200, {}], [200, {token: 7}], [200, 'null']]) {
    const world = makePage(SITE);
    world.random = 1;
    for (const wait of [1, 2, 4, 8, 16, 20, 20]) {
      world.site(...answer);
      assert.deepEqual([world.rt.state, world.states.at(-1).retryIn, world.states.at(-1).reason.code], ['connecting', wait, 'no_token'], answer);
      world.advance(wait);
    }
    assert.deepEqual([world.asked().length, world.told, world.sockets.length], [8, [], 0], answer);
  }
  const world = makePage(SITE);
  world.advance(15);
  assert.equal(world.states.at(-1).reason.code, 'no_token', 'silence');
  const slow = makePage(SITE);
  slow.site(503, '', {'Retry-After': '30'});
  assert.equal(slow.states.at(-1).retryIn, 30.75);
});

test('asks once at a time, whatever the page does meanwhile, and ignores an answer that comes too late', () => {
  const world = makePage(SITE), [asked] = world.asked();
  for (let count = 0; count < 5; count += 1) {
    world.window.fire('focus');
    world.rt.retry();
    world.rt.renew();
  }
  assert.equal(world.asked().length, 1);
  world.advance(16);
  asked.answer(200, {token: makeToken('late')});
  assert.deepEqual([world.asked().length, world.sockets.length], [2, 0]);
  world.site(200, {token: makeToken('u7')});
  world.come('u7');
  assert.deepEqual([world.rt.user.id, world.asked().length], ['u7', 2]);
});

test('asks nobody to reconnect: it says hello with its sealed client', () => {
  const world = loggedIn('u7'), first = world.sockets.length;
  for (let count = 0; count < 20; count += 1) {
    world.socket.drop({code: 1006});
    world.retry();
    world.come('u7');
    assert.deepEqual([world.hello().client, 'token' in world.hello(), 'name' in world.hello()], [welcome('u7').client, false, false]);
  }
  assert.deepEqual([world.asked().length, world.sockets.length], [1, first + 20]);
  assert.deepEqual(world.told, [['identity', 'u7'], ['$rights', 'rw']], 'nothing has changed');
});

test('tries all transports with one token', () => {
  const world = makePage({...SITE, transports: ['websocket', 'sse']}), token = makeToken('u7');
  world.site(200, {token});
  world.socket.open();
  world.socket.drop({unusable: true});
  world.come('u7');
  assert.deepEqual([world.sockets.length, world.hello().token, world.asked().length], [2, token, 1]);
});

test('renews its token after four fifths of its life, by the clock of the site, on the connection', () => {
  for (const [claims, more, ahead, expected] of [
    [{}, {}, 0, 800], [{}, {expires: 5}, 1e9, 800], [{iat: undefined}, {expires: 1e12 + 500e3}, 0, 400], [{iat: 99, exp: 100}, {}, 0, 8],
    [{exp: 1e10}, {}, 0, 800000], [{iat: undefined}, {expires: 5}, 0, 8]
  ]) {
    const world = makePage(SITE);
    world.ahead = ahead;
    world.site(200, {token: makeToken('u7', claims)});
    world.come('u7', more);
    world.socket.answer = ((answer) => function (type, reply) { return answer.call(this, type, reply); })(world.socket.answer);
    const silence = (seconds) => { // answers the pings of a time without messages
      for (let left = seconds; left > 0; left -= 5) {
        world.advance(Math.min(5, left));
        world.socket.message(1e6 - left);
      }
    };
    if (expected < 1000) {
      silence(expected - 0.5);
      assert.equal(world.asked().length, 1, JSON.stringify(claims));
      silence(0.5);
      assert.equal(world.asked().length, 2, JSON.stringify(claims));
      const token = makeToken('u7', {jti: 2});
      world.site(200, {token});
      assert.deepEqual(world.hello(), {type: 'hello', v: 1, token, id: world.hello().id});
      world.socket.answer('hello', welcome('u7', {client: 'sealed-2'}));
      assert.deepEqual([world.rt.state, world.sockets.length, world.asked().length], ['connected', 1, 2]);
      world.socket.drop({code: 1006});
      world.retry();
      world.socket.open();
      assert.equal(world.hello().client, 'sealed-2');
    } else {
      assert.ok([...world.clock.timers.values()].some(({at}) => at === 1e12 + expected * 1000), 'a browser counts 31 bits of milliseconds');
    }
  }
});

test('keeps its connection while the site fails, and asks it again until it answers', () => {
  const world = loggedIn('u7');
  world.random = 1;
  world.rt.renew();
  for (const wait of [2, 4, 8, 16, 20]) {
    world.site(500);
    world.advance(wait - 0.1);
    world.socket.message(100 + wait);
    const before = world.asked().length;
    world.advance(0.1);
    assert.equal(world.asked().length, before + 1);
  }
  world.socket.drop({code: 1006});
  world.site(500);
  world.retry();
  world.come('u7');
  assert.deepEqual([world.rt.state, world.hello().client], ['connected', welcome('u7').client], 'the client is valid, so the site is not needed');
});

test('ends if the site answers 401 to a renewal, as the visitor has logged out', () => {
  const world = loggedIn('u7');
  world.rt.renew();
  world.site(401);
  assert.deepEqual([world.rt.state, world.told.at(-1)], ['closed', ['unauthorized', 'unauthorized']]);
  assert.ok(!JSON.stringify(world.storage).includes('u7'), 'the next page of this tab is not that user');
});

test('warns once on the console that there is no token, with what was answered and what would be right', () => {
  const world = makePage(SITE), warned = [];
  world.window.console.warn = (text) => warned.push(text);
  for (let count = 0; count < 5; count += 1) {
    world.site(404, '<html>');
    world.advance(20);
  }
  assert.deepEqual(warned, ['No token: 404. Right is {"token": "…"}, or 204 for a guest.']);
});

test('drops all that it holds if another user has come: on a renewal, and as a guest', () => {
  for (const other of ['u8', '~u1']) {
    const world = loggedIn('u7'), first = world.socket;
    world.socket.message(6);
    world.socket.say({type: 'presence', room: 'lobby', count: 1, members: [user('u7')]});
    const sent = world.room.publish('sent'), page = world.room.history();
    world.rt.renew();
    world.site(other === 'u8' ? 200 : 204, other === 'u8' ? {token: makeToken('u8')} : '');
    if (other === 'u8') {
      world.socket.answer('hello', error('forbidden'));
    }
    assert.deepEqual([first.closed, sent.state, world.room.position, world.room.members.length, world.room.count, world.room.rights],
      ['left', 'unknown', null, 0, 0, null]);
    world.come(other);
    assert.deepEqual([world.hello().client, 'token' in world.hello()], [undefined, other === 'u8']);
    assert.equal('since' in world.socket.sent.find(({type}) => type === 'join'), false, 'it reads anew');
    assert.deepEqual(world.told.slice(2), [['unknown', 'sent'], ['$reset', 'identity'], ['$rights', null], ['identity', other], ['$rights', 'rw']]);
    assert.deepEqual([world.rt.user.id, world.asked().length], [other, 2]);
    assert.deepEqual(world.socket.sent.filter(({type}) => type === 'publish'), []);
    assert.ok(!JSON.stringify(world.storage).includes('u7'), 'nothing of the first user is stored');
    return assert.rejects(page, {code: 'closed'});
  }
});

test('drops what was written as one user if the next connection is of another', () => {
  const world = loggedIn('u7');
  world.socket.drop({code: 1006});
  const waiting = world.room.publish('written by u7');
  world.retry();
  world.come('u8');
  assert.deepEqual([waiting.state, world.room.position], ['failed', null]);
  assert.equal(world.rt.state, 'reconnecting');
  world.come('u8');
  assert.deepEqual([world.rt.state, world.socket.sent.filter(({type}) => type === 'publish')], ['connected', []]);
});

test('begins as a user if a guest logs in, without a message that was written as a guest', () => {
  const world = makePage(SITE);
  world.site(204);
  world.come('~u1');
  world.socket.drop({code: 1006});
  const waiting = world.room.publish('of a guest');
  world.rt.renew();
  world.retry();
  world.socket.open();
  world.socket.answer('hello', welcome('~u1'));
  world.socket.answer('join', {...JOINED, top: 'e:6'}); // so it doesn't publish yet
  assert.equal(world.asked().length, 2, 'the renewal that was asked for');
  world.site(200, {token: makeToken('u7')});
  world.come('u7');
  assert.deepEqual([world.rt.user.id, world.hello().client, waiting.state], ['u7', undefined, 'failed']);
});

test('a page that is loaded again asks the site, and is the same client if it is the same user', () => {
  const {storage} = loggedIn('u7');
  const same = makePage(SITE, {...storage});
  same.site(200, {token: makeToken('u7')});
  same.socket.open();
  assert.deepEqual([same.hello().client, same.hello().token], [welcome('u7').client, makeToken('u7')]);

  const other = makePage(SITE, {...storage});
  other.site(200, {token: makeToken('u8')});
  other.refuse('forbidden');
  other.come('u8');
  assert.deepEqual([other.hello().client, other.hello().token, other.asked().length, other.rt.state], [undefined, makeToken('u8'), 1, 'connected']);

  const guest = makePage(SITE, {...storage});
  guest.site(204);
  guest.come('~u1');
  assert.equal(guest.hello().client, undefined, 'who has logged out is not who was logged in');

  const before = makePage(SITE);
  before.site(204);
  before.come('~u1');
  const after = makePage(SITE, before.storage);
  after.site(200, {token: makeToken('u7')});
  after.come('u7');
  assert.equal(after.hello().client, undefined, 'a user is not the guest that it was');
});

test('renews its token when the server says that its client is expired: by an error, and by a goodbye', () => {
  for (const end of [
    (world) => world.socket.say({type: 'goodbye', close_code: 4004, code: 4004, reason: 'token_expired', reconnect: true, after: 0}),
    () => undefined
  ]) {
    const world = loggedIn('u7');
    end(world);
    world.socket.drop({code: 1006});
    world.advance(1);
    if (world.asked().length < 2) {
      world.refuse('token_expired');
      world.advance(2);
    }
    world.site(200, {token: makeToken('u7', {jti: 2})});
    world.socket.open();
    assert.deepEqual([world.hello().client, world.hello().token], [welcome('u7').client, makeToken('u7', {jti: 2})]);
    world.socket.answer('hello', welcome('u7', {client: 'sealed-2'}));
    world.socket.answer('join', JOINED);
    assert.deepEqual([world.rt.state, world.asked().length, world.told.length], ['connected', 2, 2], 'no event: it is the same user');
  }
});

test('says hello with the token alone if the server refuses the client beside it', () => {
  for (const code of ['unauthorized', 'token_expired', 'forbidden']) {
    const world = makePage(SITE, loggedIn('u7').storage);
    world.site(200, {token: makeToken('u7')});
    world.refuse(code);
    world.come('u7');
    assert.deepEqual([world.hello().client, world.rt.state, world.asked().length], [undefined, 'connected', 1], code);
  }
});

test('ends if the server refuses a token that was just given, and asks for another one if it is expired', () => {
  const world = makePage(SITE);
  world.site(200, {token: makeToken('u7')});
  world.refuse('unauthorized');
  assert.deepEqual([world.told, world.rt.state], [[['unauthorized', 'unauthorized']], 'closed']);

  const late = makePage(SITE);
  late.site(200, {token: makeToken('u7')});
  late.refuse('token_expired');
  assert.equal(late.rt.state, 'connecting');
  late.advance(1);
  late.site(200, {token: makeToken('u7', {jti: 2})});
  late.come('u7');
  assert.equal(late.rt.state, 'connected');

  const cached = makePage(SITE);
  cached.site(200, {token: makeToken('u7')});
  cached.refuse('token_expired');
  cached.advance(1);
  cached.site(200, {token: makeToken('u7')});
  cached.refuse('token_expired');
  assert.deepEqual([cached.told, cached.asked().length], [[['unauthorized', 'token_expired']], 2], 'the same one again is no better');

  const fixed = makePage({token: makeToken('u7')});
  fixed.come('u7');
  fixed.socket.drop({code: 1006});
  fixed.retry();
  fixed.refuse('token_expired');
  fixed.retry();
  fixed.refuse('token_expired');
  fixed.refuse('token_expired');
  fixed.retry();
  fixed.refuse('token_expired');
  assert.equal(fixed.rt.state, 'closed');
});

test('ends if a client that the page has given is refused, and replaces a stored one by a guest', () => {
  const given = makePage({client: 'mine'});
  given.refuse('unauthorized');
  assert.deepEqual([given.rt.state, given.told], ['closed', [['unauthorized', 'unauthorized']]]);
  const stored = makePage({name: 'Ann'}, loggedIn('u7').storage);
  assert.equal('name' in (stored.socket.open(), stored.hello()), false, 'a user has the name that its site gave');
  stored.socket.answer('hello', error('token_expired'));
  stored.advance(1);
  stored.come('~u1');
  assert.deepEqual([stored.hello().client, stored.hello().name], [undefined, 'Ann']);
});

test('a room that may be read no longer ends with an event, and its messages with it', () => {
  const world = loggedIn('u7'), waiting = world.room.publish('x');
  world.socket.say({type: 'left', room: 'lobby', reason: 'forbidden'});
  assert.deepEqual([world.told.slice(2), world.room.joined, waiting.state], [[['unknown', 'x'], ['$left', 'forbidden']], false, 'unknown']);
  world.socket.drop({code: 1006});
  world.retry();
  world.socket.open();
  assert.deepEqual(world.socket.sent.map(({type}) => type), ['hello'], 'it is not joined again by itself');
  world.rt.room('lobby');
  assert.equal(world.socket.sent.at(-1).type, 'join');
});

test('tells what it may do in a room whenever that changes', () => {
  const world = loggedIn('u7');
  world.socket.say({type: 'rights', room: 'lobby', rights: 'r'});
  assert.deepEqual([world.room.rights, world.told.at(-1)], ['r', ['$rights', 'r']]);
  world.socket.drop({code: 1006});
  world.retry();
  world.come('u7');
  assert.deepEqual([world.room.rights, world.told.at(-1)], ['rw', ['$rights', 'rw']]);
});

test('joins a room that was forbidden when a renewed token allows it', () => {
  const world = makePage(SITE);
  world.site(200, {token: makeToken('u7')});
  world.socket.open();
  world.socket.answer('hello', welcome('u7'));
  world.socket.answer('join', error('forbidden', {room: 'lobby'}));
  assert.deepEqual([world.rt.state, world.room.joined], ['connected', false]);
  world.rt.renew();
  world.site(200, {token: makeToken('u7', {jti: 2})});
  world.socket.answer('hello', welcome('u7', {client: 'sealed-2'}));
  world.socket.answer('join', JOINED);
  assert.equal(world.room.joined, true);
});

// Over HTTP

const REPLIES = {join: ({room}) => ({...JOINED, room}), leave: ({room}) => ({type: 'left', room}), ping: () => ({type: 'pong'})};

async function overHttp(kind, id, options) {
  const world = makePage({...SITE, ...options}, undefined, [kind]);
  world.open = (path) => world.requests.filter(({url, aborted, readyState}) => url.includes('/' + path) && !aborted && !readyState);
  world.commands = async (more) => {
    await turn();
    for (let [request] = world.open('commands'); request; [request] = world.open('commands')) {
      request.answer(200, request.body.map((command) => ({
        id: command.id, ...(command.type === 'hello' ? welcome(id, more) : REPLIES[command.type](command))
      })));
      await turn();
      world.advance(0);
    }
  };
  world.poll = async (events, client) => {
    world.open('poll')[0].answer(200, {client: client || welcome(id).client, events, presence: {lobby: 'v1'}});
    await turn();
    world.advance(0);
  };
  world.site(id.startsWith('~') ? 204 : 200, id.startsWith('~') ? '' : {token: makeToken(id)});
  world.advance(0);
  await world.commands();
  return world;
}

const isSecret = ({url}) => /client=|sealed-|token=|eyJ/.test(url);

test('puts no client and no token of a user into an address: headers have the client, streams the reader', async () => {
  for (const origin of ['http://example.com/page', 'http://other.example/page']) {
    for (const kind of ['poll', 'sse']) {
      const world = await overHttp(kind, 'u7');
      world.window.location.host = new URL(origin).host;
      if (kind === 'poll') {
        await world.poll([]);
        world.advance(1);
        assert.deepEqual(world.open('poll')[0].headers, {'Realtime-Client': welcome('u7').client});
      } else {
        assert.equal(new URL(world.streams[0].url).searchParams.get('reader'), 'reader-u7');
        world.streams[0].say(welcome('u7', {client: undefined}));
        world.streams[0].say({...JOINED, recovered: true});
      }
      assert.deepEqual([world.rt.state, world.room.rights], ['connected', 'rw']);
      world.room.publish(1);
      await turn();
      assert.deepEqual(world.open('commands')[0].headers, {'Realtime-Client': welcome('u7').client});
      assert.deepEqual([...world.requests, ...world.streams].filter(isSecret), []);
    }
  }
});

test('says hello first in the beacon of a user who closes the page, as a beacon has no headers', async () => {
  const world = await overHttp('poll', 'u7');
  await world.poll([]);
  world.rt.close();
  assert.deepEqual(world.beacons, [{url: 'http://example.com/chat/commands?', body: [
    {type: 'hello', client: welcome('u7').client}, {type: 'leave', room: 'lobby'}
  ]}]);
});

test('never uses scripts for a user, as their addresses would have the client', async () => {
  const world = makePage({...SITE, transports: ['jsonp']}, undefined, ['jsonp']);
  world.site(200, {token: makeToken('u7')});
  world.advance(0);
  assert.deepEqual([world.rt.state, world.states.at(-1).reason.code], ['connecting', 'unreachable']);
});

test('reads on after a renewal: the next poll has the new client, and a stream stays', async () => {
  const renewed = {client: 'sealed-2' + '-'.repeat(40), reader: 'reader-2'};
  for (const kind of ['poll', 'sse']) {
    const world = await overHttp(kind, 'u7');
    if (kind === 'poll') {
      await world.poll([]);
      world.advance(1);
    } else {
      world.streams[0].say(welcome('u7', {client: undefined}));
      world.streams[0].say(JOINED);
    }
    const [before] = world.open('poll');
    world.rt.renew();
    world.site(200, {token: makeToken('u7', {jti: 2})});
    await world.commands(renewed);
    if (kind === 'poll') {
      assert.equal(before.aborted, false, 'it may bring what the renewal has ended');
      await world.poll([{type: 'message', room: 'lobby', position: 'e:6', event: 'message', data: 6, from: user('u8')}]);
      assert.deepEqual(world.open('poll').map(({headers}) => headers), [{'Realtime-Client': renewed.client}]);
    } else {
      assert.deepEqual(world.streams.map(({closed}) => closed), [false]);
      world.rt.room('garden');
      await world.commands();
      assert.equal(new URL(world.streams.at(-1).url).searchParams.get('reader'), 'reader-2');
    }
    assert.deepEqual([world.rt.state, world.states.length, world.got], ['connected', 2, kind === 'poll' ? [6] : []]);
  }
});

test('ends a room whose next poll is forbidden, as if the server had ended it', async () => {
  const world = await overHttp('poll', 'u7');
  world.rt.room('garden');
  await world.commands();
  await world.poll([]);
  world.advance(1);
  world.open('poll')[0].answer(403, error('forbidden', {room: 'lobby'}));
  assert.deepEqual([world.told.at(-1), world.rt.state], [['$left', 'forbidden'], 'connected']);
  assert.deepEqual(world.open('poll').map(({query}) => query.getAll('room')), [['garden']]);
});

test('reads on without a room that it may read no longer, by polls and streams', async () => {
  const left = {type: 'left', room: 'lobby', reason: 'forbidden'};
  for (const kind of ['poll', 'sse']) {
    const world = await overHttp(kind, 'u7');
    world.rt.room('garden');
    await world.commands();
    if (kind === 'poll') {
      await world.poll([left]);
      assert.deepEqual(world.open('poll').map(({query}) => query.getAll('room')), [['garden']]);
    } else {
      world.streams.at(-1).say(welcome('u7', {client: undefined}));
      ['lobby', 'garden'].forEach((room) => world.streams.at(-1).say({...JOINED, room}));
      world.streams.at(-1).say(left);
    }
    assert.deepEqual(world.told.filter(([name]) => name === '$left'), [['$left', 'forbidden']]);
    assert.equal(world.rt.state, 'connected');
  }
});

test('learns from a poll what it may do, and that another tab has renewed the client of both', async () => {
  const world = await overHttp('poll', 'u7');
  await world.poll([]);
  world.advance(1);
  world.open('poll')[0].answer(200, {client: 'sealed-by-another-tab', events: [], presence: {}, rights: {lobby: 'r'}});
  await turn();
  assert.deepEqual([world.room.rights, world.told.at(-1), world.rt.state], ['r', ['$rights', 'r'], 'connected']);
});

test('renews its token when a poll says that its client is expired', async () => {
  const world = await overHttp('poll', 'u7');
  await world.poll([]);
  world.advance(1);
  world.open('poll')[0].answer(401, error('token_expired'));
  assert.equal(world.rt.state, 'reconnecting');
  world.advance(1);
  assert.equal(world.asked().length, 2);
  world.site(200, {token: makeToken('u7', {jti: 2})});
  world.advance(0);
  await world.commands();
  await world.poll([]);
  assert.deepEqual([world.rt.state, world.told.length], ['connected', 2]);
});

test('no longer says its name in addresses when its client holds it', async () => {
  const world = await overHttp('poll', '~u1', {name: 'Ann'});
  assert.ok(world.requests.some(({url}) => url.includes('name=Ann')), 'before it has a client');
  await world.poll([]);
  world.advance(1);
  assert.ok(!world.open('poll')[0].url.includes('name='));
});
