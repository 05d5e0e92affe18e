"""Publish to a room through Redis: python redis_publish.py redis://127.0.0.1/0 ROOM TEXT KEY"""

import json
import sys
import time

import redis

SCOPE = "realtime:0"  # --store-prefix, and the number of the database
PASSING = (redis.ConnectionError, redis.TimeoutError, redis.exceptions.NoScriptError, redis.BusyLoadingError)


def publish(server: redis.Redis, room: str, data: object, key: str, event: str = "message") -> str:
    """Store a message and send it to everybody in the room. With the same key it is stored only once.

    Returns the message's position.
    """
    keys = f"{SCOPE}:log", f"{SCOPE}:stream:{room}", f"{SCOPE}:keys:{room}"
    script = server.hget(keys[0], "append")
    if script is None:
        raise RuntimeError(f"no daemon has used {SCOPE} yet")
    _, position = server.evalsha(script, 3, *keys, event, "shop", "The web shop", json.dumps(data), key)
    return position


def publish_surely(server: redis.Redis, room: str, data: object, key: str, patience: float = 30) -> str:
    """Publish, and try again for ``patience`` seconds while Redis can't be reached or is starting."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return publish(server, room, data, key)
        except PASSING:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.5)


if __name__ == "__main__":
    url, room, text, key = sys.argv[1:]
    with redis.Redis.from_url(url, decode_responses=True) as server:
        print(publish_surely(server, room, {"text": text}, key))
        server.publish(f"realtime:relay:{room}", json.dumps({"progress": 100}))
