"""A connection that is counted for the address that it comes from.

A connection that its client has opened itself counts from its beginning. One that a trusted proxy has opened may carry
the requests of many clients. It counts for a client only while it is that client's WebSocket or event stream.

A limit's refusal costs nearly as much as an answer. So after one, a connection that counts from its beginning isn't
read for a while. New connections of an address that was refused often are accepted, and wait before they are read.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure

from realtime_chat.core.identity import NOBODY
from realtime_chat.core.rate_limiter import LONGEST_PAUSE, ONE_COMMAND, ONE_CONNECT, RateLimiter, Usage
from realtime_chat.http.request import RealtimeRequest
from realtime_chat.http.strict_channel import NO_HEADERS, StrictChannel
from realtime_chat.values.errors import RateLimited, RealtimeError


class LimitedChannel(StrictChannel):
    """An HTTP connection that counts for an address.

    :ivar counted: the usage of the address that has opened the connection.
    :ivar admitted: the usage of the address whose WebSocket or stream begins on a proxy's connection.
    :ivar refused_for: seconds for which a limit has refused the request that is being answered.
    """

    counted: Usage | None = None
    admitted: Usage | None = None
    refused_for = 0.0

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
        elif limiter.is_flooding(self.counted):
            return self._wait_to_be_read()
        return excess <= 0

    def _wait_to_be_read(self) -> bool:
        """Read nothing for a while; or cut the connection off, if too many wait already."""
        if self.site.waiting >= self.site.max_waiting:
            self.transport.abortConnection()
            return False
        self.site.waiting += 1
        self.pause_for(LONGEST_PAUSE, self._end_wait)
        return True

    def _end_wait(self) -> None:
        self.site.waiting -= 1

    def pause_for(self, seconds: float, then: Callable[[], object] = lambda: None) -> None:
        """Read nothing for some seconds, and call ``then()`` after them, also if the connection is lost meanwhile."""
        raise NotImplementedError

    # Errors

    def charge(self, request: RealtimeRequest | None, error: RealtimeError) -> RealtimeError:
        """Charge an address a command for an error that is its own fault.

        :param request: None if there is no request yet.
        :returns: the error to answer with: ``rate_limited`` if the address has nothing left.
        """
        limiter = self.site.limiter
        if limiter is None:
            return error
        if not error.temporary:
            error = _charge(limiter, self._address(request), error)
        if isinstance(error, RateLimited) and self.counted is not None:
            self.refused_for = max(self.refused_for, error.after or 0.0)
        return error

    def _address(self, request: RealtimeRequest | None) -> str | None:
        known = None if request is None else request.client_address
        return (known or self._client_address(NO_HEADERS)).key

    def refuse(self, error: RealtimeError, status: int | None = None) -> None:
        """Charge for an error, answer with it, and close."""
        if not self.is_closing:
            charged = self.charge(self.requests[-1] if self.requests else None, error)
            super().refuse(charged, status if charged is error else None)
            self.strike()

    def strike(self) -> float:
        """Count a request that a limit has refused, if it was. Return for how many seconds not to read."""
        seconds, self.refused_for = self.refused_for, 0.0
        if seconds and self.site.limiter is not None and self.counted is not None:
            self.site.limiter.strike(self.counted)
        return seconds

    # WebSockets and streams

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
        limiter.draw(NOBODY, key, ONE_CONNECT)
        if self.counted is None:
            self.admitted = limiter.admit(key, "connections")

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


def _charge(limiter: RateLimiter, address: str | None, error: RealtimeError) -> RealtimeError:
    try:
        limiter.draw(NOBODY, address, ONE_COMMAND)
    except RateLimited as limited:
        return limited.with_traceback(None)
    return error
