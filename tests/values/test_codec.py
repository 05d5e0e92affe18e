"""Tests for :mod:`realtime_chat.values.codec`."""

import json

from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.values import codec
from realtime_chat.values.codec import Entry
from realtime_chat.values.errors import GOODBYES, RealtimeError
from realtime_chat.values.model import Message, Page, Position


class EncodeTests(SynchronousTestCase):
    """Replies and events to bytes."""

    def test_message(self) -> None:
        """A message event has the documented fields, and a key only where one was given."""
        message = Message(
            "lobby", Position("k3x9", 42), "message", b'{"text":"hi"}', "u7", "Bob", 1795228664123, "c1-17"
        )
        expected = {
            "type": "message",
            "room": "lobby",
            "position": "k3x9:42",
            "event": "message",
            "data": {"text": "hi"},
            "from": {"id": "u7", "name": "Bob"},
            "at": 1795228664123,
            "key": "c1-17",
        }
        self.assertEqual(expected, json.loads(Entry(message).json))
        keyless = Message("lobby", Position("k3x9", 42), "message", b"1", "u7", "Bob", 1)
        self.assertNotIn("key", json.loads(Entry(keyless).json))
        self.assertEqual([message, keyless], [Entry(one).message() for one in (message, keyless)])

    def test_pages(self) -> None:
        """A page is cut behind the message that fills it, from either end; what fits stays as it is."""
        messages = tuple(
            Message("lobby", Position("e", offset), "message", b'"%b"' % (b"x" * 1000), "u7", "Bob", 1)
            for offset in range(1, 6)
        )
        page = Page("e", 1, 5, messages)
        size = len(Entry(messages[0]).json)
        self.assertEqual([page, page], [cut(page, 100_000) for cut in (codec.first_of_page, codec.last_of_page)])
        for most, kept in ((1, 1), (size, 1), (size + 1, 2), (3 * size + 1, 4), (4 * size + 1, 5)):
            self.assertEqual(messages[:kept], codec.first_of_page(page, most).messages)
            self.assertEqual(messages[-kept:], codec.last_of_page(page, most).messages)

    def test_longest_names(self) -> None:
        """Messages with the longest names, of the largest characters, are counted whole, too."""
        letters = "😀" * 128
        message = Message("r" * 128, Position("e" * 64, 10**15), letters, b"1", letters, "😀" * 64, 10**15, letters)
        page = Page("e", 1, 100, (message,) * 100)
        most = 99 * len(Entry(message).json)
        self.assertEqual([99, 99], [len(cut(page, most).messages) for cut in (codec.first_of_page, codec.last_of_page)])

    def test_error(self) -> None:
        """An error says whether trying again may help."""
        error = RealtimeError("store_unavailable", "the disk is full", 3)
        expected = {
            "type": "error",
            "id": 3,
            "code": "store_unavailable",
            "message": "the disk is full",
            "temporary": True,
        }
        self.assertEqual(expected, json.loads(codec.encode_error(error)))

    def test_error_with_after(self) -> None:
        """An error says after how many seconds to try again, rounded up to milliseconds."""
        for after, expected in ((0.25, 0.25), (1.00001, 1.001), (1e-9, 0.001), (3, 3)):
            error = codec.encode_error(RealtimeError("rate_limited", "slower", after=after))
            self.assertEqual(expected, json.loads(error)["after"])

    def test_goodbye(self) -> None:
        """A goodbye says whether and when to come back."""
        said = json.loads(codec.encode_goodbye(GOODBYES["stopping"]))
        self.assertEqual((4000, "stopping", True), (said["code"], said["reason"], said["reconnect"]))
        self.assertFalse(json.loads(codec.encode_goodbye(GOODBYES["too_many_errors"]))["reconnect"])

    def test_replies_without_id(self) -> None:
        """A reply has an id only where the command had one; 0 and the empty string are ids."""
        self.assertEqual({"type": "pong"}, json.loads(codec.encode_reply(None, {"type": "pong"})))
        self.assertEqual({"type": "pong", "id": 0}, json.loads(codec.encode_reply(0, {"type": "pong"})))
        self.assertEqual({"type": "pong", "id": ""}, json.loads(codec.encode_reply("", {"type": "pong"})))
