"""Rooms that can't be joined, and more rooms than one request has room for, in a browser: ``realtime.js``.

``tests/client/test_rooms.py`` has the same list of cases for the client for Python.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.functional.browsers import Tab
from tests.functional.daemon import Daemon, wait_until
from tests.functional.test_realtime_js import _SUITE, TRANSPORTS, BrowserTestCase, site
from tests.redis_server import RedisServer

_ROOMS = Path(__file__).with_name("rooms.js").read_text("utf-8")


class RoomsTests(BrowserTestCase):
    """What one room has is no other's trouble, on every transport. The daemon allows 100 rooms."""

    def setUp(self) -> None:
        self.redis = RedisServer(self.mktemp()).start()
        self.addCleanup(self.redis.kill)
        options = ("--store", self.redis.url, "--allow-jsonp", "--allow-origin", site().origin)
        self.daemon = Daemon(self.mktemp(), *options).start()
        self.addCleanup(self.daemon.kill)

    def page(self) -> Tab:
        tab = self.open(self.daemon.url)
        tab.run(f"(0, eval)({json.dumps(_SUITE + _ROOMS)})")
        return tab

    def check(self, case: str) -> None:
        """Run a case over each transport, and say what was wrong."""
        wrong = [
            self.page().run(f"return window.runRooms({json.dumps(case)}, {json.dumps(kind)})") for kind in TRANSPORTS
        ]
        self.assertEqual([None] * len(TRANSPORTS), wrong)

    def test_forbidden_among_others(self) -> None:
        """Another's private room is refused by itself, and a name that can't be one, too."""
        self.check("forbidden")

    def test_odd_names(self) -> None:
        """What every object has already is a room like any other."""
        self.check("odd")

    def test_one_too_many(self) -> None:
        """Of 101 rooms 100 are read, and the last one is refused until there is a place for it."""
        self.check("many")

    def test_long_names(self) -> None:
        """A hundred rooms whose names are as long as can be are read; no address has over 8,000 bytes."""
        self.check("long")

    def test_sick_room(self) -> None:
        """A room that can't be read for a while is told of by itself, and read as soon as it can be."""
        for kind in TRANSPORTS:
            self.redis.command("SET", f"realtime:0:stream:sick-{kind}", "no stream")
            tab = self.page()
            tab.run(f"window.running = window.runRooms('sick', '{kind}').then((wrong) => {{ window.wrong = wrong; }})")
            wait_until(lambda tab=tab: tab.run("return window.isTold || window.wrong"))
            self.redis.command("DEL", f"realtime:0:stream:sick-{kind}")
            tab.run("await window.running")
            self.assertIsNone(tab.run("return window.wrong"))
