/* Messages are stored once and in order, whatever happens to the connection and the server: node --test */
'use strict';

const test = require('node:test');
const assert = require('node:assert/strict');
const {makeWorld} = require('./fakes.js');
const {Server} = require('./server.js');
const cases = require('../retries.json');

// How many random interleavings of each kind there are: with SOAK=1 all.
const SEEDS = process.env.SOAK === '1' ? 400 : 100;
const FATES = {sent: 'stored', failed: 'failed', unknown: 'unknown'};

class Story {
  constructor(joined) {
    this.world = makeWorld();
    this.server = new Server(this.world);
    this.rt = this.world.connect();
    this.room = this.rt.room('lobby');
    this.entries = {};
    this.keys = [];
    this.server.refusal = joined ? null : 'forbidden';
    this.world.advance(0);
    this.settle();
  }

  step() {
    return this.server.arrive() || this.server.answer() || this.server.reply();
  }

  /** Lets everything through until nothing is left to do. */
  settle(most = 3000) {
    for (let passed = 0; passed < most;) {
      if (!this.step()) {
        if (!Object.values(this.entries).some((entry) => entry.state === 'pending') && this.rt.state === 'connected') {
          return;
        }
        this.world.advance(1);
        passed += 1;
      }
    }
  }

  publish(text) {
    this.entries[text] = this.room.publish(text);
  }

  // The steps of the table

  do([name, value]) {
    const {server, world} = this;
    const does = {
      publish: () => this.publish(value),
      arrive: () => server.arrive(),
      answer: () => { while (server.answer() || server.reply()) { /* all of them */ } },
      lose: () => server.lose(),
      renew: () => server.renew(),
      forget: () => server.forget(),
      trim: () => server.trim(value),
      wait: () => this.wait(value),
      offline: () => { server.isOffline = true; world.advance(value); server.isOffline = false; },
      strangers: () => { for (let n = 0; n < value; n += 1) { server.store('stranger', {key: `s${n}`, data: null}); } },
      stranger: () => server.store('stranger', {key: this.entries[value].key, data: null}),
      unreadable: () => {
        server.line.taken = server.line.socket.sent.length - Object.keys(this.entries).length + 1;
        while (server.arrive()) { /* what came behind it */ }
        server.line.replies = [];
        server.line.events = [{type: 'error', code: 'bad_request', message: '?', temporary: false}];
      },
      room: () => { server.refusal = value === 'away' ? 'store_unavailable' : null; },
      trouble: () => {
        if (value === 'away' || value === 'over') {
          server.isAway = value === 'away';
        } else {
          server.troubles.push(value);
        }
      }
    }[name];
    assert.ok(does, `there is no step ${name}`);
    does();
  }

  wait(seconds) {
    for (let passed = 0; passed < seconds; passed += 1) {
      while (this.step()) { /* everything */ }
      this.world.advance(1);
    }
  }

  stored() {
    return this.server.logs.flatMap((log) => log.messages).map((message) => message.data).filter((text) => text !== null);
  }

  /** Each message once, in the order of its sender, and what it is said to be. */
  check() {
    const stored = this.stored(), told = [];
    assert.equal(new Set(stored).size, stored.length, `stored twice: ${stored}`);
    for (const [text, entry] of Object.entries(this.entries)) {
      assert.notEqual(entry.state, 'pending', `${text} is pending for ever`);
      assert.ok(entry.state !== 'sent' || stored.includes(text), `${text} is said to be stored`);
      if (entry.state === 'sent') {
        const log = this.server.logs.find(({epoch}) => epoch === entry.position.split(':')[0]);
        assert.equal(log.messages[entry.position.split(':')[1] - 1].data, text, 'its position is another one');
        told.push(text);
      }
    }
    assert.deepEqual(stored.filter((text) => told.includes(text)), told, 'out of order');
  }
}

for (const {about, steps, log, fates} of cases) {
  test(about, () => {
    const story = new Story(true);
    steps.forEach((step) => story.do(step));
    story.settle();
    story.check();
    assert.deepEqual(story.stored(), log);
    assert.deepEqual(
      Object.fromEntries(Object.entries(story.entries).map(([text, {state}]) => [text, FATES[state] || state])), fates);
  });
}

/** A generator of random numbers, the same in each run (mulberry32). */
function generator(seed) {
  return () => {
    seed = (seed + 0x6D2B79F5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const MILD = [
  (story, n) => { for (let i = 0; i <= n % 4; i += 1) { story.publish(`m${Object.keys(story.entries).length}`); } },
  (story, n) => { for (let i = 0; i <= n % 6; i += 1) { story.step(); } },
  (story) => story.server.arrive(),
  (story) => story.server.answer(),
  (story) => story.server.reply(),
  (story) => story.server.lose(),
  (story, n) => story.world.advance(n % 30),
  (story, n) => story.server.trim(1 + n % 3),
  (story, n) => { for (let i = 0; i <= n % 3; i += 1) { story.server.troubles.push('store_unavailable'); } }
];
const HARSH = [
  ...MILD,
  (story, n) => story.server.troubles.push(n % 2 ? 'in_doubt' : 'in_doubt, stored'),
  (story) => story.server.troubles.push('internal'),
  (story) => story.server.forget(),
  (story, n) => story.world.advance(100 * (n % 4)),
  (story) => story.server.renew()
];

for (const [name, steps, joined] of [['mild', MILD, true], ['harsh', HARSH, true], ['without reading', HARSH.slice(0, -1), false]]) {
  test(`random interleavings, ${name}: each message once, in the order of its sender, or said to be unknown`, () => {
    for (let seed = 1; seed <= SEEDS; seed += 1) {
      const random = generator(seed), story = new Story(joined);
      story.world.random = random();
      for (let left = random() * 60; left > 0; left -= 1) {
        steps[Math.floor(random() * steps.length)](story, Math.floor(random() * 1000));
      }
      story.settle();
      try {
        story.check();
        if (name === 'mild') {
          assert.ok(Object.values(story.entries).every(({state, error}) =>
            state === 'sent' || error.code === 'queue_full'), 'given up');
        }
      } catch (error) {
        error.message = `seed ${seed}: ${error.message}`;
        throw error;
      }
    }
  });
}
