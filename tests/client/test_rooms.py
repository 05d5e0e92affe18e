"""Rooms that can't be joined, and more rooms than one request can have: an error of one doesn't affect others.

``tests/functional/test_rooms_js.py`` has the same list of cases for ``realtime.js``.
"""

from __future__ import annotations

import os
import re
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, gatherResults
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.protocols.portforward import ProxyClientFactory, ProxyServer

from realtime_chat.client import Chat, Room
from realtime_chat.store.memory import MemoryStore
from realtime_chat.store.retention import Retention
from realtime_chat.values.errors import RealtimeError, StoreError
from tests.client.served import ChatTestCase

ODD = ("__proto__", "constructor", "toString", "hasOwnProperty", "undefined", "null", "valueOf")
"""Room names that are also properties of objects in other languages."""

LONGEST_LINE = 8000
_LINE = re.compile(rb"(?:GET|POST) \S+ HTTP/1\.1\r\n")


class SickStore(MemoryStore):
    """A store that can't read some rooms."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.sick: set[str] = set()

    def start(self) -> Deferred[None]:
        self._stopped = False
        return super().start()

    def read_after(self, room: str, *args: Any) -> Deferred[Any]:
        return fail(StoreError("not now")) if room in self.sick else super().read_after(room, *args)

    def read_before(self, room: str, *args: Any) -> Deferred[Any]:
        return fail(StoreError("not now")) if room in self.sick else super().read_before(room, *args)


class _Listening(ProxyServer):
    """A proxy that records the request lines."""

    factory: Any

    clientProtocolFactory = staticmethod(lambda: _client_factory())

    def dataReceived(self, data: bytes) -> None:
        self.factory.lines += _LINE.findall(data)
        super().dataReceived(data)


def _client_factory() -> ProxyClientFactory:
    factory = ProxyClientFactory()
    factory.noisy = False
    return factory


class RoomsContract:
    """What holds for a chat on each transport. The daemon allows 100 rooms."""

    def serve(self: Any) -> None:
        self.store = SickStore(Retention(self.history), lambda: self.wall(), os.urandom)
        self.service = self.make_service()
        self.service.startService()
        self.port = self.service.ports()[0]

    async def join_all(self: Any, chat: Chat, names: list[str]) -> list[Room | RealtimeError]:
        """Join rooms at once. Returns each room, or the error."""
        joining = [Deferred.fromCoroutine(chat.join(name, last=0)) for name in names]
        return await gatherResults([each.addErrback(lambda failure: failure.value) for each in joining])

    async def check_works(self: Any, rooms: list[Any]) -> None:
        """Assert that a published message comes in each room."""
        await gatherResults([room.publish(room.name) for room in rooms])
        for room in rooms:
            self.assertEqual([room.name], await self.data(room, 1))

    async def test_forbidden_among_others(self: Any) -> None:
        """A private room of another user and an invalid name are refused without affecting others."""
        chat = await self.chat()
        joined = await self.join_all(chat, ["a", "@somebody", "no room", "", "..", "b"])
        codes = [each.code for each in joined if isinstance(each, RealtimeError)]
        self.assertEqual(["forbidden", "bad_room", "bad_room", "bad_room"], codes)
        await self.check_works([joined[0], joined[-1]])
        self.assert_never_lost(chat)

    async def test_odd_names(self: Any) -> None:
        """A name that objects have as a property is a room like any other."""
        chat = await self.chat()
        await self.check_works(await self.join_all(chat, [*ODD, "lobby"]))
        self.assert_never_lost(chat)

    async def test_one_too_many(self: Any) -> None:
        """Of 101 rooms 100 are read and the last one is refused; it can be joined when one is left."""
        chat = await self.chat()
        *rooms, error = await self.join_all(chat, [f"r{number}" for number in range(101)])
        self.assertEqual(("too_many", True), (error.code, error.temporary))
        await self.check_works(rooms)
        await rooms[50].leave()
        await self.check_works([await chat.join("r100", last=0)])
        self.assert_never_lost(chat)

    async def test_long_names(self: Any) -> None:
        """A hundred rooms with names of maximal length are read, and no request line is over 8,000 bytes."""
        listening = Factory.forProtocol(_Listening)
        listening.lines, listening.host, listening.port, listening.noisy = [], "127.0.0.1", self.port, False
        port = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(listening)
        self.addCleanup(port.stopListening)
        direct, self.port = self.port, port.getHost().port
        chat = await self.chat(name="ü" * 64)
        self.port = direct
        rooms = await self.join_all(chat, [f"{number:03}" + ":" * 125 for number in range(100)])
        await self.check_works(rooms)
        await self.check_works(rooms)
        self.assertLessEqual(max(map(len, listening.lines)), LONGEST_LINE)
        self.assert_never_lost(chat)

    async def test_sick_room(self: Any) -> None:
        """While a room can't be read, joining it is refused; a chat that read it before reads on later."""
        chat = await self.chat()
        sick, well = await self.join_all(chat, ["sick", "well"])
        await self.restart("sick", "new")
        await self.until(lambda: chat.state.kind == "connected" and well._subscription.joined)
        new, more = await self.join_all(chat, ["new", "more"])
        self.assertEqual(("store_unavailable", True), (new.code, new.temporary))
        await self.check_works([more, well])
        self.assertFalse(sick._subscription.joined)
        self.store.sick.clear()
        await self.check_works([sick, await chat.join("new", last=0)])
        kinds = [state.kind for state in self.states_of[chat]]
        self.assertEqual(["waiting"], [kind for kind in kinds if kind not in ("connecting", "connected")])

    async def restart(self: Any, *sick: str) -> None:
        """Restart the daemon with the same messages and a store that can't read these rooms."""
        self.listen = f"tcp:{self.port}:interface=127.0.0.1"
        await self.service.stopService()
        self.store.sick.update(sick)
        self.service = self.make_service()
        self.service.startService()
        await self.until(self.service.ports)


class WebSocketRoomsTests(RoomsContract, ChatTestCase):
    """Over WebSocket."""

    transports = ("websocket",)


class PollRoomsTests(RoomsContract, ChatTestCase):
    """Over long poll."""

    transports = ("poll",)


class SSERoomsTests(RoomsContract, ChatTestCase):
    """Over server-sent events."""

    transports = ("sse",)


class NarrowRoomsTests(RoomsContract, ChatTestCase):
    """Over long poll, with request lines that are longer than a proxy accepts."""

    transports = ("poll",)

    def setUp(self) -> None:
        super().setUp()
        self.patch(__import__("realtime_chat.client.cursors", fromlist=["_LONGEST_LINE"]), "_LONGEST_LINE", 60_000)

    async def test_long_names(self) -> None:
        """A request that is answered with 431 is split."""
        chat = await self.chat()
        rooms = await self.join_all(chat, [f"{number:03}" + ":" * 125 for number in range(100)])
        await self.check_works(rooms)
        self.assertLess(chat._core.connector.link._cursors._longest_line, 16_384)
        self.assert_never_lost(chat)
