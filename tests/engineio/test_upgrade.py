"""Tests for :mod:`realtime_chat.engineio.upgrade`."""

from __future__ import annotations

import random

from realtime_chat.engineio.prepared import PreparedMessage
from tests.engineio.site import BINARY, EngineTestCase, FakeSocket


class UpgradeTests(EngineTestCase):
    """From polling to a WebSocket."""

    settings = {"ping_interval": 25, "ping_timeout": 20}

    def probed(self) -> tuple[str, FakeSocket]:
        sid = self.open_polling()
        socket = self.websocket(sid)
        socket.send(b"2probe")
        return sid, socket

    def say(self, text: bytes, volatile: bool = False) -> bool:
        return self.echoes[-1].connection.send(PreparedMessage([text]), volatile)

    def test_waiting_poll(self) -> None:
        """The poll that waits ends with a noop as soon as the WebSocket is probed."""
        sid = self.open_polling()
        waiting = self.poll(sid)
        self.websocket(sid).send(b"2probe")
        self.assertEqual(b"6", waiting.body)

    def test_order(self) -> None:
        """What is sent between the probe and the upgrade comes over the WebSocket, in order, unless a poll gets it."""
        sid, socket = self.probed()
        self.say(b"a")
        self.assertEqual(b"4a", self.poll(sid).body)
        self.say(b"b")
        self.assertFalse(self.say(b"volatile", volatile=True))
        socket.send(b"5")
        self.say(b"c")
        self.assertEqual([b"3probe", b"4b", b"4c"], socket.messages)
        self.assertEqual("websocket", self.echoes[0].connection.transport_name)

    def test_random_order(self) -> None:
        """However polls, probes, messages and upgrades mix, each message comes once and in order."""
        for seed in range(200):
            self._mix(random.Random(seed))

    def _mix(self, draw: random.Random) -> None:
        sid = self.open_polling()
        got: list[bytes] = []
        waiting, socket = None, None
        upgraded = False
        for number in range(30):
            step = draw.choice(("say", "say", "poll", "probe", "upgrade"))
            if step == "say":
                self.say(b"%d" % number)
            elif step == "poll" and waiting is None and not upgraded:
                waiting = self.poll(sid)
            elif step == "probe" and socket is None:
                socket = self.websocket(sid)
                socket.send(b"2probe")
            elif step == "upgrade" and socket is not None and not upgraded and waiting is None:
                socket.send(b"5")
                upgraded = True
            if waiting is not None and waiting.is_answered:
                got += waiting.body.split(b"\x1e")
                waiting = None
        self.say(b"end")
        if not upgraded:
            got += (waiting or self.poll(sid)).body.split(b"\x1e")
            if got[-1] != b"4end":
                got += self.poll(sid).body.split(b"\x1e")
        got += [] if socket is None else socket.messages
        numbers = [int(packet[1:]) for packet in got if packet[:1] == b"4" and packet != b"4end"]
        self.assertEqual(numbers, sorted(set(numbers)))
        self.assertEqual(1, got.count(b"4end"))

    def test_second_probe(self) -> None:
        """Another WebSocket of a session that is being upgraded is closed, and the first one goes on."""
        sid, socket = self.probed()
        self.assertEqual(1000, self.websocket(sid).close_code)
        socket.send(b"5", b"4a")
        self.assertEqual([b"3probe", b"4a"], socket.messages)

    def test_failures(self) -> None:
        """A WebSocket that breaks off, times out or sends something else is closed, and polling goes on."""
        for name, fail in (
            ("breaks off", lambda socket: socket.transport.lose()),
            ("times out", lambda socket: self.wait(10.5)),
            ("a message", lambda socket: socket.send(b"4hello")),
            ("binary", lambda socket: socket.send(b"\0", opcode=BINARY)),
            ("no packet", lambda socket: socket.send(b"x")),
            ("a second upgrade", lambda socket: socket.send(b"0")),
            ("a probe of another name", lambda socket: socket.send(b"2other")),
        ):
            sid, socket = self.probed()
            fail(socket)
            self.assertTrue(socket.close_code or socket.transport.closed, name)
            waiting = self.poll(sid)
            self.assertFalse(waiting.is_answered, name)
            self.say(b"still here")
            self.assertEqual(b"4still here", waiting.body, name)
            again = self.websocket(sid)
            again.send(b"2probe", b"5")
            self.say(b"now here")
            self.assertEqual([b"3probe", b"4now here"], again.messages, name)
        self.assertEqual({"failed": 7, "upgraded": 7}, dict(self.hub.counters.engineio_upgrades))

    def test_upgrade_without_a_probe(self) -> None:
        """An upgrade packet without a probe closes the WebSocket, and polling goes on."""
        sid = self.open_polling()
        socket = self.websocket(sid)
        socket.send(b"5")
        self.assertEqual((1002, "polling"), (socket.close_code, self.echoes[0].connection.transport_name))

    def test_session_ends_before_the_probe(self) -> None:
        """A WebSocket without a probe is closed with its session."""
        socket = self.websocket(self.open_polling())
        self.echoes[0].connection.close()
        self.assertEqual(1000, socket.close_code)
        self.assertEqual(0, len(self.engine.connections))

    def test_session_ends_meanwhile(self) -> None:
        """If a session ends after the probe's answer, its client is told once it has moved, as it polls no more."""
        for reason, told in (("forced close", [b"4bye"]), ("transport error", [])):
            _, socket = self.probed()
            self.say(b"bye")
            self.echoes[-1].connection.close(reason)
            self.assertEqual((None, [b"3probe"]), (socket.close_code, socket.messages), reason)
            socket.send(b"5")
            self.assertEqual([b"3probe", *told], socket.messages, reason)
            self.assertTrue(socket.close_code, reason)

    def test_session_ends_and_the_client_never_moves(self) -> None:
        """If a session has ended, its WebSocket is closed at its next word, or when the time for an upgrade is over."""
        for fail in (
            lambda socket: self.wait(10.5),
            lambda socket: socket.send(b"4more"),
            lambda socket: socket.transport.lose(),
        ):
            _, socket = self.probed()
            self.echoes[-1].connection.close()
            fail(socket)
            self.assertTrue(socket.close_code or socket.transport.closed)
        self.assertEqual(0, len(self.engine.connections))

    def test_unknown_session(self) -> None:
        """There is no WebSocket for a session that isn't there."""
        self.assertIn(b"HTTP/1.1 400 ", self.websocket("a" * 20).head)

    def test_lost_after_the_upgrade(self) -> None:
        """After the upgrade the session ends with its WebSocket."""
        _, socket = self.probed()
        socket.send(b"5")
        socket.transport.lose()
        self.assertEqual("transport close", self.echoes[0].reason)
