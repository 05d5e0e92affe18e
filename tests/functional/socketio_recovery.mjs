// Runs sockets of an official Socket.IO client. Each line of its input is a command in JSON; each line that it prints is
// what happened to one of them. Arguments: the folder of the packages, the package, and the URL.

import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const [modules, name, base] = process.argv.slice(2);
const io = createRequire(modules + '/')(name);
const url = base.replace(/\/$/, '');
const isOld = name.endsWith('-2');
const sockets = {};

const say = (socket, type, more = {}) => process.stdout.write(JSON.stringify({ socket, type, ...more }) + '\n');
const withAuth = (auth) => (isOld ? { query: { json: JSON.stringify(auth) } } : { auth });
const isBinary = (data) => data instanceof ArrayBuffer || ArrayBuffer.isView(data);

// A long text would only be read by the test to be thrown away: it is told by its length.
function shown(data) {
  if (typeof data === 'string' && data.length > 1000) return data.length;
  if (isBinary(data)) return { bytes: [...new Uint8Array(data.buffer ?? data, data.byteOffset ?? 0, data.byteLength)] };
  if (Array.isArray(data)) return data.map(shown);
  if (data === null || typeof data !== 'object') return data;
  return Object.fromEntries(Object.entries(data).map(([key, value]) => [key, shown(value)]));
}

const commands = {
  // Connects. "state" is what another socket knows of its session, or what is made up.
  open({ socket: label, namespace, auth, options, state }) {
    const own = { forceNew: true, reconnectionDelay: 50, reconnectionDelayMax: 200, ...withAuth(auth), ...options };
    const socket = (sockets[label] = io(url + namespace, own));
    Object.assign(socket, state);
    socket.on('connect', () =>
      say(label, 'connect', { id: socket.id, recovered: Boolean(socket.recovered), pid: socket._pid })
    );
    socket.on('disconnect', (reason) => say(label, 'disconnect', { reason }));
    socket.on('told', (number, data, position) => say(label, 'told', { number, data: shown(data), position }));
    socket.on('asked', (answer) => answer(label));
  },
  emit({ socket: label, args, id }) {
    sockets[label].emit(...args, (answer) => say(label, 'ack', { id, answer }));
  },
  // Loses the connection, and stays away until "connect".
  lose({ socket: label }) {
    sockets[label].io.reconnection(false);
    sockets[label].io.engine.close();
  },
  connect({ socket: label }) {
    sockets[label].io.reconnection(true);
    sockets[label].connect();
  },
  disconnect({ socket: label }) {
    sockets[label].disconnect();
  },
  // Writes numbered events until it is told to end, a few at a time. What was not acknowledged is not written again.
  stream({ socket: label, first, count, rows, window, pause }) {
    const socket = sockets[label];
    let [next, waiting] = [first, 0];
    const more = () => {
      for (; socket.connected && waiting < window && next < first + count && !socket.ended; next++, waiting++) {
        const number = next;
        say(label, 'written', { number });
        socket.emit('write', number, rows[number % rows.length], () => {
          say(label, 'stored', { number });
          waiting--;
          setTimeout(more, pause);
        });
      }
    };
    socket.on('connect', () => {
      waiting = 0;
      more();
    });
    more();
  },
  end({ socket: label }) {
    sockets[label].ended = true;
    say(label, 'ended');
  },
};

createInterface({ input: process.stdin }).on('line', (line) => {
  const command = JSON.parse(line);
  commands[command.type](command);
});
process.stdin.on('end', () => process.exit());
