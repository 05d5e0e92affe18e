"""Tests for :mod:`realtime_chat.core.rate_limiter`."""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core import rate_limiter
from realtime_chat.core.identity import NOBODY, Identity
from realtime_chat.core.node import Node
from realtime_chat.core.quota import Quota
from realtime_chat.core.rate_limiter import ONE_COMMAND, ONE_CONNECT, RateLimiter
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.limits import Limits
from realtime_chat.values.model import User
from realtime_chat.values.rates import (
    BYTES,
    COMMANDS,
    CONNECTS,
    PUBLISHES,
    ROOMS,
    STATES,
    Rate,
    RateLimits,
    Scope,
    ScopeLimits,
)

_SLOW = Rate(1, 3)


def guest(client_hash: str) -> Identity:
    """A guest's identity."""
    return Identity(f"client-{client_hash}", client_hash, User(f"~{client_hash}", client_hash))


def user(client_hash: str, id: str = "ann") -> Identity:
    """One client of a user with a token."""
    return Identity(f"client-{client_hash}", client_hash, User(id, id, False), expires=10**15)


class Limited(SynchronousTestCase):
    """A limiter whose clock the test moves."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.node = Node("n", self.clock, self.clock.seconds, Limits())

    def limiter(self, **scopes: ScopeLimits) -> RateLimiter:
        return RateLimiter(self.node, RateLimits(**scopes))

    def count_taken(self, quota: Quota, kind: int, most: int = 100) -> int:
        """How many tokens can be taken now."""
        for count in range(most):
            try:
                quota.take(kind)
            except RealtimeError:
                return count
        return most

    def refused(self, call: Any, *args: Any) -> RealtimeError:
        error = self.assertRaises(RealtimeError, call, *args)
        self.assertEqual("rate_limited", error.code)
        return error


class QuotaTests(Limited):
    """What one session draws from."""

    def test_states(self) -> None:
        """States are limited by client and by user. An address has no limit for them, as many come back at once."""
        limits = ScopeLimits(signals=_SLOW)
        for scope, most in (("client", 3), ("user", 3), ("address", 100)):
            quota = Quota(self.limiter(**{scope: limits}), user("a"), "192.0.2.1")
            self.assertEqual(most, self.count_taken(quota, STATES), scope)

    def test_without_limits(self) -> None:
        """Without limits nothing is refused, and nothing stands still."""
        quota = Quota(self.limiter(), guest("a"), "192.0.2.1")
        self.assertEqual(5000, self.count_taken(quota, COMMANDS, 5000))
        quota.take_publish(10**9)

    def test_told(self) -> None:
        """A refusal says whose limit it is, how high, by which option, and when to go on; and it is counted."""
        quota = Quota(self.limiter(client=ScopeLimits(commands=Rate(4, 3))), guest("a"))
        self.assertEqual(3, self.count_taken(quota, COMMANDS))
        error = self.refused(quota.take_command)
        self.assertIn("a client may send 4 commands a second, and 3 at once (--client-command-rate)", error.message)
        self.assertAlmostEqual(0.25, error.after or 0)
        self.assertEqual({("client", "commands"): 2}, self.node.counters.limited)

    def test_after_the_wait(self) -> None:
        """After the wait there is a token again."""
        quota = Quota(self.limiter(client=ScopeLimits(commands=_SLOW)), guest("a"))
        self.count_taken(quota, COMMANDS)
        self.clock.advance(self.refused(quota.take_command).after or 0)
        self.assertEqual(1, self.count_taken(quota, COMMANDS))

    def test_scopes(self) -> None:
        """A client, a user over all clients and an address over all of its users have limits of their own."""
        limiter = self.limiter(
            client=ScopeLimits(commands=Rate(1, 2)),
            user=ScopeLimits(commands=Rate(1, 3)),
            address=ScopeLimits(commands=Rate(1, 5)),
        )
        one, two = Quota(limiter, user("a"), "192.0.2.1"), Quota(limiter, user("b"), "192.0.2.1")
        other, elsewhere = Quota(limiter, guest("c"), "192.0.2.1"), Quota(limiter, user("d", "eve"), "192.0.2.9")
        self.assertEqual([2, 1, 2, 2], [self.count_taken(quota, COMMANDS) for quota in (one, two, other, elsewhere)])
        self.assertEqual(0, self.count_taken(Quota(limiter, guest("e"), "192.0.2.1"), COMMANDS))
        self.assertIn("an address may", self.refused(Quota(limiter, NOBODY, "192.0.2.1").take_command).message)

    def test_same_client_again(self) -> None:
        """A client has one bucket, however often it connects."""
        limiter = self.limiter(client=ScopeLimits(commands=_SLOW))
        for taken in (3, 0, 0):
            quota = Quota(limiter, guest("a"))
            self.assertEqual(taken, self.count_taken(quota, COMMANDS))
            quota.close()

    def test_all_or_nothing(self) -> None:
        """If one bucket hasn't enough, nothing is taken from the others; the longest wait is told."""
        limits = ScopeLimits(commands=Rate(1, 10), publishes=Rate(1, 10), bytes=Rate(100, 250))
        quota = Quota(self.limiter(client=limits, address=ScopeLimits(publishes=Rate(0.1, 2))), guest("a"), "192.0.2.1")
        quota.take_publish(100)
        quota.take_publish(100)
        error = self.refused(quota.take_publish, 100)
        self.assertEqual((10, True), (round(error.after or 0), "address-publish-rate" in error.message))
        self.clock.advance(10)
        self.assertEqual((1, 10), (self.count_taken(quota, PUBLISHES), self.count_taken(quota, COMMANDS)))

    def test_larger_than_the_burst(self) -> None:
        """A message larger than the burst is taken for the burst, so that it isn't refused for ever."""
        quota = Quota(self.limiter(client=ScopeLimits(bytes=Rate(100, 250))), guest("a"))
        quota.take_publish(1000)
        self.assertAlmostEqual(2.5, self.refused(quota.take_publish, 1000).after or 0)
        self.assertAlmostEqual(0.01, self.refused(quota.take, BYTES, 1).after or 0)

    def test_who_becomes_somebody(self) -> None:
        """What a session used before it said who it is counts for its client, if that is new."""
        limiter = self.limiter(client=ScopeLimits(commands=_SLOW), user=ScopeLimits(commands=_SLOW))
        quota, other = Quota(limiter, None), Quota(limiter, None)
        self.assertEqual((2, 3), (self.count_taken(quota, COMMANDS, 2), self.count_taken(other, COMMANDS)))
        quota.become(guest("a"))
        other.become(guest("a"))
        self.assertEqual((1, 0), (self.count_taken(quota, COMMANDS), self.count_taken(other, COMMANDS)))
        for _ in range(2):
            other.become(guest("a"))
        other.close()
        quota.close()
        self.assertEqual(1, len(limiter))

    def test_nobody(self) -> None:
        """Who has no client has no limit but that of its address, and becomes somebody by a hello."""
        limiter = self.limiter(client=ScopeLimits(commands=_SLOW), address=ScopeLimits(commands=Rate(1, 5)))
        quota = Quota(limiter, NOBODY, "192.0.2.1")
        self.assertEqual(5, self.count_taken(quota, COMMANDS))
        free = Quota(limiter, NOBODY)
        self.assertEqual(100, self.count_taken(free, COMMANDS))
        free.become(user("a"))
        self.assertEqual(3, self.count_taken(free, COMMANDS))

    def test_connects_by_address(self) -> None:
        """An address pays for connections where they are made, and not once more for whoever uses them."""
        limits = {name: ScopeLimits(connects=Rate(1, 2)) for name in ("client", "address")}
        limiter = self.limiter(**limits)
        for number in range(5):
            limiter.draw(guest(str(number)), None, ONE_CONNECT)
        limiter.draw(guest("0"), None, ONE_CONNECT)
        error = self.refused(limiter.draw, guest("0"), None, ONE_CONNECT)
        self.assertIn("a client may connect 1 times a second", error.message)
        self.assertEqual(2, self.count_taken(Quota(limiter, NOBODY, "192.0.2.1"), CONNECTS))

    def test_new_rooms(self) -> None:
        """What is known only afterwards is checked before and charged after, and makes a debt of one burst at most."""
        quota = Quota(self.limiter(client=ScopeLimits(rooms=Rate(1, 5))), guest("a"))
        for _ in range(3):
            quota.check(ROOMS)
        for _ in range(50):
            quota.charge(ROOMS)
        self.assertAlmostEqual(6.0, self.refused(quota.check, ROOMS).after or 0)

    def test_rule_of_a_room(self) -> None:
        """A rule limits each client in its room, besides the client's own limits."""
        limiter = self.limiter(client=ScopeLimits(publishes=Rate(1, 5)))
        rule = Scope("room", ScopeLimits(publishes=Rate(0.5, 2)))
        quota, other = Quota(limiter, guest("a")), Quota(limiter, guest("b"))
        for one in (quota, other):
            one.take_publish(1, "slow", rule)
            one.take_publish(1, "slow", rule)
            error = self.refused(one.take_publish, 1, "slow", rule)
            self.assertIn("a client in this room may publish 30 messages a minute, and 2 at once", error.message)
            self.assertIn("publish-rate", error.message)
            self.assertAlmostEqual(2.0, error.after or 0)
        quota.take_publish(1, "other", rule)
        self.assertEqual(2, self.count_taken(quota, PUBLISHES))
        self.assertEqual(2, self.node.counters.limited["room", "publishes"])

    @given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 400), st.floats(0, 1)), max_size=60))
    def test_never_more(self, asked: list[tuple[str, int, float]]) -> None:
        """However sessions of one user share them, no bucket gives more than a burst and what the rate brings."""
        self.setUp()
        limits = ScopeLimits(publishes=Rate(2, 4), bytes=Rate(100, 1000))
        limiter = self.limiter(client=limits, user=limits)
        quotas = {client_hash: Quota(limiter, user(client_hash)) for client_hash in "abc"}
        taken: list[tuple[float, int]] = []
        for client_hash, size, pause in asked:
            self.clock.advance(pause)
            try:
                quotas[client_hash].take_publish(size)
            except RealtimeError:
                continue
            taken.append((self.clock.seconds(), size))
        for first, (begin, _) in enumerate(taken):
            for last in range(first, len(taken)):
                seconds = taken[last][0] - begin + 1e-5
                self.assertLessEqual(last - first + 1, 4 + 2 * seconds)
                self.assertLessEqual(sum(size for _, size in taken[first : last + 1]), 1000 + 100 * seconds)


class LimiterTests(Limited):
    """The usages of a node."""

    def test_forgotten(self) -> None:
        """Who is gone is forgotten once the buckets are full again, and not before."""
        limiter = self.limiter(client=ScopeLimits(commands=Rate(0.1, 3)), address=ScopeLimits(commands=Rate(100, 100)))
        for number in range(50):
            quota = Quota(limiter, guest(str(number)), "192.0.2.1")
            quota.take_command()
            quota.close()
        held = Quota(limiter, guest("held"), "192.0.2.2")
        self.assertEqual(53, len(limiter))
        self.clock.pump([1] * 8)
        self.assertEqual(52, len(limiter))
        self.clock.pump([1] * 12)
        self.assertEqual(2, len(limiter))
        held.close()
        self.clock.pump([1] * 8)
        self.assertEqual((0, []), (len(limiter), self.clock.getDelayedCalls()))

    def test_bounded(self) -> None:
        """Those who are gone take no more memory than is allowed; the oldest full one is forgotten first."""
        self.patch(rate_limiter, "_MOST_IDLE", 10)
        limiter = self.limiter(client=ScopeLimits(commands=Rate(0.001, 3)))
        for number in range(30):
            quota = Quota(limiter, guest(str(number)))
            if number != 3:
                quota.take_command()
            quota.close()
        self.assertEqual(10, len(limiter))
        self.assertEqual(2, self.count_taken(Quota(limiter, guest("29")), COMMANDS))

    def test_replaced(self) -> None:
        """New limits hold at once for everybody, and what was used counts on."""
        limiter = self.limiter(client=ScopeLimits(commands=Rate(1, 10)))
        quota = Quota(limiter, guest("a"))
        self.assertEqual(10, self.count_taken(quota, COMMANDS))
        limiter.replace(attrs.evolve(limiter.limits, client=ScopeLimits(commands=Rate(1, 15))))
        self.assertEqual(5, self.count_taken(quota, COMMANDS))
        limiter.replace(RateLimits())
        self.assertEqual(100, self.count_taken(quota, COMMANDS))

    def test_relaxed(self) -> None:
        """Who was stopped for an hour by a low limit doesn't wait for an hour under a higher one."""
        limiter = self.limiter(client=ScopeLimits(commands=Rate(1 / 3600, 1)))
        quota = Quota(limiter, guest("a"))
        self.assertEqual(1, self.count_taken(quota, COMMANDS))
        limiter.replace(RateLimits(client=ScopeLimits(commands=Rate(10, 20))))
        self.assertLessEqual(self.refused(quota.take_command).after or 0, 4)


class OpenTests(Limited):
    """What an address has open."""

    def test_excess(self) -> None:
        """Each kind is counted by itself, up to its limit; the error names option and limit, and is counted."""
        limiter = self.limiter(address=ScopeLimits(connections=2, polls=1))
        for kind, allowed in (("connections", 2), ("polls", 1)):
            usages = [limiter.open("192.0.2.1", kind) for _ in range(allowed)]
            self.assertEqual(0, limiter.excess(usages[0], kind))
            self.assertEqual(1, limiter.excess(limiter.open("192.0.2.1", kind), kind))
            self.assertEqual(1 - allowed, limiter.excess(limiter.open("192.0.2.2", kind), kind))
            error = limiter.too_many(kind)
            self.assertEqual(("too_many", 5.0), (error.code, error.after))
            self.assertIn(f"an address may have {allowed} ", error.message)
            self.assertIn(f"(--address-{kind})", error.message)
        counted = {("address", "connections"): 1, ("address", "polls"): 1}
        self.assertEqual(counted, self.node.counters.limited)

    def test_no_limit(self) -> None:
        """Without a limit there is no excess, and what is open is counted all the same, for limits that come later."""
        limiter = self.limiter()
        usages = [limiter.open("192.0.2.1", "polls") for _ in range(50)]
        self.assertEqual(0, limiter.excess(usages[0], "polls"))
        limiter.replace(RateLimits(address=ScopeLimits(polls=20)))
        self.assertEqual(30, limiter.excess(usages[0], "polls"))

    def test_forgotten(self) -> None:
        """An address is remembered while it has something open, and then forgotten."""
        limiter = self.limiter(address=ScopeLimits(connections=5))
        for usage in [limiter.open("192.0.2.1", "connections") for _ in range(3)]:
            self.clock.pump([1] * 20)
            self.assertIs(usage, limiter.address("192.0.2.1"))
            limiter.close(usage, "connections")
        self.clock.pump([1] * 20)
        self.assertEqual((0, []), (len(limiter), self.clock.getDelayedCalls()))


class DrawTests(Limited):
    """What a request takes, which holds nothing afterwards."""

    def test_holds_nothing(self) -> None:
        """A request takes from its client, its user and its address, and all are forgotten once they are full again."""
        one = ScopeLimits(commands=_SLOW)
        limiter = self.limiter(client=one, user=one, address=one)
        limiter.draw(user("a"), "192.0.2.1", ONE_COMMAND)
        self.assertEqual(3, len(limiter))
        self.clock.pump([0.25] * 40)
        self.assertEqual(0, len(limiter))

    def test_all_or_none(self) -> None:
        """If one of them has not enough, nothing is taken from the others."""
        limiter = self.limiter(client=ScopeLimits(commands=Rate(1, 1)), address=ScopeLimits(commands=Rate(1, 2)))
        limiter.draw(guest("a"), "192.0.2.1", ONE_COMMAND)
        error = self.refused(limiter.draw, guest("a"), "192.0.2.1", ONE_COMMAND)
        self.assertIn("a client may", error.message)
        limiter.draw(guest("b"), "192.0.2.1", ONE_COMMAND)
        self.assertIn("an address may", self.refused(limiter.draw, guest("c"), "192.0.2.1", ONE_COMMAND).message)
