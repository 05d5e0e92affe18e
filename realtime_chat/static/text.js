/* Text of messages and names: cleaned before it is sent, and shown as text and links, never as markup. */
(function (Chat) {
  'use strict';

  var COLOURS = 6;
  var MAX_LINKS = 200; // in one text: each is an element, and a text may have thousands
  var ROOM = /^[A-Za-z0-9_.:@~\-]{1,128}$/;
  // The start of a link, and what follows: no spaces, quotes, control characters or direction marks.
  var LINK = /\b(?:https?:\/\/|mailto:)[^\s<>"'`\u0000-\u001F\u007F-\u009F\u200B-\u200F\u2028-\u202E\u2060-\u2069\uFEFF]+/gi;
  var ALLOWED = /^(?:https?:\/\/[^\/?#]|mailto:[^@]+@)/i;
  var PUNCTUATION = /[.,;:!?…)\]}*_]/;
  var BRACKETS = {')': '(', ']': '[', '}': '{'};

  /** Replace lone surrogates, which the server refuses. */
  function wholeCharacters(text) {
    return text.replace(/[\uD800-\uDBFF][\uDC00-\uDFFF]|[\uD800-\uDFFF]/g, function (found) {
      return found.length === 2 ? found : '\uFFFD';
    });
  }

  function cleanName(text) {
    return wholeCharacters(text.replace(/[\u0000-\u001F\u007F-\u009F\u2028\u2029]/g, ' ').trim().slice(0, 64)).trim();
  }

  function isRoom(name) {
    return typeof name === 'string' && ROOM.test(name) && name !== '.' && name !== '..';
  }

  function countBrackets(text) {
    var counts = {'(': 0, ')': 0, '[': 0, ']': 0, '{': 0, '}': 0};
    (text.match(/[()\[\]{}]/g) || []).forEach(function (bracket) { counts[bracket] += 1; });
    return counts;
  }

  // A full stop at the end belongs to the sentence, not to the link. A closing bracket belongs to the link if the link has
  // the opening one. Brackets are counted once, as a link may end with thousands of them.
  function withoutPunctuation(link) {
    var end = link.length, counts = countBrackets(link), last = link.charAt(end - 1);
    while (PUNCTUATION.test(last) && !(BRACKETS[last] && counts[BRACKETS[last]] >= counts[last])) {
      counts[last] -= 1;
      end -= 1;
      last = link.charAt(end - 1);
    }
    return link.slice(0, end);
  }

  function makeLink(address) {
    var link = Chat.dom.make('a', '', address);
    link.href = address;
    link.target = '_blank';
    link.rel = 'noopener noreferrer nofollow ugc';
    return link;
  }

  /** Append `text` to `node`, with its URLs as links. */
  function writeWithLinks(node, text) {
    var done = 0, links = 0, found, address;
    LINK.lastIndex = 0;
    while (links < MAX_LINKS && (found = LINK.exec(text))) {
      address = withoutPunctuation(found[0]);
      if (ALLOWED.test(address)) {
        links += 1;
        node.appendChild(document.createTextNode(text.slice(done, found.index)));
        node.appendChild(makeLink(address));
        done = found.index + address.length;
      }
    }
    node.appendChild(document.createTextNode(text.slice(done)));
  }

  /** The text of a message's data; any program may have published it. */
  function textOf(data) {
    return data && typeof data.text === 'string' ? data.text : toText(data);
  }

  /** Any JSON value as text. */
  function toText(value) {
    if (typeof value === 'string') {
      return value;
    }
    try {
      return String(JSON.stringify(value));
    } catch (error) {
      return '…'; // nested too deeply
    }
  }

  /** The CSS class for the colour of a user's name. */
  function colourOf(id) {
    var sum = 0, i;
    id = toText(id);
    for (i = 0; i < id.length; i += 1) {
      sum = (sum * 31 + id.charCodeAt(i)) % 65521;
    }
    return 'sender-' + (sum % COLOURS);
  }

  /** `3 people`, `1 person`. */
  function pluralize(number, one, many) {
    return number + ' ' + (number === 1 ? one : many);
  }

  Chat.text = {
    wholeCharacters: wholeCharacters, cleanName: cleanName, isRoom: isRoom, writeWithLinks: writeWithLinks,
    textOf: textOf, toText: toText, colourOf: colourOf, pluralize: pluralize
  };
}(window.Chat = window.Chat || {}));
