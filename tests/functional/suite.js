/*
 * What realtime.js promises a page, on whatever transport. runSuite({url, transports, switching, deadline}) gives what was wrong,
 * one line for each test that failed, and nothing where all is well.
 *
 * The daemon keeps 50 messages a room. With `switching` the clients move over to the next transport before every step.
 */
/* global Realtime */
'use strict';

const Intrinsic = (async () => {})().constructor; // also where window.Promise was deleted
let deadline = 60; // seconds after which a condition isn't waited for any longer
const sleep = (seconds) => new Intrinsic((resolve) => setTimeout(resolve, seconds * 1000));

async function until(condition, what, seconds) {
  const end = Date.now() + (seconds || deadline) * 1000;
  while (!condition()) {
    if (Date.now() > end) {
      throw new Error('not in time: ' + (typeof what === 'function' ? what() : what));
    }
    await sleep(0.01);
  }
}

function same(found, expected, what) {
  if (JSON.stringify(found) !== JSON.stringify(expected)) {
    throw new Error(what + ': ' + JSON.stringify(found) + ' instead of ' + JSON.stringify(expected));
  }
}

const numbers = (from, to) => Array.from({length: to - from + 1}, (_, index) => from + index);

class Suite {
  constructor(options) {
    this.options = options;
    this.clients = [];
    this.turn = 0;
  }

  /** A client in a room, with what it was told. */
  client(name, room, options) {
    const rt = Realtime.connect(this.options.url, {
      name, transports: this.options.transports || undefined, storage: false
    });
    const got = {rt, texts: [], messages: [], signals: [], joined: [], presence: [], gaps: [], states: [], failed: []};
    got.room = rt.room(room, options);
    got.room.on('message', (data, message) => { got.texts.push(data); got.messages.push(message); });
    got.room.on('typing', (data, message) => got.signals.push([data, message.signal, message.from.name, message.own]));
    got.room.on('$joined', (joined) => got.joined.push(joined));
    got.room.on('$presence', (presence) => got.presence.push(presence));
    got.room.on('$reset', (gap) => got.gaps.push(gap));
    got.room.on('$failed', (entry) => got.failed.push(entry));
    rt.on('$state', (state) => {
      got.states.push(state);
      if (state.transport && window.used.indexOf(state.transport) < 0) {
        window.used.push(state.transport);
      }
    });
    rt.on('$error', (error) => got.failed.push(error));
    this.clients.push(got);
    return got;
  }

  async joined(...clients) {
    for (const {room, states} of clients) {
      await until(() => room.joined, () => `${room.name} was not joined: ${JSON.stringify(states)}`);
    }
  }

  async step(...clients) {
    const {switching, transports} = this.options;
    if (!switching) {
      return;
    }
    for (const {rt} of clients) {
      const kind = transports[(this.turn += 1) % transports.length];
      rt.attempt(transports.indexOf(kind));
      await until(() => rt.transport === kind, `moving over to ${kind}`);
    }
  }

  async has(client, expected) {
    await until(() => client.texts.length >= expected.length,
      () => `only ${JSON.stringify(client.texts)} of ${JSON.stringify(expected)}`);
    same(client.texts, expected, 'messages');
  }

  publish(client, data) {
    return new Intrinsic((resolve, reject) => {
      client.room.publish(data, (error, result) => (error ? reject(new Error(error.message)) : resolve(result)));
    });
  }

  end() {
    this.clients.splice(0).forEach(({rt}) => rt.close());
  }
}

const TESTS = {
  async join(suite, name) {
    const ann = suite.client('Ann', name);
    await suite.joined(ann);
    same([ann.rt.state, ann.rt.user.name, ann.rt.user.guest], ['connected', 'Ann', true], 'who one is');
    same(ann.joined[0].recovered, true, 'recovered');
    const other = ann.rt.room(name);
    same([other.joined, other.position, other.count], [true, ann.room.position, 1], 'the same room');
    same(ann.states.map((s) => s.state), ['connecting', 'connected'], 'states');
  },

  async publish(suite, name) {
    const ann = suite.client('Ann', name), bob = suite.client('Bob', name), labels = [], all = [];
    await suite.joined(ann, bob);
    bob.room.on('label', (data, message) => labels.push([data, message.event, message.from.name, message.own]));
    bob.room.on('*', (data) => all.push(data));
    await suite.step(ann, bob);
    const {position, key} = await suite.publish(ann, {text: 'hi'});
    await suite.has(bob, [{text: 'hi'}]);
    await suite.has(ann, [{text: 'hi'}]);
    same([position, key, false], [bob.messages[0].position, bob.messages[0].key, bob.messages[0].own], 'where it is');
    same([ann.messages[0].own, typeof ann.messages[0].at], [true, 'number'], 'own');
    await suite.step(ann, bob);
    ann.room.publish('label', {x: 1});
    await until(() => labels.length === 1, 'the label');
    same(labels[0], [{x: 1}, 'label', 'Ann', false], 'the label');
    same(all, [{text: 'hi'}, {x: 1}], 'everything');
    same(bob.texts.length, 1, 'messages of that name alone');
  },

  async order(suite, name) {
    const ann = suite.client('Ann', name), bob = suite.client('Bob', name), sent = [];
    await suite.joined(ann, bob);
    for (let number = 1; number <= 24; number += 1) {
      await suite.step(ann, bob);
      const speaker = number % 3 ? ann : bob;
      await suite.publish(speaker, number);
      sent.push(number);
      if (number % 6 === 0) {
        await suite.has(bob, sent);
      }
    }
    await suite.has(ann, sent);
    await suite.has(bob, sent);
    numbers(101, 140).forEach((number) => ann.room.publish(number));
    await suite.step(ann, bob);
    await suite.has(bob, sent.concat(numbers(101, 140)));
    await suite.has(ann, sent.concat(numbers(101, 140)));
    same([ann.failed, bob.failed, ann.gaps, bob.gaps], [[], [], [], []], 'what went wrong');
  },

  async resume(suite, name) {
    const ann = suite.client('Ann', name), bob = suite.client('Bob', name);
    await suite.joined(ann, bob);
    await suite.publish(bob, 1);
    await suite.has(ann, [1]);
    ann.rt._drop();
    same([ann.room.joined, ann.room.signal('typing')], [false, false], 'while away');
    for (const number of [2, 3, 4]) {
      await suite.publish(bob, number);
    }
    ann.room.publish(5);
    ann.rt.retry();
    await suite.has(ann, [1, 2, 3, 4, 5]);
    await suite.has(bob, [1, 2, 3, 4, 5]);
    same([ann.gaps.length, ann.joined.pop().recovered], [0, true], 'gaps');
  },

  async gap(suite, name) {
    const ann = suite.client('Ann', name), bob = suite.client('Bob', name);
    await suite.joined(ann, bob);
    await suite.publish(bob, 0);
    await suite.has(ann, [0]);
    ann.rt._drop();
    for (let from = 1; from <= 120; from += 30) { // more than the room keeps
      await Intrinsic.all(numbers(from, from + 29).map((number) => suite.publish(bob, number)));
    }
    ann.rt.retry();
    await until(() => ann.texts.indexOf(120) > 0, () => `the last one; but ${ann.texts}`);
    same([ann.gaps.length, ann.gaps[0].recovered], [1, false], 'gaps');
    const rest = ann.texts.slice(1);
    same(rest, numbers(rest[0], 120), 'what is kept');
    same(rest[0] > 1, true, 'that something is missing');
  },

  async offline(suite, name) {
    const ann = suite.client('Ann', name), bob = suite.client('Bob', name);
    await suite.joined(ann, bob);
    ann.rt._drop();
    const entries = numbers(1, 101).map((number) => ann.room.publish(number));
    await until(() => ann.failed.length, 'one too many');
    same([entries[0].state, entries[100].state, entries[100].error.code, entries[100].error.temporary],
      ['pending', 'failed', 'queue_full', true], 'the queue');
    ann.rt.retry();
    await suite.has(bob, numbers(1, 100));
    await until(() => entries[99].state === 'sent', 'the last one');
    same(ann.failed.length, 1, 'failures');
  },

  async presence(suite, name) {
    const ann = suite.client('Ann', name);
    const names = () => ann.room.members.map((member) => member.name + JSON.stringify(member.state)).sort().join();
    await until(() => names() === 'Ann{}', names);
    const bob = suite.client('Bob', name);
    await until(() => names() === 'Ann{},Bob{}', names);
    await suite.step(ann, bob);
    bob.rt.setState({page: '/help'});
    await until(() => names() === 'Ann{},Bob{"page":"/help"}', names);
    same([ann.room.count, ann.room.membersKnown], [2, true], 'count');
    await suite.step(ann, bob);
    ann.presence = [];
    bob.room.leave();
    await until(() => names() === 'Ann{}', names);
    same(ann.presence.pop().left.map((member) => member.name), ['Bob'], 'who left');
    same(ann.room.count, 1, 'count');
  },

  async signals(suite, name) {
    const ann = suite.client('Ann', name), bob = suite.client('Bob', name);
    await suite.joined(ann, bob);
    await until(() => ann.room.count === 2 && bob.room.count === 2, 'both');
    for (let number = 0; number < 4; number += 1) {
      await suite.step(ann, bob);
      await until(() => ann.room.count === 2 && ann.room.joined && bob.room.joined, 'both');
      // One is for who is there at that moment, which between two transports may be nobody: then the next one counts.
      const tries = suite.options.switching ? 10 : 1;
      for (let attempt = 0; attempt < tries && ann.signals.length === number; attempt += 1) {
        same(bob.room.signal('typing', number), true, 'that it was sent');
        await until(() => ann.signals.length > number, `signal ${number}`, deadline / tries).catch((error) => {
          if (attempt + 1 === tries) {
            throw error;
          }
        });
      }
    }
    same(ann.signals, numbers(0, 3).map((number) => [number, true, 'Bob', false]), 'signals');
    same([bob.signals, ann.texts, ann.room.position], [[], [], bob.room.position], 'nothing else');
  },

  async history(suite, name) {
    const ann = suite.client('Ann', name, {last: 5}), pages = [];
    await suite.joined(ann);
    await Intrinsic.all(numbers(1, 30).map((number) => suite.publish(ann, number)));
    const late = suite.client('Bob', name, {last: 5});
    await suite.has(late, numbers(26, 30));
    await suite.step(late);
    let before = late.messages[0].position, page;
    const read = (options) => new Intrinsic((resolve, reject) => {
      late.room.history(options, (error, result) => (error ? reject(new Error(error.message)) : resolve(result)));
    });
    do {
      page = await read({before, limit: 10});
      pages.push(page.messages.map((message) => message.data));
      before = page.messages.length ? page.messages[0].position : before;
    } while (page.more);
    same(pages, [numbers(16, 25), numbers(6, 15), numbers(1, 5)], 'pages');
    const members = await new Intrinsic((resolve) => late.room.loadMembers((error, all) => resolve(error || all)));
    same(members.map((member) => member.name).sort(), ['Ann', 'Bob'], 'members');
    same(await read({before: 'nonsense'}).catch((error) => error.message.length > 0), true, 'an error');
  },

  async leaving(suite, name) {
    const ann = suite.client('Ann', name), bob = suite.client('Bob', name), again = [];
    await suite.joined(ann, bob);
    await suite.publish(bob, 1);
    await suite.has(ann, [1]);
    ann.room.leave();
    ann.rt.room(name).on('message', (data) => again.push(data));
    await suite.publish(bob, 2);
    await until(() => again.length === 2, () => `the room from its beginning, but ${again}`);
    same([again, ann.texts], [[1, 2], [1]], 'messages');
    const entry = ann.room.publish('too late');
    await until(() => entry.state === 'failed', 'a refusal');
    same(entry.error.code, 'closed', 'why');
  },

  async users(suite, name) {
    const ann = suite.client('Ann', name), bob = suite.client('Bob', name), second = ann.rt.room(name), heard = [];
    second.on('message', (data) => heard.push(data));
    await suite.joined(ann, bob);
    await until(() => bob.room.count === 2, 'both');
    ann.room.leave();
    ann.room.leave();
    await suite.step(ann, bob);
    await suite.publish(bob, 1);
    await until(() => heard.length === 1, 'a message for the one that is left');
    const entry = ann.room.publish('too late');
    await until(() => entry.state === 'failed', 'a refusal');
    same([entry.error.code, ann.room.joined, second.joined], ['closed', false, true], 'who left');
    same([ann.texts, heard, bob.room.count, ann.failed.length], [[], [1], 2, 1], 'messages');
    await suite.publish({rt: ann.rt, room: second}, 2);
    await until(() => heard.length === 2, 'its own message');
    second.leave();
    await until(() => bob.room.count === 1, 'the last one to leave');
    same([heard, second.joined], [[1, 2], false], 'after that');
  },

  async refusals(suite, name) {
    const ann = suite.client('Ann', name), errors = [];
    await suite.joined(ann);
    ann.rt.room('no room').on('$error', (error) => errors.push(error));
    await until(() => errors.length && ann.failed.length, 'an error');
    same([errors[0].code, errors[0].temporary, errors[0].room], ['bad_room', false, 'no room'], 'the error');
    const entry = ann.room.publish('$ours', 1), big = ann.room.publish({text: new Array(70000).join('x')});
    await until(() => entry.state === 'failed' && big.state === 'failed', 'two refusals');
    same([entry.error.code, big.error.code], ['bad_request', 'too_large'], 'why');
    same([errors[0], ...ann.failed, entry.error, big.error].filter((error) => !(
      error.error || error instanceof Error && error.message.length > 9 && error.code && error.stack)), [], 'no errors');
    await suite.publish(ann, 'after');
    await suite.has(ann, ['after']);
  }
};

window.used = [];

window.runSuite = async (options) => {
  const wrong = [], suite = new Suite(options);
  deadline = options.deadline;
  for (const name of Object.keys(TESTS)) {
    const begun = Date.now();
    try {
      await TESTS[name](suite, 'suite-' + name + Math.random().toString(36).slice(2));
    } catch (error) {
      const told = suite.clients.map(({rt, states, failed}) => [rt.transport, states.slice(-4), failed]);
      wrong.push(`${name}: ${error.message} (${Date.now() - begun} ms) ${JSON.stringify(told)}`);
    }
    suite.end();
    window.took = (window.took || []).concat(name + ' ' + (Date.now() - begun));
  }
  return wrong;
};
