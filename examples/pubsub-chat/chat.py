"""A chat by publish and subscribe. Its channels are native rooms: they have a history, on every transport."""

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
        """Tell all subscribers of the channel, by their event ``pubblication``."""
        channel = self.session.get("channel")
        return self.publish(channel, {"uid": self.session["uid"], "message": message}) if channel else False


app = Application({"/chat": Chat})
