"""Tests for :mod:`realtime_chat.socketio_options`."""

from __future__ import annotations

import sys
from pathlib import Path

from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.socketio import Rooms
from realtime_chat.socketio_options import load_application
from tests.test_options import parsed

_APP = "from realtime_chat.socketio import Application\napp = Application({'/': %s}%s)\nother = 5\n"


class ApplicationTests(SynchronousTestCase):
    """How an application is found."""

    def module(self, name: str, content: str) -> str:
        """Write a module, and give the directory that it is in."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        (directory / f"{name}.py").write_text(content)
        self.addCleanup(sys.modules.pop, name, None)
        self.addCleanup(sys.path.__setitem__, slice(None), sys.path[:])
        return str(directory)

    def test_found(self) -> None:
        """A module in the directory is imported, and its application is used."""
        directory = self.module("shop_of_tests", _APP % ("__import__('realtime_chat.socketio').socketio.Rooms", ""))
        self.assertIs(Rooms, load_application("shop_of_tests:app", directory).find("/"))

    def test_refused(self) -> None:
        """Each mistake is told with what would be right."""
        directory = self.module("broken_of_tests", "import nowhere_to_be_found")
        failing = self.module("failing_of_tests", "1 / 0")
        rooms = self.module("rooms_of_tests", _APP % ("__import__('realtime_chat.socketio').socketio.Rooms", ""))
        for reference, where, expected in (
            ("shop", directory, "'shop' is not MODULE:NAME; right would be shop:app"),
            ("no such:app", directory, "is not MODULE:NAME"),
            ("missing_of_tests:app", directory, "there is no module missing_of_tests"),
            ("broken_of_tests:app", directory, "No module named 'nowhere_to_be_found'"),
            ("failing_of_tests:app", failing, "ZeroDivisionError"),
            ("rooms_of_tests:other", rooms, "has no Application of the name 'other'"),
            ("rooms_of_tests:nope", rooms, "has no Application of the name 'nope'"),
        ):
            self.assertIn(expected, str(self.assertRaises(ValueError, load_application, reference, where)))

    def test_needs_socketio(self) -> None:
        """Options for Socket.IO are of no use without it, and that is told."""
        for option in (
            ("--socket-io-path", "x"),
            ("--socket-io-eio3",),
            ("--socket-io-script", __file__),
            ("--socket-io-history", "5"),
        ):
            self.assertIn("add --socket-io or --app", str(self.assertRaises(UsageError, parsed, *option)))
        self.assertIsNone(parsed()["socketio"])

    def test_values(self) -> None:
        """The options arrive; without an application there are the native commands."""
        mount = parsed("--socket-io", "--socket-io-path", "/socketio/", "--socket-io-script", __file__)["socketio"]
        self.assertEqual(("socketio", False, __file__), (mount.path, mount.eio3, mount.script))
        self.assertIs(Rooms, mount.application.find("/"))
        for option, value, expected in (
            ("--socket-io-path", "a/b", "one part of a path"),
            ("--socket-io-path", "..", "one part of a path"),
            ("--socket-io-script", "/nowhere.js", "can't be read"),
            ("--socket-io-history", "0", "is not a whole number above 0"),
            ("--app", "shop", "--app: 'shop' is not MODULE:NAME"),
        ):
            self.assertIn(expected, str(self.assertRaises(UsageError, parsed, "--socket-io", option, value)))

    def test_relay_needs_redis(self) -> None:
        """An application that relays channels of Redis needs a Redis."""
        message = str(self.assertRaises(UsageError, parsed, "--app", "examples.relay.news:app"))
        self.assertIn("add --store redis://", message)
        self.assertEqual(
            "socket.io", parsed("--app", "examples.relay.news:app", "--store=redis://h/0")["socketio"].path
        )
