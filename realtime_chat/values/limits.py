"""Limits: no client, no room and no burst may take resources from the others without a bound."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

NEVER = float("-inf")
"""A time before all others."""


@attrs.frozen
class Limits:
    """All limits of one daemon.

    :ivar history: how many messages a room keeps.
    :ivar namespace_history: how many events the log of a Socket.IO namespace keeps.
    :ivar history_age: seconds that a message is kept; None keeps it for ever.
    :ivar max_message: bytes of the largest command, body or frame.
    :ivar max_rooms: how many rooms one connection may read.
    :ivar max_rooms_total: how many rooms may be in memory; further rooms are refused. A room without messages takes
        1 KB with its reader.
    :ivar max_publishes: how many publishes of one connection may wait for the store. At the limit, reading pauses.
    :ivar max_publish_bytes: the same limit in bytes.
    :ivar max_publishing: how many publishes of all connections may wait. Above it, each connection pauses after one.
    :ivar max_publishing_bytes: the same limit in bytes.
    :ivar max_errors: after so many errors, a connection is closed with a goodbye.
    :ivar default_last: how many messages a reader without a position begins with.
    :ivar max_limit: the largest page of history, in messages.
    :ivar answer_bytes: a page of history ends with the message that reaches this size. So do the replies to an array of
        commands, and the events besides messages that a poll or a stream begins with.
    :ivar page_messages: the largest page for a reader who is behind, in messages.
    :ivar page_bytes: the same in bytes; also how much one turn sends to one reader.
    :ivar tail_bytes: bytes that a room keeps in memory for readers who are a little behind.
    :ivar tails_bytes: the same for all rooms together.
    :ivar room_idle: seconds after which a room without readers leaves memory.
    :ivar empty_idle: the same for a room without messages.
    :ivar ping: seconds between two pings.
    :ivar pong: seconds in which a ping must be answered.
    :ivar stalled_after: seconds after which a connection is closed if its socket is full and takes no byte.
    :ivar resend: seconds until a send is tried again after it failed on a socket that was not full.
    :ivar heartbeat: seconds between two keep-alive comments on an event stream.
    :ivar tcp_user_timeout: seconds after which an event stream is closed if its client acknowledges nothing.
    :ivar stream_lifetime: seconds after which an event stream ends, so that its client reconnects; None for never.
    :ivar wait: seconds that a poll waits if it gives no time.
    :ivar max_wait: the longest time that a poll may ask for, in seconds.
    :ivar retry: seconds between two attempts to read from a failing store.
    :ivar gap_grace: seconds that a room waits for messages that a later message has overtaken, before it reads them
        from the store.
    :ivar max_catch_ups: how many rooms with a possible gap read the store at the same time.
    :ivar presence_limit: how many members a room lists; larger rooms give only their count.
    :ivar max_members: how many members one room may have.
    :ivar presence_page: how many members are on one page of the ``members`` reply.
    :ivar presence_gather: seconds from the first change of a room's members to the event, which carries all changes by
        then.
    :ivar presence_interval: the shortest time between two such events of a room, in seconds. Large rooms wait longer: a
        thousandth of the number of their members.
    :ivar presence_slowest: the upper bound of that time.
    :ivar leave_delay: seconds in which a client that left a room may come back without a leave event.
    :ivar poll_grace: seconds after a poll in which its client still counts as in the room.
    :ivar presence_wait: seconds that a node waits for news that a client is in a room, before it answers the client.
    :ivar max_state: bytes of a client's presence state.
    :ivar max_property: bytes of a property's value.
    :ivar properties_bytes: bytes of properties in memory, of all rooms together. At so many, no further room's
        properties are taken in.
    :ivar property_interval: the shortest time between two sends of a room's changed properties to readers who are not
        behind, in seconds.
    :ivar signal_memory: seconds for which signals are kept for the next poll.
    :ivar signal_bytes: bytes of kept signals of one room.
    :ivar signals_bytes: the same for all rooms together.
    """

    history: int = 1000
    namespace_history: int = 10_000
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
    max_members: int = 100_000
    presence_limit: int = 200
    presence_page: int = 200
    presence_gather: float = 0.05
    presence_interval: float = 0.25
    presence_slowest: float = 5.0
    leave_delay: float = 1.5
    poll_grace: float = 10.0
    presence_wait: float = 1.0
    max_state: int = 1024
    max_property: int = 16 * 1024
    properties_bytes: int = 64 * 1024 * 1024
    property_interval: float = 0.1
    signal_memory: float = 5.0
    signal_bytes: int = 256 * 1024
    signals_bytes: int = 16 * 1024 * 1024


def begin_within(sizes: Iterable[int], most: int) -> int:
    """How many items of some sizes begin within ``most`` bytes: the last of them may end beyond."""
    count = 0
    for size in sizes:
        if most <= 0:
            break
        most -= size
        count += 1
    return count
