// socket.io: rooms, as its documentation shows them. node socketio_rooms.js PORT [tuned | REDIS]
const how = process.argv[3];

// Its page on performance advises to have the two add-ons of ws, which are used if they are installed, and to drop the
// first request. The other engines that it names aren't on npm, or are built from GitHub.
if (how !== "tuned") process.env.WS_NO_BUFFER_UTIL = process.env.WS_NO_UTF_8_VALIDATE = "1";

const { createServer } = require("http");
const { Server } = require("socket.io");

const http = createServer();
const io = new Server(http);

if (how === "tuned") io.engine.on("connection", (connection) => (connection.request = null));

io.on("connection", (socket) => {
  socket.on("join", (room) => {
    socket.join(room);
    socket.emit("joined");
  });
  // The same, where everybody is told who comes and goes.
  socket.on("enter", (room) => {
    const member = { id: socket.id, name: "Guest " + socket.id.slice(0, 4) };
    socket.join(room);
    io.to(room).emit("entered", member);
    socket.on("disconnect", () => io.to(room).emit("left", member));
  });
  socket.on("message", (room, text) => {
    io.to(room).emit("message", text);
  });
});

const listen = () => http.listen(Number(process.argv[2]), "127.0.0.1");

// With the URL of a Redis: its adapter, for several processes.
if (how && how !== "tuned") {
  const { createClient } = require("redis");
  const { createAdapter } = require("@socket.io/redis-adapter");
  const publisher = createClient({ url: how });
  const subscriber = publisher.duplicate();
  Promise.all([publisher.connect(), subscriber.connect()]).then(() => {
    io.adapter(createAdapter(publisher, subscriber));
    listen();
  });
} else {
  listen();
}
