// socket.io: rooms, as its documentation shows them. node socketio_rooms.js PORT [REDIS]
const { createServer } = require("http");
const { Server } = require("socket.io");

const http = createServer();
const io = new Server(http);

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

// A back end publishes by POST /publish/ROOM.
http.on("request", (request, response) => {
  if (!request.url.startsWith("/publish/")) return;
  let text = "";
  request.on("data", (data) => (text += data));
  request.on("end", () => {
    io.to(request.url.slice("/publish/".length)).emit("message", text);
    response.end("ok");
  });
});

const listen = () => http.listen(Number(process.argv[2]), "127.0.0.1");

// With the URL of a Redis: its adapter, for several processes.
if (process.argv.length > 3) {
  const { createClient } = require("redis");
  const { createAdapter } = require("@socket.io/redis-adapter");
  const publisher = createClient({ url: process.argv[3] });
  const subscriber = publisher.duplicate();
  Promise.all([publisher.connect(), subscriber.connect()]).then(() => {
    io.adapter(createAdapter(publisher, subscriber));
    listen();
  });
} else {
  listen();
}
