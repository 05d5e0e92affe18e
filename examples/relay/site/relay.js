// A page that shows what programs publish, in two ways: by Socket.IO, and by realtime.js.
const [progress, task, status] = ['progress', 'task', 'status'].map((id) => document.getElementById(id));

function show(list, news) {
  document.getElementById(list).appendChild(document.createElement('li')).textContent =
    news.by ? `${news.title} (${news.by})` : news.title;
}

// Socket.IO: the name of the channel is the event.
const socket = io('/');
socket.on('connect', () => { status.textContent = 'Connected'; });
socket.on('disconnect', () => { status.textContent = 'The connection is lost. It comes back by itself.'; });
socket.on('socketio_news', (news) => show('socketio', news));
socket.on('socketio_progress', (report) => {
  progress.value = report.percent;
  task.textContent = `${report.task}: ${report.percent} %`;
});

// realtime.js: all channels are relayed to the room "news", as signals.
const connection = Realtime.connect();
const room = connection.room('news', {last: 0});
room.on('relay', (news) => { if (news.title) show('native', news); });
