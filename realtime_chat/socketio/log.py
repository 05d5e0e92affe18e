"""The log of a recovery namespace, which is called by the namespace's name, and its readers on this node."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec
from twisted.logger import Logger
from twisted.python.failure import Failure

from realtime_chat.core.room import Room
from realtime_chat.engineio.fanout import send_to_all
from realtime_chat.engineio.prepared import Binary, PreparedMessage
from realtime_chat.socketio.log_fanout import EventReader, LogFanout, StoredEvent
from realtime_chat.socketio.membership import check_rooms
from realtime_chat.socketio.packets import PacketType, encode_packet
from realtime_chat.socketio.recovery import Recovery
from realtime_chat.socketio.stored import NOTHING_TO_STORE, Stored
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.json import encode_value
from realtime_chat.values.model import ANONYMOUS, AppendResult, Draft, Position

_EVENT = "event"


class _Emit:
    """An event on its way to the store.

    :ivar then: is called with the top of the log, when the event and all before it were stored or refused.
    """

    __slots__ = ("is_done", "stored", "then")

    def __init__(self) -> None:
        self.stored = Stored()
        self.is_done = False
        self.then: list[Callable[[int], object]] = []


class NamespaceLog:
    """The log of one namespace.

    :param recovery: gives what all recovery namespaces share. It raises RuntimeError before the application is served.
    :ivar fanout: sends what is new to the sockets of this node.
    :ivar holders: the sockets that hold a client's record, by its key.
    """

    _log = Logger()

    def __init__(self, name: str, recovery: Callable[[], Recovery]) -> None:
        self.name = name
        self.fanout = LogFanout(name)
        self.holders: dict[str, Any] = {}
        self._get_recovery = recovery
        self._in_flight: deque[_Emit] = deque()
        self._room: Room | None = None
        self._top = 0

    @property
    def recovery(self) -> Recovery:
        """What all recovery namespaces share."""
        return self._get_recovery()

    async def load(self) -> Room:
        """The room that stands for the log.

        :raises RealtimeError: ``store_unavailable`` or ``too_many``.
        """
        self._room = await self.recovery.hub.cache.load(self.name)
        return self._room

    # Emitting

    def emit(self, event: Sequence[Any], to: frozenset[str] | None, skip: frozenset[str]) -> Stored:
        """Store an event, which is sent to the sockets then.

        :param event: its name and its arguments.
        :returns: an answer that may be awaited.
        :raises ValueError: this can't be sent, as for ``TypeError``.
        """
        packet = encode_packet(PacketType.EVENT, self.name, event)
        if to is not None and not to:
            return NOTHING_TO_STORE
        check_rooms((*(to or ()), *skip))
        stored = StoredEvent(msgspec.Raw(packet.payload), to, skip, packet.attachments)
        draft = Draft(self.name, _EVENT, encode_value(stored), ANONYMOUS)
        emit = _Emit()
        self._in_flight.append(emit)
        self.recovery.set_busy(self, True)
        self.recovery.hub.publisher.publish(draft, self._stored, emit)
        return emit.stored

    def _stored(self, result: AppendResult | Failure, emit: _Emit) -> None:
        emit.is_done = True
        if isinstance(result, Failure):
            self._not_stored(result, emit)
        else:
            self._top = result.message.position.offset
            emit.stored.done()
        while self._in_flight and self._in_flight[0].is_done:
            done = self._in_flight.popleft()
            if not self._in_flight:
                self.recovery.set_busy(self, False)
            for call in done.then:
                self._call(call)

    def _not_stored(self, failure: Failure, emit: _Emit) -> None:
        error = failure.value
        if isinstance(error, RealtimeError):
            self._log.error("an event of {name} is not stored: {why}", name=self.name, why=error.message)
        else:
            self._log.failure("an event of {name} is not stored", failure, name=self.name)
        emit.stored.done(failure)

    def when_stored(self, call: Callable[[int], object]) -> None:
        """Call ``call(top)`` when all events that are on their way now were stored or refused."""
        if self._in_flight:
            self._in_flight[-1].then.append(call)
        else:
            call(self._current_top())

    def _call(self, call: Callable[[int], object]) -> None:
        try:
            call(self._current_top())
        except Exception:
            self._log.failure("what waited for an event failed")

    def _current_top(self) -> int:
        return self._top if self._room is None else max(self._top, self._room.top)

    def flush(self) -> Position | None:
        """Send what is stored to the sockets that are live.

        :returns: the position up to which they have all; None if there are none, or if they are being sent to.
        """
        if self._room is None or self.fanout.is_sending:
            return None
        self._room.flush()
        return self._room.position

    def emit_volatile(self, event: Sequence[Any], readers: Collection[EventReader]) -> None:
        """Send an event that is not stored to sockets that are live. It has the position up to which these have all."""
        packet = encode_packet(PacketType.EVENT, self.name, event)
        position = self.flush()
        live = [reader for reader in readers if reader.is_live]
        if position is None or not live:
            return
        for reader in live:
            reader.last = position.offset
        text = b'%b%b,"%b"]' % (packet.head, packet.payload[:-1], str(position).encode())
        message = PreparedMessage((text, *map(Binary, packet.attachments)))
        send_to_all(message, [reader.connection for reader in live], volatile=True)
