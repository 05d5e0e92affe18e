// The page of a visitor: it subscribes to one channel, and shows what is published there.
const socket = io('/chat');
const [choose, list, say, status] = ['choose', 'chat', 'say', 'status'].map((id) => document.getElementById(id));
let me, channel;

function subscribe() {
  if (channel) socket.emit('unsubscribe', channel);
  channel = null;
  list.textContent = '';
  socket.emit('subscribe', Number(choose.elements.number.value), (joined) => {
    channel = joined && joined.room;
    status.textContent = channel ? `Subscribed to ${channel}` : 'There is no such channel.';
  });
}

// After a reconnect too: then the channel's last messages come again.
socket.on('connect', subscribe);
socket.on('disconnect', () => {
  channel = null;
  status.textContent = 'The connection is lost. It comes back by itself.';
});
socket.on('userid', (uid) => { me = uid; });
socket.on('pubblication', ({uid, message}) => {
  list.appendChild(document.createElement('li')).textContent = `${uid === me ? 'You' : uid}: ${message}`;
  list.scrollTop = list.scrollHeight;
});
choose.onsubmit = () => {
  subscribe();
  return false;
};
say.onsubmit = () => {
  if (channel) {
    socket.emit('user_message', say.elements.text.value);
    say.reset();
  }
  return false;
};
