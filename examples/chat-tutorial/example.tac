"""The pages on port 8000, and the daemon beside them: ``twistd -n --pidfile= -y examples/chat-tutorial/example.tac``."""

from pathlib import Path

from twisted.application import strports
from twisted.application.service import Application
from twisted.web.server import Site
from twisted.web.static import File

from realtime_chat.tap import Options, makeService

HERE = Path(__file__).resolve().parent
OPTIONS = (
    "--listen=tcp:8080:interface=127.0.0.1",
    "--legacy-listen=tcp:1025:interface=127.0.0.1",
    "--allow-origin=http://127.0.0.1:8000",
    "--history=1000",
    f"--data-dir={HERE / 'data'}",
)

options = Options()
options.parseOptions(OPTIONS)
application = Application("chat-tutorial")
makeService(options).setServiceParent(application)
pages = Site(File(str(HERE / "site")))
strports.service("tcp:8000:interface=127.0.0.1", pages).setServiceParent(application)
