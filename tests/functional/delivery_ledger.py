"""A ledger of what was written to a room and of what each reader received, and whether both agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = ["DeliveryLedger", "ReaderRecord", "ReportedGap", "offset_of"]


def offset_of(position: str) -> int:
    """The offset in a position."""
    return int(position.partition(":")[2])


class DeliveryLedger:
    """Each publish to a room, and its result.

    :param clock: seconds.
    :ivar attempted: when each key was first sent.
    :ivar acknowledged: positions by key.
    :ivar refused: by key, when a publish was refused, of writers that don't try again.
    :ivar moved: publishes that were acknowledged twice, at different positions.
    :ivar seen: keys by position, as received by the first reader of each position.
    :ivar slowest: the longest time that a publish waited for its answer, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.attempted: dict[str, float] = {}
        self.acknowledged: dict[str, str] = {}
        self.refused: dict[str, float] = {}
        self.moved: list[str] = []
        self.seen: dict[str, str] = {}
        self.repeated = 0
        self.slowest = 0.0
        self.is_open = True

    def attempt(self, key: str) -> None:
        """Note that a publish is about to be sent, perhaps again."""
        self.attempted.setdefault(key, self.clock())

    def acknowledge(self, key: str, position: str) -> None:
        """Note that a publish was acknowledged, perhaps again."""
        if key in self.acknowledged:
            self.repeated += 1
            if self.acknowledged[key] != position:
                self.moved.append(f"{key}: {self.acknowledged[key]} and then {position}")
        self.acknowledged[key] = position

    def refuse(self, key: str) -> None:
        """Note that a publish was refused, and is not sent again."""
        self.refused[key] = self.clock()

    def stored_later(self, log: Mapping[int, str]) -> list[str]:
        """The publishes that were stored after their refusal: a message before them in the log was sent after it."""
        found, newest = [], 0.0
        for offset in sorted(log):
            key = log[offset]
            if newest > self.refused.get(key, newest):
                found.append(f"{key} at {offset}")
            newest = max(newest, self.attempted.get(key, 0.0))
        return found

    def balance(self, log: Mapping[int, str], epoch: str) -> dict[str, Any]:
        """Compare the ledger with a log that began empty.

        :param log: keys by offset.
        """
        places = {offset_of(place): key for key, place in self.acknowledged.items() if place.startswith(f"{epoch}:")}
        return {
            "attempted": len(self.attempted),
            "acknowledged": len(self.acknowledged),
            "refused": len(self.refused),
            "repeated": self.repeated,
            "in_log": len(log),
            "slowest": round(self.slowest, 3),
            "holes": max(log, default=0) - len(log),
            "twice": len(log) - len(set(log.values())),
            "lost": sum(log.get(offset) != key for offset, key in places.items()),
            "never_sent": len(set(log.values()) - set(self.attempted)),
            "moved": self.moved[:5],
            "stored_later": self.stored_later(log)[:5],
        }


class ReportedGap(NamedTuple):
    """A reset: the reader was told that it missed messages.

    :ivar before: its position before the reset.
    :ivar after: the position to continue after.
    """

    at: float
    before: str
    after: str


class ReaderRecord:
    """The messages that one reader received, in order, and its resets.

    Errors are counted in ``doubled``, ``out_of_order``, ``silent`` (messages left out without a reset, and wrong
    positions), ``strange`` (messages of an unannounced epoch) and ``other`` (a different message than other readers
    received at this position).

    :param position: where the reader begins.
    """

    def __init__(self, ledger: DeliveryLedger, position: str) -> None:
        self._ledger = ledger
        self.position = position
        self.spans: list[list[Any]] = []
        self.told: list[ReportedGap] = []
        self.received = self.doubled = self.out_of_order = self.silent = self.strange = self.other = 0
        self._begin(position)

    def _begin(self, position: str) -> None:
        self.position = position
        self.epoch, _, offset = position.partition(":")
        self.at = int(offset)
        self.spans.append([self.epoch, self.at, self.at])

    def message(self, position: str, key: str) -> None:
        """Note a message."""
        at = self.at + 1
        if position != f"{self.epoch}:{at}":
            self._misplaced(position)
            return
        self.at = at
        self.position = position
        self.spans[-1][2] = at
        self.received += 1
        if self._ledger.seen.setdefault(position, key) != key:
            self.other += 1

    def _misplaced(self, position: str) -> None:
        epoch, _, offset = position.partition(":")
        if epoch != self.epoch:
            self.strange += 1
        elif int(offset) > self.at:
            self.silent += int(offset) - self.at - 1
            self._begin(f"{epoch}:{int(offset) - 1}")
            self.at += 1
            self.position = position
            self.spans[-1][2] += 1
        elif any(span[0] == epoch and span[1] < int(offset) <= span[2] for span in self.spans):
            self.doubled += 1
        else:
            self.out_of_order += 1

    def joined(self, position: str, recovered: bool) -> None:
        """Note a join with the reader's position."""
        if not recovered:
            self.reset(position)
        elif position != self.position:
            self.silent += 1

    def reset(self, position: str) -> None:
        """Note a reset."""
        self.told.append(ReportedGap(self._ledger.clock(), self.position, position))
        self._begin(position)

    def stands_at(self, position: str) -> None:
        """Check the position that an answer gives."""
        if position != self.position:
            self.silent += 1

    def lost(self, log: Mapping[int, str], epoch: str) -> int:
        """How many messages of a log are missing since the last reset."""
        begun = max((offset_of(loss.after) for loss in self.told if loss.after.startswith(f"{epoch}:")), default=0)
        missing = {offset for offset in log if offset > begun}
        for of, before, last in self.spans:
            if of == epoch:
                missing.difference_update(range(before + 1, last + 1))
        return len(missing)

    @property
    def wrong(self) -> dict[str, int]:
        """The errors with their counts; empty if there are none."""
        kinds = ("doubled", "out_of_order", "silent", "strange", "other")
        return {kind: getattr(self, kind) for kind in kinds if getattr(self, kind)}
