// The console of the staff: who is on which page, and for each visitor a button that sends an offer.
const [login, offer, native, socketio] = ['login', 'offer', 'native', 'socketio'].map((id) => document.getElementById(id));
const say = (id, text) => { document.getElementById(id).textContent = text; };

/** Shows the pages of a visitor in one of the tables. Without pages, the visitor has left. */
function show(table, visitor, pages, send) {
  const found = Array.from(table.rows).find(({cells}) => cells[0].textContent === visitor);
  if (!pages.length) return found?.remove();
  const row = found || table.insertRow();
  if (!found) row.innerHTML = '<td></td><td></td><td><button>Send offer</button></td>';
  row.cells[0].textContent = visitor;
  row.cells[1].textContent = pages.join(', ');
  row.querySelector('button').onclick = () => send(offer.value);
}

/** Asks the site who we are. It answers 403 to a wrong password. */
async function token() {
  const answer = await fetch('token', {method: 'POST', body: new URLSearchParams(new FormData(login))});
  if (!answer.ok) throw Object.assign(new Error(await answer.text()), {status: answer.status});
  return (await answer.json()).token;
}

function watchNative() {
  const connection = Realtime.connect('', {token, storage: false});
  const room = connection.room('visitors', {properties: true}), timers = {};
  room.on('$property', ({name, data, from, at}) => {
    clearTimeout(timers[name]); // who isn't heard of for 150 seconds has left
    if (data) timers[name] = setTimeout(() => room.set(name), at + 150_000 - Date.now());
    show(native, name, data ? [data] : [], (text) => connection.room(`@${from.id}`).publish('offer', {text}));
  });
  connection.on('$state', ({state, reason}) => say('native-status', reason ? reason.message : state));
}

function watchSocketIO() {
  const socket = io('/adminchannel', {auth: (give) => token().then((token) => give({token}), () => give({}))});
  const send = (visitor) => (text) => socket.emit('adminMessage', {visitor, text});
  socket.on('alertAdmin', ({visitor, pages}) => show(socketio, visitor, pages, send(visitor)));
  socket.on('connect', () => { socketio.textContent = ''; say('socketio-status', 'connected'); });
  socket.on('disconnect', (reason) => say('socketio-status', reason));
  socket.on('connect_error', (error) => say('socketio-status', error.message));
}

login.onsubmit = () => {
  [watchNative, watchSocketIO].forEach((watch) => watch());
  return false;
};
