"""The page's site on port 8000, the widget's on 8001, and the daemon: ``twistd -n --pidfile= -y example.tac``."""

from pathlib import Path

from twisted.application import strports
from twisted.application.service import Application
from twisted.web.server import Site
from twisted.web.static import File

from realtime_chat.tap import Options, makeService

HERE = Path(__file__).resolve().parent
OPTIONS = (
    "--listen=tcp:8080:interface=127.0.0.1",
    "--allow-origin=http://127.0.0.1:8000",
    f"--data-dir={HERE / 'data'}",
)

options = Options()
options.parseOptions(OPTIONS)
application = Application("events")
makeService(options).setServiceParent(application)
for port, directory in (("tcp:8000", "site"), ("tcp:8001", "widget")):
    site = Site(File(str(HERE / directory)))
    strports.service(f"{port}:interface=127.0.0.1", site).setServiceParent(application)
