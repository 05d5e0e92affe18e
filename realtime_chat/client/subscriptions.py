"""Reads rooms: joins them on each connection, and gives their events to their readers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from realtime_chat.client.connector import Backoff, Connector
from realtime_chat.client.errors import ChatError, Refused
from realtime_chat.client.events import Presence, Rights, read_event, read_message
from realtime_chat.client.link import Link
from realtime_chat.client.outbox import Outbox
from realtime_chat.client.properties import RoomProperties
from realtime_chat.client.subscription import FlowControl, RoomSubscription
from realtime_chat.values.model import Position


class Subscriptions:
    """All rooms that are read.

    :param random: returns a float from 0 up to 1.
    :param rooms: the rooms by name; others may look at it, and only this changes it.
    :param buffer: how many events may wait for each room's reader.
    """

    def __init__(
        self,
        clock: IReactorTime,
        random: Callable[[], float],
        connector: Connector,
        rooms: dict[str, RoomSubscription],
        buffer: int,
        outbox: Outbox,
        flow_control: FlowControl,
    ) -> None:
        self._clock = clock
        self._connector = connector
        self._rooms = rooms
        self._buffer = buffer
        self._outbox = outbox
        self._flow_control = flow_control
        self._backoff = Backoff(random)  # for rooms that can't be read for a while
        self._rejoins: dict[str, IDelayedCall] = {}
        self._wake_timer: IDelayedCall | None = None

    # Joining and leaving

    def join(
        self, room: str, since: Position | None, last: int | None, properties: bool = False
    ) -> Deferred[RoomSubscription]:
        """Read a room, now and after every reconnect; fires when the server has accepted the ``join``.

        :param properties: whether to read its properties, too.
        """
        if self._connector.stopped_by is not None:
            return fail(self._connector.stopped_by)
        if room in self._rooms:
            return fail(Refused("already_joined", f"room {room} is joined already; leave it first"))
        subscription = self._rooms[room] = RoomSubscription(
            room, since, last, self._buffer, RoomProperties(room) if properties else None
        )
        joined = subscription.joining = Deferred(lambda deferred: self.leave(subscription))
        self._send_join(subscription)
        self._flow_control.update()
        return joined.addCallback(lambda ignored: subscription)

    def _send_join(self, subscription: RoomSubscription) -> None:
        if self._connector.open_link is not None:
            self._connector.open_link.join(subscription.request)

    def leave(self, subscription: RoomSubscription) -> None:
        """Stop reading a room."""
        room = subscription.room
        if self._rooms.get(room) is subscription:
            del self._rooms[room]
            self._stop_rejoin(room)
            if self._connector.open_link is not None:
                self._connector.open_link.leave(room)
            self._outbox.on_gap(room, False)
            self._flow_control.update()
            self._outbox.flush()
        subscription.end()

    def consumed(self, subscription: RoomSubscription) -> None:
        """A reader has taken an event: join the room again if it was behind, and resume the link if it was paused."""
        if subscription.may_resume and self._rooms.get(subscription.room) is subscription:
            if subscription.behind and subscription.joined and self._connector.up:
                subscription.disconnected()
                self._send_join(subscription)
            self._flow_control.update()

    def refused(self, room: str, error: Refused) -> None:
        """The server has refused a ``join``: end the room, or join it later if it was read before, or may be soon."""
        subscription = self._rooms[room]
        if error.after is not None or (error.temporary and subscription.ever_joined and error.code != "too_many"):
            self._rejoin_later(subscription, error.after or 0.0)
            return
        del self._rooms[room]
        self._outbox.on_gap(room, False)
        subscription.end(error)
        self._outbox.flush()

    def _rejoin_later(self, subscription: RoomSubscription, after: float) -> None:
        """The room can't be read for a while; the others can.

        :param after: seconds to wait at least.
        """
        subscription.disconnected()
        timer = self._clock.callLater(after + self._backoff.next(), self._rejoin, subscription)
        self._rejoins[subscription.room] = timer

    def _rejoin(self, subscription: RoomSubscription) -> None:
        del self._rejoins[subscription.room]
        self._send_join(subscription)

    def _stop_rejoin(self, room: str) -> None:
        timer = self._rejoins.pop(room, None)
        if timer is not None:
            timer.cancel()

    # The connection

    def connected(self, link: Link) -> None:
        """Join all rooms on a new connection."""
        for subscription in self._rooms.values():
            link.join(subscription.request)

    def disconnected(self) -> None:
        """The connection is gone."""
        for room in list(self._rejoins):
            self._stop_rejoin(room)
        for subscription in self._rooms.values():
            subscription.disconnected()

    def forget(self) -> None:
        """The client is another user now: all rooms begin anew."""
        for subscription in self._rooms.values():
            subscription.forget()

    def stopped(self, error: ChatError) -> None:
        """The client has stopped: end all rooms."""
        timer, self._wake_timer = self._wake_timer, None
        if timer is not None:
            timer.cancel()
        ending = list(self._rooms.values())
        self._rooms.clear()
        for subscription in ending:
            subscription.end(error)

    # Events

    def joined(self, event: dict[str, Any]) -> None:
        """The server has accepted a ``join``."""
        subscription = self._rooms.get(event["room"])
        if subscription is None:
            return
        start, top = Position.parse(event["position"]), Position.parse(event["top"])
        if subscription.is_forgotten or (subscription.position is not None and not event["recovered"]):
            self._reset(subscription, start)
        subscription.begin(start, top)
        self._backoff.succeeded()
        if "rights" in event:
            self.rights({"type": "rights", "room": event["room"], "rights": event["rights"]})
        if "count" in event:
            presence = read_event({**event, "type": "presence"}, self._connector.user)
            assert isinstance(presence, Presence)
            subscription.add_presence(presence)
        if "properties" in event:
            self.properties({**event["properties"], "type": "properties", "room": event["room"]})
        self._wake_later(subscription)
        subscription.settle_join()
        self._after_event(subscription)

    def _reset(self, subscription: RoomSubscription, position: Position) -> None:
        """Messages of a room are lost to its reader."""
        received = subscription.received
        self._outbox.on_gap(subscription.room, received is None or received.epoch != position.epoch)
        subscription.reset(position)

    def message(self, event: dict[str, Any]) -> None:
        """A message has come."""
        message = read_message(event, self._connector.user)
        self._outbox.confirm_from_log(message)
        subscription = self._rooms.get(message.room)
        if subscription is None or not subscription.joined or subscription.is_known(message.position):
            return
        if not subscription.follows(message.position):  # no server skips one; if one did, the reader has to know
            self._reset(subscription, Position(message.position.epoch, message.position.offset - 1))
        subscription.add_message(message)
        self._after_event(subscription)

    def reset(self, event: dict[str, Any]) -> None:
        """The server has lost messages of a room."""
        subscription = self._rooms.get(event["room"])
        if subscription is not None and subscription.joined:
            self._reset(subscription, Position.parse(event["position"]))
            self._after_event(subscription)

    def left(self, event: dict[str, Any]) -> None:
        """The server has ended a room: the client may read it no longer."""
        if event["room"] in self._rooms:
            reason = str(event["reason"])
            self.refused(event["room"], Refused(reason, f"the room {event['room']} may be read no longer: {reason}"))

    def rights(self, event: dict[str, Any]) -> None:
        """What the client may do in a room is told."""
        change = read_event(event, self._connector.user)
        subscription = self._rooms.get(change.room)
        if isinstance(change, Rights) and subscription is not None and subscription.set_rights(change.rights):
            subscription.add_volatile(change)
            self._after_event(subscription)

    def presence(self, event: dict[str, Any]) -> None:
        """Members have joined or left."""
        presence = read_event(event, self._connector.user)
        subscription = self._rooms.get(presence.room)
        if isinstance(presence, Presence) and subscription is not None:
            subscription.add_presence(presence)
            self._after_event(subscription)

    def signal(self, event: dict[str, Any]) -> None:
        """A signal has come."""
        subscription = self._rooms.get(event["room"])
        if subscription is not None:
            subscription.add_volatile(read_event(event, self._connector.user))
            self._after_event(subscription)

    def properties(self, event: dict[str, Any]) -> None:
        """The server tells properties of a room: one that has changed, or many."""
        subscription = self._rooms.get(event["room"])
        if subscription is not None and subscription.properties is not None:
            subscription.add_changes(subscription.properties.receive(event, self._connector.user))
            self._after_event(subscription)

    def _after_event(self, subscription: RoomSubscription) -> None:
        self._wake_later(subscription)
        self._flow_control.update()
        if subscription.caught_up:
            self._outbox.flush()

    def _wake_later(self, subscription: RoomSubscription) -> None:
        """Wake the reader in a turn of its own, as it may call us while we are in the middle of something."""
        if subscription.must_wake and self._wake_timer is None:
            self._wake_timer = self._clock.callLater(0, self._wake)

    def _wake(self) -> None:
        self._wake_timer = None
        for subscription in list(self._rooms.values()):
            if subscription.must_wake:
                subscription.wake()
