// An official Engine.IO client from npm, which sends numbered messages and prints what comes, a line of JSON each.
// Arguments: the folder of the packages, the package, the URL, the client's options, how many messages to send, and the
// milliseconds between two of them. A line on the standard input closes the client.

import { createRequire } from 'node:module';

const [modules, name, url, options, count, pause] = process.argv.slice(2);
const client = createRequire(modules + '/')(name);
const socket = name.endsWith('-3') ? client(url, JSON.parse(options)) : new client.Socket(url, JSON.parse(options));
const print = (event) => process.stdout.write(JSON.stringify(event) + '\n');

const bytes = (number) => Buffer.from([0, 10, 13, 30, 92, 255, number % 256, number >> 8]);
const message = (number) => (number % 3 ? 'text ' + number + ' \\n \n é € \u{1f600} \u2028' : bytes(number));
const show = (data) => (typeof data === 'string' ? data : [...new Uint8Array(data.buffer || data, data.byteOffset || 0)]);

let sent = 0;
function sendOne() {
  if (sent < Number(count)) {
    socket.send(message(sent++));
    setTimeout(sendOne, Number(pause));
  }
}

socket.binaryType = 'arraybuffer';
socket.on('open', () => {
  print({ type: 'open', transport: socket.transport.name });
  sendOne();
});
socket.on('message', (data) => print({ type: 'message', data: show(data), transport: socket.transport.name }));
socket.on('upgrade', (transport) => print({ type: 'upgrade', transport: transport.name }));
socket.on('upgradeError', (error) => print({ type: 'upgradeError', error: String(error) }));
socket.on('error', (error) => print({ type: 'error', error: String(error) }));
socket.on('close', (reason) => {
  print({ type: 'close', reason });
  process.exit();
});
process.stdin.on('data', () => socket.close());
