"""A connection that is counted for the address that it comes from.

A connection that its client has opened itself counts from its beginning. One that a trusted proxy has opened may carry
the requests of many clients. It counts for a client only while it is that client's WebSocket or event stream.
"""

from __future__ import annotations

from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure

from realtime_chat.core.identity import NOBODY
from realtime_chat.core.rate_limiter import Quota, RateLimiter, Usage
from realtime_chat.http.request import RealtimeRequest
from realtime_chat.http.strict_channel import StrictChannel
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.rates import CONNECTS


class LimitedChannel(StrictChannel):
    """An HTTP connection that counts for an address.

    :ivar counted: the usage of the address that has opened the connection.
    :ivar admitted: the usage of the address whose WebSocket or stream begins on a proxy's connection.
    """

    counted: Usage | None = None
    admitted: Usage | None = None

    def count_for_address(self) -> bool:
        """Count a connection, and refuse it if its address has too many. Return whether it may go on."""
        limiter = self.site.limiter
        if limiter is None:
            return True
        peer = self.site.client_addresses.opened_by(self.transport)
        if not isinstance(self.transport, ProtocolWrapper):  # the PROXY protocol has told nothing yet
            self._peer = peer
        if peer.client.key is None:
            return True
        self.counted = limiter.open(peer.client.key, "connections")
        excess = limiter.excess(self.counted, "connections")
        if excess > self.site.max_refusals:
            self.transport.abortConnection()
        elif excess > 0:
            self.refuse(limiter.too_many("connections"))
        return excess <= 0

    def admit(self, request: RealtimeRequest) -> None:
        """Count a WebSocket or a stream for its address, before it begins.

        :raises RealtimeError: ``rate_limited``: the address connects too often; ``too_many``: it has too many
            connections. The connection is closed after that answer.
        """
        limiter, address = self.site.limiter, request.client_address
        if limiter is None or address is None or address.key is None:
            return
        try:
            self._admit(limiter, address.key)
        except RealtimeError:
            self.persistent = False
            request.setHeader(b"Connection", b"close")
            raise

    def _admit(self, limiter: RateLimiter, key: str) -> None:
        Quota(limiter, NOBODY, key, is_held=False).take(CONNECTS)
        if self.counted is None:
            self.admitted = limiter.open(key, "connections")
            if limiter.excess(self.admitted, "connections") > 0:
                raise limiter.too_many("connections")

    def end_admitted(self) -> None:
        """Count no more what :meth:`admit` has counted, as the request is answered."""
        usage, self.admitted = self.admitted, None
        self.site.end_connection(usage)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Count the connection no more."""
        self.end_admitted()
        usage, self.counted = self.counted, None
        self.site.end_connection(usage)
        super().connectionLost(reason)
