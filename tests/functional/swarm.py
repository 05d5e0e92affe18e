"""Many cheap clients of one room, in a process of their own: ``python -m tests.functional.swarm PORT``.

Each client uses a WebSocket or polls, with the least code that follows the protocol: raw bytes on asyncio's sockets.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from typing import Any

import msgspec

from tests.functional.worker_process import WorkerProcess, serve

__all__ = ["Swarm"]

_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10
_KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class _Client(asyncio.Protocol):
    """One client: its identity, what it received, and what was wrong."""

    def __init__(self, swarm: _SwarmWorker, name: str) -> None:
        self.swarm = swarm
        self.name = name
        self.client: str | None = None
        self.user: str | None = None
        self.position: str | None = None
        self.count: int | None = None
        self.members: dict[str, Any] | None = None
        self.left: set[str] = set()
        self.received = self.presence = self.messages = 0
        self.wrong: list[str] = []
        self.transport: Any = None
        self.known = asyncio.Event()
        self._data = b""

    async def connect(self) -> None:
        """Connect, or reconnect."""
        self._data = b""
        self.known.clear()
        self.transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: self, "127.0.0.1", self.swarm.port
        )
        self.begin()

    def begin(self) -> None:
        raise NotImplementedError

    def disconnect(self) -> None:
        """Cut the connection."""
        transport, self.transport = self.transport, None
        if transport is not None:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.transport is None:
            return
        self.received += len(data)
        self._data += data
        while self._data and self.take_one():
            pass

    def take_one(self) -> bool:
        raise NotImplementedError

    def take(self, event: dict[str, Any]) -> None:
        """Handle an event or a reply."""
        kind = event["type"]
        if kind == "message":
            self._message(event)
        elif kind in ("joined", "reset"):
            if self.position not in (None, event["position"]):
                self.wrong.append(f"{self.position}, then {kind} at {event['position']}")
            self.position = event["position"]
        elif kind in ("goodbye", "error"):
            self.wrong.append(json.dumps(event))
        if kind in ("joined", "presence"):
            self._present(event)
            self.known.set()

    def _message(self, event: dict[str, Any]) -> None:
        epoch, _, offset = event["position"].partition(":")
        if self.position is not None and event["position"] != _next(self.position):
            self.wrong.append(f"{self.position}, then {epoch}:{offset}")
        self.position = event["position"]
        self.messages += 1

    def _present(self, event: dict[str, Any]) -> None:
        self.presence += 1
        self.count = event["count"]
        if "members" in event:
            now = {member["id"]: member for member in event["members"]}
            self.left |= set(self.members or ()) - set(now)
            self.members = now
        elif "joined" not in event:
            self.members = None
        elif self.members is not None:
            self.left |= {member["id"] for member in event["left"]} & set(self.members)
            for member in event["left"]:
                self.members.pop(member["id"], None)
            self.members |= {member["id"]: member for member in event["joined"]}


def _next(position: str) -> str:
    epoch, _, offset = position.partition(":")
    return f"{epoch}:{int(offset) + 1}"


class _Socket(_Client):
    """A client with a WebSocket."""

    _open = False

    def begin(self) -> None:
        self._open = False
        self.transport.write(
            f"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {_KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def take_one(self) -> bool:
        if not self._open:
            _, end, rest = self._data.partition(b"\r\n\r\n")
            if end:
                self._data, self._open = rest, True
                self._introduce()
            return bool(end)
        data = self._data
        if len(data) < 2:
            return False
        size, start = data[1], 2
        if size >= 126:
            start = 4 if size == 126 else 10
            size = int.from_bytes(data[2:start], "big")
        if len(data) < start + size:
            return False
        self._data = data[start + size :]
        self._frame(data[0] & 15, data[start : start + size])
        return True

    def _introduce(self) -> None:
        client = {} if self.client is None else {"client": self.client}
        since = {"last": 0} if self.position is None else {"since": self.position}
        self.send(_TEXT, json.dumps({"type": "hello", "name": self.name, **client}).encode())
        self.send(_TEXT, json.dumps({"type": "join", "room": self.swarm.room, **since}).encode())

    def send(self, opcode: int, payload: bytes) -> None:
        """One frame, with a mask of zeros."""
        size = bytes((0x80 | len(payload),)) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
        self.transport.write(bytes((0x80 | opcode,)) + size + b"\0\0\0\0" + payload)

    def _frame(self, opcode: int, payload: bytes) -> None:
        if opcode == _PING:
            self.send(_PONG, payload)
        elif opcode == _CLOSE:
            self.wrong.append(f"closed: {payload!r}")
        else:
            event = msgspec.json.decode(payload)
            if event["type"] == "welcome":
                self.client, self.user = event["client"], event["user"]["id"]
            self.take(event)


class _Poller(_Client):
    """On long polls, one after the other."""

    version = ""

    def begin(self) -> None:
        since = "&last=0" if self.position is None else f"&since={self.position}"
        client = "" if self.client is None else f"Realtime-Client: {self.client}\r\n"
        self.transport.write(
            f"GET /poll?room={self.swarm.room}&name={self.name}&presence={self.version}&wait=20{since} HTTP/1.1\r\n"
            f"Host: localhost\r\n{client}\r\n".encode()
        )

    def take_one(self) -> bool:
        head, end, body = self._data.partition(b"\r\n\r\n")
        size = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0] or 0)
        if not end or len(body) < size:
            return False
        self._data = body[size:]
        answer = msgspec.json.decode(body[:size])
        if answer["type"] != "poll":
            self.wrong.append(json.dumps(answer))
            return False
        self.client = answer["client"]
        for event in answer["events"]:
            self.take(event)
        self.position, self.version = answer["positions"][self.swarm.room], answer["presence"][self.swarm.room]
        self.known.set()
        self.begin()
        return True


class _SwarmWorker:
    """What the process does."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.room = "lobby"
        self.clients: list[_Client] = []

    async def open(self, sockets: int, polls: int, over: float, name: str = "n") -> dict[str, Any]:
        """Let so many come, evenly over some seconds; answer when all know who is there."""
        kinds: list[type[_Client]] = [_Socket] * sockets + [_Poller] * polls
        random.Random(1).shuffle(kinds)
        new = [kind(self, f"{name}{index}") for index, kind in enumerate(kinds)]
        self.clients += new
        await asyncio.gather(*(self._come(client, over * index / len(new)) for index, client in enumerate(new)))
        return {}

    async def _come(self, client: _Client, after: float) -> None:
        await asyncio.sleep(after)
        await client.connect()
        await client.known.wait()

    async def storm(self, times: int, away: float) -> dict[str, Any]:
        """Everybody disconnects and comes back, so many times, each away for less than some seconds."""
        await asyncio.gather(*(self._come_and_go(client, times, away) for client in self.clients))
        return {}

    async def _come_and_go(self, client: _Client, times: int, away: float) -> None:
        for _ in range(times):
            await asyncio.sleep(random.uniform(0, 1))
            client.disconnect()
            await asyncio.sleep(random.uniform(0, away))
            await client.connect()
            if isinstance(client, _Socket):
                await client.known.wait()

    async def report(self) -> dict[str, Any]:
        """What they know, all together."""
        lists = Counter(" ".join(sorted(client.members or ())) for client in self.clients)
        return {
            "counts": dict(Counter(str(client.count) for client in self.clients)),
            "lists": sorted(lists.items()),
            "left": sorted({user for client in self.clients for user in client.left}),
            "received": sum(client.received for client in self.clients),
            "presence": sum(client.presence for client in self.clients),
            "positions": dict(Counter(client.position for client in self.clients)),
            "messages": dict(Counter(str(client.messages) for client in self.clients)),
            "wrong": [f"{client.name}: {what}" for client in self.clients for what in client.wrong][:20],
        }

    async def close(self) -> dict[str, Any]:
        """Disconnect all clients."""
        for client in self.clients:
            client.disconnect()
        self.clients.clear()
        return {}


class Swarm(WorkerProcess):
    """A swarm, as the test sees it."""

    def __init__(self, port: int) -> None:
        super().__init__("tests.functional.swarm", str(port))


if __name__ == "__main__":
    serve(_SwarmWorker(int(sys.argv[1])))
