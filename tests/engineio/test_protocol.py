"""The cases of the official protocol suites, versions 4 and 3, each named after what it stands for.

Those that are about sessions stand in :mod:`tests.engineio.session_cases`.
"""

from __future__ import annotations

from typing import Any

from tests.engineio.session_cases import SessionCases, Version4Cases, payload3
from tests.engineio.site import BINARY, EngineTestCase


class MessageCases(SessionCases):
    """The cases of an echo, which both versions have."""

    binary_record: bytes
    binary_frame: bytes

    # Messages, by polling

    def check_echo(self: Any, *packets: bytes) -> None:
        sid = self.open_polling(b64="1")
        said = self.post(sid, self.payload(*packets))
        self.assertEqual((200, b"ok"), (said.status, said.body))
        self.assertEqual(self.payload(*packets), self.poll(sid).body)

    def test_polling_with_one_text(self: Any) -> None:
        """A text comes back with the next poll."""
        self.check_echo(b"4hello")

    def test_polling_with_several_texts(self: Any) -> None:
        """Several texts of one body come back in one answer, in order."""
        self.check_echo(b"4test1", b"4test2", b"4test3")

    def test_polling_with_text_and_binary(self: Any) -> None:
        """Binary data comes back in base64."""
        self.check_echo(b"4hello", self.binary_record)

    def test_polling_with_an_invalid_packet(self: Any) -> None:
        """A body that is no payload is refused, and ends the session."""
        sid = self.open_polling()
        self.assertEqual(400, self.post(sid, b"abc").status)
        self.check_over(sid)
        self.check_reason("parse error")

    def test_two_polls_at_a_time(self: Any) -> None:
        """A second GET while one waits ends the first with a close packet, and the session."""
        sid = self.open_polling()
        first, second = self.poll(sid), self.poll(sid)
        self.assertEqual((200, self.payload(b"1"), 400), (first.said.status, first.body, second.said.status))
        self.check_over(sid)

    def test_a_poll_that_is_cancelled(self: Any) -> None:
        """A client that breaks off its waiting GET has ended the session."""
        sid = self.open_polling()
        self.poll(sid).cancel()
        self.check_over(sid)
        self.check_reason("transport error")

    # Messages, by WebSocket

    def test_websocket_with_a_text(self: Any) -> None:
        """A text comes back."""
        socket = self.websocket()
        socket.send(b"4hello")
        self.assertEqual([b"4hello"], socket.messages[1:])

    def test_websocket_with_binary(self: Any) -> None:
        """Binary data comes back as a binary message."""
        socket = self.websocket()
        socket.send(self.binary_frame, opcode=BINARY)
        self.assertEqual([(BINARY, self.binary_frame)], socket.frames[1:])

    def test_websocket_with_an_invalid_packet(self: Any) -> None:
        """A message that is no packet closes the WebSocket."""
        socket = self.websocket()
        socket.send(b"abc")
        self.assertEqual((1002, "parse error"), (socket.close_code, self.echoes[0].reason))


class Version4Tests(MessageCases, Version4Cases, EngineTestCase):
    """Engine.IO 4."""

    version = 4
    binary_record = b"bAQIDBA=="
    binary_frame = b"\1\2\3\4"


class Version3Tests(MessageCases, EngineTestCase):
    """Engine.IO 3."""

    version = 3
    binary_record = b"b4AQIDBA=="
    binary_frame = b"\4\1\2\3\4"

    def test_polling_with_text_and_binary_for_a_client_that_reads_binary(self) -> None:
        """A client that didn't ask for base64 gets an answer in binary, if something in it is binary."""
        sid = self.open_polling()
        self.post(sid, payload3(b"4hello", self.binary_record))
        said = self.poll(sid).said
        self.assertEqual(b"\0\6\xff4hello\1\5\xff\4\1\2\3\4", said.body)
        self.assertEqual("application/octet-stream", said.headers["content-type"])

    def test_polling_client_pings(self) -> None:
        """The client pings, and its pings are answered."""
        sid = self.open_polling()
        for _ in range(3):
            self.clock.advance(0.3)
            self.assertEqual(200, self.post(sid, b"1:2").status)
            self.assertEqual(b"1:3", self.poll(sid).body)

    def test_websocket_client_pings(self) -> None:
        """The client pings, and its pings are answered."""
        socket = self.websocket()
        for _ in range(3):
            self.clock.advance(0.3)
            socket.send(b"2")
        self.assertEqual([b"3"] * 3, socket.messages[1:])
