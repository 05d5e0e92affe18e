"""Saving in the database, for the next process, what the wall clock has shown."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from realtime_chat.store.retention_clock import ClockSpan, RetentionClock
from realtime_chat.store.sqlite.transaction import transaction

__all__ = ["SavedClock"]

_SAVE_INTERVAL = 600.0


class SavedClock:
    """Saves the spans of a :class:`RetentionClock`, and restores them once."""

    def __init__(self, clock: RetentionClock) -> None:
        self._clock = clock
        self._saved: tuple[Sequence[ClockSpan], float] | None = None

    def restore(self, connection: sqlite3.Connection) -> None:
        """Restore the clock when the first connection is opened."""
        if self._saved is None:
            rows = connection.execute("SELECT elapsed, ahead FROM spans ORDER BY elapsed")
            self._clock.restore([ClockSpan(*row) for row in rows])
            self._saved = (), 0.0

    @property
    def is_stale(self) -> bool:
        """Whether the clock should be saved again."""
        spans, elapsed = self._saved or ((), 0.0)
        return spans is not self._clock.spans or self._clock.elapsed() - elapsed > _SAVE_INTERVAL

    def save(self, connection: sqlite3.Connection) -> None:
        """Save the spans, and how far the elapsed time has got.

        :raises sqlite3.Error: they are not saved.
        """
        if not self._clock.needs_saving:
            return
        spans, elapsed = self._clock.spans, self._clock.elapsed()
        rows = [*spans, ClockSpan(elapsed, spans[-1].ahead)]
        with transaction(connection):
            connection.execute("DELETE FROM spans")
            connection.executemany("INSERT OR REPLACE INTO spans (elapsed, ahead) VALUES (?, ?)", rows)
        self._saved = spans, elapsed
