/** A chat on realtime.js: all that both pages of today have besides their transports. */
function chat(transports) {
  var list = document.getElementById('chat'), form = document.getElementById('say');
  var status = document.getElementById('status');
  var name = (/[?&]room=([^&]+)/.exec(location.search) || ['', 'lobby'])[1];
  var rt = Realtime.connect('', {transports: transports}), room = rt.room(name, {last: 50});

  rt.on('$state', function (s) {
    status.textContent = s.state + (s.transport ? ' by ' + s.transport : '');
  });
  room.on('message', function (data) {
    list.appendChild(document.createElement('li')).textContent = data.text;
    list.scrollTop = list.scrollHeight;
  });
  room.on('$reset', function () {
    list.textContent = '';
    status.textContent = 'Some messages are missing.';
  });
  room.on('$failed', function (message) { status.textContent = 'Not sent: ' + message.error.message; });
  room.on('$error', function (error) { status.textContent = error.message; });
  form.onsubmit = function () {
    room.publish({text: form.elements.text.value});
    form.reset();
    return false;
  };
}
