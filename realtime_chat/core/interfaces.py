"""What the domain requires of a store, a broker and a transport."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from realtime_chat.values.codec import Entry
from realtime_chat.values.errors import Goodbye
from realtime_chat.values.model import AppendResult, Draft, ForwardedCommand, Message, Page, Position, RemoteClient


class IMessageStore(Interface):
    """Durable ordered logs, one per room."""

    secret: bytes = Attribute("At least 32 random bytes that live as long as the logs; set once it is started.")
    sessions: Any = Attribute("What is kept of Socket.IO sockets, an ISessionStore; started and stopped with the logs.")

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

        The room may also be the log of a room's properties (:func:`~realtime_chat.values.model.properties_log`). Of
        each ``event`` it keeps the last message alone, whatever its age and however many there are. A message without
        data removes that of its event, and is not kept itself. If there is none, nothing is stored, and the answer
        is a duplicate at the log's top. :attr:`Page.oldest` is the offset after the last removal.

        The answer comes when the message is as durable as configured. Within one room, answers come in the order of the
        offsets. If the draft's key is kept for this room and sender, and the content is the same, the answer is the
        first entry again.

        :raises RealtimeError: ``key_reused``: other content is kept under this key; ``too_many``
            or ``rate_limited``: it would make a room, and there are too many, or they are made too fast. ``too_many``
            also if the room would have too many properties.
        :raises StoreError: it was not stored, and won't be.
        :raises InDoubt: it may have been stored, or may be in a moment. If it is, it is announced like any other.
        """

    def read_after(room: str, offset: int, limit: int) -> Deferred[Page]:
        """Read the first ``limit`` kept messages with an offset above ``offset``.

        If they are large, there are fewer of them, but at least one. Of the log of properties all are read.

        :raises StoreError:
        """

    def read_before(room: str, offset: int | None, limit: int) -> Deferred[Page]:
        """Read the last ``limit`` kept messages with an offset below ``offset``, or of the whole log if it is None.

        If they are large, there are fewer of them, but at least one.

        :raises StoreError:
        """

    def rooms(after: str, limit: int) -> Deferred[Sequence[str]]:
        """The names of the first ``limit`` rooms that follow ``after``, sorted by code points.

        The cost depends on ``limit`` alone, not on the number of rooms. A room exists from its first message or
        property until it is forgotten. A room without messages and properties is forgotten after a while
        (:attr:`Retention.room_age`) if nobody reads it. The store then keeps one number: the highest top of all
        forgotten rooms. A room that is made later begins after that offset, so that no position is given to two
        messages.

        :raises StoreError:
        """

    def check() -> Deferred[None]:
        """Check that the store can be written to.

        :raises StoreError:
        """

    def watch(on_epoch_change: Callable[[], None], is_read: Callable[[str], bool] = ...) -> None:
        """Set what the store calls.

        :param on_epoch_change: called when the logs may have changed without an answer: when there is a new epoch, or
            one message more, which :meth:`read_after` then shows.
        :param is_read: whether somebody on this node reads a room. Such a room isn't forgotten. It is called on any
            thread. After a wrong answer, readers get a ``reset``.
        """


class ISessionStore(Interface):
    """Records of Socket.IO sockets, from which a client that was away recovers.

    A record is kept while its socket is connected to a node that lives. It expires :data:`SESSION_SECONDS` after that.
    Changes take effect in the order of the calls, also if nobody waits for their answers.
    """

    def put(key: str, record: bytes, connected: bool) -> Deferred[None]:
        """Keep a record, in place of the one before. The answer comes when it is as durable as messages are.

        :param connected: whether the socket is connected; else the record expires.
        :raises StoreError:
        """

    def get(key: str) -> Deferred[bytes | None]:
        """Read a record. It is None if there is none, or if it has expired.

        :raises StoreError:
        """

    def remove(key: str) -> Deferred[None]:
        """Remove a record, if it is there.

        :raises StoreError:
        """


SESSION_SECONDS = 120
"""How long the record of a disconnected socket is kept."""

MAX_SESSIONS = 100_000
"""How many records of disconnected sockets are kept: beyond that, the oldest ones are removed."""


class Listener(Protocol):
    """What a broker tells this. Every call comes on the reactor's thread.

    :ivar members: is told of other nodes' clients.
    """

    members: MembersListener

    def announced(self, room: str, epoch: str, first: int, count: int, read: Callable[[], Sequence[Message]]) -> None:
        """A room's log has grown, here or elsewhere.

        :param first: the offset of the first new message; no offset between the new messages is missing.
        :param count: how many new messages there are.
        :param read: decodes them. That costs time, so it isn't called if they are known already.
        """

    def may_have_missed(self, room: str) -> None:
        """An announcement in a room may have been lost: the room has to catch up with its log."""

    def signalled(self, room: str, client_hash: str, data: bytes) -> None:
        """A client of another node has signalled.

        :param client_hash: of the client that sent it, which does not receive it; see :class:`RemoteClient`.
        :param data: the encoded event.
        """

    def relayed(self, room: str, payload: bytes) -> None:
        """Something was published to a room by plain Redis, and not by a client; nothing about it was checked."""


class MembersListener(Protocol):
    """What a broker tells this of the clients of other nodes.

    :ivar forwarded: carries out a command that a client has given another node.
    """

    forwarded: Callable[[ForwardedCommand], None]

    def snapshot(self, room: str, others: Mapping[str, Sequence[RemoteClient]]) -> None:
        """All clients that are in a room through other nodes, by node; it replaces what was told before.

        This comes before :meth:`IBroker.follow` is answered, and again if something may have been missed.
        """

    def node_snapshot(self, room: str, node: str, clients: Sequence[RemoteClient]) -> None:
        """All clients that are in a room through one other node."""

    def delta(self, room: str, node: str, came: Sequence[RemoteClient], gone: Sequence[str]) -> None:
        """Clients came, changed, or went on another node.

        :param gone: the hashes of those that went.
        """

    def node_left(self, node: str, delay: float) -> None:
        """A node has gone, and with it the clients that were in rooms through it.

        :param delay: seconds for which they stay members. If the node stopped cleanly, its clients will come to another
            node in a moment. It is 0 if the node has been away for long.
        """


class IBroker(Interface):
    """Tells the nodes that share a store what happens in their rooms.

    What it carries may get lost; see :meth:`Listener.may_have_missed`.
    """

    shared: bool = Attribute("Whether there may be other nodes.")

    def describe() -> str:
        """One line for the operator: how the nodes hear of each other."""

    def start(listener: Listener) -> Deferred[None]:
        """Begin to tell ``listener`` what happens on other nodes. The store is started already.

        :raises StoreRefused: it can't be used; the message says what to do.
        """

    def stop() -> Deferred[None]:
        """Tell the other nodes that this one stops, and disconnect."""

    def count(rooms: Sequence[str]) -> Deferred[Sequence[int]]:
        """Count the users in some rooms through all nodes, in one request. The rooms are not followed.

        :raises StoreError: it can't be done now.
        """

    def follow(room: str) -> Deferred[None]:
        """Subscribe to a room. After the answer, everything that happens there is told.

        :raises StoreError: it can't be done now; the room is not followed.
        """

    def unfollow(room: str) -> None:
        """Unsubscribe from a room."""

    def signal(room: str, client_hash: str, data: bytes) -> None:
        """Send a client's signal to the other nodes, at most once."""

    def publish_presence(room: str, came: Sequence[RemoteClient], gone: Sequence[str]) -> None:
        """Tell the other nodes which of this node's clients are in a room.

        :param came: clients that came or changed.
        :param gone: the hashes of clients that went.
        """

    def forward(command: ForwardedCommand) -> None:
        """Send a client's command to all other nodes, at most once."""


class EncodedBatch(Protocol):
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
        """Give commands again: the session was busy (``CommandSession.busy``), and no longer is."""


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

    @property
    def on_caught_up(self) -> Callable[[], object] | None:
        """Called whenever everything was sent that could be sent; None for a transport that needn't know."""

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
    def transport(self) -> MessageSink:
        """Where its messages are sent."""

    @property
    def subscriber(self) -> Subscriber:
        """What it belongs to."""


class Subscriber(Protocol):
    """Who has subscribed, as a room sees it."""

    def fell_behind(self, reader: Any) -> None:
        """A reader of its own is no longer live."""

    def pump(self) -> None:
        """Send the readers that are behind what they lack, as far as the transport takes it."""


class ClientConnection(Protocol):
    """A session, as the hub sees it."""

    @property
    def transport(self) -> MessageSink | None:
        """Where its messages are sent; None for a request of commands."""

    def dismiss(self, reason: str) -> None:
        """Say goodbye for one of the reasons in :data:`realtime_chat.values.errors.GOODBYES`, and close."""

    def renew_rights(self) -> None:
        """Go on with the rights that it has now."""


R = TypeVar("R", bound=Reader)


class Fanout(Protocol):
    """How one kind of transport encodes messages, once, and sends them to many readers."""

    @property
    def name(self) -> str:
        """The kind of transport, for metrics."""

    def encode(self, room: str, epoch: str, entries: Sequence[Entry]) -> EncodedBatch:
        """Encode consecutive messages of a room."""

    def encode_event(self, kind: str, data: bytes) -> EncodedBatch:
        """Make a batch of one encoded event that stands in no log; ``kind`` is its type."""

    def send(self, batch: Any, readers: MutableMapping[R, Any], first: Collection[R] = ()) -> list[tuple[R, int]]:
        """Send to all, each with its ``direct_send``.

        :param first: those of them who are sent to before all others, as replies are buffered that go with it.
        :returns: those whose writing is paused now, with how many messages each took, which can be all.
        """
