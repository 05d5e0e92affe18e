"""What is counted of Socket.IO, as :mod:`realtime_chat.values.counters` does it."""

from __future__ import annotations

from collections import Counter

import attrs

from realtime_chat.values.counters import Histogram


@attrs.define(eq=False)
class SocketCounters:
    """The numbers of one application.

    :ivar refused: refused CONNECT packets.
    :ivar received: packets that came.
    :ivar violations: connections that were closed, as what came broke the protocol.
    :ivar relayed: events that other programs published in Redis.
    :ivar relays_refused: the same, but refused.
    :ivar acks_timed_out: acknowledgements that did not come in time, though their clients stayed.
    :ivar recoveries: clients that came back to a recovery namespace, by outcome: ``recovered``, or why not.
    :ivar method_errors: methods of namespaces that raised something unexpected.
    :ivar method_seconds: from an event to the end of its method.
    """

    refused: int = 0
    received: int = 0
    violations: int = 0
    relayed: int = 0
    relays_refused: int = 0
    acks_timed_out: int = 0
    recoveries: Counter[str] = attrs.Factory(Counter)
    method_errors: int = 0
    method_seconds: Histogram = attrs.Factory(Histogram)
