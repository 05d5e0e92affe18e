"""Busy and honest visitors never meet the default limits: simulations of what they draw, with a clock that jumps.

A simulation draws what the daemon draws for the same: a ``hello``, a join and a publish are a command each; a poll is
one; who comes back connects; whoever is new is a guest.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from heapq import heappop, heappush

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core.identity import NOBODY, Identity
from realtime_chat.core.node import Node
from realtime_chat.core.quota import Quota
from realtime_chat.core.rate_limiter import ONE_CONNECT, RateLimiter
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.limits import Limits
from realtime_chat.values.model import User
from realtime_chat.values.rates import (
    COMMANDS,
    CONNECTS,
    DEFAULTS,
    GUESTS,
    JOINS,
    ROOMS,
    SIGNALS,
    STATES,
)
from tests.soak import SOAK

_ADDRESS = "192.0.2.7"
_LINE, _PICTURE = 200, 60_000
"""Bytes of what is typed, and of what is pasted."""
_MINUTE = 60.0
_ROOMS_ELSEWHERE = 30
"""In how many rooms a client counts as being that comes to another node than before."""

Act = Iterator[float]
"""What a visitor does, as a generator: it yields the seconds until it goes on."""


class Page:
    """A page that is open in a browser, at the one address that all have here.

    :param name: the name of its client.
    :param user: the id of its user; None for a guest.
    """

    def __init__(self, limiter: RateLimiter, name: str, user: str | None = None) -> None:
        self._limiter = limiter
        self._address = limiter.address(_ADDRESS)
        known = User(user or f"~{name}", name, user is None)
        expires = None if user is None else 10**15
        self._identity = Identity(f"client-{name}", name, known, expires=expires)
        self._quota = Quota(limiter, self._identity, _ADDRESS)
        self._is_connected = False

    def open(self) -> None:
        """Load the page, over a connection that stays open for a while; its visitor is a new guest."""
        self._keep("connections")
        self._at_address(GUESTS)

    def connect(self, rooms: int) -> None:
        """Connect, perhaps again, before the daemon knows that the connection before is lost; read some rooms."""
        self._keep("connections")
        self._at_address(CONNECTS)
        if self._is_connected:
            self._limiter.close(self._address, "connections")
            self._limiter.draw(self._identity, None, ONE_CONNECT)
        self._is_connected = True
        self._quota.take(COMMANDS)
        for _ in range(rooms):
            self._quota.take_all(((COMMANDS, 1.0), (JOINS, 1.0)))

    def wait(self) -> None:
        """Poll, and from now on let a poll wait, always."""
        self.poll()
        self._keep("polls")

    def poll(self) -> None:
        """Poll again, as there was news."""
        self._quota.take(COMMANDS)

    def publish(self, size: int = _LINE, is_first: bool = False) -> None:
        """Publish a message, perhaps the first one of a room."""
        self._quota.take_publish(size)
        if is_first:
            self._quota.take(ROOMS)

    def signal(self) -> None:
        """Send a signal."""
        self._quota.take_all(((COMMANDS, 1.0), (SIGNALS, 1.0)))

    def set_state(self, rooms: int = 1) -> None:
        """Tell a state to the rooms that it is in."""
        self._quota.take_all(((COMMANDS, 1.0), (STATES, rooms)))

    def _at_address(self, kind: int) -> None:
        self._limiter.draw(NOBODY, _ADDRESS, ((kind, 1.0),))

    def _keep(self, kind: str) -> None:
        self._limiter.open(_ADDRESS, kind)
        if self._limiter.excess(self._address, kind) > 0:
            raise self._limiter.too_many(kind)


class HonestUseTests(SynchronousTestCase):
    """Nobody here is refused anything by the default limits."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.limiter = RateLimiter(Node("n", self.clock, self.clock.seconds, Limits()), DEFAULTS)
        self.random = random.Random(18)
        self.refusals: Counter[str] = Counter()
        self._acts: list[tuple[float, int, Act]] = []
        self._count = 0

    # Time

    def begin(self, *acts: Act, within: float = 0.0) -> None:
        """Let somebody act, beside all others.

        :param within: seconds, at some time of which each begins.
        """
        for act in acts:
            self._go_on(act, self.random.uniform(0, within))

    def _go_on(self, act: Act, pause: float) -> None:
        self._count += 1
        heappush(self._acts, (self.clock.seconds() + pause, self._count, act))

    def run_for(self, seconds: float) -> None:
        """Let time go by. Nobody was refused anything meanwhile."""
        end = self.clock.seconds() + seconds
        while self._acts and self._acts[0][0] <= end:
            at, _, act = heappop(self._acts)
            self.clock.advance(max(0.0, at - self.clock.seconds()))
            try:
                self._go_on(act, next(act))
            except RealtimeError as error:
                self.refusals[str(error)] += 1
            except StopIteration:
                continue
        self.clock.advance(max(0.0, end - self.clock.seconds()))
        self.assertEqual({}, dict(self.refusals))

    def about(self, seconds: float) -> float:
        """A pause of about so many seconds, as people make them."""
        return self.random.uniform(0.5, 1.5) * seconds

    # People

    def page(self, name: str, user: str | None = None) -> Page:
        return Page(self.limiter, name, user)

    def talk(self, page: Page, seconds: float) -> Act:
        """Write a line every so many seconds, and tell that one types."""
        while True:
            yield self.about(seconds)
            for _ in range(3):
                page.signal()
                yield 1.0
            page.publish()

    def draw(self, page: Page, seconds: float) -> Act:
        """Tell thirty times a second where the pointer is, and store every tenth of that."""
        for moved in range(int(30 * seconds)):
            page.signal()
            if not moved % 10:
                page.publish()
            yield 1 / 30

    def follow(self, page: Page, messages: float) -> Act:
        """Poll in a room that has so many messages a second."""
        page.wait()
        while True:
            yield self.about(1 / messages)
            page.poll()

    def arrive(self, page: Page, number: int) -> Act:
        """A pupil comes to a lesson: one in ten polls, and one in three makes a room with a neighbour."""
        page.open()
        page.connect(rooms=2)
        page.set_state(rooms=2)
        if not number % 3:
            page.publish(is_first=True)
        if not number % 10:
            self.begin(self.follow(page, messages=1.5))
        self.begin(self.talk(page, seconds=20))
        yield 0

    def come_back(self, page: Page, rooms: int) -> Act:
        """A page that has lost its connection comes to another node, and tells it its state."""
        page.connect(rooms)
        page.set_state(_ROOMS_ELSEWHERE)
        page.publish()  # what it has written meanwhile
        yield 0

    # Simulations

    def test_busy_human(self) -> None:
        """Somebody writes a line every two seconds in three tabs, reads two busy rooms by polls, pastes twenty pictures
        in a row, and holds Enter down for five seconds."""
        pages = [self.page(f"tab-{number}", "ann") for number in range(3)]
        for page in pages:
            page.connect(rooms=5)
            self.begin(self.talk(page, seconds=2), self.follow(page, messages=20), self.follow(page, messages=20))

        def paste_and_hold(page: Page) -> Act:
            for _ in range(20):
                page.publish(_PICTURE)
                yield 0.2
            for _ in range(5 * 30):  # a keyboard repeats a key up to thirty times a second
                page.publish()
                yield 1 / 30

        self.begin(*map(paste_and_hold, pages), within=_MINUTE)
        self.run_for(10 * _MINUTE)

    def test_hundred_rooms(self) -> None:
        """A page with a hundred rooms loses its connection ten times in a minute, as in a train; each time it joins all
        of them again."""
        page = self.page("train", "ann")
        for _ in range(11):
            self.begin(self.come_back(page, rooms=100))
            self.run_for(6.0)

    def test_collaboration(self) -> None:
        """A page sends thirty signals a second for ten minutes, and so does everybody in a class of thirty."""
        for number in range(30):
            page = self.page(f"pupil-{number}")
            page.connect(rooms=1)
            self.begin(self.draw(page, 10 * _MINUTE), within=1.0)
        self.run_for(2 * _MINUTE if not SOAK else 10 * _MINUTE)

    def test_school(self) -> None:
        """A thousand pupils behind one address come to their lessons within half a minute, all new guests; they write,
        poll and make rooms, and one class draws on a whiteboard."""
        pages = [self.page(f"pupil-{number}") for number in range(1000)]
        self.begin(*(self.arrive(page, number) for number, page in enumerate(pages)), within=_MINUTE / 2)
        self.begin(*(self.draw(page, _MINUTE) for page in pages[:30]), within=1.0)
        self.run_for(5 * _MINUTE if not SOAK else 45 * _MINUTE)

    def test_restart(self) -> None:
        """A thousand pages of one address come back within two seconds, three times in a minute, to five rooms each.

        The daemon is not started again for that: its buckets would be full then. It is the proxy before it that is.
        """
        pages = [self.page(f"page-{number}") for number in range(1000)]
        for page in pages:
            page.open()
            page.connect(rooms=5)
        self.run_for(_MINUTE)
        for _ in range(3):
            self.begin(*(self.come_back(page, rooms=5) for page in pages), within=2.0)
            self.run_for(_MINUTE / 3)
