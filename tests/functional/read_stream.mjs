// Reads an event stream with a library from npm, and prints the data of each event as a line.
// Arguments: library, URL, the folder of the packages.

import { createRequire } from 'node:module';

const require = createRequire(process.argv[4] + '/');
const { EventSource } = require('eventsource');
const { createEventSource } = require('eventsource-client');

const types = ['welcome', 'joined', 'reset', 'goodbye'];
const print = (data) => process.stdout.write(data + '\n');

const libraries = {
  eventsource(url) {
    const source = new EventSource(url);
    ['message', ...types].forEach((type) => source.addEventListener(type, (event) => print(event.data)));
  },
  'eventsource-client'(url) {
    createEventSource({ url, onMessage: ({ data }) => print(data) });
  },
};

libraries[process.argv[2]](process.argv[3]);
