"""What any program publishes in Redis becomes an event in all pages.

Start it with ``twistd -n realtime --store redis://127.0.0.1/0 --app relay:app``. In the page::

    const socket = io("/");
    socket.on("socketio_news", (news) => console.log(news.title));

In a shell, a cron job, PHP or whatever you have::

    redis-cli PUBLISH socketio_news '{"title": "It works"}'
"""

from realtime_chat.socketio import Application, Namespace


class News(Namespace):
    """One page. It only listens."""


app = Application({"/": News}, relay={"socketio_*": "/"})
