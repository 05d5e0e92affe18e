// The page of a visitor: the best members, and those around one of them, as they are now.
const connection = Realtime.connect();
const room = connection.room('leaderboard', {properties: true});
const [best, me, around, status] = ['top', 'me', 'around', 'status'].map((id) => document.getElementById(id));
let changes = 0;

/** Makes the rows of a table from members, each with a rank, a name and a score. */
function show(table, members) {
  table.replaceChildren(...members.map(({rank, name, score}) => {
    const row = document.createElement('tr');
    [rank, name, score].forEach((value) => { row.appendChild(document.createElement('td')).textContent = value; });
    return row;
  }));
}

const showMe = () => show(around, room.properties[`member:${me.elements.name.value}`] || []);

room.on('$property', ({name}) => {
  changes += 1;
  if (name === 'top') show(best, room.properties.top || []);
  showMe();
});
connection.on('$state', ({state}) => {
  status.textContent = state === 'connected' ? 'Live' : 'The connection is lost. It comes back by itself.';
});
me.onsubmit = () => {
  showMe();
  return false;
};
