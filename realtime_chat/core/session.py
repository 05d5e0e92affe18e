"""One connected client: who it is, what it reads, and what each command does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from realtime_chat.core.access import forbid_reader
from realtime_chat.core.delivery import Delivery
from realtime_chat.core.hello import say_hello
from realtime_chat.core.hub import Hub
from realtime_chat.core.identity import NOBODY, Identity
from realtime_chat.core.interfaces import MessageSink
from realtime_chat.core.log_view import StartPosition
from realtime_chat.core.room import Room, Subscription
from realtime_chat.values import codec, commands
from realtime_chat.values.access import PRESENCE, READ, SIGNAL, WRITE
from realtime_chat.values.errors import GOODBYES, RealtimeError, UnreadableCommand, internal_error
from realtime_chat.values.json import encode_value
from realtime_chat.values.model import (
    AppendResult,
    Draft,
    Position,
    author,
    check_event,
    check_key,
    check_room,
    naming,
)

Answer = bytes | Deferred[bytes]
Command = commands.Command | UnreadableCommand
C = TypeVar("C", bound=commands.Command)


class Session:
    """A client on one transport: who it is, and what it reads.

    It does single commands. A client that sends one after another has a
    :class:`~realtime_chat.core.command_session.CommandSession`.

    :param transport: where messages are sent; None for one HTTP request of commands, to which none are.
    :param identity: who it is, if that is known already.
    :param name: the name of the guest that it becomes if it doesn't say who it is.
    :param on_caught_up: called whenever everything was sent that could be sent.
    """

    __slots__ = (
        "__weakref__",
        "_errors",
        "_is_request",
        "_name",
        "_state",
        "closed",
        "delivery",
        "hub",
        "identity",
    )

    _log = Logger()

    def __init__(
        self,
        hub: Hub,
        transport: MessageSink | None = None,
        identity: Identity | None = None,
        name: str | None = None,
        on_caught_up: Callable[[], object] | None = None,
    ) -> None:
        self.hub = hub
        self.delivery = Delivery(hub, transport, on_caught_up)
        self.identity = identity
        self.closed = False
        self._name = name
        self._state = b"{}"
        self._errors = 0
        self._is_request = transport is None  # what it says is said for whatever else its client reads by
        hub.sessions[self] = None
        if identity is not None and identity.expires is not None:
            hub.users.add(self, identity)

    def close(self, polls: bool = False) -> None:
        """End everything; nothing is sent from now on.

        :param polls: whether that was one poll of many, whose client is expected back.
        """
        if not self.closed:
            self.closed = True
            for subscription in self.delivery.close():
                self.hub.presence.exit(subscription, polls)
            self.hub.sessions.pop(self, None)
            if (identity := self.identity) is not None and identity.expires is not None:
                self.hub.users.remove(self, identity)

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
            self._check_time(command)
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

    def identify(self) -> Identity:
        """Who it is. A client that has not said that becomes a guest."""
        if self.identity is None:
            self.identity = self.hub.identities.new_guest(self._name)
        return self.identity

    def _hello(self, command: commands.Hello) -> bytes:
        identity = say_hello(self.hub, self.identity, command, self._name)
        if self.identity is None or self.identity is NOBODY:
            self._become(identity)
        return self.hub.welcome(command.id, self.identify(), self.hub.limits.ping)

    def _become(self, identity: Identity) -> None:
        """Be somebody from now on."""
        self.identity = identity
        if identity.expires is not None:
            self.hub.users.add(self, identity)

    def renew(self, identity: Identity) -> None:
        """Go on with an identity of the same mark, which was issued later. Give up what it may not do any more."""
        before = self.identity
        if self.closed or before is None or before.order > identity.order:
            return
        self._become(self.hub.identities.reader_of(identity) if before.is_reader else identity)
        if self.hub.identities.is_over(identity):
            self.dismiss("token_expired")
        self.renew_rights()

    def renew_rights(self) -> None:
        """Go on with the rights that it has now, in all rooms that it reads."""
        if (transport := self.transport) is not None:
            for subscription in tuple(self.subscriptions.values()):
                self._renew_rights(transport, subscription)
            self.delivery.pump()

    def _renew_rights(self, transport: MessageSink, subscription: Subscription) -> None:
        """Do what follows from new rights in a room: stop reading it, or tell the client."""
        room = subscription.room.name
        rights = self.hub.access.rights(self.identity, room)
        if not rights & READ:
            self._end_subscription(room)
            transport.send_event("left", codec.encode_left(room))
        elif rights != subscription.rights:
            subscription.rights = rights
            self.hub.presence.visibility.set_seeing(subscription, rights & PRESENCE != 0)
            transport.send_event("rights", codec.encode_rights(room, rights))

    def check_right(self, room: str, right: int) -> str:
        """Give back the name of a room in which this client has a right.

        :raises RealtimeError: ``bad_room`` or ``forbidden``.
        """
        return self.hub.access.check(self.identity, check_room(room), right)

    def _check_time(self, command: commands.Command) -> None:
        """Check that the time of a user isn't over. With a new token it may go on.

        :raises RealtimeError: ``token_expired``, or ``unauthorized``: the key of its token is gone.
        """
        goes_on = isinstance(command, commands.Hello) and command.token is not None
        if self.identity is not None and not goes_on:
            self.hub.identities.check_time(self.identity)

    def check_still(self, room: str, right: int) -> None:
        """Check a right again, after something was waited for.

        :raises RealtimeError: ``forbidden``, or why a user's time is over.
        """
        identity = None if self.identity is None else self.hub.identities.look_again(self.identity)
        self.hub.access.check(identity, room, right)

    def _check_writer(self) -> None:
        if self.identity is not None and self.identity.is_reader:
            raise forbid_reader()

    # What it reads

    def _join(self, command: commands.Join) -> Deferred[bytes]:
        with naming(command.room):
            self._check_joinable(command.room)
            since = None if command.since is None else Position.parse(command.since)
        return Deferred.fromCoroutine(self._joined(command, since))

    def _check_joinable(self, room: str) -> None:
        if self.check_right(room, READ) in self.subscriptions:
            raise RealtimeError("already_joined", "this connection reads that room already; leave it first")
        if len(self.subscriptions) >= self.hub.limits.max_rooms:
            raise RealtimeError("too_many", f"one connection reads at most {self.hub.limits.max_rooms} rooms")

    async def _joined(self, command: commands.Join, since: Position | None) -> bytes:
        with naming(command.room):
            room = await self.hub.cache.load(command.room)
            start = await room.start(since, self.last(command.last))
        self.check_still(command.room, READ)
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
        rights = 0 if subscription is None else subscription.rights
        members = self.hub.presence.attend(room.name, subscription, listed) if rights & PRESENCE else None
        return codec.encode_joined(
            id, room.name, start.position, room.position, start.recovered, members, rights, resumed
        )

    def last(self, last: int | None) -> int:
        """How many messages a reader without a position starts with, if it asks for ``last`` of them."""
        limits = self.hub.limits
        return limits.default_last if last is None else min(last, limits.max_limit)

    def subscribe(self, room: Room, start: StartPosition) -> Subscription | None:
        """Read a room from a position on; :meth:`Delivery.pump` sends what follows.

        :returns: None if the client is gone by now.
        :raises RealtimeError: ``forbidden``: the client may not read the room, or may not any more.
        """
        if self.closed:
            return None
        identity = self.identity or self.identify()
        rights = self.hub.access.rights(identity, room.name)
        if not rights & READ:
            self.hub.access.check(identity, room.name, READ)
        subscription = self.delivery.subscribe(room, start)
        subscription.rights = rights
        if not self._is_request:
            self.hub.presence.enter(subscription, identity, self._state, rights & PRESENCE != 0)
        return subscription

    def _end_subscription(self, room: str) -> bool:
        """Stop reading a room.

        :returns: False if it wasn't read.
        """
        if (subscription := self.delivery.unsubscribe(room)) is not None:
            self.hub.presence.exit(subscription, False)
        return subscription is not None

    def _leave(self, command: commands.Leave) -> Answer:
        self._check_writer()
        if self._end_subscription(check_room(command.room)):
            return codec.encode_reply(command.id, {"type": "left", "room": command.room})
        if self._is_request:
            may_read = self.hub.access.rights(self.identity, command.room) & READ
            asked = self.hub.await_presence(command.room, self.identity) if may_read else None
            return self._once_known(asked, self._leave_by_request, command)
        raise RealtimeError("not_joined", "this connection doesn't read that room")

    def _leave_by_request(self, command: commands.Leave) -> bytes:
        self.hub.presence.leave(self.identify(), command.room)
        return codec.encode_reply(command.id, {"type": "left", "room": command.room})

    # Members, states and signals

    def _members(self, command: commands.ReadMembers) -> Answer:
        room = self.check_right(command.room, PRESENCE)
        return self._once_known(self.hub.await_presence(room), self._members_known, command)

    def _members_known(self, command: commands.ReadMembers) -> bytes:
        self.check_still(command.room, PRESENCE)
        return codec.encode_members(command.id, command.room, *self.hub.presence.page(command.room, command.after))

    def _once_known(self, asked: Deferred[None] | None, act: Callable[[C], bytes], command: C) -> Answer:
        """Do what depends on who is in a room: at once if that is known here, else later."""
        return act(command) if asked is None else asked.addCallback(lambda _: act(command))

    def _set_state(self, command: commands.SetState) -> bytes:
        self._check_writer()
        state = encode_value(command.state)
        most = self.hub.limits.max_state
        if len(state) > most:
            raise RealtimeError("too_large", f"a state has at most {most} bytes of JSON, this one has {len(state)}")
        identity = self.identify()
        known = identity is not NOBODY and self.hub.presence.set_state(identity, state)
        self._state = state
        if self._is_request and not known:
            raise RealtimeError(
                "not_joined", "this client is in no room that could be told; join one first, or poll it"
            )
        return b""

    def _signal(self, command: commands.SendSignal) -> Answer:
        self.check_right(command.room, SIGNAL)
        check_event(command.event)
        asked = self.hub.await_presence(command.room, self.identity)
        return self._once_known(asked, self._signal_known, command)

    def _signal_known(self, command: commands.SendSignal) -> bytes:
        self.check_still(command.room, SIGNAL)
        data = encode_value(command.data)
        self.hub.presence.signal(self.identify(), command.room, command.event, data, self.hub.time_ms())
        return b""

    # History

    def _history(self, command: commands.ReadHistory) -> Deferred[bytes]:
        self.check_right(command.room, READ)
        if (command.before is not None) and (command.since is not None):
            raise RealtimeError("bad_request", "history takes before or since, not both")
        return Deferred.fromCoroutine(self._read_history(command))

    async def _read_history(self, command: commands.ReadHistory) -> bytes:
        limit = self.last(command.limit)
        since = None if command.since is None else Position.parse(command.since)
        before = None if command.before is None else Position.parse(command.before)
        page, position, recovered = await self.hub.read_history(command.room, since, before, limit)
        self.check_still(command.room, READ)
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
            self.hub.access.check(self.identity, check_room(command.room), WRITE),
            check_event(command.event),
            encode_value(command.data),
            author((self.identity or self.identify()).user),
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
