"""Tests for :mod:`realtime_chat.malloc`: memory that is given back to the system."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.malloc import MemoryTrimmer, trim_memory

_MIB = 1024**2
_PAGE = 4096


def _resident() -> float:
    """MiB of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE / _MIB


class TrimTests(SynchronousTestCase):
    """Memory that is free."""

    def test_given_back(self) -> None:
        """What was freed below something that is still in use is given back."""
        taken = [bytearray(60_000) for _ in range(2_000)]
        kept = bytearray(60_000)
        del taken
        before = _resident()
        trim_memory()
        self.assertGreater(before - _resident(), 80)
        self.assertEqual(60_000, len(kept))

    def test_every_minute(self) -> None:
        """It is given back once a minute, from the start to the end; an end without a start does nothing."""
        clock, trimmed = Clock(), []
        trimmer = MemoryTrimmer(clock, lambda: trimmed.append(clock.seconds()))
        trimmer.stop()
        trimmer.start()
        for _ in range(3):
            clock.advance(60)
        trimmer.stop()
        clock.advance(600)
        self.assertEqual([60, 120, 180], trimmed)
        self.assertEqual([], clock.getDelayedCalls())
