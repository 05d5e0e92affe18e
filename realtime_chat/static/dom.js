/* Functions for elements, which also work in browsers of 2011. */
(function (Chat) {
  'use strict';

  function byId(id) {
    return document.getElementById(id);
  }

  /** A new element; `text` is shown as text, never as markup. */
  function make(tag, className, text) {
    var node = document.createElement(tag);
    if (className) {
      node.className = className;
    }
    if (text) {
      node.textContent = text;
    }
    return node;
  }

  /** A new button that calls `pressed` when it is pressed. */
  function makeButton(className, text, pressed) {
    var node = make('button', className, text);
    node.type = 'button';
    node.onclick = pressed;
    return node;
  }

  /** Set a text if it has changed: a screen reader reads a live region again whenever it is set. */
  function setText(node, text) {
    if (node.textContent !== text) {
      node.textContent = text;
    }
  }

  function setClass(node, name, on) {
    var rest = (' ' + node.className + ' ').replace(' ' + name + ' ', ' ').replace(/^ +| +$/g, '');
    node.className = on ? (rest ? rest + ' ' + name : name) : rest;
  }

  function show(node, on) {
    if (on) {
      node.removeAttribute('hidden');
    } else {
      node.setAttribute('hidden', '');
    }
  }

  function isShown(node) {
    return !node.hasAttribute('hidden');
  }

  function remove(node) {
    if (node.parentNode) {
      node.parentNode.removeChild(node);
    }
  }

  function empty(node) {
    while (node.firstChild) {
      node.removeChild(node.firstChild);
    }
  }

  Chat.dom = {
    byId: byId, make: make, makeButton: makeButton, setText: setText, setClass: setClass, show: show, isShown: isShown,
    remove: remove, empty: empty
  };
}(window.Chat = window.Chat || {}));
