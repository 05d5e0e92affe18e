"""What a store, a broker and a transport are to the domain."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from realtime_chat.values.codec import Entry
from realtime_chat.values.errors import Goodbye
from realtime_chat.values.model import AppendResult, Draft, ForwardedCommand, Message, Page, Position, RemoteClient

__all__ = [
    "Batch",
    "Connection",
    "DelayedCall",
    "Fanout",
    "IBroker",
    "IMessageStore",
    "Listener",
    "MessageSink",
    "Reader",
    "ReplySink",
    "Subscriber",
    "TurnClock",
]


class IMessageStore(Interface):
    """Durable ordered logs, one a room."""

    secret: bytes = Attribute("At least 32 random bytes that live as long as the logs; set once it is started.")

    def describe() -> str:
        """One line for the operator: what the store is and what it promises."""

    def start() -> Deferred[None]:
        """Open or create the store.

        :raises StoreRefused: it can't be used; the message says what to do.
        """

    def stop() -> Deferred[None]:
        """Finish what was accepted, then close."""

    def append(draft: Draft) -> Deferred[AppendResult]:
        """Add a message to its room's log, once.

        The answer comes when the message is durable at the level configured. Within one room, answers come in the
        order of the offsets. With a key that is kept for this room and sender, the same content answers the first
        entry again.

        :raises RealtimeError: ``key_reused``: other content is kept under this key; ``too_many``
            or ``rate_limited``: it would make a room, and there are too many, or they are made too fast.
        :raises StoreError: it was not stored, and won't be.
        :raises InDoubt: it may have been stored, or may be in a moment. If it is, readers are told
            as of everything else.
        """

    def read_after(room: str, offset: int, limit: int) -> Deferred[Page]:
        """The first ``limit`` kept messages with an offset above ``offset``; fewer where they are large, but not none.

        :raises StoreError:
        """

    def read_before(room: str, offset: int | None, limit: int) -> Deferred[Page]:
        """The last ``limit`` kept messages with an offset below ``offset``; of the whole log where it is None. Fewer
        where they are large, but not none.

        :raises StoreError:
        """

    def rooms(after: str, limit: int) -> Deferred[Sequence[str]]:
        """The names of the first ``limit`` rooms that follow ``after``, sorted by code points; it costs what they cost,
        however many there are. A room is there from its first message until it is forgotten.

        A room without messages is forgotten after a while (:attr:`Retention.room_age`) if nobody reads it. All that is
        left is one number for the whole store, the highest top of all that were forgotten: it is the top of every room
        that isn't there, and who makes such a room goes on after it. So no position is given to two messages.

        :raises StoreError:
        """

    def check() -> Deferred[None]:
        """Answer when the store can be written to.

        :raises StoreError:
        """

    def watch(doubt: Callable[[], None], is_read: Callable[[str], bool] = ...) -> None:
        """Say who knows of readers.

        :param doubt: called when the logs may be others than before, though nothing was answered here: when there is a
            new epoch, or a message more, which :meth:`read_after` shows then.
        :param is_read: whether somebody on this node reads a room, which then isn't forgotten; called on any thread. A
            wrong answer costs readers no more than a ``reset``.
        """


class Listener(Protocol):
    """Who is told what happens on other nodes: the hub. Every call comes on the reactor's thread."""

    def announced(self, room: str, epoch: str, first: int, count: int, read: Callable[[], Sequence[Message]]) -> None:
        """A room's log has grown, here or elsewhere.

        :param first: the offset of the first of the new messages, which have no hole between them.
        :param count: how many they are.
        :param read: decodes them; costs something, so that it isn't called where they are known already.
        """

    def may_have_missed(self, room: str) -> None:
        """Something may have been announced in a room that we didn't hear of: it has to look into its log."""

    def signalled(self, room: str, client_hash: str, data: bytes) -> None:
        """A client of another node has signalled.

        :param client_hash: of the client that sent it, which does not receive it; see :class:`RemoteClient`.
        :param data: the encoded event.
        """

    def relayed(self, room: str, payload: bytes) -> None:
        """Somebody who is no client has sent something to a room; nothing about it was checked."""

    def presence_snapshot(self, room: str, others: Mapping[str, Sequence[RemoteClient]]) -> None:
        """Who is in a room by way of other nodes, all of them, by node; what was said of it before is no longer true.

        Comes before :meth:`IBroker.follow` is answered, and again when something may have been missed.
        """

    def presence_delta(self, room: str, node: str, came: Sequence[RemoteClient], gone: Sequence[str]) -> None:
        """Somebody came, changed, or went on another node.

        :param gone: by their marks.
        """

    def node_snapshot(self, room: str, node: str, there: Sequence[RemoteClient]) -> None:
        """Who is in a room by way of one other node, all of them."""

    def node_left(self, node: str, held: float) -> None:
        """A node is no longer there, and with it those who were in rooms by way of it.

        :param held: seconds for which they stay there: some where it has stopped in order, as its clients will be with
            another node in a moment; 0 where it is known to have been away for long.
        """

    def forwarded(self, command: ForwardedCommand) -> None:
        """A client has said something to another node that is for all by way of which it is in rooms."""


class IBroker(Interface):
    """Tells the nodes that share a store what happens in their rooms. What it brings may get lost; see
    :meth:`Listener.may_have_missed`."""

    shared: bool = Attribute("Whether there may be other nodes.")

    def describe() -> str:
        """One line for the operator: by what the nodes hear of each other."""

    def start(listener: Listener) -> Deferred[None]:
        """Begin to tell ``listener`` of what happens elsewhere. The store is started already.

        :raises StoreRefused: it can't be used; the message says what to do.
        """

    def stop() -> Deferred[None]:
        """Tell the others that this node goes, and hear no more."""

    def count(rooms: Sequence[str]) -> Deferred[Sequence[int]]:
        """How many users are in some rooms by way of all nodes: one look for all of them, and none is followed.

        :raises StoreError: not now.
        """

    def follow(room: str) -> Deferred[None]:
        """Hear of a room; answered when all that happens there from now on is told.

        :raises StoreError: not now; it is not followed.
        """

    def unfollow(room: str) -> None:
        """Hear no more of a room."""

    def signal(room: str, client_hash: str, data: bytes) -> None:
        """Bring a client's signal to the other nodes, at most once."""

    def publish_presence(room: str, came: Sequence[RemoteClient], gone: Sequence[str]) -> None:
        """Tell the other nodes who of this node's clients is in a room.

        :param came: who wasn't, or has changed.
        :param gone: who isn't any more, by their marks.
        """

    def forward(command: ForwardedCommand) -> None:
        """Tell all other nodes what a client has said to this one, at most once."""


class DelayedCall(Protocol):
    """A call that was put off (twisted.internet.interfaces.IDelayedCall)."""

    def cancel(self) -> None: ...

    def active(self) -> Any: ...


class TurnClock(Protocol):
    """The reactor as the domain sees it: the seconds of a clock, and calls later (IReactorTime)."""

    def seconds(self) -> float: ...

    def callLater(self, delay: float, callable: Callable[..., Any], /, *args: Any) -> DelayedCall: ...


class Batch(Protocol):
    """Consecutive messages of one room, encoded for one kind of transport."""

    @property
    def count(self) -> int:
        """How many messages it holds."""


class ReplySink(Protocol):
    """Where a session sends the replies to its commands.

    Only a transport that gives commands one after another has one: a WebSocket.
    """

    @property
    def write_paused(self) -> bool:
        """Whether no reply should be sent until the transport calls ``Session.resume_writing``."""

    def buffer_reply(self, data: bytes) -> None:
        """Keep one encoded reply, and send it together with what is sent next, or by :meth:`flush_replies`."""

    def flush_replies(self) -> None:
        """Send the replies that are buffered, if there are any."""

    def resume_commands(self) -> None:
        """Give commands again: the session was busy (``Session.busy``), and no longer is."""


class MessageSink(Protocol):
    """Where a session sends messages and events: a transport that stays open, or a poll that waits."""

    @property
    def fanout(self) -> Fanout:
        """What sends messages to all transports of this kind."""

    @property
    def write_paused(self) -> bool:
        """Whether nothing should be sent until the transport calls ``Session.resume_writing``."""

    @property
    def direct_send(self) -> Any:
        """What the fan-out may use to reach the client by a short way; only the fan-out knows what it is."""

    @property
    def queued(self) -> int:
        """Bytes that wait in this process for the client to read."""

    def send_batch(self, batch: Any) -> int:
        """Send messages.

        A transport whose writing is paused, by this or otherwise, calls ``Session.pause_writing``.

        :returns: how many were taken. If not all were, writing is paused now.
        """

    def send_event(self, kind: str, data: bytes) -> None:
        """Send one encoded event that stands in no log; ``kind`` is its type."""

    def reset(self, room: str, position: Position) -> None:
        """Say that messages are missing, and that delivery goes on after ``position``."""

    def goodbye(self, goodbye: Goodbye) -> None:
        """Say why the server closes the connection, and close it."""


class Reader(Protocol):
    """A subscription, as its room and the fan-out see it.

    :ivar live: whether the room sends it what is new. Then the room's cursor stands for its own.
    :ivar epoch: with ``offset``, its cursor: the last message that was sent to it.
    :ivar members_version_sent: the version of the room's members that it was sent.
    """

    live: bool
    epoch: str
    offset: int
    members_version_sent: int

    @property
    def transport(self) -> MessageSink: ...

    @property
    def subscriber(self) -> Subscriber: ...


class Subscriber(Protocol):
    """Who has subscribed, as a room sees it."""

    def fell_behind(self, reader: Any) -> None:
        """A reader of its own is no longer live."""

    def catch_up(self) -> None:
        """Send the readers that are behind what they lack, as far as the transport takes it."""


class Connection(Protocol):
    """A session, as the hub sees it.

    :ivar transport: where its messages are sent; None for a request of commands.
    """

    @property
    def transport(self) -> MessageSink | None: ...

    def dismiss(self, reason: str) -> None:
        """Say goodbye for one of the reasons in :data:`realtime_chat.values.errors.GOODBYES`, and close."""


R = TypeVar("R", bound=Reader)


class Fanout(Protocol):
    """How one kind of transport encodes messages, once, and brings them to many readers."""

    @property
    def name(self) -> str:
        """The kind of transport, for counting."""

    def encode(self, room: str, epoch: str, entries: Sequence[Entry]) -> Batch:
        """Encode consecutive messages of a room."""

    def encode_event(self, kind: str, data: bytes) -> Batch:
        """Make a batch of one encoded event that stands in no log; ``kind`` is its type."""

    def send(self, batch: Any, readers: MutableMapping[R, Any], first: Collection[R] = ()) -> list[tuple[R, int]]:
        """Send to all, each with its ``direct_send``.

        :param first: those of them who are sent to before all others, as replies are buffered that go with it.
        :returns: those whose writing is paused now, with how many messages each took, which can be all.
        """
