// The page of a player: each button sends an event, and each answer is a line.
const socket = io('/pingpong');
const [play, sounds, status] = ['play', 'sounds', 'status'].map((id) => document.getElementById(id));

socket.on('connect', () => { status.textContent = 'Connected'; });
socket.on('disconnect', () => { status.textContent = 'The connection is lost. It comes back by itself.'; });
socket.on('pong', ({sound}) => {
  sounds.appendChild(document.createElement('li')).textContent = sound;
  sounds.scrollTop = sounds.scrollHeight;
});
play.onsubmit = (submitted) => {
  socket.emit('ping', {type: submitted.submitter.value});
  return false;
};
