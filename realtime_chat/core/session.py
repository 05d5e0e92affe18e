"""One connected client: who it is, what it reads, and what each command does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from realtime_chat.core.delivery import Delivery
from realtime_chat.core.hub import Hub
from realtime_chat.core.interfaces import MessageSink
from realtime_chat.core.log_view import StartPosition
from realtime_chat.core.room import Room, Subscription
from realtime_chat.values import codec, commands
from realtime_chat.values.errors import GOODBYES, RealtimeError, UnreadableCommand, internal_error
from realtime_chat.values.json import encode_value
from realtime_chat.values.model import (
    AppendResult,
    Draft,
    Position,
    User,
    check_event,
    check_key,
    check_reader,
    check_room,
    naming,
    private_owner,
)

Answer = bytes | Deferred[bytes]
Command = commands.Command | UnreadableCommand
C = TypeVar("C", bound=commands.Command)


class Session:
    """A client on one transport: who it is, and what it reads.

    It does single commands. A client that sends one after another has a
    :class:`~realtime_chat.core.command_session.CommandSession`.

    :param transport: where messages are sent; None for one HTTP request of commands, to which none are.
    :param client: the client, if it is known already; it was issued by us.
    :param name: the name that it goes by.
    :param on_caught_up: called whenever everything was sent that could be sent.
    """

    __slots__ = (
        "__weakref__",
        "_errors",
        "_is_request",
        "_name",
        "_state",
        "client",
        "closed",
        "delivery",
        "hub",
        "user",
    )

    _log = Logger()

    def __init__(
        self,
        hub: Hub,
        transport: MessageSink | None = None,
        client: str | None = None,
        name: str | None = None,
        on_caught_up: Callable[[], object] | None = None,
    ) -> None:
        self.hub = hub
        self.delivery = Delivery(hub, transport, on_caught_up)
        self.client = client
        self.user: User | None = None
        self.closed = False
        self._name = name
        self._state = b"{}"
        self._errors = 0
        self._is_request = transport is None  # what it says is said for whatever else its client reads by
        hub.sessions[self] = None

    def close(self, polls: bool = False) -> None:
        """End everything; nothing is sent from now on.

        :param polls: whether that was one poll of many, whose client is expected back.
        """
        if not self.closed:
            self.closed = True
            for subscription in self.delivery.close():
                self.hub.presence.exit(subscription, polls)
            self.hub.sessions.pop(self, None)

    # What the transport sees of the delivery

    @property
    def transport(self) -> MessageSink | None:
        """Where messages are sent; None if nowhere, or if the session is closed."""
        return self.delivery.transport

    @property
    def subscriptions(self) -> Mapping[str, Subscription]:
        """What it reads, by room."""
        return self.delivery.subscriptions

    def pause_writing(self) -> None:
        """The transport takes no more for now."""
        self.delivery.pause_writing()

    def resume_writing(self) -> None:
        """The transport takes more again."""
        self.delivery.pump()

    # Commands

    def perform(self, command: Command) -> Answer:
        """Do one command.

        :returns: the encoded reply or error, now or later; empty if the command has no reply.
        """
        if isinstance(command, UnreadableCommand):
            return self.refuse(command)  # if it were raised, it and this frame would hold each other
        try:
            answer = self.act(command)
        except RealtimeError as error:
            return self.refuse(error)
        return answer.addErrback(self.fail, command.id) if isinstance(answer, Deferred) else answer

    def act(self, command: Command) -> Answer:
        """Do one command.

        :returns: the encoded reply, now or later; empty if the command has no reply.
        :raises RealtimeError: also by way of the Deferred; it carries the command's id.
        """
        if isinstance(command, UnreadableCommand):
            raise command
        try:
            answer = _ACTIONS[type(command)](self, command)
        except RealtimeError as error:
            error.id = command.id
            raise
        return answer.addErrback(name_command, command.id) if isinstance(answer, Deferred) else answer

    def fail(self, failure: Failure, id: commands.CommandId | None) -> bytes:
        """Encode the error that a command ended with."""
        if isinstance(failure.value, RealtimeError):
            return self.refuse(failure.value)
        self._log.failure("a command failed", failure)
        return codec.encode_error(internal_error(id))

    def refuse(self, error: RealtimeError) -> bytes:
        """Encode an error, and count it; after too many the client is dismissed in the next turn."""
        if error.temporary:  # the server's fault, and not the client's
            return codec.encode_error(error)
        self._errors += 1
        if self._errors == self.hub.limits.max_errors:
            self.hub.clock.callLater(0, self.dismiss, "too_many_errors")
        return codec.encode_error(error)

    def dismiss(self, reason: str) -> None:
        """Say goodbye for one of the reasons in :data:`realtime_chat.values.errors.GOODBYES`, and close."""
        if not self.closed:
            self.hub.counters.goodbyes[reason] += 1
            if self.transport is not None:
                self.transport.goodbye(GOODBYES[reason])
            self.close()

    # Who it is

    def identify(self) -> User:
        """The user. A client that has not said who it is becomes a guest.

        Over plain HTTP it is anonymous instead.
        """
        if self.user is None:
            self.client = self.client or self.hub.identities.issue()
            self.user = self.hub.identities.guest(self.client, self._name)
        return self.user

    def _hello(self, command: commands.Hello) -> bytes:
        if command.v != 1:
            raise RealtimeError("bad_request", "this server speaks version 1 of the protocol")
        if command.token is not None:
            raise RealtimeError("unauthorized", "this server is not configured for tokens; leave it out to be a guest")
        if self.client is None:
            self._introduce(command.client, command.name or self._name)
        elif command.client not in (None, self.client) or command.name not in (None, self.identify().name):
            raise RealtimeError("forbidden", "who one is, is said once on a connection, before anything else")
        user = self.identify()
        assert self.client is not None
        limits = self.hub.limits
        return codec.encode_welcome(command.id, self.client, user, limits.ping, limits.max_rooms, limits.max_message)

    def _introduce(self, client: str | None, name: str | None) -> None:
        identities = self.hub.identities
        client = client if client and identities.verify(client) else identities.issue()
        self.user = identities.guest(client, name)
        self.client, self._name = client, name

    def check_readable(self, room: str) -> str:
        """Give back the name of a room that this client may read.

        :raises RealtimeError: ``bad_room`` or ``forbidden``.
        """
        if private_owner(check_room(room)) is not None:
            check_reader(self.identify(), room)
        return room

    # What it reads

    def _join(self, command: commands.Join) -> Deferred[bytes]:
        with naming(command.room):
            self._check_joinable(command.room)
            since = None if command.since is None else Position.parse(command.since)
        return Deferred.fromCoroutine(self._joined(command, since))

    def _check_joinable(self, room: str) -> None:
        if self.check_readable(room) in self.subscriptions:
            raise RealtimeError("already_joined", "this connection reads that room already; leave it first")
        if len(self.subscriptions) >= self.hub.limits.max_rooms:
            raise RealtimeError("too_many", f"one connection reads at most {self.hub.limits.max_rooms} rooms")

    async def _joined(self, command: commands.Join, since: Position | None) -> bytes:
        with naming(command.room):
            room = await self.hub.cache.load(command.room)
            start = await room.start(since, self.last(command.last))
        return self.enter(room, start, command.id)

    def enter(
        self,
        room: Room,
        start: StartPosition,
        id: commands.CommandId | None = None,
        listed: bool = True,
        resumed: bool | None = None,
    ) -> bytes:
        """Read a room from a position on.

        :param listed: whether the reply lists the members; else they are sent when the reader is live.
        :param resumed: whether it gave a position, if the reply is to say that.
        :returns: the encoded ``joined``.
        """
        subscription = self.subscribe(room, start)
        presence = self.hub.presence
        attendance = (presence.list_members if listed else presence.defer_list)(room.name, subscription)
        return codec.encode_joined(id, room.name, start.position, room.position, start.recovered, *attendance, resumed)

    def last(self, last: int | None) -> int:
        """How many messages a reader without a position starts with, if it asks for ``last`` of them."""
        limits = self.hub.limits
        return limits.default_last if last is None else min(last, limits.max_limit)

    def subscribe(self, room: Room, start: StartPosition) -> Subscription | None:
        """Read a room from a position on; :meth:`Delivery.pump` sends what follows.

        :returns: None if the client is gone by now.
        """
        if self.closed:
            return None
        subscription = self.delivery.subscribe(room, start)
        if not self._is_request:
            self._enter(subscription)
        return subscription

    def _enter(self, subscription: Subscription) -> None:
        presence, name = self.hub.presence, self._name
        if self.user is None and self.client is not None and presence.enter_again(subscription, self.client, name):
            return
        user = self.identify()
        if self.client is not None:
            presence.enter(subscription, self.client, user, name is not None, self._state)

    def _leave(self, command: commands.Leave) -> Answer:
        subscription = self.delivery.unsubscribe(check_room(command.room))
        if subscription is not None:
            self.hub.presence.exit(subscription, False)
            return codec.encode_reply(command.id, {"type": "left", "room": command.room})
        if self._is_request:
            return self._once_known(self.hub.await_presence(command.room, self.client), self._leave_by_request, command)
        raise RealtimeError("not_joined", "this connection doesn't read that room")

    def _leave_by_request(self, command: commands.Leave) -> bytes:
        self.hub.presence.leave(self.client, command.room)
        return codec.encode_reply(command.id, {"type": "left", "room": command.room})

    # Members, states and signals

    def _members(self, command: commands.ReadMembers) -> Answer:
        room = self.check_readable(command.room)
        return self._once_known(self.hub.await_presence(room), self._members_known, command)

    def _members_known(self, command: commands.ReadMembers) -> bytes:
        return codec.encode_members(command.id, command.room, *self.hub.presence.page(command.room, command.after))

    def _once_known(self, asked: Deferred[None] | None, act: Callable[[C], bytes], command: C) -> Answer:
        """Do what depends on who is in a room: at once if that is known here, else later."""
        return act(command) if asked is None else asked.addCallback(lambda _: act(command))

    def _set_state(self, command: commands.SetState) -> bytes:
        state = encode_value(command.state)
        most = self.hub.limits.max_state
        if len(state) > most:
            raise RealtimeError("too_large", f"a state has at most {most} bytes of JSON, this one has {len(state)}")
        self.identify()
        known = self.client is not None and self.hub.presence.set_state(self.client, state)
        self._state = state
        if self._is_request and not known:
            raise RealtimeError(
                "not_joined", "this client is in no room that could be told; join one first, or poll it"
            )
        return b""

    def _signal(self, command: commands.SendSignal) -> Answer:
        check_room(command.room)
        check_event(command.event)
        asked = self.hub.await_presence(command.room, self.client)
        return self._once_known(asked, self._signal_known, command)

    def _signal_known(self, command: commands.SendSignal) -> bytes:
        data = encode_value(command.data)
        self.hub.presence.signal(self.client, command.room, command.event, data, self.hub.time_ms())
        return b""

    # History

    def _history(self, command: commands.ReadHistory) -> Deferred[bytes]:
        self.check_readable(command.room)
        if (command.before is not None) and (command.since is not None):
            raise RealtimeError("bad_request", "history takes before or since, not both")
        return Deferred.fromCoroutine(self._read_history(command))

    async def _read_history(self, command: commands.ReadHistory) -> bytes:
        limits = self.hub.limits
        limit = limits.default_last if command.limit is None else min(command.limit, limits.max_limit)
        since = None if command.since is None else Position.parse(command.since)
        before = None if command.before is None else Position.parse(command.before)
        page, position, recovered = await self.hub.read_history(command.room, since, before, limit)
        return codec.encode_history(command.id, command.room, position, page, recovered)

    def _ping(self, command: commands.Ping) -> bytes:
        return codec.encode_reply(command.id, {"type": "pong"})

    # Publishing

    def _publish(self, command: commands.Publish) -> Deferred[bytes]:
        return self.hub.publish(self.draft(command)).addCallback(encode_published, command)

    def draft(self, command: commands.Publish) -> Draft:
        """The message that a command publishes.

        :raises RealtimeError: a part of it is refused.
        """
        return Draft(
            check_room(command.room),
            check_event(command.event),
            encode_value(command.data),
            self.identify(),
            None if command.key is None else check_key(command.key),
            None if command.after is None else _check_after(command),
        )


def name_command(failure: Failure, id: commands.CommandId | None) -> Failure:
    """Put a command's id into the error that it ended with."""
    if isinstance(failure.value, RealtimeError):
        failure.value.id = id
    return failure


def _check_after(command: commands.Publish) -> str:
    if command.key is None or command.after is None:
        raise RealtimeError("bad_request", "who publishes after another message gives this one a key, too")
    return check_key(command.after)


def encode_published(stored: AppendResult, command: commands.Publish) -> bytes:
    """The reply to a publish."""
    return codec.encode_published(command.id, command.room, stored.message.position)


_ACTIONS: Mapping[type[commands.Command], Callable[[Session, Any], Answer]] = MappingProxyType(
    {
        commands.Hello: Session._hello,
        commands.Join: Session._join,
        commands.Leave: Session._leave,
        commands.Publish: Session._publish,
        commands.SendSignal: Session._signal,
        commands.SetState: Session._set_state,
        commands.ReadMembers: Session._members,
        commands.ReadHistory: Session._history,
        commands.Ping: Session._ping,
    }
)
