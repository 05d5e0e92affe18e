"""Tests for :mod:`realtime_chat.values.rates`."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.values.rates import DEFAULTS, Rate, RateLimits, ScopeLimits, TokenBucket


class RateTests(SynchronousTestCase):
    """A rate, as an operator writes it."""

    def test_parse(self) -> None:
        """A count is one of a second, a minute or an hour; without a burst it is what two seconds bring."""
        for text, per_second, burst in (
            ("20", 20, 40),
            ("20/s", 20, 40),
            ("90/m", 1.5, 3),
            ("30/m", 0.5, 1),
            ("36/h", 0.01, 1),
            ("10/s+200", 10, 200),
            ("10+5", 10, 5),
        ):
            self.assertEqual(Rate(per_second, burst), Rate.parse(text), text)
        self.assertEqual(Rate(512 * 1024, 8 * 1024**2), Rate.parse("512k/s+8m", in_bytes=True))
        self.assertEqual(Rate(0.01, 1).depth, 100)

    def test_refused(self) -> None:
        """What is no rate is refused, with examples of what would be right."""
        for text in ("", "0", "-1", "1/d", "5/", "5+", "5/s+0", "1.5", "5k", "5/s+1m", "1e3", "9" * 10, "٣"):
            error = self.assertRaises(ValueError, Rate.parse, text)
            self.assertIn("10/s+200", str(error), text)
        self.assertIn("512k/s+8m", str(self.assertRaises(ValueError, Rate.parse, "x", in_bytes=True)))
        self.assertRaises(ValueError, Rate, 0, 1)
        self.assertRaises(ValueError, Rate, 1, float("inf"))

    def test_text(self) -> None:
        """A rate reads as it was written, in the shortest unit in which it is whole."""
        for text in ("20/s+40", "90/m+3", "1/h+1", "524288/s+8388608"):
            self.assertEqual(text, Rate.parse(text).text())
        for text in ("512k/s+8m", "1/m+1k", "1025/s+1025"):
            self.assertEqual(text, Rate.parse(text, True).text(True))
        self.assertEqual(("100", "minute"), (Rate.parse("100/m").count, Rate.parse("100/m").unit))

    def test_limits(self) -> None:
        """Nothing is limited unless it is said; the daemon's own limits are higher for users, and for addresses."""
        self.assertEqual(ScopeLimits(), RateLimits().address)
        client, user, address = DEFAULTS.client, DEFAULTS.user, DEFAULTS.address
        for kind in ("commands", "publishes", "bytes", "signals", "joins", "rooms"):
            rates = [getattr(limits, kind).per_second for limits in (client, user, address)]
            self.assertEqual(sorted(set(rates)), rates, kind)
        self.assertEqual((None, None), (client.guests, client.connections))


class TokenBucketTests(SynchronousTestCase):
    """A rate limit."""

    def test_take(self) -> None:
        """A bucket is full at first, holds a burst at most, and fills by the rate."""
        bucket, rate = TokenBucket(), Rate(10, 30)
        self.assertEqual([0.0] * 30, [bucket.take(1000.0, rate) for _ in range(30)])
        self.assertAlmostEqual(0.1, bucket.take(1000.0, rate))
        self.assertEqual(0.0, bucket.take(1000.1, rate))
        self.assertAlmostEqual(0.05, bucket.take(1000.15, rate))

    def test_more_than_it_holds(self) -> None:
        """More than a bucket holds is taken as what it holds, so that it isn't refused for ever."""
        bucket, rate = TokenBucket(), Rate(10, 30)
        self.assertEqual(0.0, bucket.take(0.0, rate, 1000))
        self.assertAlmostEqual(3.0, bucket.take(0.0, rate, 1000))
        self.assertAlmostEqual(0.1, bucket.take(0.0, rate, 1))

    def test_after_the_wait(self) -> None:
        """After the wait that it says there are enough."""
        bucket, rate = TokenBucket(), Rate(7, 3)
        now = 1e6
        for _ in range(50):
            wait = bucket.take(now, rate, 2)
            self.assertEqual(0.0, bucket.take(now + wait, rate, 2) if wait else 0.0)
            now += wait

    @given(
        st.integers(1, 1000),
        st.integers(1, 100),
        st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 5)), max_size=100),
        st.floats(0, 1e8),
    )
    def test_never_more(self, per_second: int, burst: int, asked: list[tuple[float, int]], now: float) -> None:
        """In any time no more is taken than a burst, and what the rate brings meanwhile."""
        rate, bucket = Rate(per_second, burst), TokenBucket()
        taken: list[tuple[float, float]] = []
        for pause, tokens in asked:
            now += pause
            if not bucket.take(now, rate, tokens):
                taken.append((now, min(tokens, burst)))
        for first in range(len(taken)):
            total = 0.0
            for at, tokens in taken[first:]:
                total += tokens
                self.assertLessEqual(total, burst + per_second * (at - taken[first][0] + 2e-6))
