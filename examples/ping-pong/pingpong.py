"""Ping-pong: the server answers each ball."""

from realtime_chat.socketio import Application, Namespace


class PingPong(Namespace):
    """One player."""

    def on_ping(self, attack):
        """Answer a ball by a sound, and a fireball by ten."""
        for sound in ["bang!"] * 10 if attack["type"] == "fireball" else ["pong"]:
            self.emit("pong", {"sound": sound})


app = Application({"/pingpong": PingPong})
