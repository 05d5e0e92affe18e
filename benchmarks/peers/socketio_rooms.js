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
