"""What any program publishes in Redis becomes an event in all pages."""

from realtime_chat.socketio import Application, Namespace


class News(Namespace):
    """One page. It only listens."""


app = Application({"/": News}, relay={"socketio_*": "/"})
