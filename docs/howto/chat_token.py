"""A token for a user of your site. It needs PyJWT (``pip install PyJWT``)."""

import os
import time
from pathlib import Path

import jwt

KEY_FILE = os.environ.get("REALTIME_KEY_FILE", "/etc/realtime_chat/realtime.key")


def realtime_token(user_id, name, rooms):
    """A token that is valid for ten minutes.

    :param rooms: rights by room, such as {"lobby": "rwsp"}.
    """
    now = int(time.time())
    claims = {"sub": str(user_id), "name": name, "rooms": rooms, "iat": now, "exp": now + 600}
    key = Path(KEY_FILE).read_text().splitlines()[0].strip()
    return jwt.encode(claims, key, algorithm="HS256")
