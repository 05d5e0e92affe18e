"""What is to be reached, as ratios: the goal, what was measured, and whether it is met."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.abuse import ABUSES
from benchmarks.run import Results
from benchmarks.scenarios import abuse_title
from benchmarks.servers import (
    ALONE,
    COMMIT,
    OURS,
    OURS_DEFAULTS,
    OURS_DURABLE,
    OURS_GUESTS,
    OURS_LEGACY,
    OURS_LIMITED,
    OURS_SOCKET_IO,
    OURS_SOCKET_IO_IDLE,
    OURS_SOCKETS,
    OURS_UNLIMITED,
    OURS_USERS,
)

__all__ = ["GOALS", "Goal", "Verdict", "judge"]

Number = Callable[[Results], float]


class Goal(NamedTuple):
    """One goal.

    :ivar measure: gives the number that the limit is for.
    :ivar most: whether the limit is the most, else the least.
    """

    what: str
    limit: float
    measure: Number
    most: bool = True
    unit: str = "×"


class Verdict(NamedTuple):
    """How a goal was reached."""

    goal: Goal
    measured: float
    met: bool


class NotMeasured(LookupError):
    """A figure that a goal is about is not there."""


def _figure(
    measurement: str, server: str, *path: str, pick: Callable[[list[float]], float] = statistics.median
) -> Number:
    """The median (or what ``pick`` says) of a figure over all runs."""

    def measure(results: Results) -> float:
        outcome = results.get(measurement, {}).get(server)
        values = outcome.values(path) if outcome else []
        if not values:
            raise NotMeasured(measurement)
        return pick(values)

    return measure


def _ratio(one: Number, other: Number) -> Number:
    return lambda results: one(results) / max(other(results), 1e-9)


def _sum(one: Number, other: Number) -> Number:
    return lambda results: one(results) + other(results)


_ONE, _MANY, _STEADY = "1 in flight", "64 in flight", "40 a second"
_ROOM, _BIG_ROOM = "fan-out, a room of 1,000", "fan-out, a room of 10,000"
_POLL, _SINGLE = "long poll, 1,000 waiting", "publish, one over WebSocket"
_EVENTS = "server-sent events, a room of 1,000"
_STORM = "presence storm, 300 clients join a room, 60 a second"
_BIG_STORM = "presence storm, 2,000 clients join a room, 400 a second"
_CONNECT = "connect, and join where that is told apart"
_RESUME = "5,000 clients, each 100 messages behind"
_COUNTED = "variants: a publish, counted and not counted"
_COMING_BACK = "guests and users, 5,000 that come back at once"
_FEW_LEGACY, _LEGACY_POLL = "old pages, poll, 20 waiting", "old pages, poll, 1,000 waiting"
_USERS_POLL = "guests and users, long poll, 1,000 waiting"
_CROSSING = "between transports, 100 clients, 40 messages a second"
_PROPERTIES = "properties, 200 changes a second to 1,000 readers"
_SOCKET_IO = "Socket.IO, WebSocket, a room of 1,000"
_SOCKET_IO_POLL = "Socket.IO, polling, a room of 200"
_SOCKET_IO_CONNECT = "Socket.IO, connect: handshake and CONNECT"
_SOCKET_IO_MEMORY = "Socket.IO, memory, WebSocket in a room"
_BESIDE_SOCKET_IO = "Socket.IO on, native clients, a room of 1,000"


def _counting(results: Results) -> float:
    counted, uncounted = (_figure(_COUNTED, ALONE, path)(results) for path in ("counted_us", "uncounted_us"))
    return (counted - uncounted) / _figure("publish, 100 over WebSocket", OURS, "cpu_us")(results)


def _delivery(server: str, room: str = _ROOM) -> Number:
    return _figure(room, server, _ONE, "cpu_us")


def _busy(server: str) -> Number:
    """Deliveries a second; the best run of a peer, as some have a good and a bad mode."""
    return _figure(_ROOM, server, _MANY, "rate", pick=statistics.median if server == OURS else max)


def _answer(server: str) -> Number:
    return _figure(_POLL, server, _ONE, "answer_us")


def _round_trip(server: str) -> Number:
    return _figure(_SINGLE, server, "p50_ms")


def _join(server: str, storm: str = _STORM, figure: str = "join_us") -> Number:
    return _figure(storm, server, figure)


def _users(measurement: str, *path: str) -> Number:
    """A figure of users to that of guests."""
    return _ratio(_figure(measurement, OURS_USERS, *path), _figure(measurement, OURS_GUESTS, *path))


def _limited(measurement: str, *path: str) -> Number:
    """A figure with all limits on to that without any."""
    return _ratio(*(_figure(f"limits, {measurement}", server, *path) for server in (OURS_LIMITED, OURS_UNLIMITED)))


def _abused(kind: str) -> Number:
    """How late others' messages are while somebody abuses the daemon, to what they may be: twice as late as without
    that, or 20 ms later."""

    def measure(results: Results) -> float:
        abused, quiet = (_figure(abuse_title(kind), OURS_DEFAULTS, phase, "p99_ms") for phase in ("abused", "quiet"))
        return abused(results) / max(2 * quiet(results), quiet(results) + 20)

    return measure


def _to_socket_io(measurement: str, *path: str) -> Number:
    """A figure of ours to the better one of socket.io's, as it is and tuned."""
    ours = _figure(measurement, OURS_SOCKET_IO, *path)
    peers = [_figure(measurement, peer, *path) for peer in ("socket.io", "socket.io, tuned")]
    return lambda results: ours(results) / max(min(peer(results) for peer in peers), 1e-9)


def _beside_socket_io(*path: str) -> Number:
    """What native clients cost where Socket.IO is on, to what they cost where it is off."""
    return _ratio(*(_figure(_BESIDE_SOCKET_IO, server, *path) for server in (OURS_SOCKET_IO_IDLE, OURS)))


def _memory(kind: str) -> Number:
    return _figure(f"memory, {kind}", OURS, "kilobytes")


GOALS = (
    *(
        Goal(
            f"fan-out to 1,000, 1 in flight, CPU a delivery: to {peer}", limit, _ratio(_delivery(OURS), _delivery(peer))
        )
        for peer, limit in (("nchan", 1.0), ("socket.io", 0.45), ("Autobahn", 0.3), ("floor: send()", 1.5))
    ),
    *(
        Goal(f"fan-out to 1,000, 64 in flight, deliveries/s: to {peer}", limit, _ratio(_busy(OURS), _busy(peer)), False)
        for peer, limit in (("nchan", 5), ("socket.io", 20), ("ws", 20))
    ),
    Goal(
        "fan-out to 10,000, CPU a delivery: to that at 1,000", 1.5, _ratio(_delivery(OURS, _BIG_ROOM), _delivery(OURS))
    ),
    Goal(
        "40 messages a second to 1,000, p99: to nchan",
        1.2,
        _ratio(_figure(_ROOM, OURS, _STEADY, "p99_ms"), _figure(_ROOM, "nchan", _STEADY, "p99_ms")),
    ),
    Goal(
        "1,000 rooms of 10, CPU a delivery: to one room of 1,000",
        2.2,
        _ratio(_delivery(OURS, "1,000 rooms of 10, 1 in flight each"), _delivery(OURS)),
    ),
    Goal(
        "long poll, 1,000 waiting, CPU an answer: to NOT_DONE_YET",
        1.1,
        _ratio(_answer(OURS), _answer("floor: NOT_DONE_YET")),
    ),
    Goal("the same, to socket.io's polling", 1.0, _ratio(_answer(OURS), _answer("socket.io"))),
    Goal(
        "old pages, 1,000 waiting, CPU an answer: to a long poll",
        1.2,
        _ratio(_figure(_LEGACY_POLL, OURS_LEGACY, _ONE, "answer_us"), _figure(_LEGACY_POLL, OURS, _ONE, "answer_us")),
    ),
    Goal("old pages, 20 waiting, median", 100, _figure(_FEW_LEGACY, OURS_LEGACY, _ONE, "p50_ms"), unit="ms"),
    Goal(
        "long poll, 64 in flight, deliveries/s: to socket.io's polling",
        1.0,
        _ratio(_figure(_POLL, OURS, _MANY, "rate"), _figure(_POLL, "socket.io", _MANY, "rate")),
        False,
    ),
    Goal(
        "server-sent events to 1,000, 1 in flight, CPU a delivery: to our WebSocket",
        1.1,
        _ratio(_delivery(OURS, _EVENTS), _delivery(OURS_SOCKETS, _EVENTS)),
    ),
    Goal("the same, to nchan's", 1.0, _ratio(_delivery(OURS, _EVENTS), _delivery("nchan", _EVENTS))),
    Goal(
        "durable publishes, 100 publishers",
        30_000,
        _figure("publish, 100 over WebSocket", OURS_DURABLE, "rate"),
        False,
        "/s",
    ),
    Goal(
        "durable publish, round trip: to a bare commit and a bare echo",
        1.3,
        _ratio(_round_trip(OURS_DURABLE), _sum(_round_trip(COMMIT), _round_trip("Autobahn"))),
    ),
    Goal(
        "connect and join, CPU: to Autobahn's bare connect",
        0.8,
        _ratio(_figure(_CONNECT, OURS, "cpu_us"), _figure(_CONNECT, "Autobahn", "cpu_us")),
    ),
    Goal("memory, a joined WebSocket client", 5, _memory("a connected and joined WebSocket client"), unit="KB"),
    Goal("memory, a waiting poll", 6, _memory("a waiting poll"), unit="KB"),
    Goal("memory, an open event stream", 5, _memory("an open event stream"), unit="KB"),
    *(
        Goal(f"presence storm, 300 clients, CPU a join: to {peer}", limit, _ratio(_join(OURS), _join(peer)))
        for peer, limit in (("socket.io", 0.5), ("Channels", 0.1))
    ),
    Goal(
        "presence storm, 2,000 clients, CPU a join: to socket.io",
        0.2,
        _ratio(_join(OURS, _BIG_STORM), _join("socket.io", _BIG_STORM)),
    ),
    Goal(
        "presence storm, bytes a client: of 2,000 to of 300",
        1.0,
        _ratio(_join(OURS, _BIG_STORM, "kilobytes"), _join(OURS, _STORM, "kilobytes")),
    ),
    *(
        Goal(f"{when}, {what}", limit, _figure(f"{when}, {_RESUME}", OURS_DURABLE, figure), unit=unit)
        for when in ("resume", "resume after a restart")
        for what, limit, figure, unit in (
            ("5,000 clients × 100 messages", 10, "seconds", "s"),
            ("store reads (a tenth of the clients)", 500, "store_reads", ""),
        )
    ),
    *(
        Goal(f"{way}, p99, 100 clients", 50, _figure(_CROSSING, OURS_DURABLE, way, "p99_ms"), unit="ms")
        for way in ("WebSocket to poll", "poll to WebSocket")
    ),
    Goal(f"{_PROPERTIES}, CPU a delivery", 2, _figure(_PROPERTIES, OURS, "cpu_us"), unit="µs"),
    Goal(
        "a join with 100 properties, CPU: to one without",
        1.5,
        _ratio(*(_figure(_PROPERTIES, OURS, figure) for figure in ("full_us", "plain_us"))),
    ),
    Goal("5,000 that come back at once, CPU: users' to guests'", 1.1, _users(_COMING_BACK, "cpu_us")),
    Goal("long poll, 1,000 waiting, CPU an answer: users' to guests'", 1.03, _users(_USERS_POLL, _ONE, "answer_us")),
    Goal(
        "publish, 100 over WebSocket, CPU: with all limits on to off",
        1.02,
        _limited("publish, 100 over WebSocket", "cpu_us"),
    ),
    Goal(
        "long poll, 1,000 waiting, CPU an answer: the same",
        1.02,
        _limited("long poll, 1,000 waiting", _ONE, "answer_us"),
    ),
    Goal("connect and join, CPU: the same", 1.02, _limited("connect and join", "cpu_us")),
    *(Goal(f"abuse, {kind}: others' p99, to twice as much or 20 ms more", 1.0, _abused(kind)) for kind in ABUSES),
    *(
        goal
        for phase in (_ONE, _MANY)
        for goal in (
            Goal(
                f"Socket.IO, a room of 1,000, {phase}, CPU a delivery",
                8,
                _figure(_SOCKET_IO, OURS_SOCKET_IO, phase, "cpu_us"),
                unit="µs",
            ),
            Goal("the same, to socket.io", 0.6, _to_socket_io(_SOCKET_IO, phase, "cpu_us")),
        )
    ),
    Goal("Socket.IO, polling, CPU an answer: to socket.io", 1.0, _to_socket_io(_SOCKET_IO_POLL, _ONE, "answer_us")),
    Goal("Socket.IO, connect, CPU: to socket.io", 0.6, _to_socket_io(_SOCKET_IO_CONNECT, "cpu_us")),
    Goal("Socket.IO, memory of a WebSocket: to socket.io", 0.5, _to_socket_io(_SOCKET_IO_MEMORY, "kilobytes")),
    *(
        Goal(f"native clients with Socket.IO on, {what}: to off", 1.03, _beside_socket_io(*path))
        for what, path in (("CPU a delivery", (_ONE, "cpu_us")), ("CPU a connect and join", ("join_us",)))
    ),
    Goal("what counting takes of a publish (memory, 100 publishers)", 0.02, _counting, unit="× its CPU"),
)


def judge(results: Results) -> list[Verdict]:
    """The goals that were measured."""
    verdicts = []
    for goal in GOALS:
        try:
            measured = goal.measure(results)
        except NotMeasured:
            continue
        met = measured <= goal.limit if goal.most else measured >= goal.limit
        verdicts.append(Verdict(goal, measured, met))
    return verdicts
