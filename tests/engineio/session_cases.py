"""The cases of the official protocol suites that are about sessions, each named after what it stands for.

The suites of Engine.IO and of Socket.IO have them. They are in ``docs`` of ``socketio/socket.io``, and ask for a ping
interval of 300 ms and a time-out of 200 ms.
"""

from __future__ import annotations

import json
from typing import Any


def payload4(*packets: bytes) -> bytes:
    """Packets as a payload of version 4."""
    return b"\x1e".join(packets)


def payload3(*packets: bytes) -> bytes:
    """ASCII packets as a payload of version 3."""
    return b"".join(b"%d:%b" % (len(packet), packet) for packet in packets)


class SessionCases:
    """What versions 4 and 3 of Engine.IO have in common, for :class:`~tests.engineio.site.EngineTestCase`.

    :cvar question: a packet, sent over a WebSocket.
    :cvar answer: the last packet that comes back.
    """

    question = b"4hello"
    answer = b"4hello"

    def payload(self: Any, *packets: bytes) -> bytes:
        return payload4(*packets) if self.version == 4 else payload3(*packets)

    def check_opening(self: Any, opening: bytes, upgrades: list[str]) -> None:
        self.assertEqual(b"0", opening[:1])
        told = json.loads(opening[1:])
        self.assertEqual(20, len(told.pop("sid")))
        expected = {"upgrades": upgrades, "pingInterval": 300, "pingTimeout": 200, "maxPayload": 60_000}
        self.assertEqual(expected, told)

    def check_over(self: Any, sid: str) -> None:
        """A session's requests are refused as those of an unknown one."""
        said = self.poll(sid).said
        self.assertEqual((400, 1), (said.status, json.loads(said.body)["code"]))

    def check_answered(self: Any, socket: Any) -> None:
        """A WebSocket carries messages both ways."""
        socket.send(self.question)
        self.assertEqual(self.answer, socket.messages[-1])

    # Handshake, by polling

    def test_polling_opens_a_session(self: Any) -> None:
        """The answer is the open packet, with the session's id, times and limits."""
        said = self.ask_for(self.path(b64="1")).said
        body = said.body if self.version == 4 else said.body.partition(b":")[2]
        self.assertEqual((200, self.payload(body)), (said.status, said.body))
        self.check_opening(body, ["websocket"])

    def test_polling_with_an_invalid_version(self: Any) -> None:
        """A session is opened with EIO=3 or EIO=4, and nothing else."""
        for version in ("", "abc", "5", "04", "4.0"):
            said = self.ask_for(self.path(EIO=version)).said
            self.assertEqual((400, 5), (said.status, json.loads(said.body)["code"]), version)

    def test_polling_with_an_invalid_transport(self: Any) -> None:
        """The transport is polling or websocket."""
        for transport in ("", "abc", "webtransport"):
            said = self.ask_for(self.path(transport)).said
            self.assertEqual((400, 0), (said.status, json.loads(said.body)["code"]), transport)

    def test_polling_with_an_invalid_method(self: Any) -> None:
        """A session is opened by GET alone."""
        for method in (b"POST", b"PUT", b"DELETE", b"HEAD"):
            asked = self.ask_for(self.path(), body=b"", method=method)
            self.assertIn(b"HTTP/1.1 400 ", asked.transport.value(), method)

    # Handshake, by WebSocket

    def test_websocket_opens_a_session(self: Any) -> None:
        """The first message is the open packet, which offers no upgrade."""
        self.check_opening(self.websocket().messages[0], [])

    def test_websocket_with_an_invalid_version(self: Any) -> None:
        """Without EIO=3 or EIO=4 there is no WebSocket."""
        for version in ("", "abc"):
            self.assertIn(b"HTTP/1.1 400 ", self.websocket(EIO=version).head, version)

    def test_websocket_with_an_invalid_transport(self: Any) -> None:
        """Without the name of its transport there is no WebSocket."""
        for transport in ("", "abc"):
            self.assertIn(b"HTTP/1.1 400 ", self.websocket(transport=transport).head, transport)

    # Heartbeat

    def test_polling_is_over_after_a_ping_timeout(self: Any) -> None:
        """After exactly its ping interval and time-out, a silent session is over: nobody waits for a timer."""
        sid = self.open_polling()
        self.clock.pump([0.25, 0.249])
        if self.version == 4:
            self.assertEqual(b"2", self.poll(sid).body)
        self.clock.advance(0.002)
        self.check_over(sid)
        self.check_reason("ping timeout")

    def test_websocket_is_closed_after_a_ping_timeout(self: Any) -> None:
        """A silent client's WebSocket is closed within a second more."""
        socket = self.websocket()
        self.until(lambda: socket.close_code, 1.5)
        self.check_reason("ping timeout")

    # Close

    def test_polling_client_closes(self: Any) -> None:
        """A client's close packet ends its waiting GET with a noop, and the session."""
        sid = self.open_polling()
        waiting = self.poll(sid)
        self.assertEqual(b"ok", self.post(sid, self.payload(b"1")).body)
        self.assertEqual(self.payload(b"6"), waiting.body)
        self.check_over(sid)
        self.check_reason("transport close")

    def test_websocket_client_closes(self: Any) -> None:
        """A client's close packet closes the WebSocket."""
        socket = self.websocket()
        socket.send(b"1")
        self.assertEqual(1000, socket.close_code)
        self.check_reason("transport close")

    # Upgrade

    def test_upgrade(self: Any) -> None:
        """After a probe the waiting GET ends with a noop, and after the upgrade packet the WebSocket is used."""
        sid = self.open_polling()
        socket = self.websocket(sid)
        socket.send(b"2probe")
        self.assertEqual([b"3probe"], socket.messages)
        self.assertEqual(self.payload(b"6"), self.poll(sid).body)
        socket.send(b"5")
        self.check_answered(socket)

    def test_poll_after_the_upgrade(self: Any) -> None:
        """A request of an upgraded session is refused, and disturbs nothing."""
        sid = self.open_polling()
        socket = self.websocket(sid)
        socket.send(b"2probe", b"5")
        self.assertEqual(400, self.poll(sid).said.status)
        self.check_answered(socket)

    def test_websocket_after_the_upgrade(self: Any) -> None:
        """Another WebSocket of an upgraded session is closed, and disturbs nothing."""
        sid = self.open_polling()
        socket = self.websocket(sid)
        socket.send(b"2probe", b"5")
        self.assertEqual(1000, self.websocket(sid).close_code)
        self.check_answered(socket)


class Version4Cases(SessionCases):
    """The same, and what version 4 alone has."""

    def test_polling_is_pinged(self: Any) -> None:
        """The server pings, and a client that answers stays."""
        sid = self.open_polling()
        for _ in range(3):
            waiting = self.poll(sid)
            self.until(lambda waiting=waiting: waiting.is_answered, 0.6)
            self.assertEqual(b"2", waiting.body)
            self.assertEqual(200, self.post(sid, b"3").status)

    def test_websocket_is_pinged(self: Any) -> None:
        """The server pings, and a client that answers stays."""
        socket = self.websocket()
        for count in range(2, 5):
            self.until(lambda count=count: len(socket.messages) == count, 0.6)
            self.assertEqual(b"2", socket.messages[-1])
            socket.send(b"3")
