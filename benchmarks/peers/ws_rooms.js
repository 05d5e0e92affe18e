// ws: its documentation's broadcast, to the clients of one path. node ws_rooms.js PORT
const { WebSocketServer, WebSocket } = require("ws");

const server = new WebSocketServer({ port: Number(process.argv[2]), host: "127.0.0.1" });
const rooms = new Map();

server.on("connection", (socket, request) => {
  if (!rooms.has(request.url)) rooms.set(request.url, new Set());
  const room = rooms.get(request.url);
  room.add(socket);
  socket.on("error", console.error);
  socket.on("close", () => room.delete(socket));
  socket.on("message", (data, isBinary) => {
    for (const client of room) {
      if (client.readyState === WebSocket.OPEN) client.send(data, { binary: isBinary });
    }
  });
});
