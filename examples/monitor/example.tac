"""The shop's site, the login of its staff, and the daemon, on port 8080: ``twistd -n --pidfile= -y example.tac``."""

import json
import secrets
import time
from pathlib import Path

import jwt
from twisted.application.service import Application
from twisted.web.resource import Resource
from twisted.web.static import File

from realtime_chat.tap import Options, makeService

KEY = Path("data/realtime.key")


class Login(Resource):
    """Gives ``{"token": …}`` to who posts the password, and else 403."""

    def render_POST(self, request):
        if not secrets.compare_digest(request.args.get(b"password", [b""])[0], b"secret"):
            request.setResponseCode(403)
            return b"the password is wrong"
        now = int(time.time())
        claims = {"sub": "admin", "rooms": {"visitors": "rw", "@*": "w"}, "iat": now, "exp": now + 600}
        return json.dumps({"token": jwt.encode(claims, KEY.read_text(), algorithm="HS256")}).encode()


KEY.parent.mkdir(exist_ok=True)
KEY.touch(0o600)
KEY.write_text(secrets.token_hex(32))
site = File("site")
site.putChild(b"token", Login())
options = Options()
options.parseOptions(["--config=realtime.toml"])
application = Application("monitor")
makeService(options, site).setServiceParent(application)
