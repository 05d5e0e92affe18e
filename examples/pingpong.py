"""Ping-pong: the server answers each ball. Start it with ``twistd -n realtime --app pingpong:app``.

In the page::

    const socket = io("/pingpong");
    socket.on("pong", ({sound}) => console.log(sound));
    socket.emit("ping", {type: "fireball"});
"""

from realtime_chat.socketio import Application, Namespace


class PingPong(Namespace):
    """One player."""

    def on_ping(self, attack):
        """Answer a ball by a sound, and a fireball by ten."""
        for sound in ["bang!"] * 10 if attack["type"] == "fireball" else ["pong"]:
            self.emit("pong", {"sound": sound})


app = Application({"/pingpong": PingPong})
