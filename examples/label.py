"""A label that all pages share: who types into it changes it for the others.

Start it with ``twistd -n realtime --app label:app``. In the page, for example in a component of React::

    const socket = io("/label");
    socket.on("update label", (text) => setLabel(text));
    onChange = (change) => socket.emit("client event", change.target.value);
"""

from realtime_chat.socketio import Application, Namespace, event


class Label(Namespace):
    """One page."""

    def on_connect(self, auth):
        """Greet the page."""
        self.emit("server event", {"foo": "bar"})

    @event("client event")
    def typed(self, text):
        """Tell the others."""
        self.broadcast.emit("update label", text)


app = Application({"/label": Label})
