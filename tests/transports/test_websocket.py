"""Tests for :mod:`realtime_chat.transports.websocket`, over real sockets."""

from __future__ import annotations

import errno
import itertools
import json
import os
import select
import struct
import time
from collections.abc import Callable
from typing import Any

from autobahn.websocket.compress import PerMessageDeflateOffer
from twisted.internet import reactor
from twisted.internet.endpoints import clientFromString
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from realtime_chat.broker.local import LocalBroker
from realtime_chat.composition import make_service
from realtime_chat.service import Configuration, RealtimeService
from realtime_chat.transports.fast import direct_send
from realtime_chat.transports.fast.direct_send import queued
from realtime_chat.values.errors import GOODBYES
from tests.clients import SocketClient, Watched
from tests.transports.test_contract import ServedTestCase, SlowGoodbyeContract, SlowReaderContract

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def masked(opcode: int, payload: bytes, fin: bool = True) -> bytes:
    """A client's frame (RFC 6455, section 5.2)."""
    size = len(payload)
    head = bytes((opcode | (0x80 if fin else 0),))
    if size < 126:
        head += bytes((0x80 | size,))
    elif size < 65536:
        head += bytes((0x80 | 126,)) + struct.pack("!H", size)
    else:
        head += bytes((0x80 | 127,)) + struct.pack("!Q", size)
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


class RawClient(Watched, Protocol):
    """A WebSocket client that sends any bytes, keeps the frames that come, and can stop reading."""

    reactor = reactor

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[tuple[int, bytes]] = []
        self.events: list[dict[str, Any]] = []
        self.head = b""
        self.lost = False
        self.reset = False  # whether it wasn't lost by a FIN
        self._data = b""

    def dataReceived(self, data: bytes) -> None:
        self._data += data
        if not self.head and b"\r\n\r\n" in self._data:
            self.head, _, self._data = self._data.partition(b"\r\n\r\n")
        while self.head and self._take_frame():
            pass
        self.notice()

    def _take_frame(self) -> bool:
        data = self._data
        if len(data) < 2:
            return False
        size, start = data[1] & 127, 2
        if size >= 126:
            start = 4 if size == 126 else 10
            if len(data) < start:
                return False
            size = int.from_bytes(data[2:start], "big")
        if len(data) < start + size:
            return False
        self.frames.append((data[0] & 15, data[start : start + size]))
        if self.frames[-1][0] == TEXT:
            self.note_text(self.frames[-1][1])
        self._data = data[start + size :]
        return True

    def note_text(self, payload: bytes) -> None:
        self.events.append(json.loads(payload))

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True
        self.reset = reason is not None and reason.check(ConnectionDone) is None
        self.notice()

    @property
    def close_code(self) -> int | None:
        """The code of the close frame that came."""
        codes = [int.from_bytes(payload[:2], "big") for opcode, payload in self.frames if opcode == CLOSE]
        return codes[0] if codes else None

    def write(self, *chunks: bytes) -> None:
        self.transport.write(b"".join(chunks))

    async def stop(self) -> None:
        """Cut the connection."""
        if not self.lost:
            self.transport.abortConnection()
            await self.until(lambda: self.lost)


class RawTestCase(ServedTestCase):
    """Tests that speak in bytes."""

    def upgrade(self, path: str = "/ws", *headers: str) -> bytes:
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version: 13",
            *headers,
        ]
        return "\r\n".join([*lines, "", ""]).encode()

    async def raw(self, first: bytes | None = None) -> RawClient:
        endpoint = clientFromString(reactor, f"tcp:127.0.0.1:{self.port}")
        client: RawClient = await endpoint.connect(Factory.forProtocol(RawClient))
        self.clients.append(client)
        client.write(self.upgrade() if first is None else first)
        await client.until(lambda: client.head)
        return client


class HandshakeTests(RawTestCase):
    """Becoming a WebSocket."""

    async def test_subprotocol(self) -> None:
        """realtime.v1 is accepted where it is offered; none, and others, are fine."""
        offered = await self.raw(self.upgrade("/ws", "Sec-WebSocket-Protocol: other, realtime.v1"))
        self.assertIn(b"Sec-WebSocket-Protocol: realtime.v1", offered.head)
        for headers in ((), ("Sec-WebSocket-Protocol: other",)):
            client = await self.raw(self.upgrade("/ws", *headers))
            self.assertTrue(client.head.startswith(b"HTTP/1.1 101"))
            self.assertNotIn(b"Protocol:", client.head)

    async def test_command_in_the_first_segment(self) -> None:
        """A frame that comes together with the upgrade is not lost."""
        client = await self.raw(self.upgrade() + masked(TEXT, b'{"type":"ping","id":7}'))
        await client.until(lambda: client.events)
        self.assertEqual([{"type": "pong", "id": 7}], client.events)

    async def test_join_by_url(self) -> None:
        """The URL alone joins a room, and the client gets its messages."""
        writer = await self.started(SocketClient)
        await writer.publish("hi")
        client = await self.raw(self.upgrade("/ws?room=lobby&last=1"))
        await client.until(lambda: len(client.events) == 2)
        self.assertEqual(["joined", "message"], [event["type"] for event in client.events])

    async def test_names_the_room(self) -> None:
        """A room of the URL that can't be joined is named by its error, and the others are joined."""
        client = await self.raw(self.upgrade("/ws?room=a&room=@b&room=c&room=d%20e"))
        await client.until(lambda: len(self.joins(client)) == 4)
        expected = [
            ("joined", None, "a"),
            ("error", "forbidden", "@b"),
            ("joined", None, "c"),
            ("error", "bad_room", None),
        ]
        self.assertEqual(expected, [(join["type"], join.get("code"), join.get("room")) for join in self.joins(client)])

    def joins(self, client: RawClient) -> list[dict[str, Any]]:
        """The answer for each room of the URL."""
        return [event for event in client.events if event["type"] in ("joined", "error")]

    async def test_refused(self) -> None:
        """A request that can't become a WebSocket is answered with an error in JSON and the fitting status."""
        nonce = "Sec-WebSocket-Key: x"
        for request, status in (
            (f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode(), b"426"),
            (self.upgrade("/ws?room=a&room=b&since=x:1"), b"400"),
            (self.upgrade("/ws?room=a&since=nonsense"), b"400"),
            (self.upgrade("/ws", nonce), b"400"),
            (self.upgrade("/ws", "Origin: http://evil.example"), b"403"),
            (self.upgrade("/ws", "Origin: null"), b"403"),
            (self.upgrade("/ws", "Content-Length: 5") + b"abcde", b"400"),
        ):
            client = await self.raw(request)
            self.assertIn(status, client.head.splitlines()[0], request)

    async def test_own_origin(self) -> None:
        """A page that the daemon itself serves may connect."""
        client = await self.raw(self.upgrade("/ws", f"Origin: http://127.0.0.1:{self.port}"))
        self.assertIn(b"101", client.head.splitlines()[0])


class OfferingTestCase(ServedTestCase):
    """Tests with clients that offer compression."""

    compress = False

    def make_service(self) -> RealtimeService:
        configuration = Configuration(("tcp:0:interface=127.0.0.1",), compress=self.compress)
        return make_service(reactor, self.store, LocalBroker(), configuration, time.time, os.urandom, io=self.io)

    async def offering(self, **offer: Any) -> SocketClient:
        client = self.client(SocketClient)
        offers = [PerMessageDeflateOffer(accept_no_context_takeover=True, **offer)]
        await client.connect({"room": "lobby"}, offers=offers)
        return client


class CompressionTests(OfferingTestCase):
    """Compression, where the operator allows it and the client offers it."""

    compress = True

    async def test_both_ways(self) -> None:
        """Long messages are compressed in both directions, for the clients that offered it and no others."""
        plain = await self.started(SocketClient)
        packed = await self.offering()
        self.assertIn("permessage-deflate", packed.extensions)
        texts = [f"{number}" + "abc " * 2000 for number in range(20)]
        for text in texts:
            await packed.publish(text)
        await packed.count(20)
        await plain.count(20)
        self.assertEqual((texts, texts), (packed.data, plain.data))
        traffic = [client.protocol.trafficStats.incomingOctetsWireLevel for client in (packed, plain)]
        self.assertLess(traffic[0] * 10, traffic[1])

    async def test_small_window_is_declined(self) -> None:
        """A client that asks the server for a smaller window gets uncompressed messages."""
        client = await self.offering(request_max_window_bits=9)
        self.assertEqual("", client.extensions)
        await client.publish("x" * 500)
        await client.count(1)

    async def test_bomb(self) -> None:
        """A small frame that inflates past the limit is closed with 1009."""
        client = await self.offering()
        client.protocol.sendMessage(b" " * 10_000_000)
        await client.until(lambda: client.close_code)
        self.assertEqual(1009, client.close_code)


class NoCompressionTests(OfferingTestCase):
    """Where the operator doesn't allow it, which is the default."""

    async def test_declined(self) -> None:
        """An offer is declined, and messages come plain."""
        client = await self.offering()
        await client.publish("x" * 500)
        await client.count(1)
        self.assertEqual(("", ["x" * 500]), (client.extensions, client.data))


class LimitTests(RawTestCase):
    """Limits that keep one client from harming the others."""

    limits = {"max_message": 1000}

    async def assert_healthy(self) -> None:
        """Everybody else notices nothing."""
        healthy = await self.started(SocketClient)
        await healthy.publish("still here")
        await healthy.count(1)

    async def test_oversized(self) -> None:
        """A frame or message over the limit is closed with 1009, and the code really comes."""
        for chunks in (
            (masked(TEXT, b"x" * 1001),),
            (masked(TEXT, b"x" * 600, fin=False), masked(0, b"x" * 600)),
            (b"\x81\xff" + struct.pack("!Q", 2**40) + b"mask",),
        ):
            client = await self.raw()
            client.write(*chunks)
            await client.until(lambda client=client: client.close_code)
            self.assertEqual(1009, client.close_code)
        await self.assert_healthy()

    async def test_protocol_errors(self) -> None:
        """A violation of the protocol closes the connection with 1002."""
        for chunk in (b"\x81\x05hello", b"\xf1\x80mask", b"\x83\x80mask", b"\x09\xfe\x00\xff" + b"m" * 259):
            client = await self.raw()
            client.write(chunk)
            await client.until(lambda client=client: client.close_code)
            self.assertEqual(1002, client.close_code, chunk)
        await self.assert_healthy()

    async def test_many_fragments(self) -> None:
        """A message in very many fragments is closed with our code."""
        client = await self.raw()
        client.write(masked(TEXT, b"", fin=False), *[masked(0, b"", fin=False)] * 200)
        await client.until(lambda: client.close_code)
        self.assertEqual(4501, client.close_code)
        await self.assert_healthy()

    async def test_many_pings(self) -> None:
        """Twenty thousand pings are answered by a close, not by as many pongs."""
        client = await self.raw()
        client.write(*[masked(PING, b"x" * 100)] * 20_000)
        await client.until(lambda: client.close_code)
        self.assertEqual(4501, client.close_code)
        self.assertLess(len(client.frames), 200)
        await self.assert_healthy()

    async def test_a_few_fragments(self) -> None:
        """A command in a few fragments is a command."""
        client = await self.raw()
        client.write(
            masked(TEXT, b'{"type":', fin=False), masked(PING, b"p"), masked(0, b'"pi', fin=False), masked(0, b'ng"}')
        )
        await client.until(lambda: client.events)
        self.assertEqual([{"type": "pong"}], client.events)
        self.assertIn((PONG, b"p"), client.frames)

    async def test_errors_are_answered(self) -> None:
        """A command that can't be read is answered with an error, and the connection stays open."""
        client = await self.raw()
        client.write(
            masked(TEXT, b"\xc3\xa9"),
            masked(TEXT, b"nonsense"),
            masked(BINARY, b"{}"),
            masked(TEXT, b'{"type":"ping"}'),
        )
        await client.until(lambda: len(client.events) == 4)
        self.assertEqual(["bad_request"] * 3, [event["code"] for event in client.events[:3]])
        self.assertEqual("pong", client.events[3]["type"])


async def test_dropped_connection(self) -> None:
    """A connection that is cut leaves nothing behind."""
    client = await self.raw(self.upgrade("/ws?room=lobby"))
    await client.until(lambda: client.events)
    await client.stop()
    await self.until(lambda: not self.service.hub.sessions)
    self.assertEqual(0, self.service.hub.rooms["lobby"].reader_count)


class InvalidTextTests(RawTestCase):
    """Text that isn't UTF-8."""

    async def test_invalid_utf8(self) -> None:
        """A text message that isn't UTF-8 is closed with 1007 (RFC 6455, section 8.1), wherever the bytes stand, in one
        frame or several, short or long; a code point may lie in two frames."""
        for bad in (b"\xff\xfe", b"\xed\xa0\x80", b"\xc3", b"\xf4\x90\x80\x80", b"\xc0\xaf"):
            for text in (bad, b'{"type":"ping","skipped":"%b"}' % bad, b'{"type":"ping","%b":1}' % bad):
                long = text + b" " * 2000
                whole, halves = (masked(TEXT, text),), (masked(TEXT, text[:9], fin=False), masked(0, text[9:]))
                for frames in (whole, (masked(TEXT, long),), halves):
                    client = await self.raw()
                    client.write(*frames)
                    await client.until(lambda client=client: client.close_code)
                    self.assertEqual((1007, []), (client.close_code, client.events), text)
                    await client.stop()
        client = await self.raw()
        client.write(masked(TEXT, b'{"type":"ping","skipped":"\xc3', fin=False), masked(0, b'\xa9"}'))
        await client.until(lambda: client.events)
        self.assertEqual([{"type": "pong"}], client.events)


class TurnTests(RawTestCase):
    """How many frames of a connection are processed in one turn."""

    async def test_heap(self) -> None:
        """Of a heap that came at once a turn does a part, and others are heard between; all is done, in order."""
        turns = self.service._all_sites()[0].turns
        seconds = itertools.count()  # each look takes longer than a share
        shares: list[int] = []
        later = turns.later
        self.patch(turns, "_seconds", lambda: next(seconds))
        self.patch(turns, "later", lambda *calls: (shares.append(1), later(*calls)))
        for kind in (
            lambda text: [masked(TEXT, text)],
            self.halves,
            lambda text: [masked(PING, b""), masked(TEXT, text)],
        ):
            shares.clear()
            client = await self.raw()
            client.write(*[part for number in range(90) for part in kind(b'{"type":"ping","id":%d}' % number)])
            await client.until(lambda client=client: len(client.events) == 90)
            self.assertEqual(list(range(90)), [event["id"] for event in client.events])
            self.assertGreater(len(shares), 40)

    def halves(self, text: bytes) -> list[bytes]:
        return [masked(TEXT, text[:5], fin=False), masked(0, text[5:])]

    async def test_closing(self) -> None:
        """A connection that is to end while frames of it wait hears the client's close behind them."""
        seconds = itertools.count()
        self.patch(self.service._all_sites()[0].turns, "_seconds", lambda: next(seconds))
        client = await self.raw()
        client.write(*[masked(TEXT, b'{"type":"ping"}')] * 50, masked(CLOSE, struct.pack("!H", 1000)))
        await client.until(lambda: client.lost)
        self.assertEqual((50, 1000, False), (len(client.events), client.close_code, client.reset))


class WaitingPublishTests(RawTestCase):
    """How much of what clients publish waits for the store at a time."""

    limits = {"max_publishes": 8, "max_publish_bytes": 2000, "max_publishing": 12, "max_publishing_bytes": 3000}

    async def flood(self, size: int, clients: int) -> tuple[int, int, int, int]:
        """Publish 60 messages from each client at once; answer the most that waited: of one, in bytes, of all, in
        bytes."""
        hub, most = self.service.hub, [0, 0, 0, 0]
        publisher, store = hub.publisher, self.store.append
        publish = publisher.publish

        def count(draft: Any, *args: Any) -> None:
            publish(draft, *args)  # by a store that takes a while, as one on a disk does
            waiting = [session._publishing for session in hub.sessions]
            sizes = [session._publishing_bytes for session in hub.sessions]
            now = (max(waiting), max(sizes), publisher._publishing, publisher._publishing_bytes)
            most[:] = map(max, most, now)

        self.patch(self.store, "append", lambda draft: deferLater(reactor, 0.01, store, draft))
        self.patch(publisher, "publish", count)
        raws = [await self.raw() for _ in range(clients)]
        for number, client in enumerate(raws):
            room = f"flood{size}.{clients}.{number}"
            client.write(*[masked(TEXT, self.publish(room, size, id)) for id in range(60)])
        for client in raws:
            await client.until(lambda client=client: len(client.events) == 60)
            self.assertEqual(list(range(60)), [event["id"] for event in client.events])
        for client in raws:
            await client.stop()
        await self.until(lambda: not hub.sessions)
        self.assertEqual((0, 0, {}), (publisher._publishing, publisher._publishing_bytes, publisher._held_up))
        return tuple(most)  # type: ignore[return-value]

    def publish(self, room: str, size: int, id: int) -> bytes:
        command = {"type": "publish", "room": room, "data": "x" * (size - 2), "id": id}
        return json.dumps(command, separators=(",", ":")).encode()

    async def test_one_connection(self) -> None:
        """One connection has so many publishes and so many bytes waiting, however many came in one piece."""
        count, _, _, _ = await self.flood(10, 1)
        self.assertEqual(8, count)
        _, size, _, _ = await self.flood(700, 1)
        self.assertEqual(2100, size)

    async def test_large(self) -> None:
        """So it is with frames that Autobahn reads."""
        _, size, _, _ = await self.flood(1500, 1)
        self.assertEqual(3000, size)

    async def test_all_connections(self) -> None:
        """All together have so much waiting, and each one publish more at most."""
        _, _, count, _ = await self.flood(10, 6)
        self.assertLessEqual(count, 12 + 6)
        _, _, _, size = await self.flood(500, 6)
        self.assertLessEqual(size, 3000 + 6 * 500)


class ClosingTests(RawTestCase):
    """The closing handshake (RFC 6455, section 7)."""

    async def closed(self, client: RawClient, *frames: bytes) -> None:
        """Answer the daemon's close, and wait for the connection's end."""
        await client.until(lambda: client.close_code)
        client.write(*frames, masked(CLOSE, struct.pack("!H", client.close_code or 0)))
        await client.until(lambda: client.lost, 5)

    async def test_closed_by_the_daemon(self) -> None:
        """Whatever the daemon closes for, the connection ends with a FIN once the client has answered."""
        for bad in (b'{"type":"ping"', b"\xff"):
            for opcode in (TEXT, 3, BINARY):
                client = await self.raw(self.upgrade("/ws?room=lobby"))
                client.write(masked(opcode, bad), masked(11, b""))
                await self.closed(client)
                self.assertFalse(client.reset, (opcode, bad))

    async def test_goodbye(self) -> None:
        """After a goodbye, too; what the client sends before it has read the close does no harm."""
        for reason in GOODBYES:
            client = await self.raw(self.upgrade("/ws?room=lobby"))
            await client.until(lambda client=client: client.events)
            (session,) = self.service.hub.sessions
            session.dismiss(reason)
            await self.closed(client, masked(TEXT, b'{"type":"ping"}'), masked(PING, b""))
            self.assertEqual((GOODBYES[reason].code, False), (client.close_code, client.reset))

    async def test_closed_by_the_client(self) -> None:
        """Where the client begins, its close is answered, and then comes the FIN."""
        client = await self.raw()
        client.write(masked(CLOSE, struct.pack("!H", 1000)))
        await client.until(lambda: client.lost, 5)
        self.assertEqual((1000, False), (client.close_code, client.reset))

    async def test_no_answer(self) -> None:
        """A client that never answers the close is cut off after two seconds."""
        client = await self.raw()
        began = time.monotonic()
        client.write(masked(11, b""))
        await client.until(lambda: client.lost)
        self.assertEqual((1002, True), (client.close_code, client.reset))
        self.assertGreaterEqual(time.monotonic() - began, 2)


class FailingSendTests(RawTestCase):
    """A socket whose ``send`` fails now and then, though the connection goes on."""

    async def test_no_gap(self) -> None:
        """The reader gets every message once, in order, and every reply."""
        reader = self.client(SocketClient)
        await reader.connect()
        (session,) = self.service.hub.sessions
        transport = session.transport
        send, numbers = transport.direct_send, iter(range(1_000_000))
        failures = (errno.ENOBUFS, errno.ENOMEM)

        def fail_sometimes(data: bytes) -> int:
            number = next(numbers)
            if number % 3 == 1:
                raise OSError(failures[number % 2], "no buffer space available")
            return int(send(data))

        transport.direct_send = fail_sometimes
        reader.send(type="join", room="lobby")
        await reader.until(lambda: reader.of_type("joined"))
        writer = self.client(SocketClient)
        await writer.connect()
        for number in range(20):
            await writer.publish(number)
            await reader.tell(type="ping")
        await reader.count(20)
        self.assertEqual(list(range(20)), reader.data)
        self.assertTrue(reader.open)


class SlowLineTests(RawTestCase):
    """A client that takes much, slowly but steadily."""

    limits = {"ping": 0.3, "pong": 0.5, "stalled_after": 4.0}

    async def test_progress(self) -> None:
        """A client that takes bytes slowly isn't silent, though its pong is late. One that stops taking them is."""
        writer = await self.started(SocketClient)
        for _ in range(25):
            await writer.publish("x" * 60_000)
        slow = await self.raw()
        slow.transport.pauseProducing()  # from now on it answers no ping
        slow.write(masked(TEXT, b'{"type":"history","room":"lobby"}') * 2)
        began, taken = time.monotonic(), 0
        while taken < 2_000_000:
            await self.until(lambda taken=taken: time.monotonic() > began + taken / 500_000)
            await self.until(lambda: select.select([slow.transport.socket], [], [], 0)[0])
            taken += len(slow.transport.socket.recv(16_384))
        self.assertGreater(time.monotonic() - began, 3)
        self.assertEqual(2, len(self.service.hub.sessions))
        await self.until(lambda: len(self.service.hub.sessions) == 1)


class PingTests(RawTestCase):
    """Finding out which clients are gone."""

    limits = {"ping": 0.3, "pong": 0.5}

    async def test_silent_client(self) -> None:
        """A client that answers no ping gets a goodbye."""
        client = await self.raw()
        await client.until(lambda: client.close_code)
        self.assertEqual(4002, client.close_code)
        self.assertEqual(
            ("goodbye", "silent", True), tuple(client.events[0][name] for name in ("type", "reason", "reconnect"))
        )

    async def test_living_client(self) -> None:
        """A client that answers pings stays connected."""
        client = await self.started(SocketClient)
        await self.until(lambda: client.protocol.trafficStats.incomingWebSocketFrames >= 0 and self._pinged(client) > 3)
        self.assertTrue(client.open)

    def _pinged(self, client: Any) -> int:
        if not hasattr(client, "pings"):
            client.pings = 0
            answer = client.protocol.onPing

            def count(payload: bytes) -> None:
                client.pings += 1
                answer(payload)

            client.protocol.onPing = count
        return int(client.pings)


class HalfMessageTests(RawTestCase):
    """Messages that are begun, by clients that answer pings."""

    limits = {"ping": 0.3, "pong": 1.0}

    async def another(self, client: RawClient) -> None:
        """Wait for one more frame."""
        seen = len(client.frames)
        await client.until(lambda: client.lost or len(client.frames) > seen)

    async def keep_on(self, client: RawClient, part: Callable[[], bytes]) -> None:
        """Answer each ping, and send a part of a message with it, until the connection is closed."""
        answered = 0
        while not client.close_code:
            pings = sum(opcode == PING for opcode, _ in client.frames)
            for _ in range(pings - answered):
                client.write(masked(PONG, b""), part())
            answered = pings
            await self.another(client)

    async def test_stopped(self) -> None:
        """A message that goes on by a few bytes, or by fragments of nothing, ends the connection with "silent"."""
        for begun, part in (
            (masked(TEXT, b" ", fin=False), masked(0, b"", fin=False)),
            (masked(TEXT, b" ", fin=False), masked(0, b"    ", fin=False)),
            (masked(TEXT, b" ", fin=False), b""),
        ):
            client = await self.raw()
            client.write(begun)
            await self.keep_on(client, lambda part=part: part)
            self.assertEqual((4002, "silent"), (client.close_code, client.events[-1]["reason"]))

    async def test_half_a_frame(self) -> None:
        """Half a frame that stops, or goes on slowly, ends the connection, too: no pong can follow it."""
        client = await self.raw()
        whole = masked(TEXT, b" " * 50_000)
        client.write(whole[:2000])
        rest = iter(range(2000, 50_000, 4))
        pings = 0
        while not client.close_code:
            if (now := sum(opcode == PING for opcode, _ in client.frames)) > pings:
                pings, start = now, next(rest)
                client.write(whole[start : start + 4])
            await self.another(client)
        self.assertEqual("silent", client.events[-1]["reason"])

    async def test_goes_on(self) -> None:
        """A message that goes on fast enough comes whole, however long that takes."""
        client = await self.raw()
        text = b'{"type":"ping","id":1' + b" " * 20_000
        client.write(masked(TEXT, text[:2000], fin=False))
        for start in range(2000, 12_000, 2000):
            await self.another(client)
            client.write(masked(PONG, b""), masked(0, text[start : start + 2000], fin=False))
        client.write(masked(0, b"}"))
        await client.until(lambda: client.events)
        self.assertEqual([{"type": "pong", "id": 1}], client.events)

    async def test_pieces(self) -> None:
        """A frame that comes byte by byte takes no more memory than its bytes do."""
        client = await self.raw()
        (protocol,) = (session.transport for session in self.service.hub.sessions)
        text = b'{"type":"ping","id":2%b}' % (b" " * 3000)
        frame = masked(TEXT, text)
        most = 0
        for start in range(0, len(frame), 2):
            protocol.dataReceived(frame[start : start + 2])
            most = max(most, len(getattr(protocol, "frame_data", None) or ()))
        self.assertLess(most, 100)
        await client.until(lambda: client.events)
        self.assertEqual([{"type": "pong", "id": 2}], client.events)


class StallingTestCase(RawTestCase):
    """Tests with a subscriber that doesn't read."""

    async def stall(self) -> RawClient:
        stalled = await self.raw(self.upgrade("/ws?room=lobby"))
        await stalled.until(lambda: stalled.events)
        stalled.transport.pauseProducing()
        return stalled


class SlowReaderTests(SlowReaderContract, StallingTestCase):
    """A slow reader that reads again in the end."""


class OrdinaryTransportTests(SlowReaderTests):
    """A slow reader that is written to by its transport, as over TLS."""

    repeats = True

    def setUp(self) -> None:
        self.patch(direct_send, "direct_send_of", lambda transport: None)
        super().setUp()


class SlowGoodbyeTests(SlowGoodbyeContract, StallingTestCase):
    """A slow reader that never reads again."""


class HistoryFloodTests(RawTestCase):
    """A client that asks for more than it reads."""

    async def test_replies_are_bounded(self) -> None:
        """While replies wait for a client that doesn't read, no more commands are read from it."""
        writer = await self.started(SocketClient)
        for _ in range(20):
            await writer.publish("x" * 50_000)
        greedy = await self.raw()
        greedy.transport.pauseProducing()
        await self.until(lambda: len(self.service.hub.sessions) == 2)
        session = next(one for one in self.service.hub.sessions if not one.subscriptions)
        for _ in range(60):
            greedy.write(masked(TEXT, b'{"type":"history","room":"lobby"}'))
        most = 0

        def full() -> bool:
            nonlocal most
            most = max(most, queued(session.transport.transport))
            return bool(session.transport.write_paused)

        await self.until(full)
        await writer.publish("another")
        full()
        self.assertLess(most, 8 * 1024 * 1024)
        greedy.transport.resumeProducing()
        await greedy.until(lambda: len(greedy.frames) == 60)
