"""A subscription: one client's cursor in one room.

States::

    state      event                 what follows
    ---------  --------------------  -----------------------------------------------------------------------
    (new)      subscribe             The cursor is where the reader starts; it is behind.
    behind     catch_up              The next page is sent, from memory or from the store. The cursor moves by
                                     what the transport took. If the cursor has come to the top: live.
    behind     write paused          Nothing is sent until the transport resumes writing; it stays behind.
    behind     log restarted         A ``reset`` is sent, and the cursor moves to where the log goes on.
    live       message               The fan-out sends it; the room's cursor stands for this one.
    live       transport full        It falls behind: the cursor is set after the messages that were taken.
    live       log restarted         It falls behind, and catches up at once.
    any        leave, close          It is removed from its room.

Only :meth:`Room.go_live <realtime_chat.core.room.Room.go_live>` makes it live, only ``Room.fall_behind`` and
``Room.remove`` end that.
"""

from __future__ import annotations

from realtime_chat.core.interfaces import MessageSink, Subscriber
from realtime_chat.core.log_view import EntryPage, StartPosition
from realtime_chat.core.room import Room

__all__ = ["Subscription"]


class Subscription:
    """A cursor in a room, and where what follows it is sent.

    While it is *live* its cursor is the room's own, and ``offset`` says nothing.

    :param start: where it starts.
    :ivar first_page: what follows the start, where that was read already; None once it was used.
    :ivar members_version_sent: the version of the members that it was sent; while it is live, at least the room's.
    """

    __slots__ = (
        "epoch",
        "first_page",
        "live",
        "members_version_sent",
        "offset",
        "room",
        "subscriber",
        "transport",
    )

    def __init__(self, subscriber: Subscriber, transport: MessageSink, room: Room, start: StartPosition) -> None:
        self.subscriber = subscriber
        self.transport = transport
        self.room = room
        self.epoch = start.position.epoch
        self.offset = start.position.offset
        self.first_page: EntryPage | None = start.page
        self.live = False
        self.members_version_sent = 0

    def next_page(self) -> EntryPage | None:
        """What follows the cursor, as far as that was read already; else None."""
        room, first, self.first_page = self.room, self.first_page, None
        offset = room.resume_offset(self)
        page = room.recent_after(room.epoch, offset)
        if page is None and first is not None and first.epoch == room.epoch and first.start == offset:
            return first
        return page
