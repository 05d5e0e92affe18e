"""Publishes each message once, whatever happens to the connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from realtime_chat.client.connector import Backoff, ClientOptions, Connector
from realtime_chat.client.errors import ChatError, FateUnknown, QueueFull, Refused
from realtime_chat.client.events import Message
from realtime_chat.client.subscription import FlowControl, RoomSubscription
from realtime_chat.values.model import Position

KEY_KEPT = 290.0
"""Seconds for which a key makes it safe to publish again: the server keeps it for at least 300."""

WINDOW = 100
"""How many publishes may wait for a reply on one connection."""

_MAY_BE_STORED = ("in_doubt", "internal")
"""Temporary errors after which the message may be stored none the less."""


@attrs.define(eq=False)
class PendingPublish:
    """A publish that is not acknowledged yet.

    :ivar on_wire: whether it was sent on the current connection.
    :ivar first_sent: when it was first sent; None if it never was.
    :ivar sent_by: the id of the user as whom it was sent.
    :ivar covered: whether its room has been read without a gap since before it was sent. Then it is stored if and only
        if it was seen.
    :ivar new_log: whether its room has a new log since it was sent.
    :ivar in_doubt: whether it may be stored: it was sent and not answered, or the server doesn't know.
    :ivar waiting: what to fire with its result.
    """

    command: dict[str, Any]
    on_wire: bool = False
    first_sent: float | None = None
    sent_by: str | None = None
    covered: bool = False
    new_log: bool = False
    in_doubt: bool = False
    waiting: list[Deferred[Position]] = attrs.Factory(list)

    @property
    def room(self) -> str:
        """The room's name."""
        return str(self.command["room"])

    @property
    def key(self) -> str:
        """The message's key."""
        return str(self.command["key"])

    @property
    def size(self) -> int:
        """The size of its data in bytes."""
        return len(bytes(self.command["data"]))

    def result(self) -> Deferred[Position]:
        """Return a new Deferred that fires with the message's position, or fails."""
        deferred: Deferred[Position] = Deferred(self._cancelled)
        self.waiting.append(deferred)
        return deferred

    def _cancelled(self, deferred: Deferred[Position]) -> None:
        self.waiting.remove(deferred)

    def why_not_again(self, now: float, user: str | None) -> str | None:
        """Why it is not safe to publish it again; None if it is safe."""
        if self.first_sent is None or self.covered:
            return None
        if self.new_log:
            return "the room's log was made anew since"
        if self.sent_by != user:
            return "the server no longer knows the client that sent it"
        if now - self.first_sent > KEY_KEPT:
            return "the connection was away for longer than the server is sure to know the message's key"
        return None

    def refused_for_now(self, code: str) -> None:
        """The server refused it with a temporary error: it is to be sent again."""
        self.on_wire = False
        if code in _MAY_BE_STORED:
            self.in_doubt, self.covered = True, False  # not seen is no proof: it may be stored later
        elif not self.in_doubt:
            self.first_sent = None

    def settle(self, result: Position | ChatError) -> None:
        """Fire everything that waits for its result."""
        waiting, self.waiting = self.waiting, []
        for deferred in waiting:
            if isinstance(result, ChatError):
                deferred.errback(result)
            else:
                deferred.callback(result)


class Outbox:
    """All pending publishes, in the order in which they were added. It sends them, and settles each once.

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
        rooms: Mapping[str, RoomSubscription],
        flow_control: FlowControl,
    ) -> None:
        self._clock = clock
        self._new_key = new_key
        self._boottime = boottime
        self._next_id = next_id
        self._options = options
        self._connector = connector
        self._rooms = rooms
        self._flow_control = flow_control
        self._pending: dict[tuple[str, str], PendingPublish] = {}
        self._by_id: dict[int, PendingPublish] = {}
        self._backoff = Backoff(random)
        self._retry_timer: IDelayedCall | None = None
        self._one_at_a_time: set[str] = set()  # rooms in which a temporary error was the last answer

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def on_wire(self) -> list[PendingPublish]:
        """Those that wait for a reply on the current connection."""
        return [publish for publish in self._pending.values() if publish.on_wire]

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
            publish = self._find(command) or self._add(command)
        except ChatError as error:
            return fail(error)
        result = publish.result().addErrback(self._cancelled, publish)
        self.flush()
        self._flow_control.update()
        return result

    def _find(self, command: dict[str, Any]) -> PendingPublish | None:
        """The pending publish with a command's room and key, if there is one.

        :raises Refused: ``key_reused``: it has other content.
        """
        publish = self._pending.get((command["room"], command["key"]))
        if publish is not None and _content(publish.command) != _content(command):
            raise Refused("key_reused", "other content is on its way under this key; give each message its own key")
        return publish

    def _add(self, command: dict[str, Any]) -> PendingPublish:
        limit = self._options.online if self._connector.up else self._options.offline
        if len(self) >= limit:
            raise QueueFull(limit)
        id = self._next_id()
        publish = self._by_id[id] = PendingPublish({**command, "id": id})
        self._pending[publish.room, publish.key] = publish
        return publish

    def _remove(self, publish: PendingPublish) -> None:
        self._pending.pop((publish.room, publish.key), None)
        self._by_id.pop(publish.command["id"], None)

    def _cancelled(self, failure: Any, publish: PendingPublish) -> Any:
        """Take back a publish that was cancelled before it was sent."""
        if not publish.waiting and publish.first_sent is None:
            self._remove(publish)
        return failure

    # Sending

    def flush(self) -> None:
        """Send what may be sent, in order; fail what is not safe to send again."""
        failed = []
        room_left = WINDOW - len(self.on_wire)
        user = "" if self._connector.user is None else self._connector.user.id
        before: dict[str, str] = {}  # by room, the key of the publish before this one
        for publish in list(self._pending.values()) if self._connector.up else ():
            if room_left > 0 and not publish.on_wire and self._may_send(publish, publish.room in before):
                why = publish.why_not_again(self._boottime(), user)
                if why is not None:
                    self._remove(publish)
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

    def _by_reply(self, id: Any) -> PendingPublish | None:
        return self._by_id.get(id) if isinstance(id, int) else None

    def published(self, event: dict[str, Any]) -> None:
        """The server has stored a message."""
        publish = self._by_reply(event.get("id"))
        if publish is not None:
            self.settle(publish, Position.parse(event["position"]))

    def refused(self, id: Any, error: Refused) -> bool:
        """The server has refused a command. Returns whether it was a publish."""
        publish = self._by_reply(id)
        if publish is None:
            return False
        if error.temporary:
            self._retry_later(publish, error)
        else:
            self.settle(publish, error)
        return True

    def confirm_from_log(self, message: Message) -> None:
        """A message is in the log: if it is one of ours, it is stored, and its reply no longer matters."""
        publish = None if message.key is None else self._pending.get((message.room, message.key))
        if publish is not None and publish.sent_by == message.sender.id:
            self.settle(publish, message.position)

    def settle(self, publish: PendingPublish, result: Position | ChatError) -> None:
        """Fire a publish's result, and send what may follow it."""
        self._remove(publish)
        if isinstance(result, Position):
            self._backoff.succeeded()
            self._one_at_a_time.discard(publish.room)
        self._flow_control.update()
        publish.settle(result)
        self.flush()

    def fail_all(self, error: ChatError) -> None:
        """Fail all: with ``error``, or with :class:`FateUnknown` if it was sent already."""
        for publish in list(self._pending.values()):
            self._remove(publish)
            publish.settle(error if publish.first_sent is None else FateUnknown(error.message))

    # Retries, gaps and lost connections

    def _retry_later(self, publish: PendingPublish, error: Refused) -> None:
        """After a temporary error, whatever waits in the room waits on."""
        publish.refused_for_now(error.code)
        self._one_at_a_time.add(publish.room)
        if self._retry_timer is None:
            self._retry_timer = self._clock.callLater((error.after or 0.0) + self._backoff.next(), self._retry)
        self._flow_control.update()

    def _retry(self) -> None:
        self._retry_timer = None
        self.flush()

    def on_gap(self, room: str, new_log: bool) -> None:
        """Messages of a room were missed; those that were sent to it may be among them."""
        for publish in self._pending.values():
            if publish.room == room and publish.first_sent is not None:
                publish.covered = False
                publish.new_log = publish.new_log or new_log

    def disconnected(self) -> None:
        """The connection is gone: nothing is on the wire, and whatever was is in doubt."""
        timer, self._retry_timer = self._retry_timer, None
        if timer is not None:
            timer.cancel()
        for publish in self.on_wire:
            publish.in_doubt = True
            publish.on_wire = False


def _content(command: dict[str, Any]) -> tuple[Any, Any]:
    return command["event"], msgspec.json.decode(bytes(command["data"]))
