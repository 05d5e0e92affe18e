"""Records of Socket.IO sockets in memory, which live as long as the process."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from realtime_chat.core.interfaces import MAX_SESSIONS, SESSION_SECONDS, ISessionStore


@implementer(ISessionStore)
class MemorySessions:
    """Records in memory.

    :param elapsed: seconds that only grow.
    :param most: how many records of disconnected sockets are kept.
    """

    def __init__(self, elapsed: Callable[[], float], most: int = MAX_SESSIONS) -> None:
        self._elapsed = elapsed
        self._most = most
        self._connected: dict[str, bytes] = {}
        self._ended: dict[str, tuple[float, bytes]] = {}  # by when they expire

    def put(self, key: str, record: bytes, connected: bool) -> Deferred[None]:
        self.remove(key)
        if connected:
            self._connected[key] = record
        else:
            self._ended[key] = self._elapsed() + SESSION_SECONDS, record
        self._expire()
        return succeed(None)

    def get(self, key: str) -> Deferred[bytes | None]:
        self._expire()
        return succeed(self._connected[key] if key in self._connected else self._ended.get(key, (0.0, None))[1])

    def remove(self, key: str) -> Deferred[None]:
        self._connected.pop(key, None)
        self._ended.pop(key, None)
        return succeed(None)

    def _expire(self) -> None:
        now = self._elapsed()
        while self._ended:
            key, (expires, _) = next(iter(self._ended.items()))
            if expires > now and len(self._ended) <= self._most:
                return
            del self._ended[key]
