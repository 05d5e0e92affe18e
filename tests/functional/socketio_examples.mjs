// Uses one of the programs in examples/ with the official client, as its page would, and prints what came.
// Arguments: the folder of the packages, the name of the example, and the URL.

import { createRequire } from 'node:module';

const [modules, example, base] = process.argv.slice(2);
const io = createRequire(modules + '/')('socket.io-client');
const connect = (namespace, auth) => io(base.replace(/\/$/, '') + namespace, { forceNew: true, auth });
const once = (socket, event) => new Promise((resolve) => socket.once(event, (...args) => resolve(args)));
const ask = (socket, ...args) => new Promise((resolve) => socket.emit(...args, (...answer) => resolve(answer)));
const until = async (condition) => {
  while (!condition()) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
};
const several = (socket, event, count) =>
  new Promise((resolve) => {
    const got = [];
    socket.on(event, (data) => got.push(data) === count && resolve(got));
  });

const examples = {
  async label() {
    const [one, two] = [connect('/label'), connect('/label')];
    await Promise.all([once(one, 'server event'), once(two, 'server event')]);
    const got = once(two, 'update label');
    one.emit('client event', 'typed');
    return got;
  },
  async monitoring() {
    const refused = connect('/adminchannel', { token: 'guessed' });
    const [error] = await once(refused, 'connect_error');
    const [admin, visitor, other] = [connect('/adminchannel', { token: 'secret' }), connect('/'), connect('/')];
    let count = 0;
    other.on('adminBroadcast', () => count++);
    await Promise.all([admin, visitor, other].map((socket) => once(socket, 'connect')));
    const seen = once(admin, 'alertAdmin');
    visitor.emit('pageChange', { page: '/shoes' });
    const [{ page, socketID }] = await seen;
    const offered = once(visitor, 'adminBroadcast');
    await ask(admin, 'adminMessage', { socketID, text: '10 % off' });
    const [{ text }] = await offered;
    return [error.message, error.data, page, socketID === visitor.id, text, count];
  },
  async wsgi() {
    const socket = io(base, { path: '/socketio', auth: { key: 'open' } });
    const polled = await ask(socket, 'client event', 'typed');
    await until(() => socket.io.engine.transport.name === 'websocket');
    return [...polled, ...(await ask(socket, 'client event', 'again'))];
  },
  async rooms() {
    const socket = connect('/');
    const [joined] = await ask(socket, 'join', { room: 'lobby', last: 0 });
    const got = several(socket, 'message', 3);
    await ask(socket, 'publish', { room: 'lobby', data: { text: 'from Socket.IO' } });
    process.stdout.write('ready\n');
    return [joined.type, (await got).map(({ data }) => data.text)];
  },
};

process.stdout.write(JSON.stringify(await examples[example]()) + '\n');
process.exit();
