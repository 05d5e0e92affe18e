"""Publishes each message once, whatever happens to the connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from realtime_chat.client.connector import Backoff, ClientOptions, Connector
from realtime_chat.client.errors import ChatError, FateUnknown, QueueFull, Refused
from realtime_chat.client.events import Message
from realtime_chat.client.outbox import Outbox, PendingPublish
from realtime_chat.client.subscription import FlowControl, RoomSubscription
from realtime_chat.values.model import Position

__all__ = ["ClientPublisher"]

WINDOW = 100
"""How many publishes may wait for a reply on one connection."""


class ClientPublisher:
    """Sends what is in the outbox, and settles it.

    A publish is settled by its reply, or when its message is seen in the log. After a temporary error one publish of
    the room is sent alone, after a delay; the others follow when it is stored.

    :param random: returns a float from 0 up to 1.
    :param new_key: returns a key that nobody can guess.
    :param boottime: returns seconds that also count while this machine sleeps.
    :param next_id: returns a new command ``id``.
    :param rooms: the rooms that are read, by name.
    """

    def __init__(
        self,
        clock: IReactorTime,
        random: Callable[[], float],
        new_key: Callable[[], str],
        boottime: Callable[[], float],
        next_id: Callable[[], int],
        options: ClientOptions,
        connector: Connector,
        outbox: Outbox,
        rooms: Mapping[str, RoomSubscription],
        flow_control: FlowControl,
    ) -> None:
        self._clock = clock
        self._new_key = new_key
        self._boottime = boottime
        self._next_id = next_id
        self._options = options
        self._connector = connector
        self.outbox = outbox
        self._rooms = rooms
        self._flow_control = flow_control
        self._backoff = Backoff(random)
        self._retry_timer: IDelayedCall | None = None
        self._one_at_a_time: set[str] = set()  # rooms in which a temporary error was the last answer

    def publish(self, room: str, data: bytes, event: str, key: str | None) -> Deferred[Position]:
        """Publish a message; fires with its position.

        :param data: compact JSON.
        :raises ChatError: by the Deferred: it was refused, not sent, or it is unknown whether it was stored.
        """
        if self._connector.stopped_by is not None:
            return fail(self._connector.stopped_by)
        command = {
            "type": "publish",
            "room": room,
            "event": event,
            "data": msgspec.Raw(data),
            "key": self._new_key() if key is None else key,
        }
        try:
            publish = self.outbox.find(command) or self._add(command)
        except ChatError as error:
            return fail(error)
        result = publish.result().addErrback(self._cancelled, publish)
        self.flush()
        self._flow_control.update()
        return result

    def _add(self, command: dict[str, Any]) -> PendingPublish:
        limit = self._options.online if self._connector.up else self._options.offline
        if len(self.outbox) >= limit:
            raise QueueFull(limit)
        return self.outbox.add(self._next_id(), command)

    def _cancelled(self, failure: Any, publish: PendingPublish) -> Any:
        """Take back a publish that was cancelled before it was sent."""
        if not publish.waiting and publish.first_sent is None:
            self.outbox.remove(publish)
        return failure

    # Sending

    def flush(self) -> None:
        """Send what may be sent, in order; fail what is not safe to send again."""
        failed = []
        room_left = WINDOW - self.outbox.on_wire
        user = "" if self._connector.user is None else self._connector.user.id
        before: dict[str, str] = {}  # by room, the key of the publish before this one
        for publish in self.outbox if self._connector.up else ():
            if room_left > 0 and not publish.on_wire and self._may_send(publish, publish.room in before):
                why = publish.why_not_again(self._boottime(), user)
                if why is not None:
                    self.outbox.remove(publish)
                    failed.append((publish, FateUnknown(why)))
                    continue
                self._send(publish, user, before.get(publish.room))
                room_left -= 1
            before[publish.room] = publish.key
        for publish, error in failed:
            publish.settle(error)

    def _may_send(self, publish: PendingPublish, follows: bool) -> bool:
        """Whether a publish may be sent now. If its room is read, that has to catch up first: the message may be there.

        :param follows: whether another publish of its room waits before it.
        """
        if publish.room in self._one_at_a_time and (follows or self._retry_timer is not None):
            return False
        subscription = self._rooms.get(publish.room)
        return subscription is None or subscription.caught_up

    def _send(self, publish: PendingPublish, user: str, before: str | None) -> None:
        link = self._connector.link
        assert link is not None
        if publish.first_sent is None:
            publish.first_sent = self._boottime()
            publish.covered = publish.room in self._rooms
        publish.sent_by = user
        publish.on_wire = True
        link.send(publish.command if before is None else {**publish.command, "after": before})

    # Results

    def published(self, event: dict[str, Any]) -> None:
        """The server has stored a message."""
        publish = self.outbox.by_id(event.get("id"))
        if publish is not None:
            self.settle(publish, Position.parse(event["position"]))

    def refused(self, id: Any, error: Refused) -> bool:
        """The server has refused a command. Returns whether it was a publish."""
        publish = self.outbox.by_id(id)
        if publish is None:
            return False
        if error.temporary:
            self._retry_later(publish, error.code)
        else:
            self.settle(publish, error)
        return True

    def confirm_from_log(self, message: Message) -> None:
        """A message is in the log: if it is one of ours, it is stored, and its reply no longer matters."""
        publish = None if message.key is None else self.outbox.by_key(message.room, message.key)
        if publish is not None and publish.sent_by == message.sender.id:
            self.settle(publish, message.position)

    def settle(self, publish: PendingPublish, result: Position | ChatError) -> None:
        """Fire a publish's result, and send what may follow it."""
        self.outbox.remove(publish)
        if isinstance(result, Position):
            self._backoff.succeeded()
            self._one_at_a_time.discard(publish.room)
        self._flow_control.update()
        publish.settle(result)
        self.flush()

    # Retries, and lost connections

    def _retry_later(self, publish: PendingPublish, code: str) -> None:
        """After a temporary error, whatever waits in the room waits on."""
        publish.refused_for_now(code)
        self._one_at_a_time.add(publish.room)
        if self._retry_timer is None:
            self._retry_timer = self._clock.callLater(self._backoff.next(), self._retry)
        self._flow_control.update()

    def _retry(self) -> None:
        self._retry_timer = None
        self.flush()

    def disconnected(self) -> None:
        """The connection is gone: nothing is on the wire."""
        timer, self._retry_timer = self._retry_timer, None
        if timer is not None:
            timer.cancel()
        self.outbox.disconnected()
