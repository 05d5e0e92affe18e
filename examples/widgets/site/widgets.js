// Redraws a widget whenever its model, which is a property of the room, has changed.
const widgets = JSON.parse(document.getElementById('widgets').textContent);
const connection = Realtime.connect();
const room = connection.room('widgets', {properties: true});
const [say, status] = ['say', 'status'].map((id) => document.getElementById(id));

room.on('$property', ({name, data}) => {
  if (name in widgets && data !== undefined) {
    const {template, each} = widgets[name], items = each ? data[each] : [data];
    document.getElementById(name).innerHTML = items.map((item) => Mustache.render(template, item)).join('');
  }
});
connection.on('$state', ({state}) => {
  status.textContent = state === 'connected' ? 'Live' : 'The connection is lost. It comes back by itself.';
});
say.onsubmit = () => {
  fetch('', {method: 'POST', body: new URLSearchParams(new FormData(say))});
  say.elements.text.value = '';
  return false;
};
