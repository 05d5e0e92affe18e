"""The core of the client, on a fake clock and a server without sockets."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.client.core import Core
from realtime_chat.client.errors import ChatError, Closed, FateUnknown, QueueFull, Refused, Unreachable
from realtime_chat.client.events import Event, Message, Reset, State
from realtime_chat.client.link import ClientIdentity, LinkListener
from realtime_chat.client.options import ClientOptions
from realtime_chat.client.subscription import RoomSubscription
from realtime_chat.values.model import Position
from tests.client.fake import FakeLink, FakeServer


class World:
    """A core, its server, and what came of everything that was begun."""

    def __init__(self, transports: tuple[str, ...] = ("a", "b"), **options: Any) -> None:
        self.clock = Clock()
        self.server = FakeServer(self.clock)
        self.links: list[FakeLink] = []
        self.states: list[State] = []
        self.seen: list[Event] = []
        self.published: list[str] = []
        self.results: dict[str, list[Any]] = {}
        keys = (f"k{number}" for number in itertools.count())
        links = {kind: partial(self.make_link, kind) for kind in ("a", "b")}
        self.core = Core(
            self.clock, lambda: 0.5, lambda: next(keys), links, ClientOptions(transports, **options), self.states.append
        )
        self.opening = self.core.open()
        self.opening.addErrback(lambda failure: failure.trap(ChatError))
        self.subscription: RoomSubscription | None = None

    def make_link(self, kind: str, listener: LinkListener, identity: ClientIdentity) -> FakeLink:
        self.links.append(FakeLink(self.server, kind, listener, identity))
        return self.links[-1]

    @property
    def link(self) -> FakeLink:
        """The one that was made last."""
        return self.links[-1]

    def join(self) -> None:
        """Read the room."""
        self.core.join("lobby", None, None).addErrback(lambda failure: failure.trap(ChatError))
        self.subscription = self.core.rooms["lobby"]

    def publish(self, key: str | None = None) -> None:
        """Publish something that was never said before."""
        text = f"m{len(self.published)}"
        self.published.append(text)
        results = self.results[text] = []
        promise = self.core.publish("lobby", msgspec.json.encode(text), "message", key)
        promise.addCallbacks(results.append, lambda failure: results.append(failure.value))

    def consume(self, count: int = 1) -> None:
        """Take some of what is there for the reader."""
        assert self.subscription is not None
        for _ in range(count):
            event = self.subscription.pop()
            if event is None:
                return
            self.core.consumed(self.subscription)
            self.seen.append(event)

    def step(self) -> bool:
        """Let one of whatever waits through; whether anything did."""
        return self.link.let_command() or self.link.let_event() or self.link.let_reply()

    def settle(self) -> None:
        """Let everything through until nothing is left to do."""
        idle = 0
        while idle < 60:
            moved = self.step()
            before = len(self.seen)
            if self.subscription is not None:
                self.consume(100)
            idle = 0 if moved or len(self.seen) > before else idle + 1
            if idle:
                self.clock.advance(1)

    # What must be true

    def check(self) -> None:
        """The ledger: what is acknowledged is stored once; what is seen is in order and once, or a reset is told."""
        self.check_promises()
        self.check_reader()

    def check_promises(self) -> None:
        stored = [(log.epoch, message["data"]) for log in self.server.logs for message in log.messages]
        assert len(stored) == len(set(stored)), "something is stored twice in one log"
        acknowledged = []
        for text in self.published:
            assert len(self.results[text]) == 1, (text, self.results[text])
            result = self.results[text][0]
            if isinstance(result, Position):
                log = next(log for log in self.server.logs if log.epoch == result.epoch)
                assert log.messages[result.offset - 1]["data"] == text
                acknowledged.append((result.epoch, result.offset))
                assert [data for _, data in stored].count(text) == 1, f"{text} is stored in two logs"
            else:
                assert isinstance(result, FateUnknown | QueueFull), result
                assert isinstance(result, FateUnknown) or text not in [data for _, data in stored]
        assert acknowledged == sorted(acknowledged), "acknowledged out of order"

    def check_reader(self) -> None:
        logs = {log.epoch: log for log in self.server.logs}
        at: Position | None = None
        for event in self.seen:
            assert isinstance(event, Message | Reset)
            if isinstance(event, Message):
                assert at is None or event.position == Position(at.epoch, at.offset + 1), (at, event.position)
                assert logs[event.position.epoch].messages[event.position.offset - 1]["data"] == event.data
            at = event.position
        log = self.server.log
        if self.subscription is not None and log.messages:
            assert at == Position(log.epoch, log.top), f"the reader ends at {at}, the log at {log.position(log.top)}"


def _some(action: Callable[[World, int], Any], most: int) -> st.SearchStrategy[Any]:
    return st.tuples(st.just(action), st.integers(1, most))


def _times(do: Callable[[World], Any]) -> Callable[[World, int], None]:
    def action(world: World, count: int) -> None:
        for _ in range(count):
            do(world)

    return action


TROUBLES = ("in_doubt", "in_doubt, stored")
STEPS = st.one_of(
    _some(_times(World.publish), 4),
    _some(_times(World.step), 6),
    _some(_times(lambda world: world.link.let_command()), 5),
    _some(_times(lambda world: world.link.let_event()), 5),
    _some(_times(lambda world: world.link.let_reply()), 5),
    _some(World.consume, 8),
    _some(lambda world, n: world.link.cut(), 1),
    _some(lambda world, n: world.clock.advance(n), 30),
    _some(lambda world, n: world.core.switch(("ab"[n % 2],)), 2),
    _some(lambda world, n: world.server.trim(n), 3),
    _some(lambda world, n: world.server.troubles.extend(["store_unavailable"] * n), 3),
)
HARSHER = st.one_of(
    STEPS,
    _some(lambda world, n: world.server.troubles.append(TROUBLES[n - 1]), 2),
    _some(lambda world, n: world.server.forget_clients(), 1),
    _some(lambda world, n: world.clock.advance(100 * n), 4),
)
HARSH = st.one_of(HARSHER, _some(lambda world, n: world.server.renew(), 1))


class LedgerTests(SynchronousTestCase):
    """Whatever happens at whatever moment."""

    def run_steps(self, steps: list[Any], joined: bool, buffer: int = 1000) -> World:
        world = World(patient=True, buffer=buffer)
        if joined:
            world.join()
        for action, number in steps:
            action(world, number)
            if world.core.link is None and world.core.state.kind == "closed":
                raise AssertionError(world.core.state)
        world.settle()
        world.check()
        return world

    @settings(max_examples=300, deadline=None)
    @given(st.lists(STEPS, max_size=60))
    def test_cut_anywhere(self, steps: list[Any]) -> None:
        """Links cut, switched, replies lost or late, history trimmed: all is acknowledged, stored once, and seen."""
        world = self.run_steps(steps, joined=True)
        self.assertEqual([], [each for each in world.results.values() if isinstance(each[0], FateUnknown)])

    @settings(max_examples=300, deadline=None)
    @given(st.lists(HARSH, max_size=60))
    def test_harsh(self, steps: list[Any]) -> None:
        """With logs made anew, clients forgotten and keys outlived too: the same, or the fate is said to be unknown."""
        self.run_steps(steps, joined=True)

    @settings(max_examples=150, deadline=None)
    @given(st.lists(HARSHER, max_size=40))
    def test_without_reading(self, steps: list[Any]) -> None:
        """Who only publishes has the same promise, but can't know that a log was made anew."""
        self.run_steps([step for step in steps if step[0] is not World.consume], joined=False)

    @settings(max_examples=200, deadline=None)
    @given(st.lists(HARSH, max_size=60), st.integers(1, 6))
    def test_small_buffers(self, steps: list[Any], buffer: int) -> None:
        """A reader who is slow, with hardly any buffer, gets everything once and in order all the same."""
        self.run_steps(steps, joined=True, buffer=buffer)


class CoreTests(SynchronousTestCase):
    """One thing at a time."""

    def up(self, **options: Any) -> World:
        """A world whose core is connected, and reads."""
        world = World(**options)
        world.join()
        world.settle()
        self.assertEqual("connected", world.core.state.kind)
        return world

    def test_nobody_there(self) -> None:
        """Where the first attempts over all transports fail, that is the end, with the reasons."""
        world = World()
        failed = self.failureResultOf(world.core.open(), Unreachable) if world.core.state.kind == "closed" else None
        self.assertIsNone(failed)
        opening = world.core.open()
        world.link.cut()
        self.assertEqual(["a", "b"], [link.kind for link in world.links])
        world.link.cut()
        self.failureResultOf(opening, Unreachable)
        self.assertEqual("closed", world.core.state.kind)
        self.assertEqual([], world.clock.getDelayedCalls())

    def test_patient(self) -> None:
        """A patient client goes on trying."""
        world = World(patient=True)
        for _ in range(6):
            world.link.cut()
            world.link.cut()
            world.clock.advance(21)
        world.settle()
        self.successResultOf(world.core.open())

    def test_falls_back(self) -> None:
        """A transport that doesn't answer is followed by the next one."""
        world = World()
        world.clock.advance(10.1)
        self.assertEqual(["a", "b"], [link.kind for link in world.links])
        self.assertTrue(world.links[0].closed)

    def test_backs_off(self) -> None:
        """Waits grow up to twenty seconds, and begin anew after a connection that lasted."""
        world = self.up()
        delays = []
        for _ in range(8):
            world.link.cut()
            delays.append(world.core.state.delay)
            world.clock.advance(20)
            while world.core.state.kind != "connected":
                world.step()
        self.assertEqual(sorted(delays), delays)
        self.assertEqual(0.5 + (20 - 0.5) / 2, delays[-1])
        world.clock.advance(11)
        world.link.cut()
        self.assertEqual(0.75, world.core.state.delay)

    def test_goodbye(self) -> None:
        """A goodbye says how long to stay away at least, or not to come back at all."""
        world = self.up()
        world.link.events.append({"type": "goodbye", "code": 4000, "reason": "x", "reconnect": True, "after": 30})
        world.link.let_event()
        self.assertEqual("waiting", world.core.state.kind)
        self.assertGreater(world.core.state.delay, 30)
        world.settle()
        world.link.events.append({"type": "goodbye", "code": 4500, "reason": "too_many_errors", "reconnect": False})
        world.link.let_event()
        self.assertIn("too_many_errors", world.core.state.reason)
        self.failureResultOf(world.core.open(), Refused)

    def test_offline_queue(self) -> None:
        """While there is no connection, so many commands wait and no more."""
        world = self.up(offline=3)
        world.link.cut()
        for _ in range(4):
            world.publish()
        self.assertIsInstance(world.results["m3"][0], QueueFull)
        world.settle()
        self.assertEqual(["m0", "m1", "m2"], [message["data"] for message in world.server.log.messages])

    def test_same_key(self) -> None:
        """The same content under the same key is one message, other content is refused, before anything is sent."""
        world = self.up()
        first, again = (world.core.publish("lobby", b'{"a":1}', "message", "k") for _ in range(2))
        self.failureResultOf(world.core.publish("lobby", b'{"a":2}', "message", "k"), Refused)
        world.settle()
        self.assertEqual(self.successResultOf(first), self.successResultOf(again))
        self.assertEqual(1, world.server.log.top)

    def test_cancelled_before_it_was_sent(self) -> None:
        """A publish that is cancelled while there is no connection isn't sent."""
        world = self.up()
        world.link.cut()
        promise = world.core.publish("lobby", b"1", "message", None)
        promise.addErrback(lambda failure: None)
        promise.cancel()
        world.settle()
        self.assertEqual(0, world.server.log.top)

    def test_close(self) -> None:
        """Closing fails what was sent with an unknown fate, and what wasn't as closed; no timer is left."""
        world = self.up()
        world.publish()
        world.link.cut()
        world.publish()
        self.successResultOf(world.core.close())
        kinds = [type(world.results[text][0]) for text in world.published]
        self.assertEqual([FateUnknown, Closed], kinds)
        self.assertEqual([], world.clock.getDelayedCalls())
        self.failureResultOf(world.core.publish("lobby", b"1", "message", None), Closed)

    def test_too_large(self) -> None:
        """Where the server closes over a size, the largest message is to blame, and the others go on."""
        world = self.up()
        small = world.core.publish("lobby", b'"small"', "message", None)
        large = world.core.publish("lobby", b'"' + b"x" * 1000 + b'"', "message", None)
        world.link.cut(too_large=True)
        self.assertEqual("too_large", self.failureResultOf(large, Refused).value.code)
        world.settle()
        self.assertEqual(1, self.successResultOf(small).offset)

    def test_in_doubt(self) -> None:
        """What is in doubt is published again under its key, however often, and stored once; what comes after waits."""
        for stored in (True, False):
            world = self.up()
            world.server.troubles += ["in_doubt, stored", "in_doubt", "store_unavailable"][not stored :]
            world.core.publish("other", b'"first"', "message", "k").addErrback(self.fail)
            while world.step():
                pass
            world.core.publish("other", b'"second"', "message", "l")
            self.assertFalse(world.link.commands)
            world.settle()
            self.assertEqual(["first", "second"], [message["data"] for message in world.server.log.messages])

    def test_one_goes_ahead(self) -> None:
        """After a refusal for now one publish goes ahead, however often, and the others when that one is stored."""
        world = self.up()
        world.server.troubles += ["store_unavailable"] * 6  # three at first, and then the one that goes ahead
        sent: list[str] = []
        send = world.link.send
        self.patch(world.link, "send", lambda command: (sent.append(command["key"]), send(command)))
        for key in "klm":
            world.core.publish("other", b'"%b"' % key.encode(), "message", key).addErrback(self.fail)
        world.settle()
        self.assertEqual(["k", "l", "m", "k", "k", "k", "k", "l", "m"], sent)
        self.assertEqual(["k", "l", "m"], [message["data"] for message in world.server.log.messages])

    def test_in_doubt_after_a_loss(self) -> None:
        """That trying again fails for a while doesn't tell that what was sent before was not stored."""
        world = self.up()
        promise = world.core.publish("other", b'"a"', "message", "k")
        world.link.let_command()
        world.link.cut()
        world.clock.advance(1)
        while not world.link.commands or world.link.commands[0]["type"] != "publish":
            world.step()
        (command,) = world.link.commands
        world.link.commands.clear()
        refused = {"type": "error", "id": command["id"], "code": "store_unavailable", "message": "", "temporary": True}
        world.link.replies.append(refused)
        world.link.let_reply()
        self.assertNoResult(promise)
        world.settle()
        self.assertEqual(1, self.successResultOf(promise).offset)
        self.assertEqual(1, world.server.log.top)

    def test_in_doubt_for_too_long(self) -> None:
        """Longer than a key is kept it isn't published again: its fate is unknown; no timer is left."""
        world = self.up()
        world.server.troubles += ["in_doubt"] * 1000
        promise = world.core.publish("other", b'"a"', "message", "k")
        for _ in range(400):
            while world.step():
                pass
            world.clock.advance(1)
        self.failureResultOf(promise, FateUnknown)
        self.successResultOf(world.core.close())
        self.assertEqual([], world.clock.getDelayedCalls())

    def test_pauses(self) -> None:
        """A link is paused while the reader has half a buffer to do, and resumed when it is drained."""
        world = self.up(buffer=10)
        for number in range(6):
            world.server.publish("other", {"key": f"o{number}", "id": 0, "event": "message", "data": b"1"})
            world.link.let_event()
        self.assertTrue(world.link.paused)
        world.consume(2)
        self.assertTrue(world.link.paused)
        world.consume(2)
        self.assertFalse(world.link.paused)

    def test_a_promise_wakes_a_paused_link(self) -> None:
        """A publish is answered though the reader does nothing."""
        world = self.up(buffer=4)
        for number in range(30):
            world.server.publish("other", {"key": f"o{number}", "id": 0, "event": "message", "data": b"1"})
        while world.step():
            pass
        self.assertTrue(world.link.paused)
        world.publish()
        while world.step():
            pass
        self.assertIsInstance(world.results["m0"][0], Position)
        world.settle()
        world.check_reader()

    def test_refused_rejoin_ends_the_room(self) -> None:
        """A room that may no longer be read comes to an end, with the reason."""
        world = self.up()
        world.link.cut()
        world.clock.advance(1)
        while not (world.link.commands and world.link.commands[0]["type"] == "join"):
            world.step()
        world.link.commands.clear()
        world.link.events.append({"type": "refused", "code": "forbidden", "message": "no longer"})
        world.link.let_event()
        assert world.subscription is not None
        self.assertIsInstance(world.subscription.ended, Refused)

    def test_nonsense(self) -> None:
        """What the protocol doesn't know loses the link and nothing else; unknown types are passed over."""
        world = self.up()
        world.link.events.append({"type": "weather", "room": "lobby"})
        world.link.let_event()
        self.assertEqual("connected", world.core.state.kind)
        world.link.events.append({"type": "message", "room": "lobby", "position": 7})
        world.link.let_event()
        self.assertEqual("waiting", world.core.state.kind)
        self.assertEqual(1, len(self.flushLoggedErrors(Exception)))
        world.settle()
        self.assertEqual("connected", world.core.state.kind)
