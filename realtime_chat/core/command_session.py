"""A session that is given commands one after another, and replies to each in its order: a WebSocket's."""

from __future__ import annotations

from twisted.python.failure import Failure

from realtime_chat.core.hub import Hub
from realtime_chat.core.identity import Identity
from realtime_chat.core.interfaces import MessageSink, ReplySink
from realtime_chat.core.performing_session import Command, PerformingSession, encode_stored, name_command
from realtime_chat.values.commands import STORING, Publish, SetProperty, decode_command
from realtime_chat.values.errors import RateLimited, RealtimeError, UnreadableCommand
from realtime_chat.values.model import AppendResult


class CommandSession(PerformingSession):
    """A session with a queue of commands.

    Commands take effect in the order in which they came. A publish doesn't hold up what follows it; everything else
    that waits for the store does, and meanwhile nothing more is read from the client. Publishes are answered in their
    order, though the store may answer them in another.

    :param replies: where replies are sent.
    """

    __slots__ = (
        "_blocked",
        "_early",
        "_held_up",
        "_is_limited",
        "_last_publish",
        "_publishing",
        "_publishing_bytes",
        "_queue",
        "_replies",
    )

    def __init__(
        self,
        hub: Hub,
        transport: MessageSink | None,
        replies: ReplySink,
        identity: Identity | None = None,
        name: str | None = None,
        address: str | None = None,
    ) -> None:
        super().__init__(hub, transport, identity, name, address=address)
        self._replies = replies
        self._blocked = False
        self._is_limited = False
        self._queue: list[Command] | None = None  # made when a command has to wait
        self._publishing = 0
        self._publishing_bytes = 0
        self._held_up = False
        self._last_publish = 0  # its number; those before the ones under way have their replies
        self._early: dict[int, tuple[bytes, str, int]] | None = None  # replies that wait for those before them

    def close(self, polls: bool = False) -> None:
        super().close(polls)
        self._queue = None

    # Whether commands are taken

    @property
    def busy(self) -> bool:
        """Whether no more commands should be read for now."""
        return self._blocked or self._held_up or self._is_limited or bool(self._queue) or self._publishes_enough

    @property
    def _publishes_enough(self) -> bool:
        limits = self.hub.limits
        return self._publishing >= limits.max_publishes or self._publishing_bytes >= limits.max_publish_bytes

    def _resume_after_hold_up(self) -> None:
        """Less waits for the store now."""
        self._held_up = False
        self._resume_commands()

    def refuse(self, error: RealtimeError) -> bytes:
        """Encode an error. After a limit was reached, nothing is read for a while, so that a flood costs little."""
        if isinstance(error, RateLimited) and not self._is_limited:
            self._is_limited = True
            self.hub.limiter.call_after(error.after or 0.0, self._resume_after_limit)
        return super().refuse(error)

    def _resume_after_limit(self) -> None:
        self._is_limited = False
        self._resume_commands()

    def _resume_commands(self) -> None:
        if not self.closed and not self.busy:
            self._replies.resume_commands()

    def resume_writing(self) -> None:
        """The transport takes more again: commands that waited for it first, so that one can leave a busy room."""
        self._run_queue()
        self.delivery.pump()

    # Commands in order

    def receive(self, raw: bytes) -> None:
        """Do one encoded command, and send the reply."""
        self.execute(_decode(raw))

    def execute(self, command: Command) -> None:
        """Do one command and send its reply, after the commands before it, and once the transport takes replies."""
        if self.closed:
            return
        if self._blocked or self._queue or self._replies.write_paused:
            if self._queue is None:
                self._queue = []
            self._queue.append(command)
        else:
            self._execute(command)

    def _execute(self, command: Command) -> None:
        if isinstance(command, STORING):
            self._execute_publish(command)
            return
        answer = self.perform(command)
        if isinstance(answer, bytes):
            if answer:
                self._reply(answer)
        else:
            self._blocked = True
            answer.addCallback(self._on_answer)

    def _on_answer(self, answer: bytes) -> None:
        self._blocked = False
        if answer:
            self._reply(answer)
        self._run_queue()
        self._resume_commands()

    def _run_queue(self) -> None:
        while self._queue and not self._blocked and not self._replies.write_paused:
            self._execute(self._queue.pop(0))

    def _reply(self, answer: bytes) -> None:
        if not self.closed:
            self._replies.buffer_reply(answer)
            self.delivery.pump()
            self._replies.flush_replies()

    # Publishes: what comes most often, with as few callbacks as can be

    def _execute_publish(self, command: Publish | SetProperty) -> None:
        try:
            draft = self.draft(command) if isinstance(command, Publish) else self.draft_property(command)
            self.hub.check_open()
        except RealtimeError as error:
            error.id = command.id
            self.refuse_publish(command, error)
            return
        number = self._last_publish = self._last_publish + 1
        size = len(draft.data)
        self._publishing += 1
        self._publishing_bytes += size
        publisher = self.hub.publisher
        publisher.publish(draft, self._on_published, command, number, size)
        if publisher.has_much_to_store:
            self._held_up = True
            publisher.hold_up(self._resume_after_hold_up)

    def refuse_publish(self, command: Publish | SetProperty, error: RealtimeError) -> None:
        """Refuse a publish at once, but after the replies to those before it."""
        answer = self.refuse(error)
        if not self._publishing:
            self._reply(answer)
            return
        number = self._last_publish = self._last_publish + 1
        self._publishing += 1
        self._acknowledge(number, answer, command.room, 0)

    def _on_published(
        self, result: AppendResult | Failure, command: Publish | SetProperty, number: int, size: int
    ) -> None:
        if isinstance(result, Failure):
            answer = self.fail(name_command(result, command.id), command.id)
        else:
            if result.message.position.offset == 1:  # else it has made no room
                self.quota.on_stored(result)
            answer = encode_stored(result, command)
        self._acknowledge(number, answer, command.room, size)

    def _acknowledge(self, number: int, answer: bytes, room: str, size: int) -> None:
        """Answer, once everything that was published before it has its answer."""
        first = self._last_publish - self._publishing + 1
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
        """Answer at the end of the turn; if the publisher reads the room, together with the message itself."""
        had_enough = self._publishes_enough
        self._publishing -= 1
        self._publishing_bytes -= size
        if self.closed:
            return
        self._replies.buffer_reply(answer)
        subscription = self.delivery.find(room)
        if subscription is not None and subscription.live:
            subscription.room.answer(subscription, self._replies)
        else:
            self.hub.flush_queue.add_replies(self._replies)
        if had_enough and not self._publishes_enough:
            self._replies.resume_commands()


def _decode(raw: bytes) -> Command:
    """What an encoded command says, or what is wrong with it.

    The error is in no variable when this returns. If it were, it and the frame would hold each other by the traceback,
    and each bad command would be work for the garbage collector, which stops everybody.
    """
    try:
        return decode_command(raw)
    except UnreadableCommand as error:
        return error.with_traceback(None)
