"""Which sockets are in which rooms of a namespace, and events to all of them.

These rooms are Socket.IO's: they are kept in memory, they have no history, and they end with their last socket.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import count
from operator import attrgetter
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred, succeed

from realtime_chat.core.turns import FlushQueue
from realtime_chat.core.wheel import Wheel
from realtime_chat.engineio.connection import Connection
from realtime_chat.engineio.fanout import send_to_all
from realtime_chat.engineio.prepared import Binary, PreparedMessage
from realtime_chat.socketio.acks import Acks
from realtime_chat.socketio.counters import SocketCounters
from realtime_chat.socketio.log import NamespaceLog
from realtime_chat.socketio.log_fanout import EventReader
from realtime_chat.socketio.packets import EncodedPacket, PacketType, encode_packet
from realtime_chat.socketio.stored import NOTHING_TO_STORE, Stored

ACK_TIMEOUT = 60.0
"""Seconds for which an acknowledgement is awaited, if nothing else is said."""

_MAX_JOINED = 65536
"""Bytes of the events that are joined. A socket that takes a part of them gets the rest from this process."""

_connection_of = attrgetter("connection")


class TurnFanout:
    """Joins the events of a turn that go to the same sockets, and sends them at its end.

    A send costs a system call for each socket, however many events it brings. Whoever sends something to a socket by
    itself, or changes who is in a room, calls :meth:`send_pending` before, so that each socket gets all in order.
    """

    def __init__(self) -> None:
        self._to: Broadcast | None = None
        self._pending: list[PreparedMessage] = []
        self._size = 0
        self._is_due = False

    def send(self, message: PreparedMessage, to: Broadcast, flush_queue: FlushQueue) -> None:
        """Send a message at the end of the turn, or before."""
        if self._pending and (self._size + message.size > _MAX_JOINED or to != self._to):
            self.send_pending()
        self._to = to
        self._pending.append(message)
        self._size += message.size
        if not self._is_due:
            self._is_due = True
            flush_queue.add_room(self)

    def flush(self) -> None:
        """The turn is over."""
        self._is_due = False
        self.send_pending()

    def send_pending(self) -> None:
        """Send what is pending."""
        if not self._pending or self._to is None:
            return
        to, pending = self._to, self._pending
        self._to, self._pending, self._size = None, [], 0
        to.send(PreparedMessage.joined(pending))


class Recipient(Protocol):
    """A connected socket, as its namespace's rooms see it.

    :ivar reader: its cursor in the log of a recovery namespace; None in others.
    """

    acks: dict[int, Acks]

    @property
    def reader(self) -> EventReader | None: ...

    @property
    def id(self) -> str: ...

    @property
    def connection(self) -> Connection: ...

    @property
    def rooms(self) -> Collection[str]: ...

    @property
    def wheel(self) -> Wheel: ...

    @property
    def flush_queue(self) -> FlushQueue: ...

    def disconnect(self, close: bool = False) -> None: ...


class SocketIndex:
    """The connected sockets of one namespace.

    :param name: of the namespace.
    :param counters: of the application.
    :param fanout: of all namespaces of the application.
    :param log: of a recovery namespace.
    :ivar sockets: by their ids.
    """

    def __init__(
        self, name: str, counters: SocketCounters, fanout: TurnFanout, log: NamespaceLog | None = None
    ) -> None:
        self.name = name
        self.fanout = fanout
        self.log = log
        self._counters = counters
        self.sockets: dict[str, Recipient] = {}
        self._rooms: dict[str, dict[Recipient, None]] = {}
        self._ids = count()

    @property
    def rooms(self) -> Mapping[str, Collection[Recipient]]:
        """The sockets in each room."""
        return self._rooms

    def expect_acks(self, sockets: Collection[Recipient], seconds: float) -> Acks:
        """Wait until sockets acknowledge an event, whose id no other event of the namespace has.

        :param sockets: at least one.
        """
        wheel = next(iter(sockets)).wheel
        return Acks(next(self._ids), sockets, wheel, seconds, self._counters)

    def add(self, socket: Recipient) -> None:
        """Add a socket, with the rooms that it is in."""
        self.fanout.send_pending()
        self.sockets[socket.id] = socket
        for room in socket.rooms:
            self.enter(socket, room)

    def remove(self, socket: Recipient) -> None:
        """Remove a socket from the namespace and all of its rooms."""
        self.fanout.send_pending()
        if self.sockets.pop(socket.id, None) is not None:
            for room in socket.rooms:
                self.leave(socket, room)

    def enter(self, socket: Recipient, room: str) -> None:
        """Put a connected socket into a room."""
        self.fanout.send_pending()
        self._rooms.setdefault(room, {})[socket] = None

    def leave(self, socket: Recipient, room: str) -> None:
        """Take a socket out of a room. A room without sockets is forgotten."""
        self.fanout.send_pending()
        members = self._rooms.get(room)
        if members is not None:
            members.pop(socket, None)
            if not members:
                del self._rooms[room]

    def select(self, to: frozenset[str] | None, skip: frozenset[str]) -> Collection[Recipient]:
        """The sockets that are in at least one of some rooms, and in none of others.

        :param to: rooms and ids of sockets; None for all sockets.
        :param skip: rooms and ids of sockets.
        """
        chosen = self.sockets.values() if to is None else self._in_any(to)
        if not skip:
            return list(chosen)
        skipped = self._in_any(skip)
        return [socket for socket in chosen if socket not in skipped]

    def _in_any(self, rooms: frozenset[str]) -> Collection[Recipient]:
        if len(rooms) == 1:
            return self._in(next(iter(rooms)))
        return {socket: None for room in sorted(rooms) for socket in self._in(room)}

    def _in(self, room: str) -> Collection[Recipient]:
        # An id stands for its socket alone: nobody may hear what is sent there by entering a room of that name.
        socket = self.sockets.get(room)
        return self._rooms.get(room, ()) if socket is None else (socket,)


def prepare(packet: EncodedPacket, id: int | None = None) -> PreparedMessage:
    """Make what connections send of a packet."""
    return PreparedMessage((packet.text(id), *map(Binary, packet.attachments)))


@attrs.frozen
class Broadcast:
    """Chooses sockets of one namespace, and emits events to all of them. It never changes.

    Each event is encoded once.
    """

    _index: SocketIndex
    _to: frozenset[str] | None = None
    _skip: frozenset[str] = frozenset()

    def to(self, *rooms: str) -> Broadcast:
        """Choose the sockets in some rooms, besides those chosen before. The id of a socket chooses that one."""
        return attrs.evolve(self, to=(self._to or frozenset()) | set(rooms))

    def skip(self, *rooms: str) -> Broadcast:
        """Leave out the sockets in some rooms, or with some ids."""
        return attrs.evolve(self, skip=self._skip | set(rooms))

    def emit(self, event: str, *arguments: Any, volatile: bool = False) -> Stored:
        """Emit an event to all sockets that are chosen.

        :param arguments: what JSON has, and bytes.
        :param volatile: leave out clients that can't take it at once.
        :returns: in a recovery namespace, what may be awaited until the event is stored.
        :raises ValueError: this can't be sent, as for ``TypeError``.
        """
        log = self._index.log
        if log is None:
            self._emit(prepare(encode_packet(PacketType.EVENT, self._index.name, [event, *arguments])), volatile)
        elif volatile:
            self._index.fanout.send_pending()
            readers = [socket.reader for socket in self._chosen()]
            log.emit_volatile([event, *arguments], [reader for reader in readers if reader is not None])
        else:
            return log.emit([event, *arguments], self._to, self._skip)
        return NOTHING_TO_STORE

    def call(self, event: str, *arguments: Any, timeout: float = ACK_TIMEOUT) -> Deferred[list[Any]]:
        """Emit an event, and wait until all sockets that are chosen have acknowledged it.

        :param timeout: seconds to wait.
        :returns: their answers, in the order in which they came. Fails with
            :class:`~realtime_chat.socketio.acks.TimedOut`, which has the answers that came.
        """
        packet = encode_packet(PacketType.EVENT, self._index.name, [event, *arguments])
        sockets = self._chosen()
        if not sockets:
            return succeed([])
        acks = self._index.expect_acks(sockets, timeout)
        self._emit(prepare(packet, acks.id))
        return acks.all

    def _emit(self, message: PreparedMessage, volatile: bool = False) -> None:
        """Send a message, at the end of the turn unless it is volatile."""
        fanout = self._index.fanout
        if volatile:
            fanout.send_pending()
            self.send(message, True)
            return
        socket = next(iter(self._index.sockets.values()), None)
        if socket is not None:
            fanout.send(message, self, socket.flush_queue)

    def send(self, message: PreparedMessage, volatile: bool = False) -> None:
        """Send a message to all sockets that are chosen, now."""
        send_to_all(message, map(_connection_of, self._chosen()), volatile)

    def disconnect(self, close: bool = False) -> None:
        """Disconnect all sockets that are chosen from the namespace.

        :param close: whether their connections are closed, too.
        """
        for socket in self._chosen():
            socket.disconnect(close)

    def _chosen(self) -> Collection[Recipient]:
        return self._index.select(self._to, self._skip)

    async def sockets(self) -> list[str]:
        """The ids of the sockets that are chosen."""
        return [socket.id for socket in self._chosen()]
