"""Who takes what others need: one client or one address, as fast as it can, in a process of its own.

It comes from an address of its own, so that limits by address are for it alone.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import count, cycle, islice
from typing import Any, NamedTuple

from benchmarks.wires import ROOM, WIRES, frame

__all__ = ["ABUSES", "Counts", "abuse"]

_SOURCE = "127.0.0.9"
_ABUSED = "abused"
_AT_ONCE = 100
"""Commands or requests that are sent in one piece."""
_GUESTS, _ROOMS, _CONNECTS_A_SECOND = 1_000, 10_000, 5_000 / 60
_CLIENT = re.compile(rb'"client":"([^"]*)"')
_PAUSE = 0.05
"""Seconds until a connection that was closed is opened again."""


class Counts(NamedTuple):
    """What somebody has done so far.

    :ivar sent: commands, requests or connections.
    :ivar struck: those that a limit has refused.
    """

    sent: int
    struck: int


class _Abuser:
    """One who abuses a daemon."""

    def __init__(self, port: int, counts: Any) -> None:
        self._port = port
        self._counts = counts

    def connect(self) -> socket.socket:
        """A connection, from an address of its own."""
        return socket.create_connection(("127.0.0.1", self._port), 60, (_SOURCE, 0))

    def open_websocket(self) -> socket.socket:
        """A WebSocket.

        :raises ConnectionError: it was refused.
        """
        converse, connection = WIRES["realtime"].connect, self.connect()
        assert converse is not None
        request, awaited = next(converse(ROOM))
        connection.sendall(request)
        head = b""
        while awaited not in head:
            data = connection.recv(4096)
            head += data
            if not data or not head.startswith(b"HTTP/1.1 101"[: len(head)]):
                connection.close()
                raise ConnectionError(head[:100])
        return connection

    def flood(self, connection: socket.socket, pieces: Iterable[bytes]) -> None:
        """Send pieces as fast as they are taken, and read all answers, until the connection is closed."""
        connection.setblocking(False)
        poller, rest = select.poll(), memoryview(b"")
        poller.register(connection, select.POLLIN | select.POLLOUT)
        left = iter(pieces)
        while True:
            for _, events in poller.poll():
                if events & select.POLLIN and not self._read(connection):
                    return
                if events & select.POLLOUT:
                    rest = rest or memoryview(next(left, b""))
                    if not rest:  # all is sent; answers may be missing
                        poller.modify(connection, select.POLLIN)
                    rest = rest[connection.send(rest) :]
                    self._counts[0] += 0 if rest else _AT_ONCE

    def _read(self, connection: socket.socket) -> bytes:
        data = connection.recv(262_144)
        self.note(data)
        return data

    def note(self, data: bytes, sent: int = 0) -> None:
        """Count what was sent, and the refusals in an answer."""
        self._counts[0] += sent
        self._counts[1] += data.count(b'"rate_limited"') + data.count(b'"too_many"')

    def ask(self, connection: socket.socket, request: bytes) -> bytes:
        """Send a request, and read its answer, which has a short body."""
        connection.sendall(request)
        data = connection.recv(65_536)
        self.note(data, 1)
        return data


def _again(once: Callable[[_Abuser], None]) -> Callable[[_Abuser], None]:
    """Begin anew as often as a connection is refused or lost."""

    def live(abuser: _Abuser) -> None:
        while True:
            with contextlib.suppress(OSError):
                once(abuser)
            time.sleep(_PAUSE)

    return live


def _commands(*commands: str) -> Callable[[_Abuser], None]:
    """The same commands again and again, on a WebSocket."""
    piece = cache(lambda: b"".join(map(frame, islice(cycle(commands), _AT_ONCE))))  # a second for all of them
    return _again(lambda abuser: abuser.flood(abuser.open_websocket(), cycle((piece(),))))


def _request(method: str, path: str, body: str = "", *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", body]).encode()


def _requests(method: str, path: str, body: str = "") -> Callable[[_Abuser], None]:
    piece = _request(method, path, body) * _AT_ONCE
    return _again(lambda abuser: abuser.flood(abuser.connect(), cycle((piece,))))


def _rooms(abuser: _Abuser) -> None:
    """Publish to rooms that are new, each once."""
    texts = (f'{{"type":"publish","room":"made-{os.getpid()}-{number}","data":1}}' for number in count())
    pieces = iter(lambda: b"".join(map(frame, islice(texts, _AT_ONCE))), b"")
    with contextlib.suppress(OSError):
        abuser.flood(abuser.open_websocket(), islice(pieces, _ROOMS // _AT_ONCE))


def _guests(abuser: _Abuser) -> None:
    """Be so many guests, who then publish in turn: the limits of a client alone are no use."""
    clients = []
    with abuser.connect() as connection:
        for _ in range(_GUESTS):
            found = _CLIENT.search(abuser.ask(connection, _request("POST", "/commands", '{"type":"hello"}')))
            clients += [found[1].decode()] if found else []
    path = f"/rooms/{_ABUSED}/messages"
    requests = cycle([_request("POST", path, '{"data":1}', f"Realtime-Client: {client}") for client in clients])
    pieces = iter(lambda: b"".join(islice(requests, _AT_ONCE)), b"")
    _again(lambda abuser: abuser.flood(abuser.connect(), pieces))(abuser)


def _connects(abuser: _Abuser) -> None:
    """Open WebSockets at a steady pace, and close each at once."""
    due = time.monotonic()
    while True:
        try:
            abuser.open_websocket().close()
            abuser.note(b"", 1)
        except ConnectionError:
            abuser.note(b'"rate_limited"', 1)
        due += 1 / _CONNECTS_A_SECOND
        time.sleep(max(0.0, due - time.monotonic()))


_IN_ROOM = f'"room":"{_ABUSED}"'

ABUSES: dict[str, Callable[[_Abuser], None]] = {
    "publishes": _commands(f'{{"type":"publish",{_IN_ROOM},"data":"{"x" * 64}"}}'),
    "large publishes": _commands(f'{{"type":"publish",{_IN_ROOM},"data":"{"x" * 60_000}"}}'),
    "signals": _commands(f'{{"type":"signal",{_IN_ROOM},"event":"typing","data":true}}'),
    "states": _commands(*(f'{{"type":"state","state":{{"n":{number}}}}}' for number in (1, 2))),
    "joins": _commands(f'{{"type":"join",{_IN_ROOM}}}', f'{{"type":"leave",{_IN_ROOM}}}'),
    "histories": _commands(f'{{"type":"history",{_IN_ROOM}}}'),
    "members": _commands(f'{{"type":"members",{_IN_ROOM}}}'),
    "hellos": _commands('{"type":"hello"}'),
    "pings": _commands('{"type":"ping"}'),
    "polls": _requests("GET", f"/poll?room={_ABUSED}&wait=0"),
    "publishes over HTTP": _requests("POST", f"/rooms/{_ABUSED}/messages", '{"data":1}'),
    "guests": _guests,
    "connects": _connects,
    "rooms": _rooms,
}
"""What somebody may do too much of."""


@contextlib.contextmanager
def abuse(kind: str, port: int) -> Iterator[Callable[[], Counts]]:
    """Abuse a daemon meanwhile.

    :returns: tells what was done so far.
    """
    context = multiprocessing.get_context("fork")
    counts = context.Array("Q", 2, lock=False)
    process = context.Process(target=_work, args=(kind, port, counts), daemon=True)
    process.start()
    try:
        yield lambda: Counts(*counts)
    finally:
        process.kill()
        process.join()


def _work(kind: str, port: int, counts: Any) -> None:
    os.nice(5)  # who measures comes first
    ABUSES[kind](_Abuser(port, counts))
    time.sleep(3600)
