"""Delays between attempts."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.client.connector import Backoff


class BackoffTests(SynchronousTestCase):
    """Delays from half a second to twenty seconds."""

    def test_bounds(self) -> None:
        """After any number of failures the delay is from half a second to twenty seconds."""
        for number, shortest in ((0.0, 0.5), (0.999999, 0.5)):
            backoff = Backoff(lambda number=number: number)
            waits = [backoff.next() for _ in range(2000)]
            self.assertGreaterEqual(min(waits), shortest)
            self.assertLessEqual(max(waits), 20.0)

    def test_grows_and_begins_anew(self) -> None:
        """The bound doubles with each failure, until there is a success."""
        backoff = Backoff(lambda: 1.0)
        self.assertEqual([1, 2, 4, 8, 16, 20, 20], [backoff.next() for _ in range(7)])
        backoff.succeeded()
        self.assertEqual(1, backoff.next())
