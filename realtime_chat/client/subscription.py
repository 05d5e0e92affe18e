"""A room that is read: where, and what its reader has not taken yet."""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import Deferred

from realtime_chat.client.errors import ChatError
from realtime_chat.client.events import Event, Member, Message, Presence, Reset
from realtime_chat.client.link import JoinRequest
from realtime_chat.values.model import Position

__all__ = ["RoomSubscription"]


class RoomSubscription:
    """The client's cursor in a room, and a bounded buffer of what came.

    :param buffer: how many events wait for the reader at most. From a half of it on, reading should pause; what comes
        when it is full isn't kept, and the room is *behind*: it is read again from its position, once no more than a
        quarter is left.
    :ivar position: after which the reader has everything, or has it in the buffer; None before the room was joined.
    :ivar joined: whether events of the room count: the connection that is open now has joined it.
    :ivar seen: how far the connection has brought the room, kept or not.
    :ivar goal: where the log ended when it was joined; until then it is being caught up with.
    """

    def __init__(self, room: str, since: Position | None, last: int | None, buffer: int) -> None:
        self.room = room
        self.position = since
        self.last = last
        self.limit = buffer
        self.joined = False
        self.ever_joined = False
        self.behind = False
        self.seen = since
        self.goal: Position | None = None
        self.members: dict[str, Member] | None = None
        self.count: int | None = None
        self.ended: ChatError | bool = False
        self.joining: list[Deferred[None]] = []
        self._events: deque[Event] = deque()
        self._presence_missed = False
        self._waiter: Deferred[None] | None = None

    # What is known of the log

    @property
    def wish(self) -> JoinRequest:
        """How to go on."""
        return JoinRequest(self.room, None if self.position is None else str(self.position), self.last)

    @property
    def caught_up(self) -> bool:
        """Whether all that was there when it was joined has come."""
        return self.goal is not None and self.seen is not None and is_at(self.goal, self.seen)

    def cut_off(self) -> None:
        """The connection is gone, or the room is to be read again."""
        self.joined = False
        self.goal = None

    def begin(self, start: Position, top: Position) -> None:
        """The server brings what follows ``start``; the log ends at ``top`` now."""
        self.joined = self.ever_joined = True
        self.behind = False
        self.position = self.seen = start
        self.goal = top

    def follows(self, position: Position) -> bool:
        """Whether a message is the next one, or the first of which anything is known."""
        return self.seen is None or position == Position(self.seen.epoch, self.seen.offset + 1)

    def is_known(self, position: Position) -> bool:
        """Whether a message came before."""
        return self.seen is not None and is_at(position, self.seen) and position.epoch == self.seen.epoch

    # What came

    def take(self, message: Message) -> None:
        """Keep a message for the reader, or fall behind."""
        self.seen = message.position
        if self.behind or len(self._events) >= self.limit:
            self.behind = True
            return
        self.position = message.position
        self._put(message)

    def reset(self, position: Position) -> None:
        """Messages are lost: tell the reader, and go on after ``position``. It never has two of these in a row."""
        self.seen = self.position = position
        self.behind = False
        if self._events and isinstance(self._events[-1], Reset):
            self._events.pop()
        self._put(Reset(self.room, position))

    def tell(self, event: Event) -> None:
        """Keep something volatile for the reader, if there is room."""
        if len(self._events) < self.limit:
            self._put(event)

    def present(self, event: Presence) -> None:
        """Who came and went."""
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
        self.tell(event)

    def end(self, error: ChatError | bool = True) -> None:
        """Nothing more comes; what is there may still be taken.

        :param error: what the reader is told then, if it is one.
        """
        self.ended = self.ended or error
        self.joined = False
        self.wake()

    def _put(self, event: Event) -> None:
        self._events.append(event)

    # The reader

    @property
    def crowded(self) -> bool:
        """Whether reading should pause."""
        return len(self._events) >= (self.limit + 1) // 2

    @property
    def drained(self) -> bool:
        """Whether reading may go on."""
        return len(self._events) <= self.limit // 4

    @property
    def wants_waking(self) -> bool:
        """Whether somebody waits for what is there."""
        return self._waiter is not None and bool(self._events)

    def pop(self) -> Event | None:
        """The next event, if one is there."""
        event = self._events.popleft() if self._events else None
        if self._presence_missed and self.count is not None:
            self._presence_missed = False
            self._put(Presence(self.room, self.count, members=self._all_members()))
        return event

    def _all_members(self) -> tuple[Member, ...] | None:
        return None if self.members is None else tuple(self.members.values())

    def wait(self) -> Deferred[None]:
        """Fires when there is something, or nothing more comes.

        :raises RuntimeError: somebody waits already.
        """
        if self._waiter is not None:
            raise RuntimeError(f"room {self.room} is iterated over twice at once; its events can only be had once")
        self._waiter = Deferred(self._stop_waiting)
        return self._waiter

    def _stop_waiting(self, deferred: Deferred[None]) -> None:
        self._waiter = None

    def wake(self) -> None:
        """Tell who waits."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)


def is_at(goal: Position, seen: Position) -> bool:
    """Whether ``goal`` is reached; one of another log never will be, and counts as reached."""
    return goal.epoch != seen.epoch or goal.offset <= seen.offset
