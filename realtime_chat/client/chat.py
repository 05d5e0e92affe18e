"""The public API of the client: :func:`connect`, and the objects that it returns."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from realtime_chat.client.connector import ClientOptions
from realtime_chat.client.core import Core
from realtime_chat.client.credentials import TokenFunction, TokenSource
from realtime_chat.client.events import (
    TRANSPORTS,
    Event,
    Member,
    Message,
    OwnUser,
    State,
    read_members,
    read_message,
)
from realtime_chat.client.http_client import HTTPClient
from realtime_chat.client.link import OpenLink
from realtime_chat.client.poll import PollLink
from realtime_chat.client.server_url import ServerURL
from realtime_chat.client.sse import SSELink
from realtime_chat.client.subscription import RoomSubscription
from realtime_chat.client.websocket import WebSocketLink
from realtime_chat.clock import seconds_asleep_too, time_steadily
from realtime_chat.values.json import encode_checked
from realtime_chat.values.model import Position, check_event, check_key, check_name, check_property, check_room

_LINKS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    dict(zip(TRANSPORTS, (WebSocketLink, SSELink, PollLink), strict=True))
)


class History(msgspec.Struct, frozen=True):
    """A page of a room's log.

    :param messages: the oldest one first. To page back, give the first one's position as the next ``before``.
    :param position: the position to read on from, as the next ``since``.
    :param top: the position of the log's last message.
    :param recovered: whether no message is missing between ``since`` and the page.
    """

    messages: tuple[Message, ...]
    position: Position
    top: Position
    recovered: bool


def connect(
    reactor: Any,
    url: str,
    *,
    name: str | None = None,
    client: str | None = None,
    token: str | TokenFunction | None = None,
    transports: Sequence[str] = TRANSPORTS,
    patient: bool = False,
    buffer: int = 1000,
    trust_root: Any = None,
    on_state: Callable[[State], None] = lambda state: None,
) -> Chat:
    """Make a chat with a daemon, to be used as ``async with connect(reactor, url) as chat:``.

    The chat stays connected until it is closed. It reconnects after a random time of 0.5 to 20 seconds, reads on in
    each room from where it was, and publishes again what may have been lost.

    The reactor uses a monotonic clock from now on: see :func:`~realtime_chat.clock.time_steadily`.

    :param url: the daemon's root, such as ``http://127.0.0.1:8080/``.
    :param name: the guest's name.
    :param client: the secret of an earlier chat (:attr:`Chat.client`), to be the same user again.
    :param token: a token, or a function that returns one or an awaitable of one, or None for a guest. It is called
        again before the token gets old. A :class:`~realtime_chat.client.errors.Refused` that isn't temporary ends the
        chat. After any other error it is called again.
    :param transports: the transports that may be used, the best one first. A single one is forced.
    :param patient: whether to keep trying if no server can be reached at first, instead of raising ``Unreachable``.
    :param buffer: how many events of a room may wait for its reader. The chat reads less from the server then.
    :param trust_root: the authorities that may certify an ``https`` server, as for
        :func:`twisted.internet.ssl.optionsForClientTLS`; None for those that the system trusts.
    :param on_state: is called with each new state of the connection.
    :raises ValueError: the URL, the client or a transport is invalid; ``RealtimeError`` if the name is.
    """
    _check_transports(transports)
    if client is not None and not client.isascii():
        raise ValueError("a client is the secret that a server gave, of ASCII letters; this one is none")
    time_steadily(reactor)
    server = ServerURL(reactor, url, trust_root)
    tokens = None if token is None else TokenSource(reactor, token, time.time)
    name = check_name(name) if name else None
    options = ClientOptions(tuple(transports), name, client, tokens, patient, buffer=buffer)
    links: dict[str, OpenLink] = {kind: partial(make, server) for kind, make in _LINKS.items()}
    new_key = partial(secrets.token_urlsafe, 12)
    return Chat(Core(reactor, random.random, new_key, links, options, on_state, seconds_asleep_too), server)


def _check_transports(transports: Sequence[str]) -> None:
    unknown = [transport for transport in transports if transport not in _LINKS]
    if unknown or not transports:
        raise ValueError(f"the transports are {', '.join(TRANSPORTS)}; these are not: {unknown}")


class Chat:
    """A client of a daemon; :func:`connect` makes one."""

    def __init__(self, core: Core, server: ServerURL) -> None:
        self._core = core
        self._server = server

    async def __aenter__(self) -> Chat:
        try:
            await self._core.connector.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def close(self) -> Deferred[None]:
        """Close the chat; fires when no connection and no timer is left.

        A publish that isn't acknowledged fails: with :class:`~realtime_chat.client.errors.Closed` if it was never sent,
        else with :class:`~realtime_chat.client.errors.FateUnknown`.
        """
        return self._core.connector.close()

    @property
    def state(self) -> State:
        """The state of the connection."""
        return self._core.connector.state

    @property
    def user(self) -> OwnUser | None:
        """Our own user, as others see it, and what its site vouches for; None before the first connection."""
        return self._core.connector.user

    @property
    def client(self) -> str | None:
        """The secret that makes a later chat the same user; keep it like a password."""
        return self._core.connector.client

    def renew(self) -> None:
        """Ask for a new token now, as after a user has logged in or out.

        If it is another user's, everything of the first one is dropped: messages that wait fail, and each room begins
        anew with a :class:`~realtime_chat.client.events.Reset`.
        """
        self._core.connector.renew()

    def switch(self, *transports: str) -> Deferred[None]:
        """Move to other transports, now and after every reconnect. Nothing is lost or duplicated.

        :returns: fires when it is connected.
        :raises ValueError: there is no such transport.
        """
        _check_transports(transports)
        return self._core.connector.switch(transports)

    async def join(
        self, room: str, since: Position | str | None = None, last: int | None = None, properties: bool = False
    ) -> Room:
        """Read a room, from now on and after every reconnect, until it is left.

        :param since: start after this position.
        :param last: with how many old messages to start if ``since`` isn't given or the server no longer has what
            follows it; None for 50.
        :param properties: whether to read the room's properties, too.
        :raises RealtimeError: the room can't be read, or is joined already.
        """
        position = Position.parse(since) if isinstance(since, str) else since
        return Room(self, self._core, await self._core.subscriptions.join(check_room(room), position, last, properties))

    def publish(self, room: str, data: Any, event: str = "message", key: str | None = None) -> Deferred[Position]:
        """Publish a message to a room, which needn't be joined; see :meth:`Room.publish`."""
        return _publish(self._core, room, data, event, key)

    def set(self, room: str, name: str, data: Any) -> Deferred[Position]:
        """Set a property of a room, which needn't be joined; see :meth:`Room.set`."""
        return self._core.properties.set(check_room(room), check_property(name), msgspec.Raw(encode_checked(data)))

    def unset(self, room: str, name: str) -> Deferred[Position]:
        """Remove a property of a room, which needn't be joined; see :meth:`Room.unset`."""
        return self._core.properties.set(check_room(room), check_property(name), None)

    async def members(self, room: str) -> list[Member]:
        """All members of a room, which needn't be joined."""
        found: list[Member] = []
        after: dict[str, str] = {}
        while True:
            reply = await self._core.query({"type": "members", "room": check_room(room), **after})
            found += read_members(reply["members"])
            if "after" not in reply:
                return found
            after = {"after": reply["after"]}

    async def rooms(self) -> list[str]:
        """The names of all rooms that may be read.

        :raises RealtimeError: the server refuses.
        """
        http = HTTPClient(self._server)
        rooms: list[str] = []
        try:
            while page := (await self._get(http, "rooms", [("after", rooms[-1])] if rooms else []))["rooms"]:
                rooms += [room["room"] for room in page]
            return rooms
        finally:
            await http.close()

    async def properties(self, room: str) -> Mapping[str, Any]:
        """The present values of a room's properties by name. The room needn't be joined.

        :raises RealtimeError: the server refuses.
        """
        http = HTTPClient(self._server)
        try:
            found = await self._get(http, f"rooms/{check_room(room)}/properties", [])
            return {value["name"]: value["data"] for value in found["values"]}
        finally:
            await http.close()

    async def _get(self, http: HTTPClient, path: str, query: list[tuple[str, str]]) -> Any:
        """Read a resource.

        :raises RealtimeError: the server refuses.
        """
        response = await http.exchange(path, query, self.client)
        error = response.error(path)
        if error is not None:
            raise error
        return response.body

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Set what the other members of all rooms see of this client: away, page, colour, …

        It is sent now, and after every reconnect.

        :param state: at most 1 KiB as JSON.
        :raises RealtimeError: ``bad_request``: it is no JSON, or the server would refuse it.
        """
        self._core.set_state(msgspec.json.decode(encode_checked(state)))


class Room:
    """A room that is read. ``async for event in room`` gives its events, each once and in order.

    The events are :class:`~realtime_chat.client.events.Message`, ``Signal``, ``Presence``, ``Rights``, ``Reset``, and
    ``Property`` if properties are read. Of a property that changes faster than it is read, the last value comes. A
    ``Reset`` says that this reader has lost messages. The iteration ends when the room is left or the chat is closed.
    It raises :class:`~realtime_chat.client.errors.Refused` if the server no longer lets the room be read.
    """

    def __init__(self, chat: Chat, core: Core, subscription: RoomSubscription) -> None:
        self._chat = chat
        self._core = core
        self._subscription = subscription

    @property
    def name(self) -> str:
        """The room's name."""
        return self._subscription.room

    @property
    def position(self) -> Position:
        """The position up to which everything has come. Some of it may still wait to be iterated over."""
        assert self._subscription.position is not None
        return self._subscription.position

    @property
    def rights(self) -> str | None:
        """What this client may do: ``r`` read, ``w`` write, ``s`` signal, ``p`` see who is there, ``m`` moderate.

        None if the server doesn't say, and over HTTP for a moment.
        """
        return self._subscription.rights

    @property
    def count(self) -> int | None:
        """How many members the room has; None if the server doesn't say."""
        return self._subscription.count

    @property
    def present(self) -> tuple[Member, ...] | None:
        """The members, as of the events that have come so far; None if the server doesn't list them."""
        members = self._subscription.members
        return None if members is None else tuple(members.values())

    @property
    def properties(self) -> Mapping[str, Any] | None:
        """The present values of its properties, by name, as of what has come so far; None if they aren't read."""
        properties = self._subscription.properties
        return None if properties is None else MappingProxyType(properties.values)

    def __aiter__(self) -> Room:
        return self

    async def __anext__(self) -> Event:
        while True:
            event = self._subscription.pop()
            if event is not None:
                self._core.subscriptions.consumed(self._subscription)
                return event
            if self._subscription.ended:
                if isinstance(self._subscription.ended, Exception):
                    raise self._subscription.ended
                raise StopAsyncIteration
            await self._subscription.wait()

    def publish(self, data: Any, event: str = "message", key: str | None = None) -> Deferred[Position]:
        """Publish a message. It is stored once, whatever happens to the connection.

        It is sent at once. Messages that are published without waiting stay in order.

        :param data: anything that is JSON; chat pages show ``{"text": …}``.
        :param key: a key for this message, under which it is stored only once; None for a random one. Nobody must be
            able to guess the next one from it.
        :returns: fires with the message's position when it is stored.
        :raises RealtimeError: at once if the event or the key is invalid, or the server would refuse the data (half a
            surrogate pair, NaN, nested too deep). By the Deferred: the server's error, or one of
            :mod:`realtime_chat.client.errors`.
        """
        return _publish(self._core, self.name, data, event, key)

    def set(self, name: str, data: Any) -> Deferred[Position]:
        """Set a property of the room. It is sent again until there is an answer.

        While a value of the same name is on its way, only the last one of those that follow is kept.

        :param data: anything that is JSON, of at most 16 KiB.
        :returns: fires with the position in the properties when this value, or a later one, is stored.
        :raises RealtimeError: as :meth:`publish`.
        """
        return self._chat.set(self.name, name, data)

    def unset(self, name: str) -> Deferred[Position]:
        """Remove a property of the room."""
        return self._chat.unset(self.name, name)

    async def signal(self, event: str, data: Any = None) -> None:
        """Send a signal to those who are connected now. It is not stored, and dropped while we are not connected."""
        raw = msgspec.Raw(encode_checked(data))
        self._core.send_volatile({"type": "signal", "room": self.name, "event": check_event(event), "data": raw})

    async def members(self) -> list[Member]:
        """All members of the room."""
        return await self._chat.members(self.name)

    async def history(
        self, before: Position | None = None, since: Position | None = None, limit: int | None = None
    ) -> History:
        """A page of the room's log: the last messages before ``before``, the first after ``since``, or the last of all.

        :param limit: how many; None for 50.
        """
        fields: dict[str, Any] = {"before": before, "since": since}
        given = {name: str(position) for name, position in fields.items() if position is not None}
        limited = {} if limit is None else {"limit": limit}
        page = await self._core.query({"type": "history", "room": self.name, **given, **limited})
        me = self._core.connector.user
        return History(
            tuple(read_message(message, me) for message in page["messages"]),
            Position.parse(page["position"]),
            Position.parse(page["top"]),
            page["recovered"],
        )

    async def leave(self) -> None:
        """Leave the room; the iteration over it ends."""
        self._core.subscriptions.leave(self._subscription)


def _publish(core: Core, room: str, data: Any, event: str, key: str | None) -> Deferred[Position]:
    return core.outbox.publish(
        check_room(room), encode_checked(data), check_event(event), None if key is None else check_key(key)
    )
