"""What was written to a room, what each of its readers got, and whether that balances."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = ["Account", "Books", "Loss", "offset_of"]


def offset_of(position: str) -> int:
    """The offset in a position."""
    return int(position.partition(":")[2])


class Books:
    """What was attempted in a room, and what became of it.

    :param clock: seconds.
    :ivar attempted: when each key was first sent.
    :ivar acknowledged: positions by key.
    :ivar refused: when publishing under a key was refused for good, by the writers that don't try again.
    :ivar moved: what was acknowledged twice, at different positions.
    :ivar seen: keys by position, as the first reader of each has got them.
    :ivar slowest: seconds that a publish waited for a node's answer, at most, where it got one.
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
        self.going_on = True

    def attempt(self, key: str) -> None:
        """A publish is about to be sent, perhaps again."""
        self.attempted.setdefault(key, self.clock())

    def acknowledge(self, key: str, position: str) -> None:
        """A publish was acknowledged, perhaps again."""
        if key in self.acknowledged:
            self.repeated += 1
            if self.acknowledged[key] != position:
                self.moved.append(f"{key}: {self.acknowledged[key]} and then {position}")
        self.acknowledged[key] = position

    def refuse(self, key: str) -> None:
        """A publish was refused, and isn't sent again."""
        self.refused[key] = self.clock()

    def stored_later(self, log: Mapping[int, str]) -> list[str]:
        """What was stored after it was refused: what stands in the log behind something that wasn't sent before."""
        found, newest = [], 0.0
        for offset in sorted(log):
            key = log[offset]
            if newest > self.refused.get(key, newest):
                found.append(f"{key} at {offset}")
            newest = max(newest, self.attempted.get(key, 0.0))
        return found

    def balance(self, log: Mapping[int, str], epoch: str) -> dict[str, Any]:
        """The whole of it against a log that began empty: keys by offset."""
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


class Loss(NamedTuple):
    """That a reader was told that it missed something.

    :ivar before: the position that it had.
    :ivar after: the one that it was told to go on from.
    """

    at: float
    before: str
    after: str


class Account:
    """What one reader was brought, in which order, and what it was told that it missed.

    What is wrong is counted in ``doubled``, ``out_of_order``, ``silent`` (messages that were left out without a word,
    and positions that are not the reader's own), ``strange`` (messages of an epoch that it wasn't told of) and
    ``other`` (another message than others have got at this position).

    :param position: where it starts.
    """

    def __init__(self, books: Books, position: str) -> None:
        self._books = books
        self.position = position
        self.spans: list[list[Any]] = []
        self.told: list[Loss] = []
        self.received = self.doubled = self.out_of_order = self.silent = self.strange = self.other = 0
        self._begin(position)

    def _begin(self, position: str) -> None:
        self.position = position
        self.epoch, _, offset = position.partition(":")
        self.at = int(offset)
        self.spans.append([self.epoch, self.at, self.at])

    def message(self, position: str, key: str) -> None:
        """A message has come."""
        at = self.at + 1
        if position != f"{self.epoch}:{at}":
            self._misplaced(position)
            return
        self.at = at
        self.position = position
        self.spans[-1][2] = at
        self.received += 1
        if self._books.seen.setdefault(position, key) != key:
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
        """It has joined with its position."""
        if not recovered:
            self.reset(position)
        elif position != self.position:
            self.silent += 1

    def reset(self, position: str) -> None:
        """It was told that it missed something."""
        self.told.append(Loss(self._books.clock(), self.position, position))
        self._begin(position)

    def stands_at(self, position: str) -> None:
        """An answer says what its position is now."""
        if position != self.position:
            self.silent += 1

    def lost(self, log: Mapping[int, str], epoch: str) -> int:
        """How many messages of a log it should have got after it was told last, and didn't."""
        begun = max((offset_of(loss.after) for loss in self.told if loss.after.startswith(f"{epoch}:")), default=0)
        missing = {offset for offset in log if offset > begun}
        for of, before, last in self.spans:
            if of == epoch:
                missing.difference_update(range(before + 1, last + 1))
        return len(missing)

    @property
    def wrong(self) -> dict[str, int]:
        """What is wrong, and how often; empty if all is right."""
        kinds = ("doubled", "out_of_order", "silent", "strange", "other")
        return {kind: getattr(self, kind) for kind in kinds if getattr(self, kind)}
