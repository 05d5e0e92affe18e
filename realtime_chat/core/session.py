"""One connected client: who it is, what it reads, and what it asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from realtime_chat.core.interfaces import MessageSink, ReplySink
from realtime_chat.core.room import EntryPage, Room, StartPosition, Subscription
from realtime_chat.values import codec
from realtime_chat.values.errors import GOODBYES, RealtimeError, StoreError, internal_error
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

if TYPE_CHECKING:
    from realtime_chat.core.hub import Hub

__all__ = ["Session"]

Answer = bytes | Deferred[bytes]
Command = codec.Command | codec.UnreadableCommand
C = TypeVar("C", bound=codec.Command)


class Session:
    """A client on one transport, with a cursor in each room that it reads.

    Commands take effect in the order in which they came. A publish doesn't hold up what follows it; everything else
    that waits for the store does, and meanwhile nothing more is read from the client.

    :param transport: where messages are sent; None for one HTTP request of commands, which reads no room.
    :param replies: where replies are sent; None where :meth:`execute` is never called.
    :param client: the client that it is, where that is known already; it was issued by us.
    :param name: the name that it goes by.
    :param on_caught_up: called whenever everything was sent that could be sent.
    """

    __slots__ = (
        "__weakref__",
        "_behind",
        "_blocked",
        "_early",
        "_errors",
        "_held_up",
        "_name",
        "_on_caught_up",
        "_published_last",
        "_publishing",
        "_publishing_bytes",
        "_queue",
        "_reading",
        "_state",
        "client",
        "closed",
        "hub",
        "replies",
        "subscriptions",
        "transport",
        "user",
    )

    _log = Logger()

    def __init__(
        self,
        hub: Hub,
        transport: MessageSink | None = None,
        replies: ReplySink | None = None,
        client: str | None = None,
        name: str | None = None,
        on_caught_up: Callable[[], object] | None = None,
    ) -> None:
        self.hub = hub
        self.transport: MessageSink = transport  # type: ignore[assignment]  # not used where there is none
        self.replies: ReplySink = replies  # type: ignore[assignment]  # the same
        self._on_caught_up = on_caught_up
        self.client = client
        self.user: User | None = None
        self._name = name
        self._state = b"{}"
        self.closed = False
        self.subscriptions: dict[str, Subscription] = {}
        self._behind: list[Subscription] = []
        self._reading = False
        self._blocked = False
        self._queue: list[Command] = []
        self._publishing = 0
        self._publishing_bytes = 0
        self._held_up = False
        self._published_last = 0  # the number of the last publish; those before the ones under way have their replies
        self._early: dict[int, tuple[bytes, str, int]] | None = None  # replies that wait for those before them
        self._errors = 0
        hub.opened(self)

    def close(self, polls: bool = False) -> None:
        """Let go of everything; nothing is sent from now on.

        :param polls: whether that was one poll of many, whose client is expected back.
        """
        if self.closed:
            return
        self.closed = True
        for subscription in self.subscriptions.values():
            subscription.room.remove(subscription)
            self.hub.presence.exit(subscription, polls)
        self.subscriptions.clear()
        self._on_caught_up = None
        self._behind.clear()
        self._queue.clear()
        self.hub.closed(self)

    # Commands

    @property
    def busy(self) -> bool:
        """Whether no more commands should be read for now."""
        return self._blocked or self._held_up or bool(self._queue) or self._publishes_enough

    @property
    def _publishes_enough(self) -> bool:
        limits = self.hub.limits
        return self._publishing >= limits.max_publishes or self._publishing_bytes >= limits.max_publish_bytes

    def go_on(self) -> None:
        """There is room again for what waits for the store."""
        self._held_up = False
        if not self.closed and not self.busy:
            self.replies.resume_commands()

    def receive(self, raw: bytes) -> None:
        """Do what one encoded command says, and send the reply."""
        self.execute(_read(raw))

    def execute(self, command: Command) -> None:
        """Do what one command says, after those before it and when the transport takes the reply, and send that."""
        if self.closed:
            return
        if self._blocked or self._queue or self.replies.write_paused:
            self._queue.append(command)
        else:
            self._execute(command)

    def _execute(self, command: Command) -> None:
        if isinstance(command, codec.Publish):
            self._execute_publish(command)
            return
        answer = self.perform(command)
        if isinstance(answer, bytes):
            if answer:
                self._reply(answer)
        else:
            self._blocked = True
            answer.addCallback(self._answered)

    def _execute_publish(self, command: codec.Publish) -> None:
        """The same for what comes most often, with as few callbacks as can be."""
        begun = self.hub.clock.seconds()
        number = self._published_last = self._published_last + 1
        try:
            draft = self._draft(command)
            stored = self.hub.append(draft)
        except RealtimeError as error:
            error.id = command.id
            self._refuse_publish(number, self._refusal(error), command.room)
            return
        size = len(draft.data)
        self._publishing += 1
        self._publishing_bytes += size
        if self.hub.has_much_to_store:
            self._held_up = True
            self.hub.hold_up(self.go_on)
        stored.addCallbacks(
            self._published,
            self._not_published,
            callbackArgs=(command, begun, number, size),
            errbackArgs=(command, number, size),
        )

    def _refuse_publish(self, number: int, answer: bytes, room: str) -> None:
        """Answer what needn't wait for the store, but for the replies to what was published before it."""
        if not self._publishing:
            self._reply(answer)
            return
        self._publishing += 1
        self._acknowledge(number, answer, room, 0)

    def _reply(self, answer: bytes) -> None:
        if not self.closed:
            self.replies.buffer_reply(answer)
            self.pump()
            self.replies.flush_replies()

    def _published(self, stored: AppendResult, command: codec.Publish, begun: float, number: int, size: int) -> None:
        try:
            self.hub.stored(stored, begun, size)
        except Exception:  # it is stored all the same
            self._log.failure("a message that was stored could not be announced")
        self._acknowledge(number, _encode_published(stored, command), command.room, size)

    def _not_published(self, failure: Failure, command: codec.Publish, number: int, size: int) -> None:
        self.hub.not_stored(failure, size)
        self._acknowledge(number, self._failed(_name_command(failure, command.id), command.id), command.room, size)

    def _acknowledge(self, number: int, answer: bytes, room: str, size: int) -> None:
        """Answer, once everything that was published before it has its answer."""
        first = self._published_last - self._publishing + 1
        if number != first:
            if self._early is None:
                self._early = {}
            self._early[number] = answer, room, size
            return
        self._answer_publish(answer, room, size)
        while self._early:
            first += 1
            if first not in self._early:
                return
            self._answer_publish(*self._early.pop(first))

    def _answer_publish(self, answer: bytes, room: str, size: int) -> None:
        """Answer at the end of the turn: together with the message itself, where the publisher reads the room."""
        had_enough = self._publishes_enough
        self._publishing -= 1
        self._publishing_bytes -= size
        if self.closed:
            return
        self.replies.buffer_reply(answer)
        subscription = self.subscriptions.get(room)
        if subscription is not None and subscription.live:
            subscription.room.answer(subscription)
        else:
            self.hub.flush_replies_soon(self.replies)
        if had_enough and not self._publishes_enough:
            self.replies.resume_commands()

    def _answered(self, answer: bytes) -> None:
        self._blocked = False
        if answer:
            self._reply(answer)
        self._work_off()
        if not self.closed and not self.busy:
            self.replies.resume_commands()

    def _work_off(self) -> None:
        """Go on with the commands that had to wait."""
        while self._queue and not self._blocked and not self.replies.write_paused:
            self._execute(self._queue.pop(0))

    def resume_writing(self) -> None:
        """The transport takes more again: commands that waited for it first, so that one can leave a busy room."""
        self._work_off()
        self.pump()

    def perform(self, command: Command) -> Answer:
        """Do what one command says; the answer is the encoded reply, or error, or empty where there is none."""
        if isinstance(command, codec.UnreadableCommand):
            return self._refusal(command)  # if it were raised, it and this frame would hold each other
        try:
            answer = self.act(command)
        except RealtimeError as error:
            return self._refusal(error)
        return answer.addErrback(self._failed, command.id) if isinstance(answer, Deferred) else answer

    def act(self, command: Command) -> Answer:
        """Do what one command says; the answer is the encoded reply, empty where there is none.

        :raises RealtimeError: also by way of the Deferred; it carries the command's id.
        """
        if isinstance(command, codec.UnreadableCommand):
            raise command
        try:
            answer = _ACTIONS[type(command)](self, command)
        except RealtimeError as error:
            error.id = command.id
            raise
        return answer.addErrback(_name_command, command.id) if isinstance(answer, Deferred) else answer

    def _failed(self, failure: Failure, id: codec.CommandId | None) -> bytes:
        if isinstance(failure.value, RealtimeError):
            return self._refusal(failure.value)
        self._log.failure("a command failed", failure)
        return codec.encode_error(internal_error(id))

    def _refusal(self, error: RealtimeError) -> bytes:
        if error.temporary:  # that is our own trouble, and not the client's
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
        """The user; a guest from now on, if nothing was said before.

        Over plain HTTP, who says nothing is anonymous instead.
        """
        if self.user is None:
            self.client = self.client or self.hub.identities.issue()
            self.user = self.hub.identities.guest(self.client, self._name)
        return self.user

    def _hello(self, command: codec.Hello) -> bytes:
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
        client = client if client and identities.known(client) else identities.issue()
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

    def _join(self, command: codec.Join) -> Deferred[bytes]:
        with naming(command.room):
            self._check_joinable(command.room)
            since = None if command.since is None else Position.parse(command.since)
        return Deferred.fromCoroutine(self._joined(command, since))

    def _check_joinable(self, room: str) -> None:
        if self.check_readable(room) in self.subscriptions:
            raise RealtimeError("already_joined", "this connection reads that room already; leave it first")
        if len(self.subscriptions) >= self.hub.limits.max_rooms:
            raise RealtimeError("too_many", f"one connection reads at most {self.hub.limits.max_rooms} rooms")

    async def _joined(self, command: codec.Join, since: Position | None) -> bytes:
        with naming(command.room):
            room = await self.hub.room(command.room)
            start = await room.start(since, self.last(command.last))
        return self.enter(room, start, command.id)

    def enter(
        self,
        room: Room,
        start: StartPosition,
        id: codec.CommandId | None = None,
        listed: bool = True,
        resumed: bool | None = None,
    ) -> bytes:
        """Read a room from where a reader starts.

        :param listed: whether its members are told with it; else they come when the reader is live.
        :param resumed: whether it gave a position, where it is to be told that.
        :returns: the encoded ``joined``.
        """
        subscription = self.subscribe(room, start.position)
        presence = self.hub.presence
        attendance = (presence.show if listed else presence.put_off)(room.name, subscription)
        return codec.encode_joined(id, room.name, start.position, room.position, start.recovered, *attendance, resumed)

    def last(self, last: int | None) -> int:
        """How many messages a reader without a position starts with, who wishes for ``last`` of them."""
        limits = self.hub.limits
        return limits.default_last if last is None else min(last, limits.max_limit)

    def subscribe(self, room: Room, position: Position) -> Subscription | None:
        """Read a room from ``position``; :meth:`pump` brings what follows.

        :returns: None where the client is gone by now.
        """
        if self.closed:
            return None
        subscription = self.subscriptions[room.name] = Subscription(self, self.transport, room, position)
        room.add()
        self._behind.append(subscription)
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

    @property
    def _is_request(self) -> bool:
        """Whether it lasts no longer than the commands of one HTTP request: it reads nothing, and what it says is
        said for whatever else its client reads by."""
        return self.transport is None

    def _leave(self, command: codec.Leave) -> Answer:
        subscription = self.subscriptions.pop(check_room(command.room), None)
        if subscription is not None:
            if not subscription.live:
                self._behind.remove(subscription)
            subscription.room.remove(subscription)
            self.hub.presence.exit(subscription, False)
        elif self._is_request:
            return self._once_known(self.hub.await_presence(command.room, self.client), self._leave_by_request, command)
        else:
            raise RealtimeError("not_joined", "this connection doesn't read that room")
        return codec.encode_left(command.id, command.room)

    def _leave_by_request(self, command: codec.Leave) -> bytes:
        self.hub.presence.leave(self.client, command.room)
        return codec.encode_left(command.id, command.room)

    # Who else is there

    def _members(self, command: codec.Members) -> Answer:
        room = self.check_readable(command.room)
        return self._once_known(self.hub.await_presence(room), self._members_known, command)

    def _members_known(self, command: codec.Members) -> bytes:
        return codec.encode_members(command.id, command.room, *self.hub.presence.page(command.room, command.after))

    def _once_known(self, asked: Deferred[None] | None, act: Callable[[C], bytes], command: C) -> Answer:
        """Do what depends on who is in a room: at once where that is known here."""
        return act(command) if asked is None else asked.addCallback(lambda _: act(command))

    def _set_state(self, command: codec.State) -> bytes:
        state = codec.encode_value(command.state)
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

    def _signal(self, command: codec.Signal) -> Answer:
        check_room(command.room)
        check_event(command.event)
        asked = self.hub.await_presence(command.room, self.client)
        return self._signal_known(command) if asked is None else self._once_known(asked, self._signal_known, command)

    def _signal_known(self, command: codec.Signal) -> bytes:
        data = codec.encode_value(command.data)
        self.hub.presence.signal(self.client, command.room, command.event, data, self.hub.now())
        return b""

    # What was said before

    def _history(self, command: codec.History) -> Deferred[bytes]:
        self.check_readable(command.room)
        if (command.before is not None) and (command.since is not None):
            raise RealtimeError("bad_request", "history takes before or since, not both")
        return Deferred.fromCoroutine(self._read_history(command))

    async def _read_history(self, command: codec.History) -> bytes:
        limits = self.hub.limits
        limit = limits.default_last if command.limit is None else min(command.limit, limits.max_limit)
        since = None if command.since is None else Position.parse(command.since)
        before = None if command.before is None else Position.parse(command.before)
        page, position, recovered = await self.hub.history(command.room, since, before, limit)
        return codec.encode_history(command.id, command.room, position, page, recovered)

    def _ping(self, command: codec.Ping) -> bytes:
        return codec.encode_pong(command.id)

    # What it writes

    def _publish(self, command: codec.Publish) -> Deferred[bytes]:
        return self.hub.publish(self._draft(command)).addCallback(_encode_published, command)

    def _draft(self, command: codec.Publish) -> Draft:
        return Draft(
            check_room(command.room),
            check_event(command.event),
            codec.encode_value(command.data),
            self.identify(),
            None if command.key is None else check_key(command.key),
            None if command.after is None else _check_after(command),
        )

    # Behind, pumped, live

    def pause_writing(self) -> None:
        """The transport takes no more for now: nothing is live until :meth:`resume_writing`."""
        for subscription in self.subscriptions.values():
            subscription.room.fall_behind(subscription)

    def left_behind(self, subscription: Subscription) -> None:
        """Take note that a subscription is no longer live; it is pumped once the transport has drained."""
        self._behind.append(subscription)

    def pump(self) -> None:
        """Bring those who are behind a page nearer, as far as the transport takes it.

        Called when something was subscribed, and by :meth:`resume_writing`.
        """
        while self._behind and not self._reading and not self.transport.write_paused:
            subscription = self._behind[0]
            room = subscription.room
            if subscription.offset == room.top and subscription.epoch == room.epoch:
                self._go_live(subscription)
                continue
            part = room.recent_after(room.epoch, room.resume_offset(subscription))
            if part is None:
                self._read(subscription)
            elif not self._bring(subscription, part):
                break
        if self._on_caught_up is not None and not self._reading and not self.closed:
            self._on_caught_up()

    def _read(self, subscription: Subscription) -> None:
        self._reading = True
        room = subscription.room
        Deferred.fromCoroutine(room.find_after(room.resume_offset(subscription))).addCallbacks(
            self._page_read, self._page_unread, callbackArgs=(subscription, room.epoch), errbackArgs=()
        )

    def _page_read(self, part: EntryPage, subscription: Subscription, epoch: str) -> None:
        """A page has come; where the log became another meanwhile, the reader doesn't go on where it was asked for."""
        self._reading = False
        if self.closed:
            return
        if subscription in self._behind and part.epoch == epoch:
            self._bring(subscription, part)
        self.pump()

    def _page_unread(self, failure: Failure) -> None:
        if failure.check(StoreError) is None:
            self._log.failure("a page could not be read", failure)
        self.hub.wheel.call_later(self.hub.limits.retry, self._try_again)

    def _try_again(self) -> None:
        self._reading = False
        if not self.closed:
            self.pump()

    def _bring(self, subscription: Subscription, part: EntryPage) -> bool:
        """Send a page to a subscription that is behind, and make it live if that was all.

        :returns: whether the transport took any of it; one that is closing takes nothing, and isn't paused either.
        """
        taken = 0
        if part.epoch != subscription.epoch or part.start != subscription.offset:
            subscription.epoch, subscription.offset = part.epoch, part.start
            self.transport.reset(subscription.room.name, Position(part.epoch, part.start))
        if part.entries:
            batch = subscription.room.batch(self.transport.fanout, part)
            taken = self.transport.send_batch(batch)
            subscription.offset += taken
            self.hub.counters.delivered[self.transport.fanout.name] += taken
        if subscription not in self._behind:
            return True  # the transport is done with this session
        self._go_live(subscription)
        return taken > 0 or not part.entries

    def _go_live(self, subscription: Subscription) -> None:
        """Make a subscription live, if nothing is left to be brought to it."""
        self._behind.remove(subscription)
        if not subscription.room.go_live(subscription):
            self._behind.append(subscription)
        elif subscription.members_version_sent < subscription.room.members_version_sent:
            self.hub.presence.refresh(subscription)


def _read(raw: bytes) -> Command:
    """What an encoded command says, or what is wrong with it.

    The error is in no variable when this returns. If it were, it and the frame would hold each other by the traceback,
    and each bad command would be work for the garbage collector, which stops everybody.
    """
    try:
        return codec.decode_command(raw)
    except codec.UnreadableCommand as error:
        return error.with_traceback(None)


def _name_command(failure: Failure, id: codec.CommandId | None) -> Failure:
    if isinstance(failure.value, RealtimeError):
        failure.value.id = id
    return failure


def _check_after(command: codec.Publish) -> str:
    if command.key is None or command.after is None:
        raise RealtimeError("bad_request", "who publishes after another message gives this one a key, too")
    return check_key(command.after)


def _encode_published(stored: AppendResult, command: codec.Publish) -> bytes:
    return codec.encode_published(command.id, command.room, stored.message.position)


_ACTIONS: Mapping[type[codec.Command], Callable[[Session, Any], Answer]] = MappingProxyType(
    {
        codec.Hello: Session._hello,
        codec.Join: Session._join,
        codec.Leave: Session._leave,
        codec.Publish: Session._publish,
        codec.Signal: Session._signal,
        codec.State: Session._set_state,
        codec.Members: Session._members,
        codec.History: Session._history,
        codec.Ping: Session._ping,
    }
)
