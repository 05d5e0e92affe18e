"""The queue of appends in front of a store."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.store.append_queue import MAX_BATCH, AppendQueue, PendingAppend, batch_end, refusals
from realtime_chat.values.errors import StoreError
from tests.contracts import draft


class AppendQueueTests(SynchronousTestCase):
    """Admission, submission and answers, with the clock in the hands of the test."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.busy = False
        self.submitted: list[list[PendingAppend]] = []
        self.queue = AppendQueue(self.clock, self.submit)

    def submit(self) -> bool:
        self.submitted.append(self.queue.take())
        return self.busy

    def test_one_turn(self) -> None:
        """What comes in one turn is submitted together, in order, in the next turn."""
        for number in range(3):
            self.queue.append(draft(number), number)
        self.assertEqual([], self.submitted)
        self.clock.advance(0)
        self.assertEqual([[0, 1, 2]], [[one.at for one in batch] for batch in self.submitted])

    def test_busy(self) -> None:
        """While the store is busy nothing is submitted; once it is ready, all that has come is."""
        self.busy = True
        for number in range(3):
            self.queue.append(draft(number), number)
            self.clock.advance(0)
        self.assertEqual(1, len(self.submitted))
        self.queue.ready()
        self.clock.advance(0)
        self.assertEqual([[0], [1, 2]], [[one.at for one in batch] for batch in self.submitted])

    def test_answered_once(self) -> None:
        """An append is answered once, and makes room for others then."""
        answer = self.queue.append(draft(), 0)
        self.clock.advance(0)
        answers = refusals(self.submitted[0], StoreError("the store is too slow"))
        self.queue.answer(answers)
        self.queue.answer(answers)
        self.assertEqual("the store is too slow", self.failureResultOf(answer, StoreError).value.message)
        self.assertEqual(0, self.queue.unanswered)

    def test_batch_end(self) -> None:
        """A batch ends after 256 drafts, or with the draft that brings it to a megabyte."""
        small = [PendingAppend(draft(), 0, Deferred()) for _ in range(MAX_BATCH + 1)]
        large = [PendingAppend(draft("x" * 400_000), 0, Deferred()) for _ in range(4)]
        self.assertEqual((256, 257), (batch_end(small), batch_end(small, 256)))
        self.assertEqual((3, 4), (batch_end(large), batch_end(large, 3)))
