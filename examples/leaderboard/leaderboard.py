"""Shows the scores in Redis to everybody who reads the room ``leaderboard``.

A site keeps ``scores``, a sorted set, and ``hidden``, a set of those who don't want to be seen. Ten times a second this
sets what has changed: the property ``top``, and for each member a property ``member:NAME``.
"""

import json
import sys
import time
import urllib.request

import redis

TOP = 10
MOST = 100  # members who have a property of their own: the best ones
BATCH = 100  # commands in one request
INTERVAL = 0.1
JSON = {"Content-Type": "application/json"}


def ranked(server):
    """All who want to be seen, best first: name, score and rank. Members of one score have one rank: 1, 2, 2, 4."""
    with server.pipeline() as together:
        together.zdiffstore("scores:shown", ["scores", "hidden"])
        together.zrevrange("scores:shown", 0, MOST - 1, withscores=True)
        _, scores = together.execute()
    members = []
    for place, (name, score) in enumerate(scores, 1):
        is_tie = members and members[-1]["score"] == score
        members.append({"name": name, "score": score, "rank": members[-1]["rank"] if is_tie else place})
    return members


def properties(members):
    """What the room should know: the best, and for each member who is around."""
    found = {f"member:{one['name']}": members[max(0, i - 1) : i + 2] for i, one in enumerate(members)}
    return {"top": members[:TOP], **found}


def ask(url, body=None):
    """Ask the daemon, and give what it answers."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, JSON), timeout=10) as answer:
        return json.load(answer)


def shown_by(url):
    """What the room knows already, as of an earlier run."""
    return {one["name"]: one["data"] for one in ask(f"{url}/rooms/leaderboard/properties")["values"]}


def post(url, commands):
    """Send commands to the daemon, and raise for the first one that is refused."""
    for start in range(0, len(commands), BATCH):
        for reply in ask(f"{url}/commands", commands[start : start + BATCH]):
            if reply["type"] == "error":
                raise OSError(reply["message"])


def changes(before, now):
    """The commands that make the properties of before those of now."""
    gone = [{"type": "set", "room": "leaderboard", "name": name} for name in before if name not in now]
    new = [name for name in now if name not in before or before[name] != now[name]]
    return gone + [{"type": "set", "room": "leaderboard", "name": name, "data": now[name]} for name in new]


def run(server, url):
    """Follow the scores for ever. What can't be set now is set the next time."""
    shown = None
    while True:
        try:
            shown = shown_by(url) if shown is None else shown
            now = properties(ranked(server))
            post(url, changes(shown, now))
            shown = now
        except (OSError, redis.RedisError) as error:
            print(f"not shown: {error}", file=sys.stderr)
            shown = None
            time.sleep(1)
        time.sleep(INTERVAL)


if __name__ == "__main__":
    redis_url, daemon_url = sys.argv[1:]
    run(redis.Redis.from_url(redis_url, decode_responses=True), daemon_url)
