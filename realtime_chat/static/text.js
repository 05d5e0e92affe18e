/* What people write: cleaned before it is sent, and made into text and links when it is shown. Never into markup. */
(function (Chat) {
  'use strict';

  var COLOURS = 6;
  var MOST_LINKS = 200; // in one text: each is an element, and a text has room for thousands
  var ROOM = /^[A-Za-z0-9_.:@~\-]{1,128}$/;
  // What a link may begin with, and all that follows it but space, quotes, controls and what turns text around.
  var LINK = /\b(?:https?:\/\/|mailto:)[^\s<>"'`\u0000-\u001F\u007F-\u009F\u200B-\u200F\u2028-\u202E\u2060-\u2069\uFEFF]+/gi;
  var ALLOWED = /^(?:https?:\/\/[^\/?#]|mailto:[^@]+@)/i;
  var AFTERWARDS = /[.,;:!?…)\]}*_]/;
  var BRACKETS = {')': '(', ']': '[', '}': '{'};

  /** Half a surrogate pair is no character, and no JSON that the server takes. */
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

  // A full stop ends the sentence and not the link; a bracket that was opened in the link belongs to it. The brackets
  // are counted once, as a link may end with thousands of them.
  function withoutPunctuation(link) {
    var end = link.length, counts = countBrackets(link), last = link.charAt(end - 1);
    while (AFTERWARDS.test(last) && !(BRACKETS[last] && counts[BRACKETS[last]] >= counts[last])) {
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

  /** Put `text` into `node`, with its addresses as links. */
  function write(node, text) {
    var done = 0, links = 0, found, address;
    LINK.lastIndex = 0;
    while (links < MOST_LINKS && (found = LINK.exec(text))) {
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

  /** The text of a message's data, whoever published it. */
  function textOf(data) {
    return data && typeof data.text === 'string' ? data.text : plain(data);
  }

  /** Anything that JSON can say, as text; what should be a text is one in any case. */
  function plain(value) {
    if (typeof value === 'string') {
      return value;
    }
    try {
      return String(JSON.stringify(value));
    } catch (error) {
      return '…'; // it nests too deeply
    }
  }

  /** The class of the colour in which a user's name stands. */
  function colourOf(id) {
    var sum = 0, i;
    id = plain(id);
    for (i = 0; i < id.length; i += 1) {
      sum = (sum * 31 + id.charCodeAt(i)) % 65521;
    }
    return 'sender-' + (sum % COLOURS);
  }

  /** `3 people`, `1 person`. */
  function counted(number, one, many) {
    return number + ' ' + (number === 1 ? one : many);
  }

  Chat.text = {
    wholeCharacters: wholeCharacters, cleanName: cleanName, isRoom: isRoom, write: write, textOf: textOf,
    plain: plain, colourOf: colourOf, counted: counted
  };
}(window.Chat = window.Chat || {}));
