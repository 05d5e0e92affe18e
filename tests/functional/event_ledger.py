"""A ledger of the events that were emitted in a Socket.IO namespace, and of those that each socket received.

A socket doesn't get each event of its namespace, so offsets have gaps: :mod:`tests.functional.delivery_ledger`, for
native rooms, is about readers that get all of a log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import attrs

from tests.functional.delivery_ledger import offset_of

__all__ = ["EmittedEvent", "EventLedger", "SocketRecord"]


@attrs.frozen
class EmittedEvent:
    """To whom one event was emitted.

    :ivar to: rooms; None for all sockets.
    :ivar skip: rooms.
    """

    to: frozenset[str] | None
    skip: frozenset[str]

    def is_for(self, rooms: Iterable[str]) -> bool:
        """Whether a socket in these rooms gets it."""
        return (self.to is None or not self.to.isdisjoint(rooms)) and self.skip.isdisjoint(rooms)

    def __str__(self) -> str:
        to = "all" if self.to is None else " and ".join(sorted(self.to))
        return f"to {to}" + (f" without {' and '.join(sorted(self.skip))}" if self.skip else "")


class EventLedger:
    """Each emitted event by its number.

    An event that was emitted and neither acknowledged nor received by anybody may be gone; one that one socket has
    received is for all.

    :ivar stored: the numbers of those that were acknowledged.
    :ivar positions: of those that somebody has received.
    """

    def __init__(self) -> None:
        self.emitted: dict[int, EmittedEvent] = {}
        self.stored: set[int] = set()
        self.positions: dict[int, str] = {}

    def emit(self, number: int, to: Iterable[str] | None = None, skip: Iterable[str] = ()) -> None:
        """Note that an event is about to be emitted."""
        self.emitted[number] = EmittedEvent(None if to is None else frozenset(to), frozenset(skip))

    def acknowledge(self, number: int) -> None:
        """Note that an event was acknowledged."""
        self.stored.add(number)

    def told_of(self, rooms: Iterable[str]) -> set[int]:
        """The numbers of the events that a socket in these rooms must get."""
        kept = self.stored | self.positions.keys()
        return {number for number in kept if number in self.emitted and self.emitted[number].is_for(rooms)}


class SocketRecord:
    """The events that one socket received.

    A socket that connects while events are emitted, and isn't recovered, enters its rooms after those that are under
    way. So it is known to be in them from the first event on that it received as one of its rooms.

    :param name: for errors.
    :param rooms: those that it is in from its first connect on.
    :param is_late: whether its first connect comes after the first event.
    :ivar name: the same.
    :ivar received: numbers and positions, in order.
    :ivar connects: of each connect, whether it was recovered.
    """

    def __init__(self, ledger: EventLedger, name: str, rooms: Iterable[str], is_late: bool = False) -> None:
        self._ledger = ledger
        self.name = name
        self._rooms = frozenset(rooms)
        self._is_late = is_late
        self._begins: list[int] = []  # what it had received at each late connect that wasn't recovered
        self.received: list[tuple[int, str]] = []
        self.connects: list[bool] = []

    def connected(self, recovered: bool) -> None:
        """Note a connect."""
        if not recovered and (self.connects or self._is_late):
            self._begins.append(len(self.received))
        self.connects.append(recovered)

    def told(self, number: int, position: str) -> None:
        """Note an event."""
        self.received.append((number, position))

    def last(self) -> int:
        """The number of the newest event that it received; -1 if there is none."""
        return max((number for number, _ in self.received), default=-1)

    def note_positions(self) -> None:
        """Tell the ledger what has come here: whatever one socket has received was stored."""
        for number, position in self.received:
            self._ledger.positions.setdefault(number, position)

    def wrong(self) -> list[str]:
        """What is wrong, an event a line. All records have told their positions before."""
        return [
            f"{self.name}: {what}"
            for check in (self._lost, self._doubled, self._out_of_order, self._not_for_it, self._moved)
            for what in check()
        ]

    def _lost(self) -> Iterable[str]:
        for number in sorted(self._ledger.told_of(self._rooms) - {number for number, _ in self.received}):
            if not self._is_excused(number):
                yield f"lost {number} ({self._ledger.emitted[number]}) at {self._ledger.positions.get(number)}"

    def _is_excused(self, number: int) -> bool:
        """Whether an event came before the socket's present session was in its rooms."""
        if not self._begins:
            return False
        begin = self._in_rooms(self._begins[-1])
        if begin == len(self.received):
            return True
        first, at = self.received[begin]
        position = self._ledger.positions.get(number)
        return number < first if position is None else offset_of(position) < offset_of(at)

    def _in_rooms(self, begin: int) -> int:
        """The index of the first event that it got as one of its rooms, after so many."""
        for index in range(begin, len(self.received)):
            event = self._ledger.emitted.get(self.received[index][0])
            if not self._rooms or (event is not None and event.to is not None):
                return index
        return len(self.received)

    def _doubled(self) -> Iterable[str]:
        counts = Counter(number for number, _ in self.received)
        return (f"{number} came {count} times" for number, count in counts.items() if count > 1)

    def _out_of_order(self) -> Iterable[str]:
        for before, after in pairwise(self.received):
            if offset_of(after[1]) < offset_of(before[1]):
                yield f"{after[0]} at {after[1]} came after {before[0]} at {before[1]}"

    def _not_for_it(self) -> Iterable[str]:
        unsure = {index for begin in self._begins for index in range(begin, self._in_rooms(begin))}
        for index, (number, _) in enumerate(self.received):
            event = self._ledger.emitted.get(number)
            if event is None or not event.is_for([] if index in unsure else self._rooms):
                yield f"{number} ({event}) was not for it"

    def _moved(self) -> Iterable[str]:
        for number, position in self.received:
            if position != self._ledger.positions.get(number):
                yield f"{number} came at {position}, to others at {self._ledger.positions.get(number)}"
