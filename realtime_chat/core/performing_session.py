"""A session that does single commands: what each command does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from msgspec import UNSET
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from realtime_chat.core.access import forbid_reader
from realtime_chat.core.hello import say_hello
from realtime_chat.core.identity import NOBODY
from realtime_chat.core.rate_limiter import ONE_CONNECT, ONE_SIGNAL
from realtime_chat.core.session import Session
from realtime_chat.values import codec, commands
from realtime_chat.values.access import PRESENCE, READ, SIGNAL, WRITE
from realtime_chat.values.errors import RateLimited, RealtimeError, UnreadableCommand, internal_error, out_of_order
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
from realtime_chat.values.rates import JOINS, STATES

Answer = bytes | Deferred[bytes]
Command = commands.Command | UnreadableCommand
C = TypeVar("C", bound=commands.Command)


class PerformingSession(Session):
    """A session that does single commands.

    A client that sends one after another has a :class:`~realtime_chat.core.command_session.CommandSession`.
    """

    __slots__ = ()

    _log = Logger()

    # Commands

    def perform(self, command: Command) -> Answer:
        """Do one command.

        :returns: the encoded reply or error, now or later; empty if the command has no reply.
        """
        try:
            if isinstance(command, UnreadableCommand):
                self._take_command(command)
                return self.refuse(command)  # if it were raised, it and this frame would hold each other
            answer = self.act(command)
        except RealtimeError as error:
            return self.refuse(error)
        return answer.addErrback(self.fail, command.id) if isinstance(answer, Deferred) else answer

    def act(self, command: Command) -> Answer:
        """Do one command.

        :returns: the encoded reply, now or later; empty if the command has no reply.
        :raises RealtimeError: also by way of the Deferred; it carries the command's id.
        """
        if type(command) not in commands.STORING:  # these take what they cost in one go
            self._take_command(command)
        if isinstance(command, UnreadableCommand):
            raise command
        try:
            self._check_time(command)
            answer = _ACTIONS[type(command)](self, command)
        except RealtimeError as error:
            error.id = command.id
            raise
        return answer.addErrback(name_command, command.id) if isinstance(answer, Deferred) else answer

    def _take_command(self, command: Command) -> None:
        """Take what a command costs.

        :raises RateLimited:
        """
        try:
            self.quota.take_command()
        except RateLimited as error:
            error.id = command.id
            raise

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

    # Who it is

    def _hello(self, command: commands.Hello) -> bytes:
        identity = say_hello(self.hub, self.identity, command, self._name, self.quota)
        if self.identity is None or self.identity is NOBODY:
            if command.client is not None or command.token is not None:
                self.hub.limiter.draw(identity, None, ONE_CONNECT)  # the address has paid
            self._become(identity)
        return self.hub.welcome(command.id, self.identify(), self.hub.limits.ping)

    def _check_time(self, command: commands.Command) -> None:
        """Check that the time of a user isn't over. With a new token it may go on.

        :raises RealtimeError: ``token_expired``, or ``unauthorized``: the key of its token is gone.
        """
        goes_on = isinstance(command, commands.Hello) and command.token is not None
        if self.identity is not None and not goes_on:
            self.hub.identities.check_time(self.identity)

    def _check_writer(self) -> None:
        if self.identity is not None and self.identity.is_reader:
            raise forbid_reader()

    # What it reads

    def _join(self, command: commands.Join) -> Deferred[bytes]:
        with naming(command.room):
            self._check_joinable(command.room)
            since = None if command.since is None else Position.parse(command.since)
            properties = command.properties
            after = Position.parse(properties) if isinstance(properties, str) else properties
        return Deferred.fromCoroutine(self._joined(command, since, after))

    def _check_joinable(self, room: str) -> None:
        if self.delivery.find(self.check_right(room, READ)) is not None:
            raise RealtimeError("already_joined", "this connection reads that room already; leave it first")
        if sum(not one.is_of_properties for one in self.delivery.all()) >= self.hub.limits.max_rooms:
            raise RealtimeError("too_many", f"one connection reads at most {self.hub.limits.max_rooms} rooms")
        self.quota.take(JOINS)

    async def _joined(self, command: commands.Join, since: Position | None, after: bool | Position) -> bytes:
        with naming(command.room):
            room, start, log = await self.hub.start_reading(command.room, since, self.last(command.last), after)
        self.check_still(command.room, READ)
        return self.enter(room, start, command.id, properties=None if log is None else (log, after))

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
        charge = partial(self.quota.take, STATES)
        known = identity is not NOBODY and self.hub.presence.set_state(identity, state, charge)
        self._state = state
        if self._is_request and not known:
            raise RealtimeError(
                "not_joined", "this client is in no room that could be told; join one first, or poll it"
            )
        return b""

    def _signal(self, command: commands.SendSignal) -> Answer:
        self.check_right(command.room, SIGNAL)
        check_event(command.event)
        self.quota.take_all(ONE_SIGNAL, command.room, self.hub.access.room_rates(command.room))
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
        self.quota.take(JOINS)
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
        return self.hub.publish(self.draft(command)).addCallback(self._published, command)

    def _published(self, stored: AppendResult, command: commands.Publish | commands.SetProperty) -> bytes:
        self.quota.on_stored(stored)
        return encode_stored(stored, command)

    def draft(self, command: commands.Publish) -> Draft:
        """The message that a command publishes, and for which it has paid.

        :raises RealtimeError: a part of it is refused, or ``rate_limited``.
        """
        try:
            draft = Draft(
                self.hub.access.check(self.identity, check_room(command.room), WRITE),
                check_event(command.event),
                encode_value(command.data),
                author((self.identity or self.identify()).user),
                None if command.key is None else check_key(command.key),
                None if command.after is None else _check_after(command),
            )
            if self._refused is not None:
                self._check_predecessor(self._refused, command)
        except RealtimeError:
            self.quota.take_command()
            raise
        try:
            self.hub.take_publish(self._quota or self.quota, draft)
        except RateLimited:
            self._remember_refused(draft)
            raise
        return draft

    def _set_property(self, command: commands.SetProperty) -> Deferred[bytes]:
        return self.hub.publish(self.draft_property(command)).addCallback(self._published, command)

    def draft_property(self, command: commands.SetProperty) -> Draft:
        """The change that a command makes of a property, and for which it has paid.

        :raises RealtimeError: a part of it is refused, or ``rate_limited``.
        """
        try:
            room = self.hub.access.check(self.identity, check_room(command.room), WRITE)
            data = b"" if command.data is UNSET else encode_value(command.data)
            sender = author((self.identity or self.identify()).user)
            draft = self.hub.property_draft(room, command.name, data, sender, command.key)
        except RealtimeError:
            self.quota.take_command()
            raise
        self.hub.take_publish(self.quota, draft, room)
        return draft

    def _remember_refused(self, draft: Draft) -> None:
        if self._refused is None:
            self._refused = {}
        self._refused[draft.room] = draft.key
        if len(self._refused) > self.hub.limits.max_rooms:
            del self._refused[next(iter(self._refused))]

    def _check_predecessor(self, refused: dict[str, str | None], command: commands.Publish) -> None:
        """Refuse what follows a message that a limit has refused, before it takes what others could use.

        :raises RealtimeError: ``out_of_order``.
        """
        key = refused.get(command.room)
        if key is None:
            return
        if key == command.after:
            refused[command.room] = command.key
            raise out_of_order()
        del refused[command.room]


def name_command(failure: Failure, id: commands.CommandId | None) -> Failure:
    """Put a command's id into the error that it ended with."""
    if isinstance(failure.value, RealtimeError):
        failure.value.id = id
    return failure


def _check_after(command: commands.Publish) -> str:
    if command.key is None or command.after is None:
        raise RealtimeError("bad_request", "who publishes after another message gives this one a key, too")
    return check_key(command.after)


def encode_stored(stored: AppendResult, command: commands.Publish | commands.SetProperty) -> bytes:
    """The reply to a command that stores something."""
    if isinstance(command, commands.Publish):
        return codec.encode_published(command.id, command.room, stored.message.position)
    return codec.encode_set(command.id, stored.message)


_ACTIONS: Mapping[type[commands.Command], Callable[[PerformingSession, Any], Answer]] = MappingProxyType(
    {
        commands.Hello: PerformingSession._hello,
        commands.Join: PerformingSession._join,
        commands.Leave: PerformingSession._leave,
        commands.Publish: PerformingSession._publish,
        commands.SetProperty: PerformingSession._set_property,
        commands.SendSignal: PerformingSession._signal,
        commands.SetState: PerformingSession._set_state,
        commands.ReadMembers: PerformingSession._members,
        commands.ReadHistory: PerformingSession._history,
        commands.Ping: PerformingSession._ping,
    }
)
