// Uses a daemon with the official client, as a page would, and prints what came.
// Arguments: the folder of the packages, the name of what is used, and the URL.

import { createRequire } from 'node:module';

const [modules, example, base] = process.argv.slice(2);
const io = createRequire(modules + '/')('socket.io-client');
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
  async wsgi() {
    const socket = io(base, { path: '/socketio', auth: { key: 'open' } });
    const polled = await ask(socket, 'client event', 'typed');
    await until(() => socket.io.engine.transport.name === 'websocket');
    return [...polled, ...(await ask(socket, 'client event', 'again'))];
  },
  async rooms() {
    const socket = io(base);
    const [joined] = await ask(socket, 'join', { room: 'lobby', last: 0 });
    const got = several(socket, 'message', 3);
    await ask(socket, 'publish', { room: 'lobby', data: { text: 'from Socket.IO' } });
    process.stdout.write('ready\n');
    return [joined.type, (await got).map(({ data }) => data.text)];
  },
};

process.stdout.write(JSON.stringify(await examples[example]()) + '\n');
process.exit();
