/* The parts of a document that the page's scripts need; and the scripts, in a window of their own. */
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const vm = require('node:vm');

const PARTS = ['dom', 'text', 'times', 'storage', 'positions', 'page_url', 'log', 'outbox', 'typing', 'conversation', 'rooms', 'people', 'pane'];

class Node {
  constructor(tagName) {
    this.tagName = tagName;
    this.childNodes = [];
    this.parentNode = null;
    this.attributes = new Map();
    this.className = '';
  }

  get firstChild() {
    return this.childNodes[0] || null;
  }

  get textContent() {
    return this.tagName ? this.childNodes.map((child) => child.textContent).join('') : this.data;
  }

  set textContent(text) {
    this.childNodes = [];
    this.appendChild(makeText(text));
  }

  appendChild(node) {
    return this.insertBefore(node, null);
  }

  insertBefore(node, before) {
    const index = before ? this.childNodes.indexOf(before) : this.childNodes.length;
    if (index < 0) {
      throw new Error('that is no child of this');
    }
    this.childNodes.splice(index, 0, node);
    node.parentNode = this;
    return node;
  }

  removeChild(node) {
    this.childNodes.splice(this.childNodes.indexOf(node), 1);
    node.parentNode = null;
  }

  setAttribute(name, value) {
    this.attributes.set(name, String(value));
  }

  getAttribute(name) {
    return this.attributes.has(name) ? this.attributes.get(name) : null;
  }

  hasAttribute(name) {
    return this.attributes.has(name);
  }

  removeAttribute(name) {
    this.attributes.delete(name);
  }

  all(tagName) {
    return this.childNodes.flatMap((child) => [...(child.tagName === tagName ? [child] : []), ...child.all(tagName)]);
  }
}

function makeText(text) {
  const node = new Node(null);
  node.data = String(text);
  return node;
}

/** The page's `Chat`, without the parts that need a real window; `stored` is the content of its localStorage. */
exports.makeChat = function makeChat(clock, stored) {
  const document = {hidden: false, createElement: (tagName) => new Node(tagName), createTextNode: makeText};
  const window = {
    document,
    innerHeight: 600,
    addEventListener: () => undefined,
    setTimeout: (action, milliseconds) => clock.set(action, milliseconds),
    clearTimeout: (timer) => clock.timers.delete(timer),
    localStorage: {getItem: (name) => stored[name] || null, setItem: (name, value) => { stored[name] = value; }}
  };
  const context = vm.createContext({window, document});
  PARTS.forEach((name) => {
    const file = path.join(__dirname, '../../realtime_chat/static', name + '.js');
    vm.runInContext(fs.readFileSync(file, 'utf8'), context, {filename: file});
  });
  return {Chat: window.Chat, makeNode: () => new Node('DIV')};
};
