"""Sockets of an official Socket.IO client in a process of its own, and what each has received."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.deadlines import DEADLINE
from tests.functional.daemon import SOAK, wait_until
from tests.functional.event_ledger import EventLedger, SocketRecord
from tests.functional.node_process import NodeProcess

__all__ = ["TRANSPORTS", "VERSIONS", "Event", "SocketProcess"]

CLIENT = Path(__file__).with_name("socketio_recovery.mjs")
VERSIONS = MappingProxyType({4: "socket.io-client", 3: "socket.io-client-3", 2: "socket.io-client-2"})
TRANSPORTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"polling": {"transports": ["polling"]}, "websocket": {"transports": ["websocket"]}, "upgrading": {}}
)
WINDOW = 8
"""How many events of a stream may wait for their acknowledgement."""
Event = dict[str, Any]


class SocketProcess(NodeProcess):
    """Sockets of ``socketio_recovery_app.py``, by their names.

    :param ledger: gets what is written here.
    :ivar records: of what each socket has received.
    """

    def __init__(self, url: str, ledger: EventLedger, version: int = 4) -> None:
        self.records: dict[str, SocketRecord] = {}
        self._ledger = ledger
        self._rows: list[dict[str, Any]] = []
        self._ids = count()
        super().__init__(CLIENT, VERSIONS[version], url)

    def take(self, event: Event) -> None:
        super().take(event)
        note = _NOTES.get(event["type"])
        if note is not None:
            note(self, event)

    def _connected(self, event: Event) -> None:
        self.records[event["socket"]].connected(event["recovered"])

    def _told(self, event: Event) -> None:
        self.records[event["socket"]].told(event["number"], event["position"])

    def _written(self, event: Event) -> None:
        row = self._rows[event["number"] % len(self._rows)]
        self._ledger.emit(event["number"], row.get("to"), row.get("skip", ()))

    def _stored(self, event: Event) -> None:
        self._ledger.acknowledge(event["number"])

    def of(self, socket: str, kind: str) -> list[Event]:
        """What has happened to a socket."""
        return [event for event in self.of_type(kind) if event["socket"] == socket]

    def wait_for(self, socket: str, kind: str, number: int = 1) -> Event:
        """Wait until something has happened to a socket so many times, and return the last of them."""
        found = wait_until(
            lambda: len(self.of(socket, kind)) >= number and self.of(socket, kind),
            lambda: f"{socket}: {kind}; last came {self.events[-5:]}",
        )
        return dict(found[-1])

    def tell(self, kind: str, socket: str, **more: Any) -> None:
        """Give a command for a socket."""
        self.write(json.dumps({"type": kind, "socket": socket, **more}))

    def open(
        self,
        socket: str,
        rooms: Iterable[str] = (),
        transport: str = "websocket",
        namespace: str = "/chat",
        state: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Event:
        """Connect a socket that enters some rooms, and wait until it is connected.

        :param state: what the client believes to know of an earlier connection.
        """
        self.records[socket] = SocketRecord(self._ledger, socket, rooms, bool(self._ledger.emitted))
        options = {**TRANSPORTS[transport], **options}
        auth = {"rooms": list(rooms)}
        self.tell("open", socket, namespace=namespace, auth=auth, options=options, state=dict(state or {}))
        return self.wait_for(socket, "connect")

    def ask(self, socket: str, *arguments: Any) -> Any:
        """Emit an event, and return its acknowledgement."""
        id = next(self._ids)
        self.tell("emit", socket, args=arguments, id=id)
        return wait_until(
            lambda: [event for event in self.of(socket, "ack") if event["id"] == id],
            lambda: f"{socket}: no answer to {arguments}; last came {self.events[-5:]}",
        )[0].get("answer")

    def write_event(self, socket: str, number: int, **row: Any) -> None:
        """Have one event emitted; return when it is stored."""
        self._ledger.emit(number, row.get("to"), row.get("skip", ()))
        assert self.ask(socket, "write", number, row) == number
        self._ledger.acknowledge(number)

    def stream(self, socket: str, rows: list[Event], first: int = 0, count: int = 10**9, pause: int = 5) -> None:
        """Have numbered events emitted, one row after the other, until :meth:`end` is called.

        :param pause: milliseconds after each acknowledgement.
        """
        self._rows = rows
        self.tell("stream", socket, rows=rows, first=first, count=count, window=WINDOW, pause=pause)

    def end(self, socket: str) -> None:
        """End a stream, and wait until it has ended."""
        self.tell("end", socket)
        self.wait_for(socket, "ended")

    def lose(self, *sockets: str) -> None:
        """Have sockets lose their connections, and stay away."""
        for socket in sockets:
            lost = len(self.of(socket, "disconnect"))
            self.tell("lose", socket)
            self.wait_for(socket, "disconnect", lost + 1)

    def come_back(self, *sockets: str) -> list[Event]:
        """Let sockets connect again that have lost their connections, and wait until they have."""
        before = [len(self.of(socket, "connect")) for socket in sockets]
        for socket in sockets:
            self.tell("connect", socket)
        return [self.wait_for(socket, "connect", count + 1) for socket, count in zip(sockets, before, strict=True)]

    def wait_until_connected(self) -> None:
        """Wait until each socket is connected."""
        for name in self.records:
            wait_until(lambda name=name: self._is_connected(name), lambda name=name: f"{name} is not connected")

    def _is_connected(self, socket: str) -> bool:
        """Whether a socket is connected. A client may tell twice in a row that it isn't."""
        told = [event["type"] for event in self.events if event["socket"] == socket]
        return [kind for kind in told if kind in ("connect", "disconnect")][-1] == "connect"

    def wait_until_told(self, record: SocketRecord, last: int) -> None:
        """Wait until a socket has an event."""
        wait_until(
            lambda: record.last() >= last,
            lambda: f"{record.name} has no {last}; last came {self.events[-5:]}",
            5 * DEADLINE if SOAK else DEADLINE,
        )

    def told(self, socket: str) -> list[int]:
        """The numbers of the events that a socket has received."""
        return [number for number, _ in self.records[socket].received]


_NOTES: Mapping[str, Callable[[SocketProcess, Event], None]] = MappingProxyType(
    {
        "connect": SocketProcess._connected,
        "told": SocketProcess._told,
        "written": SocketProcess._written,
        "stored": SocketProcess._stored,
    }
)
