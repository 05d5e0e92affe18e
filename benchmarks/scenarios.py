"""What is measured: each scenario's measurements, on which servers, and which figures are shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.abuse import ABUSES
from benchmarks.servers import (
    ALONE,
    COMMIT,
    OURS,
    OURS_DEFAULTS,
    OURS_DURABLE,
    OURS_GUESTS,
    OURS_LEGACY,
    OURS_LIMITED,
    OURS_NODES,
    OURS_REDIS,
    OURS_REDIS_SYNCED,
    OURS_SOCKET_IO,
    OURS_SOCKET_IO_IDLE,
    OURS_SOCKETS,
    OURS_UNLIMITED,
    OURS_USERS,
    VARIANTS,
)

__all__ = ["FULL", "QUICK", "SCENARIOS", "Column", "Measurement", "Scale", "abuse_title"]

AUTOBAHN, NCHAN, SOCKET_IO, WS = "Autobahn", "nchan", "socket.io", "ws"
SEND, NOT_DONE_YET = "floor: send()", "floor: NOT_DONE_YET"

ALL = (
    OURS,
    SEND,
    NCHAN,
    WS,
    "websockets",
    SOCKET_IO,
    AUTOBAHN,
    "Tornado",
    "python-socketio",
    "Channels",
)
QUICKEST = (OURS, SEND, NCHAN, WS, SOCKET_IO, AUTOBAHN)
ROOMY = (OURS, SEND, NCHAN, WS, "websockets", SOCKET_IO, AUTOBAHN)
POLLS = (OURS, NOT_DONE_YET, NCHAN, SOCKET_IO)
SOCKET_IO_SERVERS = (OURS_SOCKET_IO, SOCKET_IO, "socket.io, tuned", "python-socketio")
OVER_REDIS = (OURS_DURABLE, OURS_REDIS, OURS_REDIS_SYNCED, OURS_NODES)
TWO_NODES = ("socket.io over Redis", "Channels over Redis")


class Scale(NamedTuple):
    """How much of everything, at most.

    :ivar seconds: of each phase.
    :ivar most: clients.
    """

    seconds: float
    most: int
    runs: int


FULL = Scale(3.0, 10_000, 5)
QUICK = Scale(0.5, 1_000, 1)


class Column(NamedTuple):
    """A figure that is shown.

    :ivar path: where it stands in what the generator has measured.
    """

    title: str
    path: tuple[str, ...]
    digits: int = 1


class Measurement(NamedTuple):
    """One job for each of some servers; the first column is the one that is compared.

    :ivar remark: what has to be known to read the table.
    :ivar before: a job before that, after which the server is started again; what it finds out is added to the job.
    """

    title: str
    job: dict[str, Any]
    servers: tuple[str, ...]
    columns: tuple[Column, ...]
    remark: str = ""
    before: dict[str, Any] | None = None


_ONE, _MANY, _STEADY = "1 in flight", "64 in flight", "40 a second"


def _latency(phase: str, *shares: str) -> tuple[Column, ...]:
    return tuple(Column(f"{phase}: {share} ms", (phase, f"{share}_ms"), 2) for share in shares)


_FANOUT_COLUMNS = (
    Column(f"{_ONE}: µs CPU a delivery", (_ONE, "cpu_us"), 2),
    Column(f"{_MANY}: deliveries/s", (_MANY, "rate"), 0),
    Column(f"{_MANY}: µs CPU a delivery", (_MANY, "cpu_us"), 2),
    *_latency(_STEADY, "p50", "p95", "p99"),
)


def _sizes(scale: Scale, *sizes: int) -> list[int]:
    """Those of some numbers of clients that are within the scale; its own number if none is."""
    return [size for size in sizes if size <= scale.most] or [scale.most]


def _phases(scale: Scale, *names: str) -> list[dict[str, Any]]:
    how = {_ONE: {"in_flight": 1}, _MANY: {"in_flight": 64}, _STEADY: {"rate": 40}}
    return [{"name": name, "seconds": scale.seconds, **how[name]} for name in names]


def _fanout(scale: Scale) -> list[Measurement]:
    phases = _phases(scale, _ONE, _MANY, _STEADY)
    return [
        Measurement(
            f"fan-out, a room of {members:,}",
            {"measure": "fanout", "members": members, "phases": phases},
            ALL if members == 1_000 else QUICKEST,
            _FANOUT_COLUMNS,
        )
        for members in _sizes(scale, 10, 1_000, 10_000)
    ]


def _many_rooms(scale: Scale) -> list[Measurement]:
    rooms = scale.most // 10
    job = {"measure": "fanout", "rooms": rooms, "members": 10, "phases": _phases(scale, _ONE)}
    columns = (
        Column("µs CPU a delivery", (_ONE, "cpu_us"), 2),
        Column("deliveries/s", (_ONE, "rate"), 0),
        *_latency(_ONE, "p50", "p99"),
    )
    return [Measurement(f"{rooms:,} rooms of 10, 1 in flight each", job, ROOMY, columns)]


def _poll(scale: Scale) -> list[Measurement]:
    columns = (
        Column(f"{_ONE}: µs CPU an answer", (_ONE, "answer_us")),
        Column(f"{_MANY}: deliveries/s", (_MANY, "rate"), 0),
        Column(f"{_MANY}: µs CPU a delivery", (_MANY, "cpu_us"), 2),
        *_latency(_ONE, "p50", "p99"),
    )
    return [
        Measurement(
            f"long poll, {members:,} waiting",
            {"measure": "poll", "members": members, "phases": _phases(scale, _ONE, _MANY)},
            POLLS,
            columns,
        )
        for members in _sizes(scale, 1_000, 5_000)
    ]


def _legacy(scale: Scale) -> list[Measurement]:
    return [
        Measurement(
            f"old pages, poll, {polls:,} waiting",
            {"measure": "poll", "members": polls, "phases": _phases(scale, _ONE)},
            (OURS_LEGACY, OURS),
            (Column("µs CPU an answer", (_ONE, "answer_us")), *_latency(_ONE, "p50", "p99")),
            "The second row is the same daemon, with its own long polls.",
        )
        for polls in _sizes(scale, 20, 1_000)
    ]


def _sse(scale: Scale) -> list[Measurement]:
    columns = (*_FANOUT_COLUMNS[:3], *_latency(_ONE, "p50", "p99"))
    return [
        Measurement(
            f"server-sent events, a room of {members:,}",
            {"measure": "events", "members": members, "phases": _phases(scale, _ONE, _MANY)},
            (OURS, OURS_SOCKETS, NCHAN),
            columns,
            "The second row is the same daemon, with as many WebSockets in the place of streams.",
        )
        for members in _sizes(scale, 1_000)
    ]


def _publish(scale: Scale) -> list[Measurement]:
    columns = (
        Column("acknowledged/s", ("rate",), 0),
        Column("p50 ms", ("p50_ms",), 3),
        Column("p99 ms", ("p99_ms",), 3),
        Column("µs CPU", ("cpu_us",)),
    )
    return [
        Measurement(
            f"publish, {publishers} over WebSocket" if publishers > 1 else "publish, one over WebSocket",
            {"measure": "publish", "publishers": publishers, "seconds": scale.seconds},
            (OURS_DURABLE, OURS, AUTOBAHN, SEND, COMMIT) if publishers == 1 else (OURS_DURABLE, OURS, AUTOBAHN, SEND),
            columns,
            "Each publisher waits for its acknowledgement. Autobahn and the floor only echo, and store nothing.",
        )
        for publishers in _sizes(scale, 1, 100)
    ]


def _redis(scale: Scale) -> list[Measurement]:
    columns = (
        Column("acknowledged/s", ("rate",), 0),
        Column("p50 ms", ("p50_ms",), 3),
        Column("p99 ms", ("p99_ms",), 3),
        Column("µs CPU", ("cpu_us",)),
        Column("of it Redis", ("redis_us",)),
    )
    return [
        *(
            Measurement(
                f"publish through Redis, {'one' if publishers == 1 else publishers} over WebSocket",
                {"measure": "publish", "publishers": publishers, "seconds": scale.seconds},
                OVER_REDIS,
                columns,
                "Each publisher waits for its acknowledgement; with two nodes half of them are with each. SQLite "
                "syncs, and so does Redis with `appendfsync always`; the others keep messages in Redis's memory.",
            )
            for publishers in _sizes(scale, 1, 100)
        ),
        _across(scale),
    ]


def _across(scale: Scale) -> Measurement:
    (members,) = _sizes(scale, 100)
    return Measurement(
        f"from node to node, a room of {members}",
        {"measure": "across", "members": members, "phases": _phases(scale, _STEADY, _ONE, _MANY)},
        (*OVER_REDIS, *TWO_NODES),
        (
            *_latency(_STEADY, "p50", "p99"),
            Column(f"{_ONE}: µs CPU a delivery", (_ONE, "cpu_us"), 2),
            Column(f"{_ONE}: µs CPU of Redis a message", (_ONE, "redis_us")),
            Column(f"{_MANY}: deliveries/s", (_MANY, "rate"), 0),
            Column(f"{_MANY}: µs CPU a delivery", (_MANY, "cpu_us"), 2),
        ),
        "Readers are with the second node, who publishes is with the first; with one node, with that. Ours stores each "
        "message before it delivers it, the others store nothing.",
    )


def _connect(scale: Scale) -> list[Measurement]:
    job = {"measure": "connect", "clients": scale.most // 5}
    columns = (Column("µs CPU a connect", ("cpu_us",)), Column("connects/s", ("rate",), 0))
    return [Measurement("connect, and join where that is told apart", job, ALL, columns)]


def _users(scale: Scale) -> list[Measurement]:
    """Who has a login at a site, beside guests of the same daemon. A user's client has some 400 characters."""
    servers = (OURS_GUESTS, OURS_USERS)
    (polls,) = _sizes(scale, 1_000)
    columns = (Column("µs CPU", ("cpu_us",)), Column("a second", ("rate",), 0), Column("characters", ("client_bytes",)))
    return [
        Measurement(
            f"guests and users, {scale.most // 2:,} that come back at once",
            {"measure": "come back", "clients": scale.most // 2},
            servers,
            columns,
            "Each says by its client who it is, and joins. Nobody asks the site.",
        ),
        Measurement(
            f"guests and users, long poll, {polls:,} waiting",
            {"measure": "poll", "members": polls, "phases": _phases(scale, _ONE)},
            servers,
            (Column("µs CPU an answer", (_ONE, "answer_us")), *_latency(_ONE, "p50", "p99")),
        ),
        Measurement(
            "guests and users, memory of a waiting poll",
            {"measure": "memory", "clients": scale.most // 2, "as": "poll"},
            servers,
            (Column("KB a client", ("kilobytes",), 2),),
        ),
    ]


def _limits(scale: Scale) -> list[Measurement]:
    """What limits cost those who never meet one, and what they spare others when somebody does."""
    servers = (OURS_UNLIMITED, OURS_LIMITED)
    (publishers,), (polls,) = _sizes(scale, 100), _sizes(scale, 1_000)
    cpu = (Column("µs CPU", ("cpu_us",), 2),)
    return [
        Measurement(
            f"limits, publish, {publishers} over WebSocket",
            {"measure": "publish", "publishers": publishers, "seconds": scale.seconds},
            servers,
            (*cpu, Column("acknowledged/s", ("rate",), 0)),
        ),
        Measurement(
            f"limits, long poll, {polls:,} waiting",
            {"measure": "poll", "members": polls, "phases": _phases(scale, _ONE)},
            servers,
            (Column("µs CPU an answer", (_ONE, "answer_us"), 2),),
        ),
        Measurement("limits, connect and join", {"measure": "connect", "clients": scale.most // 5}, servers, cpu),
        *(_abuse(scale, kind) for kind in ABUSES),
    ]


def _abuse(scale: Scale, kind: str) -> Measurement:
    (members,) = _sizes(scale, 20)
    seconds = min(10.0, 4 * scale.seconds)
    return Measurement(
        abuse_title(kind),
        {"measure": "abuse", "kind": kind, "members": members, "rate": 40, "seconds": seconds},
        (OURS_DEFAULTS, OURS_UNLIMITED),
        (
            *_latency("abused", "p99", "p50"),
            *_latency("quiet", "p99"),
            Column("share of the daemon's core", ("abused_share",), 2),
            Column("sent by the abuser", ("sent",), 0),
            Column("refused", ("struck",), 0),
        ),
        f"Others, who are {members} in a room with 40 messages a second, before somebody begins and meanwhile.",
    )


def abuse_title(kind: str) -> str:
    """The title of a measurement in which somebody does too much of something."""
    return f"abuse, {kind}"


def _memory(scale: Scale) -> list[Measurement]:
    columns = (Column("KB a client", ("kilobytes",)),)
    return [
        Measurement(title, {"measure": "memory", "clients": scale.most // 2, "as": kind}, servers, columns)
        for title, kind, servers in (
            ("memory, a connected and joined WebSocket client", "WebSocket", ALL),
            ("memory, a waiting poll", "poll", POLLS),
            ("memory, an open event stream", "events", (OURS, NCHAN)),
        )
    ]


def _storm(scale: Scale) -> list[Measurement]:
    columns = (
        Column("µs CPU a join", ("join_us",), 0),
        Column("KB received a client", ("kilobytes",)),
        Column("seconds till all have joined", ("joined_s",), 2),
        Column("seconds till nothing more is told", ("quiet_s",), 2),
    )
    return [
        Measurement(
            f"presence storm, {clients:,} clients join a room, {clients // 5} a second",
            {"measure": "storm", "clients": clients, "rate": clients // 5},
            (OURS, SOCKET_IO, "Channels") if clients == 300 else (OURS, SOCKET_IO),
            columns,
            "Everybody in the room is told who comes: by lists of differences, and above 200 by their number (ours); "
            "by one event to everybody for each who comes (the others).",
        )
        for clients in _sizes(scale, 300, 2_000)
    ]


def _resume(scale: Scale) -> list[Measurement]:
    columns = (
        Column("seconds till all have caught up", ("seconds",), 2),
        Column("seconds till all have connected", ("connected_s",), 2),
        Column("deliveries/s", ("rate",), 0),
        Column("store reads", ("store_reads",), 0),
    )
    clients = scale.most // 2
    job = {"measure": "resume", "clients": clients, "behind": 100}
    title = f"{clients:,} clients, each 100 messages behind"
    return [
        Measurement(f"resume, {title}", job, (OURS_DURABLE, OURS), columns),
        Measurement(
            f"resume after a restart, {title}",
            job,
            (OURS_DURABLE,),
            columns,
            "The daemon was started again meanwhile, and has read nothing yet.",
            {"measure": "fall behind", "behind": 100},
        ),
    ]


def _crossing(scale: Scale) -> list[Measurement]:
    columns = tuple(
        column for way in ("WebSocket to poll", "poll to WebSocket") for column in _latency(way, "p50", "p95", "p99")
    )
    (clients,) = _sizes(scale, 100)
    job = {"measure": "crossing", "clients": clients, "rate": 40, "seconds": scale.seconds}
    title = f"between transports, {clients} clients, 40 messages a second"
    return [Measurement(title, job, (OURS_DURABLE, OURS), columns)]


def _properties(scale: Scale) -> list[Measurement]:
    (members,) = _sizes(scale, 1_000)
    job = {"measure": "properties", "properties": 100, "clients": members, "members": members, "rate": 200}
    columns = (
        Column("µs CPU a delivery", ("cpu_us",), 2),
        Column("deliveries/s", ("rate",), 0),
        *(Column(f"{share} ms", (f"{share}_ms",), 1) for share in ("p50", "p99")),
        Column("µs CPU a join, 100 properties", ("full_us",), 0),
        Column("the same, none", ("plain_us",), 0),
    )
    title = f"properties, 200 changes a second to {members:,} readers"
    remark = "Changes are sent ten times a second, so they wait for 50 ms on average. A join includes its end."
    return [Measurement(title, job | {"seconds": scale.seconds}, (OURS, OURS_DURABLE), columns, remark)]


def _socket_io(scale: Scale) -> list[Measurement]:
    """Socket.IO's clients, with this daemon and with the servers that they are made for."""
    (members,), (polls,) = _sizes(scale, 1_000), _sizes(scale, 200)
    phases = _phases(scale, _ONE, _MANY)
    cpu = (
        Column(f"{_ONE}: µs CPU a delivery", (_ONE, "cpu_us"), 2),
        Column(f"{_MANY}: µs CPU a delivery", (_MANY, "cpu_us"), 2),
        Column(f"{_MANY}: deliveries/s", (_MANY, "rate"), 0),
        *_latency(_ONE, "p50", "p99"),
    )
    memory = (Column("KB a client", ("kilobytes",)),)
    return [
        Measurement(
            f"Socket.IO, WebSocket, a room of {members:,}",
            {"measure": "fanout", "members": members, "phases": phases},
            (*SOCKET_IO_SERVERS, SEND),
            cpu,
        ),
        Measurement(
            f"Socket.IO, polling, a room of {polls:,}",
            {"measure": "poll", "members": polls, "phases": phases},
            SOCKET_IO_SERVERS,
            (Column(f"{_ONE}: µs CPU an answer", (_ONE, "answer_us")), *cpu[1:]),
            "Who publishes has a WebSocket.",
        ),
        Measurement(
            "Socket.IO, connect: handshake and CONNECT",
            {"measure": "connect", "clients": scale.most // 5, "join": False},
            SOCKET_IO_SERVERS,
            (Column("µs CPU a connect", ("cpu_us",)), Column("connects/s", ("rate",), 0)),
        ),
        *(
            Measurement(
                f"Socket.IO, memory, {title}",
                {"measure": "memory", "clients": scale.most // 5, "as": kind},
                SOCKET_IO_SERVERS,
                memory,
            )
            for title, kind in (("WebSocket in a room", "WebSocket"), ("a waiting poll", "poll"))
        ),
        Measurement(
            f"Socket.IO on, native clients, a room of {members:,}",
            {"measure": "fanout", "members": members, "phases": phases},
            (OURS, OURS_SOCKET_IO_IDLE),
            (*cpu[:2], Column("µs CPU a connect and join", ("join_us",))),
            "The same daemon without Socket.IO and with it.",
        ),
    ]


def _client(scale: Scale) -> list[Measurement]:
    columns = (Column("messages/s", ("rate",), 0), Column("µs CPU a message, in the client", ("client_us",)))
    return [
        Measurement(
            f"the Python client, one that publishes and one that reads by {transport}",
            {"measure": "client", "transport": transport, "messages": scale.most},
            (OURS_DURABLE, OURS),
            columns,
            "Both are in one process, on one core.",
        )
        for transport in ("websocket", "sse", "poll")
    ]


def _variants(scale: Scale) -> list[Measurement]:
    """What was tried on the daemon as a whole."""
    servers = tuple(VARIANTS)
    phases = _phases(scale, _ONE, _MANY)
    (clients,) = _sizes(scale, 100)
    return [
        Measurement(
            f"variants: fan-out to {clients}",
            {"measure": "fanout", "members": clients, "phases": phases},
            servers,
            (
                Column(f"{_ONE}: µs CPU a delivery", (_ONE, "cpu_us"), 2),
                Column(f"{_MANY}: µs CPU a delivery", (_MANY, "cpu_us"), 2),
            ),
        ),
        Measurement(
            f"variants: publish, {clients} over WebSocket",
            {"measure": "publish", "publishers": clients, "seconds": scale.seconds},
            servers,
            (Column("µs CPU", ("cpu_us",)), Column("acknowledged/s", ("rate",), 0)),
        ),
        Measurement(
            f"variants: long poll, {clients} waiting",
            {"measure": "poll", "members": clients, "phases": _phases(scale, _ONE)},
            servers,
            (Column("µs CPU an answer", (_ONE, "answer_us")),),
        ),
        Measurement(
            "variants: a publish, counted and not counted",
            {"measure": "counting", "messages": scale.most, "rounds": 10},
            (ALONE,),
            (Column("counted: µs CPU", ("counted_us",), 2), Column("not counted: µs CPU", ("uncounted_us",), 2)),
            "In one process, in turn, from a command's bytes to its reply's: without frames, sockets and a reactor.",
        ),
    ]


SCENARIOS: dict[str, Callable[[Scale], list[Measurement]]] = {
    "fanout": _fanout,
    "many-rooms": _many_rooms,
    "poll": _poll,
    "legacy": _legacy,
    "sse": _sse,
    "publish": _publish,
    "connect": _connect,
    "users": _users,
    "limits": _limits,
    "memory": _memory,
    "storm": _storm,
    "resume": _resume,
    "crossing": _crossing,
    "properties": _properties,
    "socketio": _socket_io,
    "client": _client,
    "redis": _redis,
    "variants": _variants,
}
