/*
 * A server without sockets, by the rules of docs/protocol.rst. A test decides when each command and event is delivered.
 * tests/client/fake.py is the same for the Python client. It has one room, lobby.
 *
 *   const server = new Server(world);       world is one of fakes.js
 *   server.arrive()                         delivers one command; returns whether there was one
 *   server.answer(), server.reply()         the same for an event, and for a reply to a publish, which may overtake events
 *   server.lose()                           loses the connection, with everything that is on its way
 */
'use strict';

const KEY_KEPT = 300e3;

exports.Server = class Server {
  constructor(world) {
    this.world = world;
    this.logs = [{epoch: 'e1', messages: [], oldest: 1}];
    this.keys = new Map();
    this.generation = 0;
    this.troubles = [];
    this.isAway = this.isOffline = false;
    this.refusal = null; // what a join is answered with
    this.lines = new Map();
  }

  get log() {
    return this.logs[this.logs.length - 1];
  }

  /** What is on its way on the connection that was made last. */
  get line() {
    const socket = this.world.socket;
    if (socket && !this.lines.has(socket)) {
      this.lines.set(socket, {socket, taken: 0, events: [], replies: [], cursor: null, user: null, isOpen: false});
    }
    return this.lines.get(socket);
  }

  arrive() {
    const line = this.line;
    if (!line || line.socket.closed || this.isOffline) {
      return false;
    }
    if (!line.isOpen) {
      line.isOpen = true;
      line.socket.open();
      return true;
    }
    const command = line.socket.sent[line.taken];
    if (command) {
      line.taken += 1;
      this.take(line, command);
    }
    return !!command;
  }

  answer() {
    return this.say('events');
  }

  reply() {
    return this.say('replies');
  }

  say(which) {
    const line = this.line, event = line && !line.socket.closed && line[which].shift();
    if (event) {
      line.socket.say(event);
    }
    return !!event;
  }

  lose() {
    if (this.line && !this.line.socket.closed) {
      this.line.socket.drop({code: 1006});
    }
  }

  take(line, command) {
    const does = {hello: 'greet', join: 'join', publish: 'publish', ping: 'pong'}[command.type];
    if (does) {
      this[does](line, command);
    }
  }

  greet(line, {id, client}) {
    const known = client && client.split('-')[1] === String(this.generation);
    line.user = known ? client : `c${this.lines.size}-${this.generation}`;
    line.events.push({type: 'welcome', id, client: line.user, user: {id: line.user, name: 'x', guest: true}});
  }

  join(line, {id, since}) {
    const log = this.log, [epoch, offset] = (since || '?:0').split(':');
    const isThere = epoch === log.epoch && offset >= log.oldest - 1 && offset <= log.messages.length;
    const start = isThere ? Number(offset) : Math.max(log.oldest - 1, log.messages.length - 2);
    if (this.refusal) {
      line.events.push({type: 'error', id, room: 'lobby', code: this.refusal, message: '?',
        temporary: this.refusal !== 'forbidden'});
      return;
    }
    line.events.push({type: 'joined', id, room: 'lobby', position: `${log.epoch}:${start}`,
      top: `${log.epoch}:${log.messages.length}`, recovered: isThere || !since, count: 1});
    line.cursor = start;
    this.announce();
  }

  pong(line, {id}) {
    line.events.push({type: 'pong', id});
  }

  publish(line, command) {
    const trouble = this.isAway ? 'store_unavailable' : this.troubles.shift();
    const refusal = (code) => ({type: 'error', id: command.id, code, message: '?', temporary: true});
    if (trouble === 'store_unavailable') {
      line.replies.push(refusal(trouble));
    } else {
      const position = trouble !== 'in_doubt' && this.store(line.user, command);
      line.replies.push(trouble ? refusal(trouble.split(',')[0]) : position ?
        {type: 'published', id: command.id, room: 'lobby', position} : refusal('out_of_order'));
    }
  }

  /** Stores a message once, and behind the one that it names; gives its position, or nothing. */
  store(user, {key, after, data}) {
    const log = this.log, name = `${user} ${key}`;
    if (!this.keys.has(name)) {
      if (after && !this.keys.has(`${user} ${after}`)) {
        return undefined;
      }
      const position = `${log.epoch}:${log.messages.length + 1}`;
      log.messages.push({type: 'message', room: 'lobby', position, event: 'message', data, at: 1, key,
        from: {id: user, name: 'x'}});
      this.keys.set(name, {position, at: this.world.clock.now});
      this.announce();
    }
    return this.keys.get(name).position;
  }

  announce() {
    const line = this.line, messages = this.log.messages;
    if (line && line.cursor !== null) {
      line.events.push(...messages.slice(line.cursor));
      line.cursor = messages.length;
    }
  }

  renew() {
    this.logs.push({epoch: `e${this.logs.length + 1}`, messages: [], oldest: 1});
    this.keys.clear();
    if (this.line && this.line.cursor !== null) {
      this.line.cursor = 0;
      this.line.events.push({type: 'reset', room: 'lobby', position: `${this.log.epoch}:0`});
    }
  }

  /** Forgets all but the last messages, and keys that are old and of none of those. */
  trim(keep) {
    const log = this.log;
    log.oldest = Math.max(log.oldest, log.messages.length - keep + 1);
    for (const [name, {position, at}] of this.keys) {
      if (Number(position.split(':')[1]) < log.oldest && this.world.clock.now - at >= KEY_KEPT) {
        this.keys.delete(name);
      }
    }
  }

  /** Whoever comes back is somebody else. */
  forget() {
    this.generation += 1;
  }
};
