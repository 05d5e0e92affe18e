"""Which nodes are alive.

Each node keeps a key alive in Redis. A node that stops sets the key to ``0`` for as long as its clients are held. If a
node finds that another's key is missing, it tells all, so that all nodes forget that node's clients at the same time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from twisted.logger import Logger

from realtime_chat.broker.presence_messages import Bye, Gone, encode_notice
from realtime_chat.redis.connection import RedisConnection
from realtime_chat.redis.names import RedisNames
from realtime_chat.redis.wire import Argument

BEATS_PER_TIMEOUT = 6
_STOPPED = b"0"


class Heartbeat:
    """Keeps this node's key alive, and finds nodes whose key is missing.

    ============  ==================================================================================================
    another node  meaning
    ============  ==================================================================================================
    alive         In ``_nodes``. It published something, or its key was found.
    stopped       In ``_held_until``. Its clients are held until then, and count as gone afterwards.
    gone          In ``_held_until`` with a time that is over, or in neither.
    ============  ==================================================================================================

    :param node_timeout: seconds after which a node that doesn't renew its key has died.
    :param grace: seconds after a loss in which other nodes may not have renewed their keys yet.
    """

    _log = Logger()

    def __init__(
        self, clock: Any, names: RedisNames, node: str, connection: RedisConnection, node_timeout: float, grace: float
    ) -> None:
        self._clock = clock
        self._names = names
        self._node = node
        self._connection = connection
        self._timeout = node_timeout
        self._grace = grace
        self._nodes: dict[str, None] = {}
        self._held_until: dict[str, float] = {}
        self._connects = 0
        self._trusted_from = 0.0

    # This node's key

    async def start(self) -> None:
        """Set the key.

        :raises StoreError: not now.
        """
        self._distrust()
        await self.set_key()

    async def set_key(self, *condition: str) -> bool:
        """Set or renew the key.

        :param condition: ``XX`` to renew it only.
        :returns: whether that was done.
        :raises StoreError: not now.
        """
        milliseconds = int(self._timeout * 1000 * (1 - 1 / BEATS_PER_TIMEOUT))
        words: list[Argument] = ["SET", self._names.alive(self._node), "1", "PX", milliseconds, *condition]
        return await self._connection.command(*words) is not None

    async def stop(self, held: float) -> None:
        """Tell the other nodes that this one stops.

        :param held: seconds for which they hold its clients.
        :raises StoreError: not now.
        """
        await self._connection.command("SET", self._names.alive(self._node), _STOPPED, "PX", int(held * 1000))
        await self._connection.command("PUBLISH", self._names.nodes, encode_notice(Bye(self._node, held)))

    async def beat(self) -> bool:
        """Renew the key, and look for nodes that have died.

        :returns: False if the key was lost, as Redis lost it or this process was suspended.
        :raises StoreError: not now.
        """
        connects = self._connection.counters.connects
        if not self._connection.ready or connects != self._connects:
            self._connects = connects
            self._distrust()  # the other nodes may have been cut off as well
        kept = await self.set_key("XX")
        if not kept:
            await self.set_key()
            self._distrust()
        if self._clock.seconds() >= self._trusted_from:
            await self._find_dead()
        return kept

    def _distrust(self) -> None:
        """Let the other nodes renew their keys first, before one that is missing says anything."""
        self._trusted_from = self._clock.seconds() + self._grace

    async def _find_dead(self) -> None:
        nodes = list(self._nodes)
        if not nodes:
            return
        keys = await self._connection.command("MGET", *map(self._names.alive, nodes))
        for node, value in zip(nodes, keys, strict=True):
            if value is None:
                self._log.info("node {node} is gone", node=node)
                await self._connection.command("PUBLISH", self._names.nodes, encode_notice(Gone(node)))

    # Other nodes

    def mark_alive(self, node: str) -> None:
        """A node has published something."""
        self._nodes[node] = None
        self._held_until.pop(node, None)

    def mark_stopped(self, node: str, held: float) -> None:
        """A node has stopped, or died.

        :param held: seconds for which its clients are held.
        """
        self._nodes.pop(node, None)
        self._held_until[node] = self._clock.seconds() + held

    def gone(self) -> Sequence[str]:
        """The nodes that went lately, and whose clients aren't held any more."""
        now = self._clock.seconds()
        return [node for node, until in self._held_until.items() if until <= now]

    def forget_gone(self, before: float) -> None:
        """Forget the nodes that were gone before a time."""
        self._held_until = {node: until for node, until in self._held_until.items() if until > before}

    async def partition(self, nodes: Iterable[str]) -> tuple[set[str], dict[str, float]]:
        """Find which of some nodes are gone, and which have stopped.

        :returns: the nodes that are gone; and those that have stopped, with the seconds for which they are held.
        :raises StoreError: not now.
        """
        gone, held = set(), {}
        for node in nodes:
            left = None if node in self._nodes else await self._seconds_held(node)
            if left is None:
                self.mark_alive(node)
            elif left > 0:
                held[node] = left
            else:
                gone.add(node)
        return gone, held

    async def _seconds_held(self, node: str) -> float | None:
        """For how many seconds a node's clients are held; None if the node is alive."""
        now: float = self._clock.seconds()
        if self._held_until.get(node, now) <= now:
            key = self._names.alive(node)
            value = await self._connection.command("GET", key)
            if value not in (None, _STOPPED):
                return None
            milliseconds = 0 if value is None else await self._connection.command("PTTL", key)
            self._held_until[node] = now + max(0, milliseconds) / 1000
        return self._held_until[node] - now
