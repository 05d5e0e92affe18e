/* The chat page: what connection.js tells, shown; what people type, sent. */
(function (window, document) {
  'use strict';

  var MESSAGES_SHOWN = 1000;
  var NEAR_THE_END = 60; // pixels
  var ONE_BREATH = 5 * 60 * 1000; // milliseconds within which a sender's name isn't repeated
  var SENDER_COLOURS = 6;
  var NAME_KEY = 'realtime-name';
  var TRANSPORTS = {websocket: 'WebSocket', poll: 'long poll'};

  var room = roomOf(window.location.search);
  var here = element('scroller');
  var messages = element('messages');
  var outbox = element('outbox');
  var nameField = element('name');
  var textField = element('text');
  var lastShown = null;
  var following = true;
  var settled = false;
  var connection;

  function element(id) {
    return document.getElementById(id);
  }

  function make(tag, className, text) {
    var node = document.createElement(tag);
    node.className = className;
    node.textContent = text;
    return node;
  }

  // ---- What stands in the URL and in the browser's storage ----

  function roomOf(query) {
    var match = /[?&]room=([^&]*)/.exec(query);
    try {
      return (match && decodeURIComponent(match[1].replace(/\+/g, ' '))) || 'lobby';
    } catch (error) {
      return match[1];
    }
  }

  function storedName() {
    try {
      return window.localStorage.getItem(NAME_KEY);
    } catch (error) {
      return null;
    }
  }

  function storeName(name) {
    try {
      window.localStorage.setItem(NAME_KEY, name);
    } catch (error) {
      // The name then lasts as long as the page.
    }
  }

  // Half a surrogate pair is no character, and no JSON that the server takes.
  function wholeCharacters(text) {
    return text.replace(/[\uD800-\uDBFF][\uDC00-\uDFFF]|[\uD800-\uDFFF]/g, function (found) {
      return found.length === 2 ? found : '\uFFFD';
    });
  }

  function cleanName(text) {
    return wholeCharacters(text.replace(/[\u0000-\u001F\u007F-\u009F\u2028\u2029]/g, ' ').trim().slice(0, 64));
  }

  function someName() {
    return 'Guest ' + Math.floor(1000 + Math.random() * 9000);
  }

  // ---- The connection's state ----

  function wordsFor(state, detail) {
    switch (state) {
    case 'connecting':
      return 'Connecting …';
    case 'connected':
      return 'Connected by ' + TRANSPORTS[detail];
    case 'reconnecting':
      return 'Reconnecting …';
    case 'waiting':
      return 'Not connected. Trying again in ' + Math.ceil(detail) + ' s …';
    default:
      return 'Not connected.';
    }
  }

  function showState(state, detail) {
    var line = element('state');
    line.textContent = wordsFor(state, detail);
    line.className = 'state ' + state;
    element('retry').hidden = state !== 'waiting' && state !== 'stopped';
    showProblem(state === 'stopped' ? detail : '');
    messages.setAttribute('aria-busy', state !== 'connected');
    settled = false;
  }

  function showProblem(text) {
    var line = element('problem');
    line.textContent = text;
    line.hidden = !text;
  }

  function showSettled() {
    settled = true;
    messages.setAttribute('aria-busy', 'false');
    showEmptiness();
  }

  function showEmptiness() {
    element('empty').hidden = !settled || Boolean(messages.firstChild || outbox.firstChild);
  }

  // ---- The conversation ----

  function textOf(data) {
    if (typeof data === 'string') {
      return data;
    }
    return data && typeof data.text === 'string' ? data.text : JSON.stringify(data);
  }

  function colourOf(id) {
    var sum = 0, i;
    for (i = 0; i < id.length; i += 1) {
      sum = (sum * 31 + id.charCodeAt(i)) % 65521;
    }
    return 'sender-' + (sum % SENDER_COLOURS);
  }

  function two(number) {
    return (number < 10 ? '0' : '') + number;
  }

  function timeNode(at) {
    var date = new Date(at);
    var today = date.toDateString() === new Date().toDateString();
    var clock = two(date.getHours()) + ':' + two(date.getMinutes());
    var node = make('time', 'time', today ? clock : date.toLocaleDateString() + ' ' + clock);
    node.dateTime = date.toISOString();
    node.title = date.toLocaleString();
    return node;
  }

  function bubble(text, own) {
    var item = make('li', own ? 'message own' : 'message', '');
    var body = make('div', 'text', text);
    body.dir = 'auto';
    item.appendChild(body);
    return item;
  }

  function headline(message) {
    var head = make('div', 'head', '');
    var name = make('bdi', 'name ' + colourOf(message.from.id), message.from.name);
    head.appendChild(name);
    head.appendChild(timeNode(message.at));
    return head;
  }

  function continues(message) {
    return Boolean(lastShown) && lastShown.from.id === message.from.id && lastShown.from.name === message.from.name &&
      message.at - lastShown.at < ONE_BREATH;
  }

  function showMessage(message, own) {
    var item;
    if (message.event !== 'message' || message.data === null) {
      return; // Other programs' events, and what was deleted.
    }
    item = bubble(textOf(message.data), own);
    item.insertBefore(headline(message), item.firstChild);
    if (continues(message)) {
      item.className += ' continued';
    }
    lastShown = message;
    append(item);
  }

  function showNotice(text) {
    lastShown = null;
    append(make('li', 'notice', text));
  }

  function append(item) {
    messages.appendChild(item);
    if (messages.childNodes.length > MESSAGES_SHOWN) {
      messages.removeChild(messages.firstChild);
    }
    showEmptiness();
    keepUp();
    element('newer').hidden = following;
  }

  function isAtEnd() {
    return here.scrollHeight - here.scrollTop - here.clientHeight < NEAR_THE_END;
  }

  function keepUp() {
    if (following) {
      here.scrollTop = here.scrollHeight;
    }
  }

  function goToEnd() {
    following = true;
    element('newer').hidden = true;
    keepUp();
  }

  // ---- Messages on their way out ----

  function showPending(entry) {
    var item = bubble(entry.data.text, true);
    item.className += ' pending';
    item.appendChild(make('div', 'delivery', 'Sending …'));
    entry.item = item;
    outbox.appendChild(item);
    showEmptiness();
  }

  function showDelivery(entry, text, className) {
    entry.item.className = 'message own ' + className;
    entry.item.lastChild.textContent = text;
  }

  function forgetPending(entry) {
    outbox.removeChild(entry.item);
    showEmptiness();
  }

  function showRefusal(entry, reason) {
    var dismiss = make('button', 'dismiss', 'Dismiss');
    dismiss.type = 'button';
    dismiss.onclick = function () { forgetPending(entry); };
    showDelivery(entry, 'Not sent: ' + reason + ' ', 'refused');
    entry.item.lastChild.appendChild(dismiss);
    goToEnd();
  }

  function send() {
    var text = wholeCharacters(textField.value);
    if (text.trim()) {
      textField.value = '';
      showPending(connection.publish({text: text}));
      goToEnd();
    }
  }

  // ---- Together ----

  function messageArrived(message, own) {
    if (own && own.item) {
      forgetPending(own);
    }
    showMessage(message, own);
  }

  function rename() {
    var name = cleanName(nameField.value) || connection.name;
    nameField.value = name;
    if (name !== connection.name) {
      storeName(name);
      connection.rename(name);
    }
  }

  function listen() {
    element('identity').onsubmit = function (event) {
      event.preventDefault();
      rename();
      textField.focus();
    };
    nameField.onchange = rename;
    element('rooms').onsubmit = function (event) {
      event.preventDefault();
      window.location.search = '?room=' + encodeURIComponent(wholeCharacters(element('room').value.trim()));
    };
    element('composer').onsubmit = function (event) {
      event.preventDefault();
      send();
      textField.focus();
    };
    textField.onkeydown = function (event) {
      var composing = event.isComposing || event.keyCode === 229;
      if (event.key === 'Enter' && !event.shiftKey && !composing) {
        event.preventDefault();
        send();
      }
    };
    here.onscroll = function () {
      following = isAtEnd();
      element('newer').hidden = following || element('newer').hidden;
    };
    window.onresize = keepUp;
    element('newer').onclick = goToEnd;
    element('retry').onclick = function () { connection.hurry(); };
  }

  function start() {
    var name = cleanName(storedName() || '') || someName();
    document.title = room + ' – chat';
    element('title').textContent = room;
    element('room').value = room;
    nameField.value = name;
    connection = new window.RealtimeConnection({
      base: window.location.href.replace(/[?#].*$/, '').replace(/[^\/]*$/, ''),
      room: room,
      name: name
    }, {
      stateChanged: showState,
      caughtUp: showSettled,
      messageArrived: messageArrived,
      missed: function () { showNotice('Some messages were missed'); },
      entryAcknowledged: function (entry) { showDelivery(entry, 'Sent', 'sent'); },
      entryPassed: function (entry) { showDelivery(entry, 'Sent', 'sent'); },
      entryRefused: showRefusal,
      complained: showProblem
    });
    listen();
    connection.start();
  }

  start();
}(window, document));
