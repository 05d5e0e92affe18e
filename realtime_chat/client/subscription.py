"""One room that is read: the client's position in it, and the events that its reader has not taken yet.

While all readers are slow, the link is paused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping

import attrs
from twisted.internet.defer import Deferred

from realtime_chat.client.connector import Connector
from realtime_chat.client.errors import ChatError, Closed
from realtime_chat.client.events import Event, Member, Message, Presence, Property, Reset
from realtime_chat.client.link import JoinRequest
from realtime_chat.client.properties import RoomProperties
from realtime_chat.values.model import Position


@attrs.define(eq=False)
class RoomSubscription:
    """The client's position in a room, and a bounded buffer of events.

    ============ ============================ ===========================================================
    State        Event                        What happens
    ============ ============================ ===========================================================
    joining      :meth:`begin`                *catching up* to where the log ended when it was joined
    catching up  the message there arrives    *caught up*: what is in doubt can be published again
    any of these a message, the buffer full   *behind*: messages are dropped, and the position stays
    behind       the buffer is mostly empty   the room is joined again from its position: *joining*
    any of these :meth:`disconnected`         *joining*, on the next connection
    any of these :meth:`end`                  *ended*: the reader takes what is buffered, and no more comes
    ============ ============================ ===========================================================

    Reading should pause when the buffer is half full, and may resume when it is a quarter full.

    :param position: the reader has everything up to here, or has it in the buffer; None before the room was joined.
    :param limit: how many events may wait for the reader.
    :param properties: the room's properties; None if they are not read.
    :ivar joined: whether the current connection has joined the room.
    :ivar received: the position up to which the connection has brought the room, buffered or dropped.
    :ivar rights: what the client may do in it, as letters; None if the server doesn't say.
    :ivar target: where the log ended when the room was joined.
    :ivar joining: what to fire when the room is joined.
    :ivar ended: True, or the error that ended it.
    """

    room: str
    position: Position | None
    last: int | None
    limit: int
    properties: RoomProperties | None = None
    joined: bool = False
    ever_joined: bool = False
    behind: bool = False
    received: Position | None = attrs.Factory(lambda self: self.position, takes_self=True)
    target: Position | None = None
    members: dict[str, Member] | None = None
    count: int | None = None
    rights: str | None = None
    ended: ChatError | bool = False
    joining: Deferred[None] | None = None
    _events: deque[Event | str] = attrs.Factory(deque)  # a str is the name of a property that has changed
    _changed: dict[str, Property] = attrs.Factory(dict)  # the last change of each of those
    _presence_missed: bool = False
    _waiter: Deferred[None] | None = None

    # Joining

    @property
    def request(self) -> JoinRequest:
        """How to join the room from here."""
        since = None if self.position is None else str(self.position)
        properties = None if self.properties is None else self.properties.request
        return JoinRequest(self.room, since, self.last, properties)

    @property
    def caught_up(self) -> bool:
        """Whether all has come that was in the log when the room was joined."""
        return self.target is not None and self.received is not None and _has_reached(self.received, self.target)

    def settle_join(self, error: ChatError | None = None) -> None:
        """Fire what waits for the room to be joined, or fail it."""
        joining, self.joining = self.joining, None
        if joining is not None and error is None:
            joining.callback(None)
        elif joining is not None:
            joining.errback(error)

    def disconnected(self) -> None:
        """The connection is gone, or the room has to be joined again."""
        self.joined = False
        self.target = None

    def begin(self, start: Position, top: Position) -> None:
        """The server sends what follows ``start``; the log ends at ``top`` now."""
        self.joined = self.ever_joined = True
        self.behind = False
        self.position = self.received = start
        self.target = top

    def follows(self, position: Position) -> bool:
        """Whether a message is the next one; the first one always is."""
        return self.received is None or position == Position(self.received.epoch, self.received.offset + 1)

    def is_known(self, position: Position) -> bool:
        """Whether a message has come before."""
        received = self.received
        return received is not None and position.epoch == received.epoch and position.offset <= received.offset

    # Events

    def add_message(self, message: Message) -> None:
        """Buffer a message, or fall behind if the buffer is full."""
        self.received = message.position
        if self.behind or len(self._events) >= self.limit:
            self.behind = True
            return
        self.position = message.position
        self._events.append(message)

    def reset(self, position: Position) -> None:
        """Messages are lost: buffer a reset, and go on after ``position``. A reset replaces one just before it."""
        self.received = self.position = position
        self.behind = False
        if self._events and isinstance(self._events[-1], Reset):
            self._events.pop()
        self._events.append(Reset(self.room, position))

    def forget(self) -> None:
        """The client is another user now: drop everything, and begin anew with a reset."""
        self._events.clear()
        self._changed.clear()
        self.position = self.received = self.count = self.members = self.rights = None
        self.behind = self._presence_missed = False
        if self.properties is not None:
            self.add_changes(self.properties.forget())

    @property
    def is_forgotten(self) -> bool:
        """Whether it begins anew, for another user."""
        return self.ever_joined and self.position is None

    def set_rights(self, rights: str) -> bool:
        """Set what the client may do. Returns whether that has changed since it was known."""
        before, self.rights = self.rights, rights
        return before not in (None, rights)

    def add_volatile(self, event: Event) -> None:
        """Buffer an event that may be dropped, if there is room."""
        if len(self._events) < self.limit:
            self._events.append(event)

    def add_presence(self, event: Presence) -> None:
        """Update the members; buffer the event, or a full list later if there is no room now."""
        self.count = event.count
        if event.members is not None:
            self.members = {member.id: member for member in event.members}
        elif not event.joined and not event.left:
            self.members = None
        elif self.members is not None:
            self.members |= {member.id: member for member in event.joined}
            for member in event.left:
                self.members.pop(member.id, None)
        self._presence_missed = len(self._events) >= self.limit
        self.add_volatile(event)

    def add_changes(self, changes: Iterable[Property]) -> None:
        """Buffer changes of properties. Of each name only the last one waits for the reader."""
        for change in changes:
            if change.name not in self._changed:
                self._events.append(change.name)
            self._changed[change.name] = change

    def end(self, error: ChatError | None = None) -> None:
        """No more events come; those in the buffer can still be taken.

        :param error: why; the reader is given it then, unless the chat was closed.
        """
        self.ended = self.ended or (True if error is None or isinstance(error, Closed) else error)
        self.joined = False
        if error is not None:
            self.settle_join(error)
        self.wake()

    # The reader

    @property
    def should_pause(self) -> bool:
        """Whether the buffer is half full."""
        return len(self._events) >= (self.limit + 1) // 2

    @property
    def may_resume(self) -> bool:
        """Whether the buffer is at most a quarter full."""
        return len(self._events) <= self.limit // 4

    @property
    def must_wake(self) -> bool:
        """Whether the reader waits, and there are events for it."""
        return self._waiter is not None and bool(self._events)

    def pop(self) -> Event | None:
        """Remove and return the next event, if there is one."""
        first = self._events.popleft() if self._events else None
        event = self._changed.pop(first) if isinstance(first, str) else first
        if self._presence_missed and self.count is not None:
            self._presence_missed = False
            members = None if self.members is None else tuple(self.members.values())
            self._events.append(Presence(self.room, self.count, members=members))
        return event

    def wait(self) -> Deferred[None]:
        """Fires when there are events, or when no more come.

        :raises RuntimeError: a reader waits already.
        """
        if self._waiter is not None:
            raise RuntimeError(f"room {self.room} is iterated over twice at once; its events can only be had once")
        self._waiter = Deferred(self._stop_waiting)
        return self._waiter

    def _stop_waiting(self, deferred: Deferred[None]) -> None:
        self._waiter = None

    def wake(self) -> None:
        """Wake the reader, if it waits."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)


def _has_reached(received: Position, target: Position) -> bool:
    """Whether ``target`` has been received. A target in another log never will be, and counts as reached."""
    return target.epoch != received.epoch or target.offset <= received.offset


class FlowControl:
    """Pauses reading from the server while every room's reader is behind and no reply is waited for.

    :param rooms: the rooms that are read, by name.
    :param awaits_reply: returns whether a command waits for its reply.
    """

    def __init__(
        self, connector: Connector, rooms: Mapping[str, RoomSubscription], awaits_reply: Callable[[], bool]
    ) -> None:
        self._connector = connector
        self._rooms = rooms
        self._awaits_reply = awaits_reply
        self._paused = False

    def disconnected(self) -> None:
        """The link is gone; the next one is not paused."""
        self._paused = False

    def update(self) -> None:
        """Pause or resume the link, if what speaks for it has changed."""
        link = self._connector.open_link
        if link is None:
            return
        rooms = self._rooms.values()
        if not self._paused and rooms and all(room.should_pause for room in rooms) and not self._waits():
            self._paused = True
            link.pause()
        elif self._paused and (self._waits() or not rooms or any(room.may_resume for room in rooms)):
            self._paused = False
            link.resume()

    def _waits(self) -> bool:
        return self._awaits_reply() or any(not room.joined for room in self._rooms.values())
