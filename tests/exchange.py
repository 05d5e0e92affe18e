"""Nodes without a network. What one publishes reaches the others late, twice, or when they read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from realtime_chat.composition import make_hub
from realtime_chat.core.access import AccessPolicy
from realtime_chat.core.hub import Hub
from realtime_chat.core.interfaces import IBroker, Listener
from realtime_chat.values.limits import Limits
from realtime_chat.values.model import ForwardedCommand, RemoteClient
from realtime_chat.values.rates import DEFAULTS, RateLimits, ScopeLimits
from tests.fakes import tokens
from tests.site_tokens import SiteTokens

HELD = 5.0
"""Seconds for which those of a node that has stopped are held."""


class Look(NamedTuple):
    """The members of a room, the version of that, and the nodes that stop, with the time when they are gone."""

    version: int
    others: dict[str, list[RemoteClient]]
    going: dict[str, float]


class Exchange:
    """What connects the nodes, and the members of the rooms as stored there.

    :param lag: seconds that everything takes, each way.
    :ivar members: who is in a room, by node and client hash.
    :ivar versions: how often that has changed.
    :ivar announcements: how many times a node announced something.
    """

    def __init__(self, clock: Clock, lag: float = 0.01) -> None:
        self.clock = clock
        self.lag = lag
        self.ends: list[End] = []
        self.members: dict[str, dict[tuple[str, str], RemoteClient]] = {}
        self.versions: dict[str, int] = {}
        self.going: dict[str, float] = {}
        self.announcements = 0

    def later(self, do: Callable[..., object], *args: Any) -> None:
        """Call something after the lag; calls keep their order."""
        self.clock.callLater(self.lag, do, *args)

    def change(self, node: str, room: str, came: Sequence[RemoteClient], gone: Sequence[str]) -> None:
        """Somebody came or went on a node."""
        members = self.members.setdefault(room, {})
        members.update({(node, client.client_hash): client for client in came})
        for client_hash in gone:
            members.pop((node, client_hash), None)
        version = self.versions[room] = self.versions.get(room, 0) + 1
        self.announcements += 1
        for end in self.ends:
            if room in end.followed:
                self.later(end.bring, room, version, node, came, gone)

    def spread(self, node: str, command: ForwardedCommand) -> None:
        """A client has said something on a node."""
        self.announcements += 1
        for end in self.ends:
            if end.name != node:
                self.later(end.bring_command, command)

    def end(self, node: str, held: float) -> None:
        """A node has stopped, and its clients are held for a while; or it has died."""
        self.ends = [end for end in self.ends if end.name != node]
        self.going[node] = self.clock.seconds() + held
        self.clock.callLater(held, self._clear, node)
        for end in self.ends:
            self.later(end.bring_end, node, held)

    def _clear(self, node: str) -> None:
        for members in self.members.values():
            for key in [key for key in members if key[0] == node]:
                del members[key]
        del self.going[node]


@implementer(IBroker)
class End:
    """One node's end of it.

    :ivar loses: how many of the next differences get lost. A gap is seen by the next that comes, or after a while.
    :ivar doubles: whether each difference comes twice.
    :ivar cut: whether it is dead: nothing comes or goes any more.
    """

    shared = True
    listener: Listener

    def __init__(self, exchange: Exchange, name: str) -> None:
        self.name = name
        self.exchange = exchange
        self.followed: dict[str, int] = {}
        self.loses = 0
        self.doubles = False
        self.cut = False
        exchange.ends.append(self)

    def describe(self) -> str:
        return "an exchange"

    def start(self, listener: Listener) -> Deferred[None]:
        self.listener = listener
        return succeed(None)

    def stop(self) -> Deferred[None]:
        self.exchange.later(self.exchange.end, self.name, HELD)
        return succeed(None)

    def follow(self, room: str) -> Deferred[None]:
        answer: Deferred[None] = Deferred()
        self.followed[room] = -1
        self.exchange.later(self._look, room, answer)
        return answer

    def unfollow(self, room: str) -> None:
        del self.followed[room]

    def signal(self, room: str, client_hash: str, data: bytes) -> None:
        for end in self.exchange.ends:
            if end is not self and room in end.followed:
                self.exchange.later(end.listener.signalled, room, client_hash, data)

    def publish_presence(self, room: str, came: Sequence[RemoteClient], gone: Sequence[str]) -> None:
        if not self.cut:
            self.exchange.later(self.exchange.change, self.name, room, came, gone)

    def forward(self, command: ForwardedCommand) -> None:
        if not self.cut:
            self.exchange.later(self.exchange.spread, self.name, command)

    def _look(self, room: str, answer: Deferred[None] | None = None) -> None:
        """Read the members of a room; they arrive after the lag."""
        others: dict[str, list[RemoteClient]] = {}
        for (node, _), client in self.exchange.members.get(room, {}).items():
            if node != self.name:
                others.setdefault(node, []).append(client)
        look = Look(self.exchange.versions.get(room, 0), others, dict(self.exchange.going))
        self.exchange.later(self._seen, room, look, answer)

    def _seen(self, room: str, look: Look, answer: Deferred[None] | None) -> None:
        version, others, going = look
        if version > self.followed.get(room, version) and not self.cut:
            self.followed[room] = version
            self.listener.members.snapshot(room, others)
            for node, until in going.items():
                self.listener.members.node_left(node, until - self.exchange.clock.seconds())
        if answer is not None:
            answer.callback(None)

    def bring(self, room: str, version: int, node: str, came: Sequence[RemoteClient], gone: Sequence[str]) -> None:
        """A difference has come."""
        if self.cut or version <= self.followed.get(room, version):
            return
        if self.loses:
            self.loses -= 1
            self.exchange.clock.callLater(0.3, self._look, room)
        elif version > self.followed[room] + 1:
            self._look(room)
        elif node != self.name:
            self.followed[room] = version
            for _ in range(1 + self.doubles):
                self.listener.members.delta(room, node, came, gone)
        else:
            self.followed[room] = version

    def bring_command(self, command: ForwardedCommand) -> None:
        """A saying has come."""
        if not self.cut:
            self.listener.members.forwarded(command)

    def bring_end(self, node: str, held: float) -> None:
        """It has come to be known that a node is gone."""
        if not self.cut:
            self.listener.members.node_left(node, held)


def make_node(
    exchange: Exchange, store: Any, number: int, site: SiteTokens | None = None, **limits: Any
) -> tuple[Hub, End]:
    """A node, and its end of the exchange.

    :param site: whose tokens it takes, and whose guests may do nothing; None for an open server without keys.
    """
    clock = exchange.clock
    end = End(exchange, f"node{number}")
    keys: Any = () if site is None else (None, AccessPolicy(is_open=False), site.verify, site.token_keys)
    time = lambda: 1_795_000_000.0 + clock.seconds()  # noqa: E731
    rates = RateLimits(client=ScopeLimits(signals=DEFAULTS.client.signals))
    hub = make_hub(store, clock, Limits(**limits), time, tokens(number + 1), end, *keys, rate_limits=rates)
    end.start(hub.cache)
    return hub, end
