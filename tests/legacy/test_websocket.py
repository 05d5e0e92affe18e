"""Tests for :mod:`realtime_chat.legacy.websocket`, over real sockets."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import attrs
import treq
from twisted.internet import reactor
from twisted.internet.endpoints import clientFromString
from twisted.internet.protocol import Factory

from realtime_chat.core.access import AccessPolicy
from realtime_chat.legacy.websocket import LegacyFanout
from realtime_chat.service import Configuration
from realtime_chat.transports.fast.choice import PLAIN
from realtime_chat.transports.frames import frame
from realtime_chat.values.access import READ, RoomRule, RoomRules
from realtime_chat.values.codec import Entry
from realtime_chat.values.model import Message, Position
from realtime_chat.values.rates import Rate, RateLimits, ScopeLimits
from tests.clients import SocketClient
from tests.transports.test_contract import ServedTestCase
from tests.transports.test_websocket import BINARY, CLOSE, TEXT, RawClient, masked

ORIGIN = "http://127.0.0.1:8000"
HELLO = "connected ....\n"


class PageClient(RawClient):
    """An old page: it keeps the texts that come."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def note_text(self, payload: bytes) -> None:
        self.texts.append(payload.decode(errors="replace"))  # what is compressed isn't text

    def say(self, *texts: str) -> None:
        """Send texts, in one piece."""
        self.write(*[masked(TEXT, text.encode()) for text in texts])


class LegacyTestCase(ServedTestCase):
    """A daemon with a listener for old pages."""

    rates = RateLimits()
    access = AccessPolicy()
    compress = False

    def configuration(self) -> Configuration:
        loopback = ("tcp:0:interface=127.0.0.1",)
        return attrs.evolve(
            super().configuration(),
            legacy_listen=loopback,
            origins=(ORIGIN,),
            rate_limits=self.rates,
            access=self.access,
            compress=self.compress,
        )

    def upgrade(self, path: str, *headers: str) -> bytes:
        port = self.service.ports()[1]
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version: 13",
            *headers,
        ]
        return "\r\n".join([*lines, "", ""]).encode()

    async def connected(self, path: str = "/ws", *headers: str, first: bytes = b"") -> PageClient:
        """A page, and what it sends together with its handshake."""
        endpoint = clientFromString(reactor, f"tcp:127.0.0.1:{self.service.ports()[1]}")
        page: PageClient = await endpoint.connect(Factory.forProtocol(PageClient))
        self.clients.append(page)
        page.write(self.upgrade(path, *headers), first)
        await page.until(lambda: page.head)
        return page

    async def texts(self, page: PageClient, count: int) -> list[str]:
        """The first texts that a page gets, without the greeting."""
        await page.until(lambda: len(page.texts) > count)
        self.assertEqual(HELLO, page.texts[0])
        return page.texts[1:]


class TextTests(LegacyTestCase):
    """Texts in both directions."""

    async def test_both_directions(self) -> None:
        """A page is greeted. What it sends comes to all pages and native clients, to its own sender too, in order."""
        native = await self.started(SocketClient)
        one, other = await self.connected("/ws", f"Origin: {ORIGIN}"), await self.connected()
        one.say("from lp é", "", "<b>")
        for page in (one, other):
            self.assertEqual(["from lp é\n", "\n", "&lt;b&gt;\n"], await self.texts(page, 3))
        await native.count(3)
        self.assertEqual([{"text": "from lp é"}, {"text": ""}, {"text": "<b>"}], native.data)
        self.assertEqual({"id": "anonymous", "name": "anonymous", "guest": True}, native.messages[0]["from"])
        await native.publish({"text": "native"})
        await native.publish([1])
        self.assertEqual(["native\n", "[1]\n"], (await self.texts(other, 5))[3:])

    async def test_first_segment(self) -> None:
        """What comes together with the handshake is not lost. There is no history."""
        native = await self.started(SocketClient)
        await native.publish({"text": "before"})
        page = await self.connected("/ws", first=masked(TEXT, b"early"))
        self.assertEqual(["early\n"], await self.texts(page, 1))

    async def test_never_json(self) -> None:
        """Signals, members, refused and binary frames are said to no page."""
        page = await self.connected()
        native = await self.started(SocketClient)
        native.send(type="signal", room="lobby", event="typing", data=1)
        page.write(masked(BINARY, b"binary"), masked(TEXT, b"a", fin=False), masked(0, b"b"))
        self.assertEqual(["ab\n"], await self.texts(page, 1))

    async def test_rooms(self) -> None:
        """A page may name another room; the rooms stay apart."""
        one, other = await self.connected(), await self.connected("/ws?room=other")
        one.say("one")
        other.say("other")
        self.assertEqual((["one\n"], ["other\n"]), (await self.texts(one, 1), await self.texts(other, 1)))

    async def test_poll_sees_it(self) -> None:
        """A page that polls sees what a page says over its WebSocket, and the other way round."""
        page = await self.connected()
        url = f"http://127.0.0.1:{self.service.ports()[1]}/"
        page.say("from ws")
        await self.texts(page, 1)
        said = await (await treq.get(f"{url}?lastupdate=0&callback=f", persistent=False)).text()
        self.assertIn('"data":"from ws"', said)
        answer = await treq.post(url, data={"new_message": "from lp"}, headers={"Origin": ORIGIN}, persistent=False)
        self.assertEqual([ORIGIN], answer.headers.getRawHeaders("Access-Control-Allow-Origin"))
        self.assertEqual("from lp\n", (await self.texts(page, 2))[1])

    async def test_counted(self) -> None:
        """Sessions and deliveries are counted as a transport of their own."""
        page = await self.connected()
        page.say("a", "b")
        await self.texts(page, 2)
        self.assertEqual(2, self.service.hub.counters.delivered["legacy_websocket"])
        names = [session.transport.fanout.name for session in self.service.hub.sessions if session.transport]
        self.assertEqual(["legacy_websocket"], names)

    async def test_ends(self) -> None:
        """When the daemon stops, the page gets a close frame and no text before it."""
        page = await self.connected()
        await page.until(lambda: page.texts)
        stopped = self.service.stopService()
        await page.until(lambda: page.close_code)
        page.write(masked(CLOSE, b"\x03\xe8"))
        await stopped
        await page.until(lambda: page.lost)
        self.assertEqual(([HELLO], 4000), (page.texts, page.close_code))

    async def test_left_behind(self) -> None:
        """A page that reads slowly gets all that is kept, in order. Where messages are gone it is greeted again."""
        page = await self.connected()
        await page.until(lambda: page.texts)
        page.transport.pauseProducing()
        native = await self.started(SocketClient)
        for number in range(2000):
            await native.publish({"text": f"{number:05} " + "x" * 6000})
        page.transport.resumeProducing()
        await page.until(lambda: page.texts[-1].startswith("01999"))
        numbers = [int(text[:5]) for text in page.texts if text != HELLO]
        self.assertEqual(sorted(set(numbers)), numbers)
        self.assertEqual(list(range(1000, 2000)), numbers[-1000:])
        gaps = sum(after != before + 1 for before, after in pairwise(numbers))
        self.assertEqual(page.texts.count(HELLO) - 1, gaps)


class PlainTextTests(TextTests):
    """The same over Twisted's transports."""

    io = PLAIN
    repeats = True


class CompressedTests(LegacyTestCase):
    """Compression, which the pages' browsers offer."""

    compress = True

    async def test_compressed(self) -> None:
        """Long texts are compressed, if that was agreed."""
        page = await self.connected("/ws", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
        self.assertIn(b"permessage-deflate", page.head)
        native = await self.started(SocketClient)
        await page.until(lambda: page.frames)
        await native.publish({"text": "x" * 1000})
        await page.until(lambda: len(page.frames) == 2)
        self.assertLess(len(page.frames[1][1]), 100)


class FanoutTests(LegacyTestCase):
    """Frames."""

    def test_hidden(self) -> None:
        """A message that isn't shown keeps its place, and is no frame."""
        fanout = LegacyFanout(frame)
        entries = [
            Entry(Message("lobby", Position("e", number), event, b'{"text":"hi"}', "a", "a", 0))
            for number, event in enumerate(("$a", "b", "$c"), 1)
        ]
        batch = fanout.encode("lobby", "e", entries)
        self.assertEqual((3, frame(b"hi\n"), [0, 5, 5]), (batch.count, batch.data, batch.ends))
        self.assertEqual(b"", fanout.encode_event("signal", b"{}").data)


class LimitTests(LegacyTestCase):
    """A burst that is faster than a client may be."""

    rates = RateLimits(client=ScopeLimits(publishes=Rate(200, 50)))

    async def test_burst(self) -> None:
        """What is sent faster than the limits allow is published later, in order, and nothing is lost or refused."""
        page = await self.connected()
        begun = time.monotonic()
        page.say(*map(str, range(300)))
        texts = await self.texts(page, 300)
        self.assertEqual([f"{number}\n" for number in range(300)], texts)
        self.assertGreater(time.monotonic() - begun, 1.0)
        self.assertGreater(self.service.hub.counters.limited["client", "publishes"], 0)
        self.assertEqual(0, self.service.hub.counters.goodbyes["too_many_errors"])

    async def test_gone_while_limited(self) -> None:
        """A page that goes away while it isn't read leaves nothing."""
        page = await self.connected()
        page.say(*map(str, range(60)))
        await page.until(lambda: len(page.texts) > 40)
        page.transport.abortConnection()
        await self.until(lambda: not self.service.hub.sessions)
        self.assertEqual([], self.flushLoggedErrors())


class RightsTests(LegacyTestCase):
    """Rooms that guests may only read."""

    access = AccessPolicy(RoomRules((RoomRule("lobby", READ, READ),)), is_open=False)

    async def test_refused(self) -> None:
        """A WebSocket to a room that guests may not read is refused; in a room that they may read they say nothing."""
        page = await self.connected("/ws?room=other")
        self.assertIn(b"403", page.head.splitlines()[0])
        page = await self.connected("/ws")
        page.say("hi")
        page.write(masked(CLOSE, b"\x03\xe8"))
        await page.until(lambda: page.lost)
        self.assertEqual(([HELLO], 1000), (page.texts, page.close_code))


class RefusedTests(LegacyTestCase):
    """Requests that become no WebSocket."""

    async def test_emulation(self) -> None:
        """Browsers without WebSocket, which ask and send by HTTP, are told that it takes an upgrade."""
        url = f"http://127.0.0.1:{self.service.ports()[1]}/ws?previousRequest=&currentRequest=1385740800000"
        for ask in (treq.get(url, persistent=False), treq.post(url, data=b"raw text", persistent=False)):
            answer = await ask
            error = await answer.json()
            self.assertEqual((426, "upgrade_required"), (answer.code, error["code"]))
            self.assertIn("new_message in a form", error["message"])

    async def test_others(self) -> None:
        """Pages of other origins, other hosts, wrong rooms and wrong handshakes are refused."""
        for path, headers, status in (
            ("/ws", ("Origin: http://evil.example",), b"403"),
            ("/ws", ("Origin: null",), b"403"),
            ("/ws?room=a%20b", (), b"400"),
            ("/ws?room=a&room=b", (), b"400"),
            ("/ws", ("Sec-WebSocket-Version: 8",), b"400"),
            ("/poll?room=lobby", (), b"404"),
        ):
            page = await self.connected(path, *headers)
            self.assertIn(status, page.head.splitlines()[0], (path, headers))
        url = f"http://127.0.0.1:{self.service.ports()[1]}/"
        answer = await treq.get(url, headers={"Host": "evil.example"}, persistent=False)
        self.assertEqual("unknown_host", (await answer.json())["code"])

    async def test_connections(self) -> None:
        """Connections of both listeners count for one limit."""
        chat: Any = self.service._sites.chat  # type: ignore[union-attr]
        await self.connected()
        await self.started(SocketClient)
        before = chat.excess()
        await self.connected()
        self.assertEqual(before + 1, chat.excess())
        self.assertEqual(chat.excess(), self.service._sites.legacy.excess())  # type: ignore[union-attr]
