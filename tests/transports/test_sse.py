"""Tests for :mod:`realtime_chat.transports.sse`, over real sockets."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import struct
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.broker.local import LocalBroker
from realtime_chat.composition import make_service
from realtime_chat.core.access import AccessPolicy
from realtime_chat.http.monitoring import make_registry
from realtime_chat.service import Configuration, RealtimeService
from realtime_chat.store.memory import MemoryStore
from realtime_chat.transports.event_blocks import RoomFanout, encode_block
from realtime_chat.transports.fast import direct_send
from realtime_chat.values.access import RoomRule, RoomRules
from realtime_chat.values.errors import StoreError
from realtime_chat.values.limits import Limits
from tests.clients import EventClient, EventStream, SocketClient
from tests.deadlines import Stopwatch
from tests.transports.test_contract import ServedTestCase, SlowGoodbyeContract, SlowReaderContract


class EventsTestCase(ServedTestCase):
    """Tests of streams, whose random numbers are known."""

    fraction = 0.5
    configured: dict[str, Any] = {}

    def make_service(self) -> RealtimeService:
        limits = Limits(history=self.history, **self.limits)
        configuration = Configuration(("tcp:0:interface=127.0.0.1",), limits=limits, **self.configured)
        return make_service(reactor, self.store, LocalBroker(), configuration, time.time, self.token, io=self.io)

    def token(self, size: int) -> bytes:
        """Randomness: what asks for four bytes gets those of the fraction."""
        return int(self.fraction * 2**32).to_bytes(4, "big") if size == 4 else os.urandom(size)

    async def opened(self, *rooms: str, headers: tuple[str, ...] = (), **query: Any) -> EventClient:
        """A client with a stream of some rooms that has begun."""
        client: EventClient = self.client(EventClient)
        await client.connect([*(("room", room) for room in rooms), *query.items()], *headers)
        await client.until(lambda: len(client.of_type("joined")) == len(rooms))
        return client

    async def refused(self, query: list[tuple[str, str]], *headers: str) -> tuple[int, str]:
        """Status and error code of the answer to a stream that can't be."""
        stream = await self.client(EventClient).connect(query, *headers)
        return self.read_refusal(stream)

    def read_refusal(self, stream: EventStream) -> tuple[int, str]:
        """Status and error code of an answer that isn't a stream."""
        self.assertIn(b"application/json", stream.head)
        error = json.loads(stream.text)
        return int(stream.head.split()[1]), error["code"]

    async def request(self, text: str) -> EventStream:
        """Send a request as it stands, and wait for the head of the answer."""
        client = self.client(EventClient)
        client.request = lambda query, headers: text.encode()
        stream: EventStream = await client.connect({})
        return stream

    async def check_ids(self, client: EventClient) -> None:
        """Each id of a stream of several rooms is what the events before it tell; wait for the last."""
        stream = client.stream
        await stream.until(lambda: read_id(stream.last_id) == positions(stream.events))
        for count, id in stream.ids:
            self.assertEqual(positions(stream.events[:count]), read_id(id))

    def on_server(self, client: EventClient) -> Any:
        """The server's side of a client's stream."""
        (session,) = [one for one in self.service.hub.sessions if one.identity and one.identity.client == client.client]
        return session.transport


def read_id(id: str) -> dict[str, str]:
    """The positions in the id of a stream of several rooms."""
    return dict(part.split("=") for part in id.split(","))


def positions(events: list[dict[str, Any]]) -> dict[str, str]:
    """Where the rooms stand after some events."""
    told = [event for event in events if event["type"] in ("joined", "message", "reset")]
    return {event["room"]: event["position"] for event in told}


class BeginningTests(EventsTestCase):
    """How a stream begins."""

    async def test_head(self) -> None:
        """The answer is an event stream that nobody keeps, buffers or goes on after."""
        client = await self.opened("lobby")
        lines = client.stream.head.decode().split("\r\n")
        self.assertEqual("HTTP/1.1 200 OK", lines[0])
        for header in (
            "Content-Type: text/event-stream",
            "Cache-Control: no-store",
            "X-Accel-Buffering: no",
            "Connection: close",
            "Server: realtime_chat",
        ):
            self.assertEqual(1, lines.count(header), header)
        self.assertNotIn("Content-Length", client.stream.head.decode())
        self.assertEqual(1, lines.count("Transfer-Encoding: chunked"))

    async def test_first_events(self) -> None:
        """A stream begins with retry time, client, the rooms' positions and the last messages, in this order."""
        writer = await self.started(SocketClient)
        reply = await writer.publish("before")
        client = await self.opened("lobby", name="Bob")
        await client.count(1)
        self.assertEqual(["welcome", "joined", "message"], [event["type"] for event in client.events[:3]])
        welcome, joined, message = client.events[:3]
        self.assertEqual(("Bob", 1), (welcome["user"]["name"], welcome["v"]))
        self.assertEqual((True, reply["position"]), (joined["recovered"], joined["top"]))
        self.assertEqual([(2, joined["position"]), (3, message["position"])], client.stream.ids)
        self.assertEqual(2000, client.stream.retry)

    async def test_known_client(self) -> None:
        """A client that is named in the header or the URL is known again. An unknown one gets a new name."""
        first = await self.opened("lobby")
        same = await self.opened("lobby", client=first.client)
        also = await self.opened("lobby", headers=(f"Realtime-Client: {first.client}",))
        other = await self.opened("lobby", client="x" * 32)
        self.assertEqual([first.client] * 2, [same.client, also.client])
        self.assertNotEqual("x" * 32, other.client)

    async def test_private_room(self) -> None:
        """A private room is streamed to its owner alone."""
        owner = await self.opened("lobby")
        room = "@" + owner.of_type("welcome")[0]["user"]["id"]
        again = await self.opened(room, client=owner.client)
        await self.started(SocketClient)
        await owner.tell(type="publish", room=room, data="for you")
        await again.count(1)
        self.assertEqual((403, "forbidden"), await self.refused([("room", room)]))

    async def test_refused(self) -> None:
        """A refused stream is answered in JSON with the fitting status, and leaves nothing behind."""
        rooms = [("room", f"room-{number}") for number in range(101)]
        for query, headers, expected in (
            ([], (), (400, "bad_request")),
            ([("room", "a b")], (), (400, "bad_room")),
            (rooms, (), (429, "too_many")),
            ([("room", "a"), ("room", "a")], (), (400, "bad_request")),
            ([("room", "a"), ("since", "nonsense")], (), (400, "bad_position")),
            ([("room", "a"), ("last", "-1")], (), (400, "bad_request")),
            ([("room", "a")], ("Last-Event-ID: nonsense",), (400, "bad_position")),
            ([("room", "a")], ("Last-Event-ID: \xff:1",), (400, "bad_position")),
            ([("room", "a")], ("Last-Event-ID: b=x:1",), (400, "bad_position")),
            ([("room", "a")], ("Last-Event-ID: a=x:1,",), (400, "bad_position")),
            ([("room", "a"), ("room", "b")], ("Last-Event-ID: x:1",), (400, "bad_position")),
            ([("room", "a")], ("Last-Event-ID: x:1", "Last-Event-ID: x:2"), (400, "bad_request")),
            ([("room", "a")], ("Origin: http://evil.example",), (403, "bad_origin")),
        ):
            self.assertEqual(expected, await self.refused(query, *headers), (query[:2], headers))
        self.assertEqual(0, len(self.service.hub.sessions))

    async def test_methods(self) -> None:
        """HEAD and POST are refused, and told what is allowed."""
        for method in ("HEAD", "POST", "PUT"):
            stream = await self.request(f"{method} /sse?room=a HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.assertIn(b"405", stream.head.splitlines()[0])
            self.assertIn(b"\r\nAllow: GET\r\n", stream.head)

    async def test_old_client(self) -> None:
        """HTTP/1.0 will do, with one Connection header in the answer."""
        stream = await self.request("GET /sse?room=a HTTP/1.0\r\nHost: localhost\r\n\r\n")
        await stream.until(lambda: len(stream.events) == 2)
        self.assertEqual(1, stream.head.count(b"Connection: close"))
        self.assertNotIn(b"Transfer-Encoding", stream.head)
        self.assertEqual([], stream.chunks)

    async def test_chunks(self) -> None:
        """The welcome comes with the time to come back in its block; each message is whole in a chunk of its own."""
        client = await self.opened("lobby")
        for number in range(3):
            await client.publish(number)
        await client.count(3)
        first, *others = client.stream.chunks
        self.assertTrue(first.startswith(b"retry: 2000\nevent: welcome\ndata: {"))
        messages = [chunk for chunk in others if chunk.startswith(b"id: ")]
        self.assertEqual(3, len(messages))
        for chunk in others:
            self.assertTrue(chunk.endswith(b"\n\n"), chunk)

    async def test_resumed(self) -> None:
        """``joined`` says whether the request had a position. Without one, a client may miss messages."""
        client = await self.opened("lobby")
        (joined,) = client.of_type("joined")
        self.assertEqual((True, False), (joined["recovered"], joined["resumed"]))
        for given in ({"since": joined["position"]}, {"headers": (f"Last-Event-ID: {joined['position']}",)}):
            again = await self.opened("lobby", **given)
            self.assertEqual([True], [event["resumed"] for event in again.of_type("joined")])

    async def test_names_the_room(self) -> None:
        """An error that is about one room of several says which one."""
        stream = await self.client(EventClient).connect([("room", "a"), ("room", "@b")])
        self.assertEqual("@b", json.loads(stream.text)["room"])
        self.patch(self.store, "read_before", lambda *args: failed(StoreError("the disk is away")))
        stream = await self.client(EventClient).connect([("room", "c")])
        self.assertEqual("c", json.loads(stream.text)["room"])

    async def test_store_away(self) -> None:
        """A room that can't be looked up is the whole stream's error, before it begins."""
        for name in ("read_after", "read_before"):
            self.patch(self.store, name, lambda *args: failed(StoreError("the disk is away")))
        self.assertEqual((503, "store_unavailable"), await self.refused([("room", "a"), ("room", "b")]))
        self.assertEqual(0, len(self.service.hub.sessions))


def failed(error: Exception) -> Deferred[Any]:
    """Failures."""
    deferred: Deferred[Any] = Deferred()
    deferred.errback(error)
    return deferred


class CrowdTests(EventsTestCase):
    """Streams of rooms with more members than an answer has bytes for."""

    limits = {"answer_bytes": 4000}

    async def test_many_members(self) -> None:
        """A stream begins with as many members as an answer may hold; those of the other rooms come when it is live."""
        rooms = [f"room-{number}" for number in range(5)]
        for number in range(40):
            await self.opened(*rooms, name=f"Somebody {number:02}")
        client = await self.opened(*rooms)
        joined = client.of_type("joined")
        self.assertEqual([True, True, False, False, False], ["members" in event for event in joined])
        self.assertEqual({41}, {event["count"] for event in joined})

        def told() -> dict[str, int]:
            """How many members each room was told to have, as a list."""
            events = client.of_type("presence")
            return {event["room"]: len(event["members"]) for event in events if "members" in event}

        await client.until(lambda: len(told()) >= 3)
        self.assertEqual(dict.fromkeys(rooms[2:], 41), told())


class ManyRoomsTests(EventsTestCase):
    """Streams of more rooms than usual."""

    limits = {"max_rooms": 400}

    async def test_id_that_could_not_come_back(self) -> None:
        """Rooms whose positions would make an id of more than 8,000 bytes are refused at once, not at the resume."""
        rooms = [("room", f"r{number}") for number in range(300)]
        self.assertEqual((429, "too_many"), await self.refused(rooms))
        await self.opened(*[room for _, room in rooms[:258]])


class LookingTests(EventsTestCase):
    """Changes while the rooms of a stream are looked up."""

    def setUp(self) -> None:
        super().setUp()
        self.held: Deferred[None] = Deferred()
        read = self.store.read_before

        async def read_later(*args: Any) -> Any:
            await self.held
            return await read(*args)

        self.patch(self.store, "read_before", lambda *args: Deferred.fromCoroutine(read_later(*args)))

    async def begin(self) -> tuple[EventStream, Deferred[Any]]:
        """A stream whose room is being looked up."""
        client = self.client(EventClient)
        opening = Deferred.fromCoroutine(client.connect({"room": "lobby"}))
        await self.until(lambda: self.service.hub.sessions)
        return client.stream, opening

    async def test_client_goes(self) -> None:
        """A stream whose client has gone meanwhile is forgotten."""
        stream, opening = await self.begin()
        stream.transport.abortConnection()
        await opening
        await self.until(lambda: not any(site.connections for site in self.service._all_sites()))
        self.held.callback(None)
        self.assertEqual(0, len(self.service.hub.sessions))
        self.assertEqual(0, self.service.hub.rooms["lobby"].reader_count)

    async def begin_while_rules_change(self, closed: str) -> EventClient:
        """A stream of two rooms, of which one is closed while the second one is looked up."""
        later, store = self.store.read_before, self.store

        def read(room: str, *args: Any) -> Any:
            return later(room, *args) if room == "b" else MemoryStore.read_before(store, room, *args)

        self.patch(store, "read_before", read)
        client: EventClient = self.client(EventClient)
        opening = Deferred.fromCoroutine(client.connect([("room", "a"), ("room", "b")]))
        hub = self.service.hub
        await self.until(lambda: any("a" in session.subscriptions for session in hub.sessions))
        hub.replace_access(AccessPolicy(RoomRules((RoomRule(closed, 0),))))
        await self.until(lambda: not hub._access_renewal._left)
        self.held.callback(None)
        await opening
        return client

    async def test_room_is_closed(self) -> None:
        """A room that is closed meanwhile is left, and the stream begins all the same."""
        client = await self.begin_while_rules_change("a")
        await client.until(lambda: len(client.of_type("joined")) == 2)
        told = [(event["type"], event["room"]) for event in client.events if event["type"] in ("joined", "left")]
        self.assertEqual([("joined", "a"), ("left", "a"), ("joined", "b")], told)

    async def test_next_room_is_closed(self) -> None:
        """If the room is closed that is looked up, the stream is forbidden."""
        client = await self.begin_while_rules_change("b")
        self.assertEqual((403, "forbidden"), self.read_refusal(client.stream))

    async def test_server_stops(self) -> None:
        """Where the server stops meanwhile, the answer is an error to try again."""
        stream, opening = await self.begin()
        self.service.hub.stop()
        self.held.callback(None)
        await opening
        self.assertEqual((503, "stopping"), self.read_refusal(stream))


class ResumeTests(EventsTestCase):
    """Going on where one was, as a browser does by itself."""

    async def test_last_event_id(self) -> None:
        """The messages after the last id are sent, whatever the URL's ``since`` says."""
        writer = await self.started(SocketClient)
        replies = [await writer.publish(number) for number in range(5)]
        given = f"Last-Event-ID: {replies[2]['position']}"
        client = await self.opened("lobby", since=replies[0]["position"], headers=(given,))
        await client.count(2)
        self.assertEqual([3, 4], client.data)
        self.assertTrue(client.of_type("joined")[0]["recovered"])

    async def test_since(self) -> None:
        """Without such a header, or with an empty one, since counts."""
        writer = await self.started(SocketClient)
        replies = [await writer.publish(number) for number in range(3)]
        for headers in ((), ("Last-Event-ID:",)):
            client = await self.opened("lobby", since=replies[1]["position"], headers=headers)
            await client.count(1)
            self.assertEqual([2], client.data)

    async def test_several_rooms(self) -> None:
        """A stream of several rooms goes on in each where it was; one that its id doesn't name begins anew."""
        writers = [await self.started(SocketClient, room) for room in "ab"]
        client = await self.opened("a", "b")
        for number in range(3):
            for writer in writers:
                await writer.publish(f"{writer.room}{number}")
        await client.count(6)
        last_id = client.stream.last_id
        await client.close()
        for writer in writers:
            await writer.publish(f"{writer.room}3")
        again = await self.opened("a", "b", "c", headers=(f"Last-Event-ID: {last_id}",))
        await again.count(2)
        self.assertEqual(["a3", "b3"], sorted(again.data))
        self.assertEqual(["a", "b", "c"], [part.split("=")[0] for part in again.stream.last_id.split(",")])

    async def test_ids_of_several_rooms(self) -> None:
        """After each write the stream's id says where all of its rooms stand, as its events tell it."""
        writers = [await self.started(SocketClient, room) for room in "ab"]
        client = await self.opened("a", "b")
        writes = [writer.publish(number) for number in range(100) for writer in writers]
        await gatherResults([Deferred.fromCoroutine(write) for write in writes])
        await client.count(200)
        await self.check_ids(client)

    async def test_many_rooms_with_long_names(self) -> None:
        """A stream of as many rooms as may be, with the longest names, comes back by its id: the header is under 3 KiB,
        and an id of other rooms is refused, not read wrongly."""
        rooms = [f"{number:03}" + "r" * 125 for number in range(100)]
        writers = [await self.started(SocketClient, room) for room in (rooms[0], rooms[99])]
        client = await self.opened(*rooms)
        for writer in writers:
            await writer.publish("seen")
        await client.count(2)
        id = client.stream.last_id
        self.assertLess(len(id), 3072)
        await client.close()
        for writer in writers:
            await writer.publish("missed")
        again = await self.opened(*rooms, headers=(f"Last-Event-ID: {id}",))
        await again.count(2)
        self.assertEqual(["missed"] * 2, again.data)
        for other in (rooms[:99], [*rooms[1:], rooms[0]], ["a", "b"]):
            query = [("room", room) for room in other]
            self.assertEqual((400, "bad_position"), await self.refused(query, f"Last-Event-ID: {id}"))

    async def test_every_id_has_data(self) -> None:
        """No id stands in a block without data, which many libraries don't keep; nor alone with an unknown event."""
        client = await self.opened("a", "b")
        for room in "abab":
            await client.tell(type="publish", room=room, data="x")
        await client.count(4)
        blocks = b"".join(client.stream.chunks).decode().split("\n\n")
        with_id = [block for block in blocks if "id: " in block]
        self.assertEqual(6, len(with_id))
        self.assertEqual([], [block for block in with_id if "data: " not in block or "event: position" in block])

    async def test_lost(self) -> None:
        """An id that the log no longer covers is told as such, and what is kept follows."""
        writer = await self.started(SocketClient)
        await writer.publish("kept")
        client = await self.opened("lobby", headers=("Last-Event-ID: elsewhere:7",))
        await client.count(1)
        self.assertFalse(client.of_type("joined")[0]["recovered"])


class LifeTests(EventsTestCase):
    """How long a stream lasts, and what keeps it."""

    limits = {"heartbeat": 0.3, "stream_lifetime": 2.0}
    fraction = 0.25

    async def test_heartbeats_and_goodbye(self) -> None:
        """Comments keep it alive; when its time is up it says goodbye, when to come back, and ends."""
        begun, watch = time.monotonic(), Stopwatch()
        client = await self.opened("lobby")
        stream = client.stream
        await stream.until(lambda: stream.lost)
        self.assertGreaterEqual(time.monotonic() - begun, 1.9)
        self.assertLess(watch.seconds(), 4)
        self.assertGreater(stream.comments, 0)
        (goodbye,) = client.of_type("goodbye")
        self.assertEqual(
            (4003, "expired", True, 0.5), tuple(goodbye[name] for name in ("code", "reason", "reconnect", "after"))
        )
        self.assertEqual((500, True), (stream.retry, stream.ended))
        await self.until(lambda: not self.service.hub.sessions)

    async def test_reconnects_are_spread(self) -> None:
        """Streams that begin together don't all end together, nor do their clients come back together."""
        ends = []
        for fraction in (0.0, 0.875):
            self.fraction = fraction
            client = await self.opened("lobby")
            ends.append((self.on_server(client)._end - self.service.hub.clock.seconds(), client.stream.retry))
        (early, soon), (late, later) = ends
        self.assertTrue(1.7 < early <= 1.8 < 2.0 < late <= 2.16, ends)
        self.assertEqual((1000, 2750), (soon, later))


def cut_off(connection: socket.socket) -> None:
    """Let the kernel drop what comes for a socket before TCP sees it, as where a client has vanished without a word: by
    a filter of one instruction, which accepts no bytes (socket(7), ``SO_ATTACH_FILTER``)."""
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    program = struct.pack("HL", 1, ctypes.addressof(instruction))
    connection.setsockopt(socket.SOL_SOCKET, 26, program)


class VanishedTests(EventsTestCase):
    """A client that is gone without a FIN."""

    limits = {"heartbeat": 0.5, "tcp_user_timeout": 1.0}

    async def test_vanished(self) -> None:
        """Nobody acknowledges its heartbeats any more: soon nothing of it is left."""
        staying, client = await self.opened("lobby"), await self.opened("lobby")
        watch = Stopwatch()
        cut_off(client.stream.transport.socket)
        await self.until(lambda: len(self.service.hub.sessions) == 1)
        self.assertLess(watch.seconds(), 5)
        self.assertFalse(client.stream.lost)
        await staying.publish("still here")
        await staying.count(1)


class EndlessTests(EventsTestCase):
    """A stream without an end."""

    limits = {"heartbeat": 0.3, "stream_lifetime": None}

    async def test_no_lifetime(self) -> None:
        """Where the operator wants none, there is no end."""
        client = await self.opened("lobby")
        await client.stream.until(lambda: client.stream.comments == 3)
        self.assertEqual(float("inf"), self.on_server(client)._end)


class IncomingTests(EventsTestCase):
    """Bytes that a client sends behind its request."""

    async def test_pipelined_request(self) -> None:
        """A request behind the stream's own gets no answer, and the stream goes on."""
        request = "GET /sse?room=lobby HTTP/1.1\r\nHost: localhost\r\n\r\n"
        stream = await self.request(request + "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await stream.until(lambda: len(stream.events) == 2)
        stream.transport.write(request.encode())
        writer = await self.started(SocketClient)
        await writer.publish("on")
        await stream.until(lambda: any(event.get("data") == "on" for event in stream.events))
        self.assertEqual(b"", stream.text)

    async def test_many_bytes(self) -> None:
        """A client that goes on sending is cut off, and nothing of it is left."""
        client = await self.opened("lobby")
        client.stream.transport.write(b"x" * 100_000)
        await client.stream.until(lambda: not client.open)
        await self.until(lambda: not self.service.hub.sessions)
        self.assertEqual(0, self.service.hub.rooms["lobby"].reader_count)

    async def test_gone(self) -> None:
        """A client that goes leaves neither a session nor a deadline."""
        await self.opened("lobby")
        deadlines = len(self.service.hub.wheel)
        client = await self.opened("lobby")
        await client.close()
        await self.until(lambda: len(self.service.hub.sessions) == 1)
        await self.until(lambda: len(self.service.hub.wheel) <= deadlines)


class StallingTestCase(EventsTestCase):
    """Tests with a reader that doesn't read."""

    async def stall(self) -> EventStream:
        client = await self.opened("lobby")
        stream: EventStream = client.stream
        stream.transport.pauseProducing()
        return stream


class SlowReaderTests(SlowReaderContract, StallingTestCase):
    """A slow reader that reads again in the end."""

    async def test_two_rooms(self) -> None:
        """A reader of two rooms that pauses gets all messages of both, and all its ids are right."""
        writers = [await self.started(SocketClient, room) for room in "ab"]
        client = await self.opened("a", "b")
        stream = client.stream
        stream.transport.pauseProducing()
        for number in range(200):
            for writer in writers:
                await writer.publish(f"{number:03}" + "x" * 40_000)
        self.assertTrue(self.on_server(client).write_paused or self.on_server(client).direct_send is None)
        stream.transport.resumeProducing()
        await client.count(400)
        for room in "ab":
            numbers = [int(message["data"][:3]) for message in client.messages if message["room"] == room]
            self.assertEqual(list(range(200)), numbers)
        await self.check_ids(client)
        self.assertEqual([], client.of_type("reset"))

    async def test_kernel_has_patience(self) -> None:
        """The kernel gives up a client soon that acknowledges nothing, but one that is only slow as late as we do."""
        stalled = await self.stall()
        (session,) = self.service.hub.sessions
        connection = session.transport.transport.socket

        def patience() -> int:
            return int(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))

        self.assertEqual(18_000, patience())
        writer = await self.started(SocketClient)
        while not session.transport.write_paused:
            await writer.publish("x" * 60_000)
        self.assertEqual(60_000, patience())
        stalled.transport.resumeProducing()
        await self.until(lambda: patience() == 18_000)

    async def test_patience_each_time(self) -> None:
        """The kernel is patient with a client each time that it reads no more, also if it has just read a little."""
        stalled = await self.stall()
        (session,) = self.service.hub.sessions
        connection = session.transport.transport.socket
        writer = await self.started(SocketClient)
        for _ in range(400):
            await writer.publish("x" * 60_000)
        before = len(stalled.events)
        stalled.transport.resumeProducing()
        await self.until(lambda: len(stalled.events) > before + 100)
        stalled.transport.pauseProducing()
        await self.until(lambda: session.transport.write_paused)
        await self.until(lambda: connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000)


class OrdinaryTransportTests(SlowReaderContract, StallingTestCase):
    """A slow reader that is written to by its transport, as over TLS."""

    repeats = True

    def setUp(self) -> None:
        self.patch(direct_send, "direct_send_of", lambda transport: None)
        super().setUp()

    test_two_rooms = SlowReaderTests.test_two_rooms
    test_patience_each_time = SlowReaderTests.test_patience_each_time


class SlowGoodbyeTests(SlowGoodbyeContract, StallingTestCase):
    """A slow reader that never reads again."""


class SharingTests(EventsTestCase):
    """Work that is done once for all streams."""

    async def test_a_thousand_streams(self) -> None:
        """One publish reaches a thousand streams, and is encoded once for all of them."""
        clients = [self.client(EventClient) for _ in range(self.many(1000))]
        for start in range(0, len(clients), 100):
            await gatherResults(
                [Deferred.fromCoroutine(client.start(last=0)) for client in clients[start : start + 100]]
            )
        encoded: list[int] = []
        encode = RoomFanout.encode

        def count(*args: Any) -> Any:
            encoded.append(len(args[-1]))
            return encode(*args)

        self.patch(RoomFanout, "encode", count)
        await clients[0].publish("to all")
        for client in clients:
            await client.count(1)
        self.assertEqual(({"to all"}, [1]), ({text for client in clients for text in client.data}, encoded))

    async def test_metrics(self) -> None:
        """Streams are counted as what they are, and so is what they bring."""
        await self.opened("lobby")
        client = await self.opened("lobby", "b")
        await client.publish("hi")
        await client.count(1)
        families = {family.name: family for family in make_registry(self.service.hub, self.store).collect()}
        for name, number in (("realtime_sessions", 2), ("realtime_delivered", 2)):
            values = [sample.value for sample in families[name].samples if sample.labels.get("transport") == "sse"]
            self.assertEqual([number], values[:1], name)

    async def test_volatile_events(self) -> None:
        """Events outside the log reach one reader or all, in order, and change no position."""
        one, two = await self.opened("lobby"), await self.opened("lobby", "b")
        room = self.service.hub.rooms["lobby"]
        for fanout, readers in room._live.items():
            fanout.send(fanout.encode_event("signal", b'{"type":"signal","data":1}'), readers)
        self.on_server(two).send_event("signal", b'{"type":"signal","data":2}')
        await one.publish("after")
        await one.count(1)
        await two.count(1)
        for client, numbers in ((one, [1]), (two, [1, 2])):
            self.assertEqual(numbers, [event["data"] for event in client.of_type("signal")])
            kinds = [event["type"] for event in client.events]
            self.assertLess(max(index for index, kind in enumerate(kinds) if kind == "signal"), kinds.index("message"))
        await self.check_ids(two)
        self.assertEqual(2, len(one.stream.ids))


class ListedOriginTests(EventsTestCase):
    """Pages of other origins, and the access log."""

    configured = {"origins": ("https://example.com",)}

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.configured = {**type(self).configured, "access_log": str(self.path)}
        super().setUp()

    async def test_listed_origin(self) -> None:
        """A page of a listed origin may read the stream."""
        client = await self.opened("lobby", headers=("Origin: https://example.com",))
        self.assertIn(b"\r\nAccess-Control-Allow-Origin: https://example.com\r\n", client.stream.head)
        self.assertIn(b"\r\nVary: Origin\r\n", client.stream.head)

    async def test_logged(self) -> None:
        """A stream is one line in the access log, without the client."""
        first = await self.opened("lobby")
        await self.opened("lobby", client=first.client)
        lines = self.path.read_text().splitlines()
        self.assertEqual(2, len(lines))
        self.assertIn('"GET /sse?room=lobby&client=REDACTED HTTP/1.1" 200 ', lines[1])


class BlockTests(SynchronousTestCase):
    """Events as bytes."""

    def test_block(self) -> None:
        """An event is its further lines, its type and its data, and ends with an empty line."""
        self.assertEqual(b"event: reset\ndata: {}\n\n", encode_block("reset", b"{}"))
        self.assertEqual(b"id: a:1\nevent: reset\ndata: {}\n\n", encode_block("reset", b"{}", "id: a:1"))
