"""The client as it is used: :func:`connect`, and what it gives."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from realtime_chat.client.address import Address
from realtime_chat.client.core import ClientOptions, Core
from realtime_chat.client.events import Event, Member, Message, State, read_event, read_members
from realtime_chat.client.http import Web
from realtime_chat.client.link import OpenLink
from realtime_chat.client.poll import PollLink
from realtime_chat.client.sse import SSELink
from realtime_chat.client.subscription import RoomSubscription
from realtime_chat.client.websocket import WebSocketLink
from realtime_chat.clock import seconds_asleep_too, time_steadily
from realtime_chat.values.json import encode_checked
from realtime_chat.values.model import Position, User, check_event, check_key, check_name, check_room

__all__ = ["TRANSPORTS", "Chat", "History", "Room", "connect"]

_LINKS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {"websocket": WebSocketLink, "sse": SSELink, "poll": PollLink}
)
TRANSPORTS = tuple(_LINKS)
"""Names of the transports, the best first."""


class History(msgspec.Struct, frozen=True):
    """A page of a room's log.

    :param messages: ascending; give the first one's position as the next ``before`` to page back.
    :param position: after which reading on would start.
    :param top: where the log ends.
    :param recovered: whether nothing is missing between ``since`` and the page.
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
    transports: Sequence[str] = TRANSPORTS,
    patient: bool = False,
    buffer: int = 1000,
    trust_root: Any = None,
    on_state: Callable[[State], None] = lambda state: None,
) -> Chat:
    """A chat with a daemon, to be used as ``async with connect(reactor, url) as chat:``.

    The reactor's clock will not step any more: see :func:`~realtime_chat.clock.time_steadily`.

    It stays connected until it is closed: it reconnects after a random time of 0.5 to 20 seconds, reads on in each
    room from where it was, and publishes again what may have been lost.

    :param url: the daemon's root, such as ``http://127.0.0.1:8080/``.
    :param name: what to be called, as a guest.
    :param client: the secret of an earlier chat (:attr:`Chat.client`), to be the same user again.
    :param transports: those that may be used, the best first; one alone is forced.
    :param patient: whether to go on trying where nobody is there in the beginning; if not, that is
        :class:`~realtime_chat.client.errors.Unreachable`.
    :param buffer: how many events of a room may wait for who iterates over it; then less is read from the server.
    :param trust_root: what vouches for an ``https`` server, as for :func:`twisted.internet.ssl.optionsForClientTLS`;
        None for the system's authorities.
    :param on_state: is told each change of the connection's state.
    :raises ValueError: the URL or a transport can't be one.
    :raises RealtimeError: the name can't be one.
    """
    unknown = [transport for transport in transports if transport not in _LINKS]
    if unknown or not transports:
        raise ValueError(f"the transports are {', '.join(TRANSPORTS)}; these are not: {unknown}")
    if client is not None and not client.isascii():
        raise ValueError("a client is the secret that a server gave, of ASCII letters; this one is none")
    time_steadily(reactor)
    address = Address(reactor, url, trust_root)
    wants = ClientOptions(tuple(transports), check_name(name) if name else None, client, patient, buffer=buffer)
    links: dict[str, OpenLink] = {kind: partial(make, address) for kind, make in _LINKS.items()}
    token = partial(secrets.token_urlsafe, 12)
    return Chat(Core(reactor, random.random, token, links, wants, on_state, seconds_asleep_too), address)


class Chat:
    """A client of a daemon; :func:`connect` makes one."""

    def __init__(self, core: Core, address: Address) -> None:
        self._core = core
        self._address = address

    async def __aenter__(self) -> Chat:
        try:
            await self._core.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def close(self) -> Deferred[None]:
        """End it; fires when no connection and no timer is left.

        What was published and isn't acknowledged fails with
        :class:`~realtime_chat.client.errors.FateUnknown` or, where it was never sent, with
        :class:`~realtime_chat.client.errors.Closed`.
        """
        return self._core.close()

    @property
    def state(self) -> State:
        """How the connection is."""
        return self._core.state

    @property
    def user(self) -> User | None:
        """Who one is to the others; None before the first connection."""
        return self._core.user

    @property
    def client(self) -> str | None:
        """The secret by which one is the same user again; keep it like a password."""
        return self._core.client

    def switch(self, *transports: str) -> Deferred[None]:
        """Go on over another transport, now and after every reconnect; nothing is lost or doubled.

        :returns: fires when it is connected.
        """
        unknown = [transport for transport in transports if transport not in _LINKS]
        if unknown or not transports:
            raise ValueError(f"the transports are {', '.join(TRANSPORTS)}; these are not: {unknown}")
        return self._core.switch(transports)

    async def join(self, room: str, since: Position | str | None = None, last: int | None = None) -> Room:
        """Read a room, from now on and after every reconnect, until it is left.

        :param since: bring what follows this position.
        :param last: how many messages before the log's end to start with, where there is no ``since`` or it can't be
            had; None for 50.
        :raises RealtimeError: it may not be read, or is read already.
        """
        position = Position.parse(since) if isinstance(since, str) else since
        return Room(self, self._core, await self._core.join(check_room(room), position, last))

    def publish(self, room: str, data: Any, event: str = "message", key: str | None = None) -> Deferred[Position]:
        """Add a message to a room's log, which needn't be joined; see :meth:`Room.publish`."""
        return _publish(self._core, room, data, event, key)

    async def members(self, room: str) -> list[Member]:
        """Who is in a room, all of them; it needn't be joined."""
        found: list[Member] = []
        after: dict[str, str] = {}
        while True:
            reply = await self._core.ask({"type": "members", "room": check_room(room), **after})
            found += read_members(reply["members"])
            if "after" not in reply:
                return found
            after = {"after": reply["after"]}

    async def rooms(self) -> list[str]:
        """The names of the rooms that there are and may be read.

        :raises RealtimeError: the server refuses.
        """
        web = Web(self._address)
        try:
            return await _all_rooms(web, self.client)
        finally:
            await web.close()

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Say something of oneself to all rooms (away, page, colour, …), now and after every reconnect.

        :param state: at most 1 KiB as JSON.
        :raises RealtimeError: ``bad_request``: JSON, or the server, can't take it.
        """
        self._core.set_state(msgspec.json.decode(encode_checked(state)))


class Room:
    """A room that is read. ``async for event in room`` brings its events, each once and in order.

    The events are :class:`~realtime_chat.client.events.Message`, ``Signal``, ``Presence`` and ``Reset``; the last of
    these says that messages were lost to this reader. The iteration ends when the room is left or the chat is closed,
    and fails where the server lets it be read no longer.
    """

    def __init__(self, chat: Chat, core: Core, reading: RoomSubscription) -> None:
        self._chat = chat
        self._core = core
        self._reading = reading

    @property
    def name(self) -> str:
        """Its name."""
        return self._reading.room

    @property
    def position(self) -> Position:
        """After which everything has come, though it may still wait to be iterated over."""
        assert self._reading.position is not None
        return self._reading.position

    @property
    def count(self) -> int | None:
        """How many are in the room; None where the server doesn't tell."""
        return self._reading.count

    @property
    def present(self) -> tuple[Member, ...] | None:
        """Who is in the room, as the events that have come so far tell it; None where it isn't listed."""
        members = self._reading.members
        return None if members is None else tuple(members.values())

    def __aiter__(self) -> Room:
        return self

    async def __anext__(self) -> Event:
        while True:
            event = self._reading.pop()
            if event is not None:
                self._core.consumed(self._reading)
                return event
            if self._reading.ended:
                if isinstance(self._reading.ended, Exception):
                    raise self._reading.ended
                raise StopAsyncIteration
            await self._reading.wait()

    def publish(self, data: Any, event: str = "message", key: str | None = None) -> Deferred[Position]:
        """Add a message to the room's log, once, whatever becomes of the connection meanwhile.

        It begins at once; what is published without waiting stays in order.

        :param data: anything that is JSON; ``{"text": …}`` is what chat pages show.
        :param key: a name for this message, by which it is stored only once; None for a random one. Don't give one
            from which the next could be guessed.
        :returns: fires with its position, once it is stored.
        :raises RealtimeError: at once for an event or a key that can't be one, and for data that
            the server would not take (half a surrogate pair, NaN, nested too deep); by the Deferred the server's
            answer, or one of :mod:`realtime_chat.client.errors`.
        """
        return _publish(self._core, self.name, data, event, key)

    async def signal(self, event: str, data: Any = None) -> None:
        """Tell something volatile to those who are connected now: at most once, and not at all while we are not."""
        said = msgspec.Raw(encode_checked(data))
        self._core.say({"type": "signal", "room": self.name, "event": check_event(event), "data": said})

    async def members(self) -> list[Member]:
        """Who is in the room, all of them."""
        return await self._chat.members(self.name)

    async def history(
        self, before: Position | None = None, since: Position | None = None, limit: int | None = None
    ) -> History:
        """A page of the room's log: the last messages before ``before``, the first after ``since``, or the last ones.

        :param limit: how many; None for 50.
        """
        fields = {"before": _text(before), "since": _text(since), "limit": limit}
        wanted = {name: value for name, value in fields.items() if value is not None}
        page = await self._core.ask({"type": "history", "room": self.name, **wanted})
        return History(
            tuple(_messages(page["messages"], self._core.user)),
            Position.parse(page["position"]),
            Position.parse(page["top"]),
            page["recovered"],
        )

    async def leave(self) -> None:
        """Read it no longer; who iterates over it comes to the end."""
        self._core.leave(self._reading)


def _publish(core: Core, room: str, data: Any, event: str, key: str | None) -> Deferred[Position]:
    return core.publish(
        check_room(room), encode_checked(data), check_event(event), None if key is None else check_key(key)
    )


def _text(position: Position | None) -> str | None:
    return None if position is None else str(position)


def _messages(events: Iterable[dict[str, Any]], me: User | None) -> Iterable[Message]:
    for event in events:
        message = read_event(event, me)
        assert isinstance(message, Message)
        yield message


async def _all_rooms(web: Web, client: str | None) -> list[str]:
    rooms: list[str] = []
    while True:
        answer = await web.get("rooms", [("after", rooms[-1])] if rooms else [], client)
        error = answer.error("rooms")
        if error is not None:
            raise error
        page = [room["room"] for room in answer.body["rooms"]]
        if not page:
            return rooms
        rooms += page
