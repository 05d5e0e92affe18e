"""Renewed clients. Every node has to hear of them, though what is published may get lost.

If a node didn't hear of a renewal, its readers would keep rights that they have lost. So each node keeps what it has
published of renewals for some minutes. A node that has subscribed, perhaps again, asks for that, and all nodes publish
it again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from realtime_chat.broker.presence_messages import Missed, Said, encode_notice
from realtime_chat.redis.connection import RedisConnection
from realtime_chat.redis.names import RedisNames
from realtime_chat.redis.wire import ignore_store_error
from realtime_chat.values.bounded import MOST_RENEWALS, MOST_RENEWALS_OF_USER, BoundedByUser
from realtime_chat.values.errors import StoreError
from realtime_chat.values.model import ForwardedCommand

_KEPT = 600.0
"""Seconds for which a renewal is kept."""

_PAUSE = 0.1
"""Seconds for which the questions of several nodes are collected, and until a question is repeated that failed."""


class _Kept(NamedTuple):
    """A renewal that was published, and until when it is kept."""

    client_hash: str
    order: tuple[int, int]
    until: float
    payload: bytes


class Renewals:
    """The renewals that this node has published."""

    def __init__(self, clock: Any, names: RedisNames, node: str, connection: RedisConnection) -> None:
        self._clock = clock
        self._names = names
        self._node = node
        self._connection = connection
        self._kept: BoundedByUser[_Kept] = BoundedByUser(MOST_RENEWALS, MOST_RENEWALS_OF_USER)  # by client hash
        self._asking: IDelayedCall | None = None
        self._saying: IDelayedCall | None = None
        self._stopped = False

    def stop(self) -> None:
        """Ask and say nothing more."""
        self._stopped = True
        for call in (self._asking, self._saying):
            if call is not None and call.active():
                call.cancel()

    def publish(self, command: ForwardedCommand) -> None:
        """Tell the other nodes what a client has said to this one. A renewal is kept."""
        payload = encode_notice(Said.of(self._node, command))
        if command.renewed is not None:
            kept = _Kept(command.client_hash, command.order, self._clock.seconds() + _KEPT, payload)
            self._kept.put(command.client_hash, command.user, kept)
        self._send(payload)

    def forget(self, client_hash: str, order: tuple[int, int]) -> None:
        """Another node has renewed a client, and publishes that. Here it is forgotten, unless that here counts."""
        kept = self._kept.get(client_hash)
        if kept is not None and kept.order <= order:
            self._kept.drop(client_hash)

    def _send(self, payload: bytes) -> None:
        self._connection.command("PUBLISH", self._names.nodes, payload).addErrback(ignore_store_error)

    def ask(self) -> None:
        """Ask all nodes, this one too, for the renewals that may have been missed."""
        self._asking = None
        question = encode_notice(Missed(self._node))
        self._connection.command("PUBLISH", self._names.nodes, question).addErrback(self._ask_later)

    def _ask_later(self, failure: Failure) -> None:
        failure.trap(StoreError)
        if self._asking is None and not self._stopped:
            self._asking = self._clock.callLater(_PAUSE, self.ask)

    def say_again_later(self) -> None:
        """Publish the renewals again in a moment, once for all nodes that ask."""
        if self._saying is None and self._kept and not self._stopped:
            self._saying = self._clock.callLater(_PAUSE, self._say_again)

    def _say_again(self) -> None:
        self._saying = None
        now = self._clock.seconds()
        for kept in self._kept:
            if kept.until > now:
                self._send(kept.payload)
            else:
                self._kept.drop(kept.client_hash)
