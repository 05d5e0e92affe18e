"""The site with the widgets, and the daemon, on port 8080: ``twistd -n --pidfile= -y example.tac``."""

import sys
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from twisted.application.service import Application, Service
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from twisted.web.static import File

from realtime_chat.client import connect
from realtime_chat.tap import Options, makeService

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from widgets import ROOM, Count, Talk  # noqa: E402

MOST = 50
pages = Environment(autoescape=True, loader=FileSystemLoader(HERE / "site"))
talk, count = widgets = Talk("talk"), Count("count")


class Page(Resource):
    """The page, as it is now; and who posts to it says something."""

    def render_GET(self, request):
        """Draw all widgets."""
        request.setHeader(b"Content-Type", b"text/html; charset=utf-8")
        return pages.get_template("page.html").render(widgets=widgets).encode()

    def render_POST(self, request):
        """Change the models. The answer comes when that is stored."""
        if talk.chat is None:
            request.setResponseCode(503)
            return b"The widgets are not connected yet. Please try again."
        author, text = (request.args[name][0].decode()[:200] for name in (b"author", b"text"))
        messages = [*talk.parameters["messages"], {"author": author, "text": text}][-MOST:]
        talk.update(messages=messages)
        stored = count.update(count=count.parameters["count"] + 1, author=author)
        stored.addCallbacks(lambda _: request.finish(), request.processingFailed)
        return NOT_DONE_YET


class Widgets(Service):
    """Connects the widgets to the daemon."""

    def startService(self):
        """Connect, as soon as the daemon listens."""
        Deferred.fromCoroutine(self.attach())

    async def attach(self):
        """Go on with the models that the room has."""
        self.chat = await connect(reactor, "http://127.0.0.1:8080/", patient=True).__aenter__()
        values = await self.chat.properties(ROOM)
        for widget in widgets:
            widget.attach(self.chat, values)

    def stopService(self):
        """Disconnect."""
        return self.chat.close()


site = Resource()
site.putChild(b"", Page())
site.putChild(b"site", File(str(HERE / "site")))
options = Options()
options.parseOptions(["--listen=tcp:8080:interface=127.0.0.1", f"--data-dir={HERE / 'data'}"])
application = Application("widgets")
makeService(options, site).setServiceParent(application)
Widgets().setServiceParent(application)
