// The label by Socket.IO, without React: what one types is an event for all others.
const socket = io('/label');
const [field, status] = ['text', 'status'].map((id) => document.getElementById(id));
const show = ({text}) => { field.value = text; };

socket.on('connect', () => { status.textContent = 'Connected'; });
socket.on('disconnect', () => { status.textContent = 'The connection is lost. It comes back by itself.'; });
socket.on('server event', show);
socket.on('update label', show);
field.oninput = () => socket.emit('client event', field.value);
