"""The bounds that keep one client, one room or one burst from costing the others."""

from __future__ import annotations

import attrs

__all__ = ["Limits"]


@attrs.frozen
class Limits:
    """How much of everything there may be.

    :ivar history: messages that are kept a room.
    :ivar history_age: seconds that a message is kept; None for ever.
    :ivar max_message: bytes of the largest command, body or frame.
    :ivar max_rooms: rooms that one connection may read.
    :ivar max_rooms_total: rooms that are in memory at a time; no others are taken in. A room without messages takes
        1 KB with its reader.
    :ivar max_publishes: publishes of one connection that may wait for the store; more are not read from it.
    :ivar max_publish_bytes: bytes of them, at which no more are read either.
    :ivar max_publishing: publishes of all connections that may wait; each that publishes more pauses after one.
    :ivar max_publishing_bytes: the same in bytes.
    :ivar max_errors: errors after which a connection is told goodbye.
    :ivar default_last: messages that a reader without a position starts with.
    :ivar max_limit: the largest page of history, in messages.
    :ivar answer_bytes: a page of history, the replies to an array of commands, and what else than messages a poll or a
        stream begins with, end with what brings them to so many bytes.
    :ivar page_messages: the largest page of a reader who is behind, in messages.
    :ivar page_bytes: the same in bytes; also what one turn sends to a reader at once.
    :ivar tail_bytes: what a room keeps in memory for readers who are a little behind.
    :ivar tails_bytes: what all rooms together keep.
    :ivar room_idle: seconds after which a room without readers leaves memory.
    :ivar empty_idle: the same of one that never had a message.
    :ivar ping: seconds between two pings.
    :ivar pong: seconds in which a ping is to be answered.
    :ivar stalled_after: seconds without one drained byte after which a full connection is closed.
    :ivar resend: seconds until a send is tried again that failed though its socket was not full.
    :ivar heartbeat: seconds between two comments on an event stream.
    :ivar tcp_user_timeout: seconds after which an event stream is given up if its client acknowledges nothing.
    :ivar stream_lifetime: seconds after which an event stream ends and its client is to come back; None for never.
    :ivar wait: seconds that a poll waits where it doesn't say.
    :ivar max_wait: seconds that a poll may ask to wait.
    :ivar retry: seconds between two tries to read from a failing store.
    :ivar gap_grace: seconds for which a room waits for messages that a later one has overtaken on its way, before it
        looks for them in the store.
    :ivar max_catch_ups: rooms that look into the store at a time where they may have missed something.
    :ivar presence_limit: members that a room lists; of more only the number is told.
    :ivar presence_page: members on one page of a list that is asked for.
    :ivar presence_gather: seconds from the first change of who is in a room to its event, for more to come with it.
    :ivar presence_interval: seconds between two such events of a room at least; a thousandth of its members if that
        is more.
    :ivar presence_slowest: the same at most.
    :ivar leave_delay: seconds for which a client that left a room may come back without having left.
    :ivar poll_grace: seconds after a poll for which its client is in the room.
    :ivar presence_wait: seconds that a node waits to hear that a client is in the room, before it answers it.
    :ivar max_state: bytes of what a client says of itself.
    :ivar signal_rate: signals a second that one client may send, and rooms a second to which it may tell its state;
        twice that at once.
    :ivar signal_memory: seconds for which signals are kept for polls that come back.
    :ivar signal_bytes: bytes of them that are kept a room.
    :ivar signals_bytes: the same of all rooms together.
    """

    history: int = 1000
    history_age: float | None = None
    max_message: int = 65536
    max_rooms: int = 100
    max_rooms_total: int = 50_000
    max_publishes: int = 256
    max_publish_bytes: int = 1024 * 1024
    max_publishing: int = 256
    max_publishing_bytes: int = 1024 * 1024
    max_errors: int = 1000
    default_last: int = 50
    max_limit: int = 1000
    answer_bytes: int = 1024 * 1024
    page_messages: int = 100
    page_bytes: int = 256 * 1024
    tail_bytes: int = 512 * 1024
    tails_bytes: int = 64 * 1024 * 1024
    room_idle: float = 30.0
    empty_idle: float = 1.0
    ping: float = 25
    pong: float = 7.0
    stalled_after: float = 60.0
    resend: float = 0.25
    heartbeat: float = 15
    tcp_user_timeout: float = 18.0
    stream_lifetime: float | None = 3600.0
    wait: float = 25.0
    max_wait: float = 55.0
    retry: float = 1.0
    gap_grace: float = 0.01
    max_catch_ups: int = 16
    presence_limit: int = 200
    presence_page: int = 200
    presence_gather: float = 0.05
    presence_interval: float = 0.25
    presence_slowest: float = 5.0
    leave_delay: float = 1.5
    poll_grace: float = 10.0
    presence_wait: float = 1.0
    max_state: int = 1024
    signal_rate: float = 30
    signal_memory: float = 5.0
    signal_bytes: int = 256 * 1024
    signals_bytes: int = 16 * 1024 * 1024
