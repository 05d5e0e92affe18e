"""The properties of rooms: what the server tells of them, and what this client sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from realtime_chat.client.events import OwnUser, Property, read_event
from realtime_chat.values.model import Position


@attrs.define(eq=False)
class RoomProperties:
    """The properties of one room.

    :ivar position: up to where they are known; None before the server has told any.
    :ivar values: the present values, by name.
    """

    room: str
    position: Position | None = None
    values: dict[str, Any] = attrs.Factory(dict)
    _end: Position | None = None  # where their log ended when the server sent all of them
    _unseen: set[str] = attrs.Factory(set)  # names that are known, and that the server has not sent since then

    @property
    def request(self) -> str | bool:
        """What asks for them: the position in them, or True."""
        return True if self.position is None else str(self.position)

    def receive(self, event: Mapping[str, Any], me: OwnUser | None) -> list[Property]:
        """Take a ``property``, or the ``properties`` that a server sends first. Returns what has changed."""
        return [*self._receive(event, me)]

    def _receive(self, event: Mapping[str, Any], me: OwnUser | None) -> Iterator[Property]:
        if event["type"] == "property":
            yield from self._change(event, me)
            return
        position = Position.parse(event["position"])
        if event["full"]:  # the first page of a large log may end before our position
            self._unseen = set(self.values)
            self._end = Position.parse(event["top"])
            self.position = None
        if self._knows(position):
            return
        for value in event["values"]:
            yield from self._change(value, me)
        yield from self._move_to(position)

    def _knows(self, position: Position) -> bool:
        own = self.position
        return own is not None and own.epoch == position.epoch and own.offset >= position.offset

    def _change(self, event: Mapping[str, Any], me: OwnUser | None) -> Iterator[Property]:
        change = read_event({**event, "type": "property", "room": self.room}, me)
        assert isinstance(change, Property)
        position = Position.parse(event["position"])
        if not self._knows(position):
            self._unseen.discard(change.name)
            yield self._apply(change)
            yield from self._move_to(position)

    def _move_to(self, position: Position) -> Iterator[Property]:
        """Go on from a position. What the server has not sent by the end of the log doesn't exist."""
        self.position = position
        if self._end is not None and self._knows(self._end):
            gone, self._end, self._unseen = self._unseen, None, set()
            yield from (self._remove(name) for name in sorted(gone))

    def _remove(self, name: str) -> Property:
        return self._apply(Property(self.room, name, self.position, removed=True))

    def _apply(self, change: Property) -> Property:
        if change.removed:
            self.values.pop(change.name, None)
        else:
            self.values[change.name] = change.data
        return change

    def forget(self) -> list[Property]:
        """The client is another user now: nothing is known. Returns what has changed."""
        self.position = self._end = None
        return [self._remove(name) for name in sorted(self.values)]


@attrs.define(eq=False)
class _PendingValue:
    """What is set under one name: the command that waits for its turn, and who waits for its answer."""

    command: dict[str, Any]
    waiting: list[Deferred[Position]] = attrs.Factory(list)


class PropertySetter:
    """Sets properties. Of each name one value is on its way at a time, and the last one that was set goes next.

    :param query: sends a command, again after a reconnect; fires with its reply.
    :param new_key: returns a key that nobody can guess. Under its key a value is set only once. Set again, it would
        replace what others have set meanwhile.
    """

    def __init__(self, query: Callable[[dict[str, Any]], Deferred[dict[str, Any]]], new_key: Callable[[], str]) -> None:
        self._query = query
        self._new_key = new_key
        self._values: dict[tuple[str, str], _PendingValue] = {}

    def set(self, room: str, name: str, data: msgspec.Raw | None) -> Deferred[Position]:
        """Set a property, or remove it.

        :param data: encoded JSON; None removes it.
        :returns: fires with the position when this value, or a later one of the same name, is stored.
        """
        value = {} if data is None else {"data": data}
        command = {"type": "set", "room": room, "name": name, **value, "key": self._new_key()}
        answer: Deferred[Position] = Deferred()
        pending = self._values.get((room, name))
        if pending is None:
            self._values[room, name] = _PendingValue(command, [answer])
            self._send(room, name)
        else:
            pending.command = command
            pending.waiting.append(answer)
        return answer

    def _send(self, room: str, name: str) -> None:
        pending = self._values[room, name]
        waiting, pending.waiting = pending.waiting, []
        self._query(pending.command).addBoth(self._answered, room, name, waiting)

    def _answered(
        self, reply: dict[str, Any] | Failure, room: str, name: str, waiting: list[Deferred[Position]]
    ) -> None:
        if self._values[room, name].waiting:
            self._send(room, name)
        else:
            del self._values[room, name]
        result = reply if isinstance(reply, Failure) else Position.parse(reply["position"])
        for answer in waiting:
            answer.callback(result)
