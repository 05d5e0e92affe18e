"""This daemon's application for Socket.IO clients, with the events of the peers; for ``--app socketio_app:app``."""

from realtime_chat.socketio import Application, Namespace


class Main(Namespace):
    def on_join(self, room: str) -> None:
        self.enter(room)
        self.emit("joined")

    def on_message(self, room: str, text: str) -> None:
        self.of().to(room).emit("message", text)


app = Application({"/": Main})
