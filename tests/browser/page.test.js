/* The page with arbitrary data of other users: node --test. SEED picks other values. */
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const {makeWorld} = require('./fakes.js');
const {makeChat} = require('./dom.js');

const SEED = Number(process.env.SEED || 20261127);

/** A generator of numbers from 0 up to 1, the same for the same seed (mulberry32). */
function makeRandom(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6D2B79F5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

const PIECES = [
  'http://', 'https://a.example/', 'HTTP://a', 'mailto:', 'mailto:a@b', 'javascript:alert(1)', 'data:,', 'a', ' ', '\n', '@', '/', '?', '#',
  '(', ')', '[', ']', '{', '}', '.', ',', '…', '*', '_', '<', '>', '"', '\'', '&amp;', '%', '%zz', '%E0%A4%A', '\\', '\u0000', '\u001b[31m', '\u007f',
  '\u200b', '\u200e', '\u200f', '\u202a', '\u202e', '\u2066', '\u2069', '\u2028', '\ufeff', '\ud800', '\udc00', '\ud83d\ude00', 'e\u0301',
  '\u0335'.repeat(50), 'שלום', 'مرحبا', '__proto__', 'constructor', 'toString', 'hasOwnProperty', '$', '$$', '-', '0', 'NaN', 'null', 'undefined'
];
const NAMES = ['text', '__proto__', 'constructor', 'toString', 'valueOf', 'toJSON', 'length', 'then', '', 'away', 'id', 'name'];
const NUMBERS = [0, -1, 1, 1e21, 1e308, -1e308, 8.64e15, 8.64e15 + 1, -8.64e15 - 1, 2 ** 53, 0.1, 1795228664123];

class Strange {
  constructor(seed) {
    this.random = makeRandom(seed);
  }

  below(count) {
    return Math.floor(this.random() * count);
  }

  oneOf(values) {
    return values[this.below(values.length)];
  }

  text() {
    const piece = () => this.oneOf(PIECES).repeat(this.below(20) ? 1 : 1 + this.below(2000));
    return Array.from({length: this.below(12)}, piece).join('');
  }

  value(depth) {
    const left = depth === undefined ? 4 : depth;
    switch (this.below(left ? 8 : 5)) {
    case 0:
      return this.oneOf([null, true, false]);
    case 1:
      return this.oneOf(NUMBERS);
    case 5:
      return Array.from({length: this.below(5)}, () => this.value(left - 1));
    case 6:
    case 7:
      return this.object(left - 1);
    default:
      return this.text();
    }
  }

  // Through JSON, as data comes from the server: `__proto__` is a key like any other then.
  object(depth) {
    const pairs = Array.from({length: this.below(5)}, () => [this.oneOf(NAMES), this.value(depth)]);
    return JSON.parse('{' + pairs.map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`).join() + '}');
  }

  from() {
    return this.below(6) ? {id: this.below(3) ? this.text() : this.value(), name: this.below(3) ? this.text() : this.value()} : null;
  }

  message() {
    return {
      event: this.below(3) ? 'message' : this.text() || 'x', data: this.value(), from: this.from(),
      at: this.below(3) ? this.oneOf(NUMBERS) : this.value(), key: this.below(3) ? this.text() : undefined
    };
  }
}

/** A conversation on the page, over the real library and a fake socket. */
function makeConversation(read) {
  const world = makeWorld(), {Chat, makeNode} = makeChat(world.clock, {}), told = {failed: 0};
  const noop = () => undefined;
  const page = {
    isSeen: () => true, grew: noop, changed: noop, peopleChanged: noop, typingChanged: noop, rightsChanged: noop, cleared: noop, refused: () => { told.failed += 1; },
    earlierWanted: noop
  };
  const rt = world.connect(), conversation = new Chat.Conversation('lobby', read || null, page);
  conversation.open(rt);
  world.advance(0);
  world.socket.welcome('lobby');
  return {world, Chat, makeNode, rt, conversation, told};
}

const isShown = (message) => message.event === 'message' && message.data !== null;
const shownMessages = (conversation) => conversation.log.items.filter((item) => item.message);
const textOf = (item) => item.node.childNodes.filter((child) => child.className === 'text').map((child) => child.textContent).join();

test('shows every message, and every text as it is', () => {
  const {world, conversation} = makeConversation(), strange = new Strange(SEED);
  let shown = 0;
  for (let offset = 1; offset <= 900; offset += 1) {
    const message = strange.message();
    world.socket.message(offset, message);
    world.advance(0); // where what a listener throws comes out
    shown += isShown(message) ? 1 : 0;
    const items = shownMessages(conversation), data = message.data;
    assert.equal(items.length, shown, JSON.stringify(message));
    if (isShown(message)) {
      const text = typeof data === 'string' ? data : Object.hasOwn(data, 'text') && data.text;
      assert.equal(textOf(items[shown - 1]), typeof text === 'string' ? text : JSON.stringify(data));
    }
  }
  assert.equal(shown > 300, true);
});

test('shows every page of earlier messages', () => {
  const {conversation} = makeConversation(), strange = new Strange(SEED + 1);
  let shown = 0;
  for (let offset = 2000; offset > 0; offset -= 50) {
    const messages = Array.from({length: 50}, (_, index) => ({position: 'e:' + (offset - 49 + index), ...strange.message()}));
    conversation.earlierLoaded(null, {messages, more: true});
    shown += messages.filter(isShown).length;
    assert.equal(shownMessages(conversation).length, shown);
  }
});

test('shows a message that can not be shown as usual as plain text, and the others as usual', () => {
  const {conversation, Chat} = makeConversation(), write = Chat.text.writeWithLinks;
  let deep = 1;
  for (let level = 0; level < 100000; level += 1) {
    deep = [deep];
  }
  Chat.text.writeWithLinks = (node, text) => {
    if (text === 'bad http://a/') {
      throw new Error('can not be shown');
    }
    write(node, text);
  };
  const from = {id: 'u', name: 'n'}, texts = [{text: 'a'}, {text: 'bad http://a/'}, deep, {text: 'b'}];
  conversation.earlierLoaded(null, {messages: texts.map((data, index) => ({position: 'e:' + (index + 1), event: 'message', data, from, at: 1}))});
  assert.deepEqual(shownMessages(conversation).map(textOf), ['a', 'bad http://a/', '…', 'b']);
});

test('shows members and who is typing, with any names and states', () => {
  const {world, Chat, makeNode, rt, conversation} = makeConversation(), strange = new Strange(SEED + 2);
  const node = {title: makeNode(), count: makeNode(), list: makeNode(), all: makeNode()}, people = new Chat.People(node), line = makeNode();
  for (let round = 0; round < 300; round += 1) {
    const members = Array.from({length: strange.below(6)}, (_, index) => (
      {id: strange.text() + index, name: strange.below(3) ? strange.text() : strange.value(), guest: strange.below(2) === 0, state: strange.value()}));
    world.socket.say({type: 'presence', room: 'lobby', count: members.length, members});
    world.socket.say({type: 'signal', room: 'lobby', event: strange.below(4) ? 'typing' : strange.text(), data: strange.value(), from: strange.from(), at: 1});
    people.draw(conversation.room, rt.user);
    conversation.typing.write(line);
    world.advance(strange.below(3));
    assert.equal(node.list.childNodes.length, members.length);
    assert.deepEqual(node.list.all('bdi').map((name) => name.textContent).sort(),
      members.map((member) => (typeof member.name === 'string' ? member.name : JSON.stringify(member.name))).sort());
  }
});

test('lists and stores rooms, whatever a proxy or another script has put there', () => {
  const strange = new Strange(SEED + 3), clock = makeWorld().clock;
  for (let round = 0; round < 300; round += 1) {
    const stored = {'realtime-rooms': JSON.stringify(strange.below(2) ? strange.value() : [
      {name: strange.oneOf(NAMES), read: strange.value()}, {name: 'lobby', read: 'e:1'}, strange.value()])};
    const {Chat} = makeChat(clock, stored);
    Chat.storage.rooms().forEach((entry) => {
      assert.equal(Chat.text.isRoom(entry.name), true);
      Chat.positions.isAfter('e:2', entry.read);
    });
    assert.equal(typeof Chat.text.isRoom(strange.value()), 'boolean');
    assert.equal(Chat.text.cleanName(strange.text()).length <= 64, true);
  }
});

// Where a link ends, in a simple implementation that is only fast enough for short texts.
function endOf(link) {
  const last = link.slice(-1), opening = {')': '(', ']': '[', '}': '{'}[last], count = (text) => link.split(text).length - 1;
  return !/[.,;:!?…)\]}*_]$/.test(link) || (opening && count(opening) >= count(last)) ? link : endOf(link.slice(0, -1));
}

test('ends links where people expect it', () => {
  const {Chat, makeNode} = makeConversation(), strange = new Strange(SEED + 4);
  for (let round = 0; round < 5000; round += 1) {
    const link = 'http://a/' + Array.from({length: strange.below(14)}, () => strange.oneOf(['(', ')', '[', ']', '{', '}', '.', '…', '*', 'x'])).join('');
    const node = makeNode();
    Chat.text.writeWithLinks(node, link);
    assert.deepEqual([node.all('a').map((made) => made.textContent), node.textContent], [[endOf(link)], link]);
  }
});

const LONG = {
  'closing brackets': (n) => 'http://a/' + ')'.repeat(n),
  'brackets of all kinds': (n) => 'http://a/' + '([{'.repeat(n / 6) + ')]}'.repeat(n / 6),
  'closing before opening': (n) => 'http://a/' + ')('.repeat(n / 2) + ')'.repeat(n / 2),
  'full stops': (n) => 'http://a/' + '.'.repeat(n),
  'stars': (n) => 'http://a/' + '*_'.repeat(n / 2),
  'beginnings': (n) => 'http://'.repeat(n / 7),
  'addresses': (n) => 'mailto:a '.repeat(n / 9),
  'links': (n) => 'http://a/) '.repeat(n / 11),
  'ats': (n) => 'mailto:' + 'a@'.repeat(n / 2),
  'spaces': (n) => ' '.repeat(n) + 'x',
  'halves of pairs': (n) => '\ud800'.repeat(n),
  'marks': (n) => '\u202e\u0335'.repeat(n / 2),
  'no text': (n) => ({list: Array.from({length: n / 10}, () => '(')})
};

/** The least time of several runs, in milliseconds of this process's own work: a busy machine adds nothing to it. */
function leastWork(action) {
  return Math.min(...Array.from({length: 7}, () => {
    const begun = process.cpuUsage();
    action();
    const {user, system} = process.cpuUsage(begun);
    return (user + system) / 1e3;
  }));
}

test('takes a time that is linear in the length of the text', () => {
  const {Chat, makeNode} = makeConversation();
  Object.entries(LONG).forEach(([name, make]) => {
    const [short, long] = [15000, 60000].map((length) => {
      const data = make(length);
      return leastWork(() => {
        const text = Chat.text.textOf(data), node = makeNode();
        Chat.text.writeWithLinks(node, text);
        Chat.text.cleanName(text);
        Chat.text.colourOf(text);
      });
    });
    // The text is four times as long: quadratic code takes sixteen times as long. A millisecond is not noticed.
    assert.equal(long < 9 * Math.max(short, 1), true, `${name}: ${short} ms, and ${long} ms for four times as much`);
  });
});

test('makes a bounded number of elements for a text', () => {
  const {Chat, makeNode} = makeConversation(), node = makeNode(), text = 'http://a/ '.repeat(6500);
  Chat.text.writeWithLinks(node, text);
  assert.equal(node.all('a').length, 200);
  assert.equal(node.textContent, text);
});

/** A pane that shows a conversation of 1000 pixels, of which it has 400 in sight, at its end. */
function makePane() {
  const {Chat, makeNode} = makeChat(makeWorld().clock, {}), node = makeNode(), noop = () => undefined;
  let top = 0;
  Object.defineProperty(node, 'scrollTop', {get: () => top, set: (to) => { top = Math.min(to, node.scrollHeight - node.clientHeight); }});
  Object.assign(node, {scrollHeight: 1000, clientHeight: 400});
  const pane = new Chat.Pane(node, makeNode(), {reachedEnd: noop});
  const conversation = {node: makeNode(), log: {}, following: true, unread: 0, scrollTop: 0, loadEarlier: noop};
  pane.show(conversation);
  return {pane, node, conversation};
}

test('follows the end when a banner comes before the event of an earlier scroll', () => {
  const {pane, node} = makePane();
  node.clientHeight = 320;
  node.onscroll();
  pane.followEnd();
  assert.equal(node.scrollTop, 680);
});

test('leaves a reader alone who scrolls up, also while a banner comes or messages do', () => {
  for (const [visible, height] of [[400, 1000], [320, 1000], [400, 1500]]) {
    const {pane, node, conversation} = makePane();
    Object.assign(node, {scrollTop: 500, scrollHeight: height, clientHeight: visible});
    node.onscroll();
    pane.grew(conversation);
    assert.equal(node.scrollTop, 500);
  }
});

test('leaves a reader alone who scrolls up once more', () => {
  const {pane, node, conversation} = makePane();
  node.scrollTop = 300;
  node.onscroll();
  node.scrollHeight = 1500;
  pane.grew(conversation);
  for (const [top, follows] of [[1100, true], [800, false]]) {
    node.scrollTop = top;
    node.onscroll();
    assert.equal(conversation.following, follows);
  }
  pane.followEnd();
  assert.equal(node.scrollTop, 800);
});

test('keeps a bounded number of messages, also if the reader has scrolled up', () => {
  const {world, conversation} = makeConversation();
  conversation.following = false;
  for (let offset = 1; offset <= 5100; offset += 1) {
    world.socket.message(offset);
  }
  assert.equal(conversation.log.items.length <= 5000, true);
  assert.equal(conversation.log.list.childNodes.length <= 5100, true);
});

test('keeps a room that can not be read for a while, and forgets one that is refused', () => {
  for (const [code, temporary, expected] of [['store_unavailable', true, 0], ['too_many', true, 1], ['forbidden', false, 1]]) {
    const {world, told, conversation} = makeConversation();
    world.socket.drop({code: 1006});
    world.retry();
    world.socket.open();
    world.socket.answer('hello', {type: 'welcome', client: 'c', user: {id: 'u1', name: 'Ann', guest: true}});
    world.socket.answer('join', {type: 'error', code, message: 'no', temporary});
    world.advance(0);
    assert.equal(told.failed, expected, code);
    assert.equal(conversation.room.joined, false);
  }
});
