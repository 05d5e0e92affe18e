// In each page of the shop: tells the staff where the visitor is, and shows their offers.
const show = (list, text) => document.getElementById(list).appendChild(document.createElement('li')).append(text);

// realtime.js: all tabs are one guest, who reads a private room. The next page begins with the last offer.
const connection = Realtime.connect('', {storage: 'local'});
const visitors = connection.room('visitors');
const tell = () => { if (connection.user && !document.hidden) visitors.set(connection.user.id, location.pathname); };
setInterval(tell, 60_000); // who isn't heard of for longer has left
document.addEventListener('visibilitychange', tell);
connection.on('identity', ({id}) => {
  tell();
  connection.room(`@${id}`, {last: 1}).on('offer', ({text}) => show('native', text));
});

// Socket.IO: all tabs share a secret.
localStorage.visitor ||= crypto.getRandomValues(new Uint32Array(4)).join('-');
const socket = io('/', {auth: {visitor: localStorage.visitor}});
socket.on('connect', () => socket.emit('pageChange', location.pathname));
socket.on('adminBroadcast', (text) => show('socketio', text));
