"""The client without I/O: connects its parts, and gives each event to the part that it concerns.

It is given a clock, random numbers and what makes links; :mod:`realtime_chat.client.chat` is its public face.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from realtime_chat.client.connector import ClientOptions, Connector, ConnectorListener
from realtime_chat.client.errors import ChatError, Closed, FateUnknown, QueueFull, Refused
from realtime_chat.client.events import State
from realtime_chat.client.link import Disconnect, Link, OpenLink, refusal
from realtime_chat.client.outbox import Outbox
from realtime_chat.client.properties import PropertySetter
from realtime_chat.client.subscription import FlowControl, RoomSubscription
from realtime_chat.client.subscriptions import Subscriptions
from realtime_chat.values.errors import RealtimeError

_RETRY = 1.0
"""Seconds after which a command that could not be stored is sent again, if the server doesn't say."""

_STORE_TROUBLE = frozenset(("store_unavailable", "in_doubt"))


class Core(ConnectorListener):
    """One client, over one link after the other.

    :param random: returns a float from 0 up to 1.
    :param new_key: returns a key that nobody can guess.
    :param links: makes a link, by transport.
    :param on_state: is called with each new state of the connection.
    :param boottime: seconds that also count while this machine sleeps, as the server's memory goes on meanwhile; the
        clock's if it isn't given.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        random: Callable[[], float],
        new_key: Callable[[], str],
        links: Mapping[str, OpenLink],
        options: ClientOptions,
        on_state: Callable[[State], None],
        boottime: Callable[[], float] | None = None,
    ) -> None:
        self._options = options
        self._next_id = partial(next, count(1))
        self._member_state: Any = None
        self.rooms: dict[str, RoomSubscription] = {}
        self._clock = clock
        # By id, commands that may be sent again.
        self._queries: dict[int, tuple[dict[str, Any], Deferred[dict[str, Any]]]] = {}
        self._delayed: set[IDelayedCall] = set()  # which send queries again
        self.connector = Connector(clock, random, links, options, self, on_state)
        self._flow_control = FlowControl(self.connector, self.rooms, lambda: bool(self.outbox or self._queries))
        self.outbox = Outbox(
            clock,
            random,
            new_key,
            clock.seconds if boottime is None else boottime,
            self._next_id,
            options,
            self.connector,
            self.rooms,
            self._flow_control,
        )
        self.subscriptions = Subscriptions(
            clock, random, self.connector, self.rooms, options.buffer, self.outbox, self._flow_control
        )
        self.properties = PropertySetter(self.query, new_key)
        self._receivers = self._make_receivers()

    def _make_receivers(self) -> Mapping[str, Callable[[dict[str, Any]], None]]:
        return {
            "joined": self.subscriptions.joined,
            "message": self.subscriptions.message,
            "reset": self.subscriptions.reset,
            "presence": self.subscriptions.presence,
            "signal": self.subscriptions.signal,
            "left": self.subscriptions.left,
            "rights": self.subscriptions.rights,
            "property": self.subscriptions.properties,
            "properties": self.subscriptions.properties,
            "published": self.outbox.published,
            "goodbye": self._goodbye,
            "error": self._error,
        }

    # Commands

    def query(self, command: dict[str, Any]) -> Deferred[dict[str, Any]]:
        """Send a command that only reads, or that has a key, again after a reconnect; fires with its reply."""
        connector = self.connector
        if connector.stopped_by is not None:
            return fail(connector.stopped_by)
        if not connector.up and len(self._queries) >= self._options.offline:
            return fail(QueueFull(self._options.offline))
        id = self._next_id()
        reply: Deferred[dict[str, Any]] = Deferred(lambda deferred: self._forget_query(id))
        self._queries[id] = {**command, "id": id}, reply
        if connector.open_link is not None:
            connector.open_link.send(self._queries[id][0])
            self._flow_control.update()
        return reply

    def _forget_query(self, id: int) -> None:
        self._queries.pop(id, None)

    def _take_query(self, id: Any) -> Deferred[dict[str, Any]] | None:
        _, reply = self._queries.pop(id, (None, None))
        return reply

    def _take_queries(self) -> list[Deferred[dict[str, Any]]]:
        queries, self._queries = self._queries, {}
        return [reply for _, reply in queries.values()]

    def send_volatile(self, command: dict[str, Any]) -> None:
        """Send a command that has no reply, if its room is joined on the current connection; else drop it."""
        subscription = self.rooms.get(command["room"])
        if self.connector.open_link is not None and subscription is not None and subscription.joined:
            self.connector.open_link.send(command)

    def set_state(self, state: Any) -> None:
        """Set what other members see of this client, now and after every reconnect."""
        self._member_state = state
        if self.connector.open_link is not None:
            self.connector.open_link.send({"type": "state", "state": state})

    # What the connector reports

    def connected(self, link: Link) -> None:
        """Join all rooms where they were left, and send again what was not answered."""
        if self._member_state is not None:
            link.send({"type": "state", "state": self._member_state})
        self.subscriptions.connected(link)
        for command, _ in self._queries.values():
            link.send(command)
        self.outbox.flush()

    def disconnected(self) -> None:
        """Nothing is on the wire any more."""
        delayed, self._delayed = self._delayed, set()
        for call in delayed:
            call.cancel()
        self._flow_control.disconnected()
        self.outbox.disconnected()
        self.subscriptions.disconnected()

    def identity_changed(self) -> None:
        """The client is another user: nothing that waits is that user's, and all rooms begin anew."""
        error = Closed("the client is another user now")
        for reply in self._take_queries():
            reply.errback(error)
        self.outbox.fail_all(error)
        self.subscriptions.forget()

    def stopped(self, error: ChatError) -> None:
        """Fail everything that waits, and end all rooms."""
        for reply in self._take_queries():
            reply.errback(error)
        self.outbox.fail_all(error)
        self.subscriptions.stopped(error)

    # What links report

    def opened(self, link: Link, welcome: Mapping[str, Any]) -> None:
        """The server has answered the ``hello``."""
        self.connector.opened(link, welcome)

    def renewed(self, link: Link, reply: Mapping[str, Any]) -> None:
        """The server has answered a new token."""
        self.connector.renewed(link, reply)

    def closed(self, link: Link, disconnect: Disconnect) -> None:
        """The link is gone. If a command was too large, the largest publish on the wire is to blame, and fails."""
        if link is not self.connector.link:
            return
        sent = self.outbox.on_wire if disconnect.too_large else []
        largest = max(sent, key=lambda publish: publish.size, default=None)
        self.connector.lost(link, disconnect)
        if largest is not None:
            message = f"the server takes no message of {largest.size} bytes"
            self.outbox.settle(largest, Refused("too_large", message))

    def refused(self, link: Link, room: str, error: Refused) -> None:
        """A room can't be joined."""
        if link is not self.connector.link or room not in self.rooms:
            return
        if error.code == "stopping":
            self.closed(link, Disconnect(error.message, error=error))
        else:
            self.subscriptions.refused(room, error)

    def received(self, link: Link, event: dict[str, Any]) -> None:
        """A reply or an event has come."""
        if link is not self.connector.link:
            return
        try:
            self._receivers.get(event.get("type", ""), self._answered)(event)
        except (KeyError, TypeError, ValueError, RealtimeError) as error:
            self._log.failure("the server sent what the protocol doesn't know")
            self.closed(link, Disconnect(f"the server sent what the protocol doesn't know: {error!r}"))

    def _answered(self, event: dict[str, Any]) -> None:
        """Give a reply to its query. Events of an unknown type have none, and are ignored."""
        reply = self._take_query(event.get("id"))
        if reply is not None:
            self._flow_control.update()
            reply.callback(event)

    def _goodbye(self, event: dict[str, Any]) -> None:
        assert self.connector.link is not None
        self.closed(self.connector.link, Disconnect.by_goodbye(event))

    def _error(self, event: dict[str, Any]) -> None:
        error = refusal(event)
        if error.code == "stopping":
            assert self.connector.link is not None
            self.closed(self.connector.link, Disconnect("the server is stopping", 1.0, error))
            return
        id = event.get("id")
        if id in self._queries and (error.after is not None or self._may_be_stored_yet(id, error)):
            self._query_later(id, error.after or _RETRY)
            return
        query = self._take_query(id)
        if self.outbox.refused(id, error):
            return
        if query is not None:
            query.errback(error)
        elif error.code == "bad_request" and "id" not in event and "room" not in event:
            self._unreadable(error)
        else:
            self._log.warn("the server complains: {code}: {message}", code=error.code, message=error.message)

    def _may_be_stored_yet(self, id: int, error: Refused) -> bool:
        """Whether a command with a key has failed for a reason that may be over soon."""
        return error.code in _STORE_TROUBLE and "key" in self._queries[id][0]

    def _query_later(self, id: int, after: float) -> None:
        """Send a query again after some seconds; a new connection sends it anyway."""
        delayed = self._clock.callLater(after, lambda: self._query_again(id, delayed))
        self._delayed.add(delayed)

    def _query_again(self, id: int, delayed: IDelayedCall) -> None:
        self._delayed.discard(delayed)
        link = self.connector.open_link
        if link is not None and id in self._queries:
            link.send(self._queries[id][0])

    def _unreadable(self, error: Refused) -> None:
        """The server could not read a command, and doesn't say which: fail all that wait for a reply."""
        publishes = self.outbox.on_wire
        replies = self._take_queries()
        only_one = len(publishes) + len(replies) == 1
        unknown = FateUnknown("the server could not read it, or one beside it")
        for publish in publishes:
            self.outbox.settle(publish, error if only_one else unknown)
        for reply in replies:
            reply.errback(error)
