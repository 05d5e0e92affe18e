"""A chat by publish and subscribe. Start it with ``twistd -n realtime --app chat:app``.

Its channels are native rooms: they have a history, and pages with ``realtime.js``, ``/poll`` and ``curl`` share them.

In the page::

    const socket = io("/chat");
    socket.on("pubblication", ({uid, message}) => console.log(uid + ": " + message));
    socket.emit("subscribe", 7, (joined) => joined && socket.emit("user_message", "hello"));
"""

from realtime_chat.socketio import Application, PubSubNamespace


class Chat(PubSubNamespace):
    """One visitor."""

    def subscribe_room(self, number):
        """Give the channel for a number; there is no channel 13."""
        if not isinstance(number, int) or number == 13:
            return False
        self.session.update(uid=self.id, channel=f"room-{number}")
        self.emit("userid", self.id)
        return self.session["channel"]

    def on_user_message(self, message):
        """Tell all subscribers of the channel."""
        return self.publish(self.session["channel"], {"uid": self.session["uid"], "message": message})


app = Application({"/chat": Chat})
