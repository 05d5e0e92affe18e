"""The same label by Socket.IO: who types into it changes it for all others."""

from realtime_chat.socketio import Application, Namespace, event

shown = {"text": ""}


class Label(Namespace):
    """One page."""

    def on_connect(self, auth):
        """Tell the page what the others see."""
        self.emit("server event", shown)

    @event("client event")
    def typed(self, text):
        """Tell the others."""
        shown["text"] = str(text)
        self.broadcast.emit("update label", shown)


app = Application({"/label": Label})
