"""How every message comes into the store, whatever transport it came by, and how many may be on their way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from realtime_chat.core.interfaces import IMessageStore
from realtime_chat.core.node import Node
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import AppendResult, Draft, Message

_log = Logger()


class Publisher:
    """Stores messages and announces them. While too much waits for the store, publishers are held up.

    :param announce: called with every message that is durable.
    """

    def __init__(self, node: Node, store: IMessageStore, announce: Callable[[Message], None]) -> None:
        self._clock = node.clock
        self._limits = node.limits
        self._counters = node.counters
        self._store = store
        self._announce = announce
        self._publishing = 0
        self._publishing_bytes = 0
        self._held_up: dict[Callable[[], object], None] = {}
        self._all_done: Deferred[None] | None = None

    def publish(self, draft: Draft, done: Callable[..., object], *args: Any) -> None:
        """Store a message, and then tell the room's readers.

        A caller that may have many to publish checks :attr:`has_much_to_store` afterwards, or asks for a
        :meth:`place` before each.

        :param done: called with ``args`` after the result: what was stored, once it is durable, or the Failure.
        """
        begun, size = self._clock.seconds(), len(draft.data)
        self._publishing += 1
        self._publishing_bytes += size
        self._store.append(draft).addCallbacks(
            self._stored, self._not_stored, callbackArgs=(begun, size, done, args), errbackArgs=(size, done, args)
        )

    def _stored(
        self, stored: AppendResult, begun: float, size: int, done: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        try:
            self._publish_ended(size)
            counters = self._counters
            counters.publish_seconds.observe(self._clock.seconds() - begun)
            if stored.duplicate:
                counters.duplicates += 1
            else:
                counters.published += 1
                self._announce(stored.message)
        except Exception:  # it is stored all the same
            _log.failure("a message that was stored could not be announced")
        done(stored, *args)

    def _not_stored(self, failure: Failure, size: int, done: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._publish_ended(size)
        error = failure.value
        self._counters.publish_errors[error.code if isinstance(error, RealtimeError) else "internal"] += 1
        done(failure, *args)

    @property
    def has_much_to_store(self) -> bool:
        """Whether as much waits for the store as may."""
        limits = self._limits
        return self._publishing >= limits.max_publishing or self._publishing_bytes >= limits.max_publishing_bytes

    def place(self) -> Deferred[None] | None:
        """A place in the queue of those that are held up; None if nobody has to wait."""
        if not (self._held_up or self.has_much_to_store):
            return None
        place: Deferred[None] = Deferred()
        self.hold_up(lambda: self._take_place(place))
        return place

    def _take_place(self, place: Deferred[None]) -> None:
        """Give a place in the next turn. It counts meanwhile, as whoever gets it may publish only then."""
        self._publishing += 1
        self._clock.callLater(0, self._begin_publish, place)

    def _begin_publish(self, place: Deferred[None]) -> None:
        place.callback(None)
        self._publish_ended(0)

    def hold_up(self, resume: Callable[[], object]) -> None:
        """Have ``resume()`` called when less waits for the store: one publish for one that ends."""
        self._held_up[resume] = None

    def _publish_ended(self, size: int) -> None:
        self._publishing -= 1
        self._publishing_bytes -= size
        while self._held_up and not self.has_much_to_store:
            resume = next(iter(self._held_up))
            del self._held_up[resume]
            resume()
            if self._publishing:  # one for one, so that it doesn't become too much again at once
                break
        if not self._publishing and self._all_done is not None:
            self._clock.callLater(0, self._all_done.callback, None)
            self._all_done = None

    def all_done(self) -> Deferred[None]:
        """Answer when no publish waits for the store any more."""
        if not self._publishing:
            return succeed(None)
        self._all_done = Deferred()
        return self._all_done
