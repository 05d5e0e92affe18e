// socket.io: rooms, as its documentation shows them. node socketio_rooms.js PORT
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

http.listen(Number(process.argv[2]), "127.0.0.1");
