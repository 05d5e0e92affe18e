"""Delivery to one transport: its subscriptions, and the pump that brings those which are behind up to their rooms.

A slow reader is left behind, not queued for. Its room leaves it when the transport has taken less than it was given.
Once the transport resumes writing, the pump sends it one page after another until it is live again. See
:mod:`~realtime_chat.core.room` for the states.
"""

from __future__ import annotations

from collections.abc import Collection

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from realtime_chat.core.by_room import ByRoom
from realtime_chat.core.hub import Hub
from realtime_chat.core.interfaces import MessageSink
from realtime_chat.core.log_view import EntryPage, StartPosition
from realtime_chat.core.properties import PropertyLog, PropertySubscription
from realtime_chat.core.room import Room, Subscription
from realtime_chat.values.errors import StoreError
from realtime_chat.values.model import Position

_log = Logger()


class Delivery(ByRoom[Subscription]):
    """The subscriptions of one transport, of which those that are behind are sent page after page.

    :param transport: where messages are sent. Without one nothing is delivered.
    """

    __slots__ = ("_behind", "_hub", "_reading", "transport")

    def __init__(self, hub: Hub, transport: MessageSink | None) -> None:
        super().__init__()
        self.transport: MessageSink = transport  # type: ignore[assignment]  # without one nothing is delivered
        self._hub = hub
        self._behind: tuple[Subscription, ...] = ()  # as it is empty nearly always, and an empty tuple takes no memory
        self._reading = False

    def close(self) -> Collection[Subscription]:
        """End all subscriptions, and give them back."""
        ended, self._items = self.all(), None
        for subscription in ended:
            subscription.room.remove(subscription)
        self._behind = ()
        self.transport = None  # type: ignore[assignment]  # or they would keep each other for the garbage collector
        return ended

    def subscribe(self, room: Room, start: StartPosition) -> Subscription:
        """Read a room from a position on; :meth:`pump` sends what follows."""
        subscription = Subscription(self, self.transport, room, start)
        self.add(subscription)
        room.add()
        self._behind += (subscription,)
        return subscription

    def subscribe_properties(self, log: PropertyLog, start: StartPosition, complete_to: int) -> None:
        """Read a room's properties from a position on.

        :param complete_to: see :class:`PropertySubscription`.
        """
        subscription = PropertySubscription(self, self.transport, log, start, complete_to)
        self.add(subscription)
        log.add()
        self._behind += (subscription,)

    def unsubscribe(self, room: str) -> Subscription | None:
        """End the subscription of a room, and give it back; None if there is none."""
        subscription = self.find(room)
        if subscription is not None:
            self.remove(subscription)
            if not subscription.live:
                self._no_longer_behind(subscription)
            subscription.room.remove(subscription)
        return subscription

    def pause_writing(self) -> None:
        """The transport takes no more for now: no subscription is live until it resumes writing."""
        for subscription in self.all():
            subscription.room.fall_behind(subscription)

    def fell_behind(self, reader: Subscription) -> None:
        """A subscription is no longer live; see :class:`~realtime_chat.core.interfaces.Subscriber`."""
        self._behind += (reader,)

    def _no_longer_behind(self, subscription: Subscription) -> None:
        behind = self._behind
        self._behind = () if len(behind) == 1 else tuple(other for other in behind if other is not subscription)

    def pump(self) -> None:
        """Send a page to each subscription that is behind, and more, as far as the transport takes it."""
        while self._behind and not self._reading and not self.transport.write_paused:
            subscription = self._behind[0]
            room = subscription.room
            if subscription.offset == room.top and subscription.epoch == room.epoch:
                self._go_live(subscription)
                continue
            page = subscription.next_page()
            if page is None:
                self._read(subscription)
            elif not self._send_page(subscription, page):
                break
        if not self._reading and self.transport is not None and self.transport.on_caught_up is not None:
            self.transport.on_caught_up()

    def _read(self, subscription: Subscription) -> None:
        self._reading = True
        room = subscription.room
        Deferred.fromCoroutine(room.find_after(room.resume_offset(subscription))).addCallbacks(
            self._page_read, self._page_unread, callbackArgs=(subscription, room.epoch), errbackArgs=()
        )

    def _page_read(self, page: EntryPage, subscription: Subscription, epoch: str) -> None:
        """A page was read. It is of no use if the log became another one meanwhile."""
        self._reading = False
        if subscription in self._behind and page.epoch == epoch:
            self._send_page(subscription, page)
        self.pump()

    def _page_unread(self, failure: Failure) -> None:
        if failure.check(StoreError) is None:
            _log.failure("a page could not be read", failure)
        self._hub.wheel.call_later(self._hub.limits.retry, self._try_again)

    def _try_again(self) -> None:
        self._reading = False
        self.pump()

    def _send_page(self, subscription: Subscription, page: EntryPage) -> bool:
        """Send a page to a subscription that is behind, and make it live if nothing follows.

        :returns: whether the transport took any of it. A transport that is closing takes nothing, though its writing
            isn't paused.
        """
        taken = 0
        transport = self.transport
        if page.epoch != subscription.epoch or page.start != subscription.offset:
            subscription.epoch, subscription.offset = page.epoch, page.start
            transport.reset(subscription.room.name, Position(page.epoch, page.start))
        entries = page.entries
        if entries:
            fanout = transport.fanout
            taken = transport.send_batch(subscription.room.batch(fanout, page))
            if taken:
                subscription.offset = entries[taken - 1].offset
                self._hub.counters.delivered[fanout.name] += taken
        if subscription not in self._behind:
            return True  # the transport is done with this session
        self._go_live(subscription)
        return taken > 0 or not entries

    def _go_live(self, subscription: Subscription) -> None:
        """Make a subscription live, if nothing is left to be sent to it. Else the next one has its turn."""
        if not subscription.room.go_live(subscription):
            if len(self._behind) > 1:
                self._no_longer_behind(subscription)
                self._behind += (subscription,)
            return
        self._no_longer_behind(subscription)
        if subscription.members_version_sent < subscription.room.members_version_sent:
            self._hub.presence.send_list(subscription)
