"""The bridge's routes, messages and positions, without RabbitMQ."""

from __future__ import annotations

import json
from pathlib import Path

from pika import BasicProperties
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.client import Message, Position, Sender
from realtime_chat.contrib.amqp.connection import read_url
from realtime_chat.contrib.amqp.messages import (
    Content,
    Unreadable,
    came_from,
    make_body,
    make_properties,
    read_content,
)
from realtime_chat.contrib.amqp.positions import PositionFile, PositionsRefused
from realtime_chat.contrib.amqp.routes import Destination, Source
from realtime_chat.values.model import check_key


class RouteTests(SynchronousTestCase):
    """What ``--consume`` and ``--publish`` say."""

    def test_source(self) -> None:
        """An exchange, a binding key and a room; without a key, everything."""
        self.assertEqual(Source("amq.topic", "orders.#", "orders"), Source.parse("amq.topic:orders.#=orders"))
        self.assertEqual(Source("news", "#", "lobby"), Source.parse("news=lobby"))
        self.assertEqual(Source("news", "a=b:c", "lobby"), Source.parse("news:a=b:c=lobby"))
        self.assertEqual("realtime.lobby.news", Source.parse("news=lobby").queue)

    def test_target(self) -> None:
        """A room and an exchange."""
        self.assertEqual(Destination("lobby", "amq.fanout"), Destination.parse("lobby=amq.fanout"))

    def test_refused(self) -> None:
        """What is wrong is said, with what would be right."""
        for text in ("", "news", "=lobby", ":key=lobby", "news=", "news=a room", "n\n=lobby", "n" * 101 + "=lobby"):
            error = self.assertRaises(ValueError, Source.parse, text)
            self.assertIn("right would be 'amq.topic:orders.#=orders'", str(error))
        for text in ("", "lobby", "lobby=", "a room=news"):
            error = self.assertRaises(ValueError, Destination.parse, text)
            self.assertIn("right would be 'lobby=amq.fanout'", str(error))

    def test_url(self) -> None:
        """An address that is none is refused, and its password isn't told."""
        for text in ("http://bob:secret@host/", "amqp:secret", "amqp://bob:secret@host:port/", "amqp://h/?heartbeat=x"):
            error = self.assertRaises(ValueError, read_url, text)
            self.assertIn("right would be amqp://USER", str(error))
            self.assertNotIn("secret", str(error))
        found = read_url("amqps://bob:secret@host/shop")
        self.assertEqual(("host", 5671, "shop"), (found.host, found.port, found.virtual_host))


class ContentTests(SynchronousTestCase):
    """What a message of AMQP is in a room."""

    def read(self, body: bytes, **properties: str) -> Content:
        """Read one."""
        return read_content(BasicProperties(**properties), body)

    def test_body(self) -> None:
        """JSON is data. Text is what the chat page shows; so is JSON that is called text."""
        self.assertEqual({"a": [1]}, self.read(b'{"a": [1]}').data)
        self.assertEqual({"text": "Grüße"}, self.read("Grüße".encode()).data)
        self.assertEqual({"text": "5"}, self.read(b"5", content_type="text/plain").data)
        self.assertEqual(5, self.read(b"5", content_type="application/octet-stream").data)

    def test_unreadable(self) -> None:
        """Bytes that are neither are refused, and so is JSON that is none."""
        self.assertRaises(Unreadable, self.read, b"\xff\xfe")
        self.assertRaises(Unreadable, self.read, b"{", content_type="application/json")
        self.assertRaises(Unreadable, self.read, b"[" * 100 + b"]" * 100, content_type="application/json")

    def test_event_and_key(self) -> None:
        """``type`` is the event and ``message_id`` the key, where they can be; else a message, and a hash."""
        self.assertEqual(Content("order", 1, "id-1"), self.read(b"1", type="order", message_id="id-1"))
        self.assertEqual(Content("message", 1, None), self.read(b"1", type="$joined"))
        long = self.read(b"1", message_id="x" * 200).key
        assert long is not None
        self.assertEqual(long, check_key(long))
        self.assertNotEqual(long, self.read(b"1", message_id="x" * 201).key)


class PropertiesTests(SynchronousTestCase):
    """What a message of a room is in AMQP."""

    message = Message(
        "lobby", Position("e1", 7), "greeting", {"text": "hi"}, Sender("~u1", "Ann", True), 1_700_000_000_999
    )

    def test_message(self) -> None:
        """It is persistent, has the same id each time, and says where it is from. Its data are the body."""
        found = make_properties(self.message)
        self.assertEqual(("lobby/e1:7", "greeting", 2), (found.message_id, found.type, found.delivery_mode))
        self.assertEqual(1_700_000_000, found.timestamp)
        self.assertEqual("Ann", found.headers["sender_name"])
        self.assertEqual({"text": "hi"}, json.loads(make_body(self.message)))

    def test_circle(self) -> None:
        """It is known again by the room that it is from, and by no other one."""
        properties = make_properties(self.message)
        self.assertTrue(came_from(properties, "lobby"))
        self.assertFalse(came_from(properties, "other"))
        self.assertFalse(came_from(BasicProperties(headers={"room": "lobby"}), "lobby"))

    def test_long_event(self) -> None:
        """An event that is too long for AMQP's property is in the headers alone."""
        event = "é" * 128
        message = Message("lobby", Position("e1", 7), event, 1, Sender("u", "Ann"), 0)
        found = make_properties(message)
        self.assertEqual((None, event), (found.type, found.headers["event"]))


class PositionFileTests(SynchronousTestCase):
    """Where the bridge reads on."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def test_kept(self) -> None:
        """What was written is there in the next process; without a file, nothing is."""
        file = PositionFile(str(self.path))
        self.assertIsNone(file.get("lobby"))
        file.write()
        self.assertFalse(self.path.exists())
        file.set("lobby", Position("e1", 7))
        file.write()
        self.assertEqual("e1:7", PositionFile(str(self.path)).get("lobby"))
        self.assertEqual([self.path], [*self.path.parent.glob(f"{self.path.name}*")])

    def test_refused(self) -> None:
        """A file of something else isn't overwritten."""
        for text in ("{", "[]", '{"lobby": 7}', '{"lobby": "x"}'):
            self.path.write_text(text)
            error = self.assertRaises(PositionsRefused, PositionFile, str(self.path))
            self.assertIn(str(self.path), str(error))
        self.path.unlink()
        self.path.mkdir()
        self.assertRaises(PositionsRefused, PositionFile, str(self.path))

    def test_unwritable(self) -> None:
        """If it can't be written, that is said."""
        file = PositionFile(str(self.path / "none" / "file"))
        file.set("lobby", Position("e1", 7))
        self.assertIn("right would be", str(self.assertRaises(PositionsRefused, file.write)))
