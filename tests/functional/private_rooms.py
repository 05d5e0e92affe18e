"""Users who each have a room of their own, and read it in every way at once; and what each byte that comes tells them.

A message holds the mark of its room. So whatever a user hears shows of which rooms it tells.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from urllib.parse import quote

from tests.deadlines import DEADLINE
from tests.functional.raw_clients import RawEventStream, RawHTTP, RawWebSocket
from tests.tokens.made import SECRET, token

__all__ = ["WAYS", "Person", "gather", "room_of", "until"]

WAYS = ("websocket", "sse", "poll", "history")
_MARK = re.compile(rb"(?:a secret of room-|user )([0-9]+)")


def room_of(number: int) -> str:
    """The room of a user. Its messages name it."""
    return f"room-{number}-of-one"


async def until(condition: Callable[[], Any], what: str) -> None:
    """Wait until something is true.

    :raises AssertionError: it isn't, in the end.
    """
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE} s: {what}"
        await asyncio.sleep(0.02)


async def gather(steps: Sequence[Any], at_once: int = 20) -> list[Any]:
    """Take steps, so many at once, and give their results in order."""
    places = asyncio.Semaphore(at_once)

    async def step(one: Any) -> Any:
        async with places:
            return await one

    return await asyncio.gather(*map(step, steps))


class _Heard:
    """What came to a user in one way: all bytes, and the messages by their number.

    :ivar ended: the event or the error that has ended it.
    """

    def __init__(self, way: str) -> None:
        self.way = way
        self.bytes = bytearray()
        self.numbers: set[int] = set()
        self.latest = 0
        self.ended: dict[str, Any] | None = None
        self.ended_at = 0.0

    def take(self, event: dict[str, Any]) -> None:
        """An event has come."""
        if event["type"] == "message":
            self.numbers.add(event["data"]["number"])
            self.latest = max(self.latest, event["at"])
        elif event["type"] in ("goodbye", "left"):
            self.end(event)

    def end(self, event: dict[str, Any]) -> None:
        """It goes on no longer."""
        if self.ended is None:
            self.ended, self.ended_at = event, time.time()


class Person:
    """A user with a token for one room, who reads it in all ways.

    :param ports: of the nodes. Each way is at another one, and a poll goes from one to the next.
    :ivar heard: what came, by way.
    :ivar before: the client and the reader from before the last renewal.
    """

    def __init__(self, number: int, ports: Sequence[int], rights: str = "rwsp") -> None:
        self.number = number
        self.room = room_of(number)
        self.heard = {way: _Heard(way) for way in WAYS}
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.token = self.client = self.reader = ""
        self.before = ("", "")
        self.welcome: dict[str, Any] = {}
        self._ports = [ports[(number + step) % len(ports)] for step in range(len(ports))]
        self._rights = rights
        self._tasks: list[asyncio.Task[None]] = []
        self._connections: list[Any] = []
        self._ids = 0
        self._position = ""
        self.polls = 0

    def port(self, number: int) -> int:
        """The port of the node that it uses for its n-th way."""
        return self._ports[number % len(self._ports)]

    def make_token(self, rights: str, key: str = SECRET, lifetime: float = 3600.0) -> str:
        """A token of this user, with these rights in its own room."""
        now = time.time()
        claims = {"rooms": {self.room: rights}, "sub": f"user {self.number}", "exp": int(now + lifetime), "iat": now}
        return token(claims, key, now=now)

    # It begins

    async def begin(self, **more: Any) -> None:
        """Come with a token, and read in all ways.

        :param more: for :meth:`make_token`.
        """
        self.token = self.make_token(self._rights, **more)
        self.socket = await self._open(RawWebSocket, 0, _UPGRADE, self._take_frame, "websocket")
        self._keep(await self.tell(type="hello", token=self.token))
        joined = await self.tell(type="join", room=self.room)
        assert joined["type"] == "joined", joined
        self._position = joined["position"]
        path = f"/sse?room={self.room}&last=0&reader={self.reader}"
        await self._open(RawEventStream, 1, _get(path), self._take_event, "sse")
        for way, reading in (("poll", self._poll()), ("history", self._read_history())):
            task = asyncio.create_task(reading)
            task.add_done_callback(partial(self._done, self.heard[way]))
            self._tasks.append(task)
        await until(lambda: self.polls, "a first poll")

    def _done(self, heard: _Heard, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            heard.end({"type": "error", "code": repr(task.exception())})

    def _keep(self, welcome: dict[str, Any]) -> None:
        assert welcome["type"] == "welcome", welcome
        self.before = self.client, self.reader
        self.welcome, self.client, self.reader = welcome, welcome["client"], welcome["reader"]

    async def _open(self, kind: Any, node: int, request: bytes, take: Callable[[bytes], None], way: str) -> Any:
        """Open a connection of which every byte is kept."""
        heard = self.heard[way]

        class Listening(kind):  # type: ignore[misc]
            def data_received(self, data: bytes) -> None:
                heard.bytes += data
                super().data_received(data)

        connection = await Listening.connect(self.port(node), request, take)
        heard.bytes += connection.head
        self._connections.append(connection)
        return connection

    # What comes

    def _take_frame(self, payload: bytes) -> None:
        event = json.loads(payload)
        self.heard["websocket"].take(event)
        if "id" in event:
            self._waiting.pop(event["id"]).set_result(event)

    def _take_event(self, data: bytes) -> None:
        self.heard["sse"].take(json.loads(data))

    async def _poll(self) -> None:
        """Poll, each time at another node, in turns with the client in the header and with the reader."""
        heard, position = self.heard["poll"], self._position
        connections = [self._http(number) for number in range(len(self._ports))]
        while heard.ended is None:
            number = self.polls
            path, headers = f"/poll?room={self.room}&since={position}&wait=10", [f"Realtime-Client: {self.client}"]
            if number % 2:
                path, headers = f"{path}&reader={self.reader}", []
            self.polls += 1
            status, body = await connections[number % len(connections)].ask("GET", path, b"", *headers)
            heard.bytes += body
            answer = json.loads(body)
            if status != 200:
                heard.end(answer)
                return
            for event in answer["events"]:
                heard.take(event)
            position = answer["positions"].get(self.room, position)

    async def _read_history(self) -> None:
        """Read what came since, again and again, in turns with the token and with the client."""
        heard, position, turn = self.heard["history"], self._position, 0
        connection = self._http(2)
        while heard.ended is None:
            turn += 1
            credentials = f"Authorization: Bearer {self.token}" if turn % 2 else f"Realtime-Client: {self.client}"
            path = f"/rooms/{self.room}/messages?since={position}&limit=100"
            status, body = await connection.ask("GET", path, b"", credentials)
            heard.bytes += body
            answer = json.loads(body)
            if status != 200:
                heard.end(answer)
                return
            for message in answer["messages"]:
                heard.take(message)
            position = answer["position"]
            await asyncio.sleep(0.3)

    # What it does

    async def tell(self, **command: Any) -> dict[str, Any]:
        """Send a command by WebSocket, and give its reply."""
        self._ids += 1
        reply = self._waiting[self._ids] = asyncio.get_running_loop().create_future()
        self.socket.send(json.dumps({"id": self._ids, **command}).encode())
        async with asyncio.timeout(DEADLINE):
            return await reply

    async def ask(
        self, node: int, method: str, path: str, body: Any = None, *headers: str
    ) -> tuple[int, dict[str, Any]]:
        """Send a request to a node."""
        connection = self._http(node)
        try:
            raw = b"" if body is None else json.dumps(body).encode()
            more = () if body is None else ("Content-Type: application/json",)
            status, answer = await connection.ask(method, path, raw, *more, *headers)
        finally:
            connection.close()
        found: dict[str, Any] = json.loads(answer)
        return status, found

    def _http(self, node: int) -> RawHTTP:
        connection = RawHTTP(self.port(node))
        self._connections.append(connection)
        return connection

    async def publish(self, number: int) -> None:
        """Publish a message in its own room. If the store is too slow for that, it is sent again, as a client does."""
        while (reply := await self._publish(number))["type"] != "published":
            assert reply["temporary"], reply
            await asyncio.sleep(0.1)

    async def _publish(self, number: int) -> dict[str, Any]:
        """Send a message: by WebSocket, by a command over HTTP, or to a plain resource."""
        message = {"key": str(number), "data": {"number": number, "text": f"a secret of {self.room}"}}
        command = {"type": "publish", "room": self.room, **message}
        if number % 5:
            return await self.tell(**command)
        if number % 2:
            return (await self.ask(number, "POST", "/commands", command, f"Realtime-Client: {self.client}"))[1]
        path = f"/rooms/{self.room}/messages"
        return (await self.ask(number, "POST", path, message, f"Authorization: Bearer {self.token}"))[1]

    async def has_heard(self, count: int) -> None:
        """Wait until each way has brought the first messages."""
        wanted = set(range(count))
        for heard in self.heard.values():
            await until(lambda heard=heard: heard.numbers >= wanted, f"{heard.way} of {self.room}")

    def foreign(self) -> list[str]:
        """The ways in which it heard of a room that isn't its own, or not even of that."""
        own = {str(self.number).encode()}
        return [f"{self.room} by {heard.way}" for heard in self.heard.values() if {*_MARK.findall(heard.bytes)} != own]

    # What it may not do

    async def intrude(self, room: str, wait: float = 1.0) -> list[str]:
        """Try everything in a room that isn't its own, and give the errors, without the room's name."""
        client, bearer = f"Realtime-Client: {self.client}", f"Authorization: Bearer {self.token}"
        found = []
        for command in _commands(room):
            found.append(await self.tell(**command))
            found.append((await self.ask(len(found), "POST", "/commands", command, client))[1])
            found.append((await self.ask(len(found), "POST", "/commands", command, bearer))[1])
        for path in _paths(room):
            for credentials in (client, bearer):
                found.append((await self.ask(len(found), "GET", path, None, credentials))[1])
            found.append((await self.ask(len(found), "GET", f"{path}&reader={self.reader}"))[1])
        for credentials in (client, bearer):
            found.append((await self.ask(len(found), "POST", f"/rooms/{room}/messages", {"data": 1}, credentials))[1])
        return [_without(error, room) for error in found]

    # It ends

    async def renew_by_socket(self, rights: str, lifetime: float = 3600.0) -> None:
        """Renew the client by the WebSocket, with these rights in its own room."""
        self.token = self.make_token(rights, lifetime=lifetime)
        self._keep(await self.tell(type="hello", token=self.token))

    async def renew_by_request(self, node: int, rights: str) -> None:
        """Renew the client by a request to a node."""
        self.token = self.make_token(rights)
        hello = {"type": "hello", "token": self.token}
        status, welcome = await self.ask(node, "POST", "/commands", hello, f"Realtime-Client: {self.client}")
        assert status == 200, welcome
        self._keep(welcome)

    def close(self) -> None:
        """Cut all connections."""
        for task in self._tasks:
            task.cancel()
        for connection in self._connections:
            connection.close()


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


_UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def _commands(room: str) -> list[dict[str, Any]]:
    return [
        {"type": "join", "room": room},
        {"type": "history", "room": room},
        {"type": "members", "room": room},
        {"type": "publish", "room": room, "data": 1},
        {"type": "signal", "room": room, "event": "typing", "data": 1},
    ]


def _paths(room: str) -> list[str]:
    name = quote(room)
    return [
        f"/poll?room={name}&wait=1",
        f"/poll?room={name}&since={'0' * 16}:0&wait=1",
        f"/sse?room={name}",
        f"/rooms/{name}/messages?limit=5",
        f"/rooms/{name}/members?after=",
    ]


def _without(error: dict[str, Any], room: str) -> str:
    """An error, with a word in the place of the room's name, and without its id."""
    return json.dumps({name: value for name, value in error.items() if name != "id"}, sort_keys=True).replace(
        room, "ROOM"
    )
