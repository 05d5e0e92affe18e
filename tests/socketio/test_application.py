"""Tests for :mod:`realtime_chat.socketio.application`: what may be declared, and what is relayed."""

from __future__ import annotations

import gc
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.socketio import Application, Namespace, event
from tests.socketio.world import SocketIOWorld


class Plain(Namespace):
    """Has no methods of its own."""


class DeclarationTests(SynchronousTestCase):
    """What an application may be made of."""

    def test_wrong(self) -> None:
        """What is wrong is refused with where it stands, what is wrong, and what would be right."""
        for namespaces, relay, error, expected in (
            ({"chat": Plain}, None, ValueError, "'chat': a namespace begins with /"),
            ({"/a,b": Plain}, None, ValueError, "'/a,b'"),
            ({"/": Plain(None)}, None, TypeError, "'/': what stands for a namespace is a class below Namespace"),  # type: ignore[arg-type]
            ({"/": dict}, None, TypeError, 'right would be {"/": Shop'),
            ({"/": Plain}, {"news*": "/nope"}, ValueError, "relay: 'news*' is relayed to '/nope'"),
        ):
            message = str(self.assertRaises(error, Application, namespaces, relay))
            self.assertIn(expected, message)

    def test_reserved_events(self) -> None:
        """A method for an event that no client can send is refused with its class."""
        self.assertRaises(TypeError, event, "disconnecting")
        self.assertRaises(TypeError, type, "Wrong", (Namespace,), {"on_connect_error": lambda self: None})

    def test_names_before_patterns(self) -> None:
        """A name without a pattern comes first, and no client connects to a pattern by its own name."""
        app = Application({"/a*": Plain, "/ab": Recorder})
        self.assertIs(Recorder, app.find("/ab"))
        self.assertIs(Plain, app.find("/abc"))
        self.assertIsNone(app.find("/"))


class Recorder(Namespace):
    """Has methods that subclasses change."""

    def on_one(self) -> str:
        return "base"

    @event("two words")
    def other(self) -> str:
        return "other"


class Changed(Recorder):
    """Changes a method, and has one more."""

    def on_one(self) -> str:
        return "changed"

    def on_three(self) -> None:
        pass


class EventTableTests(SynchronousTestCase):
    """Which methods are for events."""

    def test_table(self) -> None:
        """Methods named on_… and marked ones are, those of base classes included, and nothing else is."""
        self.assertEqual({"one", "two words", "three"}, set(Changed.events))
        self.assertEqual("changed", Changed.events["one"](Changed(None), []))  # type: ignore[arg-type]
        self.assertEqual({}, dict(Plain.events))


class IndexTests(SocketIOWorld):
    """What is kept of namespaces."""

    def test_forgotten(self) -> None:
        """Of a namespace with a name that clients have made up nothing is left after its last socket."""
        self.serve({"/tenant-*": Plain})
        for number in range(20):
            self.connected(f"/tenant-{number}").connection.close()
        gc.collect()
        self.assertEqual(({"/tenant-*": 0}, 0), (self.app.sockets_by_namespace(), len(self.app._indexes)))

    def test_kept(self) -> None:
        """Whoever keeps a broadcast reaches the sockets that come later."""
        self.serve({"/tenant-*": Plain})
        broadcast = self.app.of("/tenant-1")
        client = self.connected("/tenant-1")
        broadcast.emit("hello")
        self.assertEqual([["hello"]], client.events())
        self.assertEqual({"/tenant-*": 1}, self.app.sockets_by_namespace())


class RelayTests(SocketIOWorld):
    """What other programs publish in Redis."""

    def test_relayed(self) -> None:
        """Each payload is emitted under its channel's name: JSON, or else text, or else binary."""
        self.serve({"/": Plain}, relay={"socketio_*": "/"})
        client = self.connected()
        relay = self.app.event_relays()["socketio_*"]
        for payload, expected in ((b'{"a":[1]}', {"a": [1]}), (b"plain text", "plain text"), (b"5", 5)):
            relay(b"socketio_news", payload)
            self.assertEqual([["socketio_news", expected]], client.events())
        relay(b"socketio_news", b"\xff\x00")
        self.assertEqual([b"\xff\x00"], client.take()[1:])
        self.assertEqual(4, self.app.counters.relayed)

    def test_refused(self) -> None:
        """A channel whose name can be no event is logged and counted."""
        self.serve({"/": Plain}, relay={"*": "/"})
        client = self.connected()
        relay: Any = self.app.event_relays()["*"]
        for channel in (b"disconnect", b"\xff"):
            relay(channel, b"1")
        self.assertEqual([], client.events())
        self.assertEqual(2, self.app.counters.relays_refused)
