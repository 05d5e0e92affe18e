"""The client's core, with a fake clock and a server without sockets."""

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

from realtime_chat.client.connector import ClientOptions
from realtime_chat.client.core import Core
from realtime_chat.client.errors import ChatError, Closed, FateUnknown, QueueFull, Refused, Unreachable
from realtime_chat.client.events import Event, Message, Presence, Reset, State
from realtime_chat.client.link import ClientIdentity, LinkListener
from realtime_chat.client.subscription import RoomSubscription
from realtime_chat.values.model import Position
from tests.client.fake import FakeLink, FakeServer
from tests.soak import examples


class World:
    """A core, its server, and the results of everything that was started."""

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
        self.opening = self.core.connector.open()
        self.opening.addErrback(lambda failure: failure.trap(ChatError))
        self.subscription: RoomSubscription | None = None

    def make_link(self, kind: str, listener: LinkListener, identity: ClientIdentity) -> FakeLink:
        self.links.append(FakeLink(self.server, kind, listener, identity))
        return self.links[-1]

    @property
    def link(self) -> FakeLink:
        """The link that was made last."""
        return self.links[-1]

    def join(self) -> None:
        """Read the room."""
        self.core.subscriptions.join("lobby", None, None).addErrback(lambda failure: failure.trap(ChatError))
        self.subscription = self.core.rooms["lobby"]

    def publish(self, key: str | None = None) -> None:
        """Publish a text that was not published before."""
        text = f"m{len(self.published)}"
        self.published.append(text)
        results = self.results[text] = []
        promise = self.core.outbox.publish("lobby", msgspec.json.encode(text), "message", key)
        promise.addCallbacks(results.append, lambda failure: results.append(failure.value))

    def consume(self, count: int = 1) -> None:
        """Take some events from the reader's buffer."""
        assert self.subscription is not None
        for _ in range(count):
            event = self.subscription.pop()
            if event is None:
                return
            self.core.subscriptions.consumed(self.subscription)
            self.seen.append(event)

    def step(self) -> bool:
        """Deliver one command, event or reply. Returns whether there was one."""
        return self.link.deliver_command() or self.link.deliver_event() or self.link.deliver_reply()

    def settle(self) -> None:
        """Deliver everything until nothing is left to do."""
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
        """Acknowledged messages are stored once; the reader sees each once and in order, or a reset."""
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
    _some(_times(lambda world: world.link.deliver_command()), 5),
    _some(_times(lambda world: world.link.deliver_event()), 5),
    _some(_times(lambda world: world.link.deliver_reply()), 5),
    _some(World.consume, 8),
    _some(lambda world, n: world.link.cut(), 1),
    _some(lambda world, n: world.clock.advance(n), 30),
    _some(lambda world, n: world.core.connector.switch(("ab"[n % 2],)), 2),
    _some(lambda world, n: world.server.trim(n), 3),
    _some(lambda world, n: world.server.publish_errors.extend(["store_unavailable"] * n), 3),
)
HARSHER = st.one_of(
    STEPS,
    _some(lambda world, n: world.server.publish_errors.append(TROUBLES[n - 1]), 2),
    _some(lambda world, n: world.server.forget_clients(), 1),
    _some(lambda world, n: world.clock.advance(100 * n), 4),
)
HARSH = st.one_of(HARSHER, _some(lambda world, n: world.server.renew(), 1))


class LedgerTests(SynchronousTestCase):
    """Random interleavings of events and failures."""

    def run_steps(self, steps: list[Any], joined: bool, buffer: int = 1000) -> World:
        world = World(patient=True, buffer=buffer)
        if joined:
            world.join()
        for action, number in steps:
            action(world, number)
            if world.core.connector.link is None and world.core.connector.state.kind == "closed":
                raise AssertionError(world.core.connector.state)
        world.settle()
        world.check()
        return world

    @settings(max_examples=examples(300), deadline=None)
    @given(st.lists(STEPS, max_size=60))
    def test_cut_anywhere(self, steps: list[Any]) -> None:
        """With links cut or switched, lost replies and trimmed history, all is acknowledged, stored once and seen."""
        world = self.run_steps(steps, joined=True)
        self.assertEqual([], [each for each in world.results.values() if isinstance(each[0], FateUnknown)])

    @settings(max_examples=examples(300), deadline=None)
    @given(st.lists(HARSH, max_size=60))
    def test_harsh(self, steps: list[Any]) -> None:
        """With new logs, forgotten clients and expired keys too, the same holds, or a publish fails as unknown."""
        self.run_steps(steps, joined=True)

    @settings(max_examples=examples(150), deadline=None)
    @given(st.lists(HARSHER, max_size=40))
    def test_without_reading(self, steps: list[Any]) -> None:
        """The same holds for a client that only publishes, except when the log is replaced, which it can't notice."""
        self.run_steps([step for step in steps if step[0] is not World.consume], joined=False)

    @settings(max_examples=examples(200), deadline=None)
    @given(st.lists(HARSH, max_size=60), st.integers(1, 6))
    def test_small_buffers(self, steps: list[Any], buffer: int) -> None:
        """A slow reader with a tiny buffer still gets everything once and in order."""
        self.run_steps(steps, joined=True, buffer=buffer)


class CoreTests(SynchronousTestCase):
    """One behaviour at a time."""

    def up(self, **options: Any) -> World:
        """A world whose core is connected and reads the room."""
        world = World(**options)
        world.join()
        world.settle()
        self.assertEqual("connected", world.core.connector.state.kind)
        return world

    def test_nobody_there(self) -> None:
        """If the first attempts over all transports fail, the client stops, with the reasons."""
        world = World()
        self.assertNotEqual("closed", world.core.connector.state.kind)
        opening = world.core.connector.open()
        world.link.cut()
        self.assertEqual(["a", "b"], [link.kind for link in world.links])
        world.link.cut()
        self.failureResultOf(opening, Unreachable)
        self.assertEqual("closed", world.core.connector.state.kind)
        self.assertEqual([], world.clock.getDelayedCalls())

    def test_patient(self) -> None:
        """A patient client keeps trying."""
        world = World(patient=True)
        for _ in range(6):
            world.link.cut()
            world.link.cut()
            world.clock.advance(21)
        world.settle()
        self.successResultOf(world.core.connector.open())

    def test_falls_back(self) -> None:
        """If a transport doesn't answer, the next one is tried."""
        world = World()
        world.clock.advance(10.1)
        self.assertEqual(["a", "b"], [link.kind for link in world.links])
        self.assertTrue(world.links[0].closed)

    def test_switch(self) -> None:
        """A switch leaves one link, to the other transport, whether there was one, none, or one that opens."""
        for state in ("connected", "waiting", "connecting"):
            world = self.up(transports=("a",))
            if state != "connected":
                world.link.cut()
            if state == "connecting":
                world.clock.advance(20)
            self.assertEqual(state, world.core.connector.state.kind)
            switched = world.core.connector.switch(("b",))
            world.settle()
            self.successResultOf(switched)
            self.assertEqual(["b"], [link.kind for link in world.links if not link.closed], state)
            world.publish()
            world.settle()
            world.check()

    def test_backs_off(self) -> None:
        """Delays grow up to twenty seconds, and start again after a stable connection."""
        world = self.up()
        delays = []
        for _ in range(8):
            world.link.cut()
            delays.append(world.core.connector.state.delay)
            world.clock.advance(20)
            while world.core.connector.state.kind != "connected":
                world.step()
        self.assertEqual(sorted(delays), delays)
        self.assertEqual(0.5 + (20 - 0.5) / 2, delays[-1])
        world.clock.advance(11)
        world.link.cut()
        self.assertEqual(0.75, world.core.connector.state.delay)

    def test_goodbye(self) -> None:
        """A goodbye gives the minimum delay, or forbids reconnecting."""
        world = self.up()
        world.link.events.append({"type": "goodbye", "code": 4000, "reason": "x", "reconnect": True, "after": 30})
        world.link.deliver_event()
        self.assertEqual("waiting", world.core.connector.state.kind)
        self.assertGreater(world.core.connector.state.delay, 30)
        world.settle()
        world.link.events.append({"type": "goodbye", "code": 4500, "reason": "too_many_errors", "reconnect": False})
        world.link.deliver_event()
        self.assertIn("too_many_errors", world.core.connector.state.reason)
        self.failureResultOf(world.core.connector.open(), Refused)

    def test_offline_queue(self) -> None:
        """While there is no connection, only a limited number of commands waits."""
        world = self.up(offline=3)
        world.link.cut()
        for _ in range(4):
            world.publish()
        self.assertIsInstance(world.results["m3"][0], QueueFull)
        world.settle()
        self.assertEqual(["m0", "m1", "m2"], [message["data"] for message in world.server.log.messages])

    def test_same_key(self) -> None:
        """The same key and content are one message; the same key with other content is refused before it is sent."""
        world = self.up()
        first, again = (world.core.outbox.publish("lobby", b'{"a":1}', "message", "k") for _ in range(2))
        self.failureResultOf(world.core.outbox.publish("lobby", b'{"a":2}', "message", "k"), Refused)
        world.settle()
        self.assertEqual(self.successResultOf(first), self.successResultOf(again))
        self.assertEqual(1, world.server.log.top)

    def test_cancelled_before_it_was_sent(self) -> None:
        """A publish that is cancelled before there is a connection isn't sent."""
        world = self.up()
        world.link.cut()
        promise = world.core.outbox.publish("lobby", b"1", "message", None)
        promise.addErrback(lambda failure: None)
        promise.cancel()
        world.settle()
        self.assertEqual(0, world.server.log.top)

    def test_queries_wait(self) -> None:
        """A query that is asked while offline is sent on the next connection, and on each until it is answered."""
        world = self.up(offline=1)
        world.link.cut()
        reply = world.core.query({"type": "history", "room": "lobby"})
        self.failureResultOf(world.core.query({"type": "history", "room": "lobby"}), QueueFull)
        for _ in range(2):
            id = self.reconnect(world, "history")
        self.assertNoResult(reply)
        world.link.replies.append({"type": "history", "id": id, "messages": []})
        world.link.deliver_reply()
        self.assertEqual([], self.successResultOf(reply)["messages"])
        self.assertIsNone(self.reconnect(world, "history"))

    def reconnect(self, world: World, kind: str) -> int | None:
        """Lose the connection, and open another. Returns the id of the first command of a kind that it sends."""
        world.link.cut()
        world.clock.advance(20)
        world.link.deliver_command()
        world.link.deliver_event()
        self.assertEqual("connected", world.core.connector.state.kind)
        return next((command["id"] for command in world.link.commands if command["type"] == kind), None)

    def test_queries_end(self) -> None:
        """A query fails with the server's error; when the client is closed, each fails that waits or is asked later."""
        for online in (True, False):
            world = self.up()
            refused = world.core.query({"type": "history", "room": "lobby"})
            (command,) = world.link.commands
            error = {"type": "error", "id": command["id"], "code": "forbidden", "message": "no", "temporary": False}
            world.link.replies.append(error)
            world.link.deliver_reply()
            self.assertEqual("forbidden", self.failureResultOf(refused, Refused).value.code)
            if not online:
                world.link.cut()
            waiting = [world.core.query({"type": kind, "room": "lobby"}) for kind in ("history", "members")]
            self.successResultOf(world.core.connector.close())
            for query in (*waiting, world.core.query({"type": "history", "room": "lobby"})):
                self.failureResultOf(query, Closed)

    def test_stale_position(self) -> None:
        """A room that is joined after a position of another log begins with a reset, and goes on from there."""
        world = World()
        world.server.publish("other", {"key": "o", "id": 0, "event": "message", "data": b"1"})
        joining = world.core.subscriptions.join("lobby", Position("stale", 9), None)
        while world.step():
            pass
        subscription = self.successResultOf(joining)
        self.assertEqual(Reset("lobby", Position("e1", 0)), subscription.pop())
        event = subscription.pop()
        assert isinstance(event, Message)
        self.assertEqual((1, Position("e1", 1)), (event.data, event.position))

    def seconds_until_sent(self, world: World, kind: str) -> float:
        """The seconds until a command of a kind is sent; the server refuses it then for a while."""
        for passed in range(400):
            if any(command["type"] == kind for command in world.link.commands):
                while world.step():
                    pass
                return passed / 4
            world.clock.advance(0.25)
        raise AssertionError(f"no {kind} was sent")

    def test_refusals_back_off(self) -> None:
        """The delays grow while a message or a room is refused for a while, and start again after a success."""
        growing = [0.75, 1.25, 2.25, 4.25, 8.25, 10.25, 10.25]
        world = self.up()
        for _ in range(2):
            world.server.away = True
            world.publish()
            self.assertEqual(0, self.seconds_until_sent(world, "publish"))
            self.assertEqual(growing, [self.seconds_until_sent(world, "publish") for _ in growing])
            world.server.away = False
            self.seconds_until_sent(world, "publish")
        for _ in range(2):
            world.server.room_away = True
            self.assertIsNone(self.reconnect(world, "publish"))
            self.assertEqual(0, self.seconds_until_sent(world, "join"))
            self.assertEqual(growing, [self.seconds_until_sent(world, "join") for _ in growing])
            world.server.room_away = False
            self.seconds_until_sent(world, "join")

    def test_close(self) -> None:
        """Closing fails sent publishes with FateUnknown and others with Closed; no timer is left."""
        world = self.up()
        world.publish()
        world.link.cut()
        world.publish()
        self.successResultOf(world.core.connector.close())
        kinds = [type(world.results[text][0]) for text in world.published]
        self.assertEqual([FateUnknown, Closed], kinds)
        self.assertEqual([], world.clock.getDelayedCalls())
        self.failureResultOf(world.core.outbox.publish("lobby", b"1", "message", None), Closed)

    def test_too_large(self) -> None:
        """If the server closes because a message is too large, the largest one fails, and the others are sent again."""
        world = self.up()
        small = world.core.outbox.publish("lobby", b'"small"', "message", None)
        large = world.core.outbox.publish("lobby", b'"' + b"x" * 1000 + b'"', "message", None)
        world.link.cut(too_large=True)
        self.assertEqual("too_large", self.failureResultOf(large, Refused).value.code)
        world.settle()
        self.assertEqual(1, self.successResultOf(small).offset)

    def test_in_doubt(self) -> None:
        """A publish in doubt is retried under its key until it is stored once; later publishes wait for it."""
        for stored in (True, False):
            world = self.up()
            world.server.publish_errors += ["in_doubt, stored", "in_doubt", "store_unavailable"][not stored :]
            world.core.outbox.publish("other", b'"first"', "message", "k").addErrback(self.fail)
            while world.step():
                pass
            world.core.outbox.publish("other", b'"second"', "message", "l")
            self.assertFalse(world.link.commands)
            world.settle()
            self.assertEqual(["first", "second"], [message["data"] for message in world.server.log.messages])

    def test_one_goes_ahead(self) -> None:
        """After a temporary error one publish is retried alone; the others follow when it is stored."""
        world = self.up()
        world.server.publish_errors += ["store_unavailable"] * 6  # three at first, and then the one that goes ahead
        sent: list[str] = []
        send = world.link.send
        self.patch(world.link, "send", lambda command: (sent.append(command["key"]), send(command)))
        for key in "klm":
            world.core.outbox.publish("other", b'"%b"' % key.encode(), "message", key).addErrback(self.fail)
        world.settle()
        self.assertEqual(["k", "l", "m", "k", "k", "k", "k", "l", "m"], sent)
        self.assertEqual(["k", "l", "m"], [message["data"] for message in world.server.log.messages])

    def test_keeps_after(self) -> None:
        """A publish that a limit refuses is sent again after the time that the server gives, in order."""
        world = self.up()
        promises = [world.core.outbox.publish("other", b"%d" % number, "message", None) for number in range(3)]
        for command in list(world.link.commands):
            world.link.replies.append(self.limited(command["id"], 7.5))
        world.link.commands.clear()
        while world.step():
            pass
        world.clock.pump([0.5] * 14)
        self.assertFalse(world.link.commands)
        world.settle()
        self.assertEqual([1, 2, 3], [self.successResultOf(promise).offset for promise in promises])
        self.assertEqual([0, 1, 2], [message["data"] for message in world.server.log.messages])

    def limited(self, id: Any, after: float) -> dict[str, Any]:
        """The error of a limit that was reached."""
        error = {"type": "error", "code": "rate_limited", "message": "slower", "temporary": True, "after": after}
        return error if id is None else {**error, "id": id}

    def test_first_join_keeps_after(self) -> None:
        """A join that a limit refuses is sent again after the time that the server gives, even the first one."""
        world = World()
        while not world.core.connector.up:
            world.step()
        joining = world.core.subscriptions.join("lobby", None, None)
        world.link.commands.clear()
        world.link.events.append({**self.limited(None, 3.0), "type": "refused"})
        world.link.deliver_event()
        world.clock.advance(3)
        self.assertEqual([], [command["type"] for command in world.link.commands])
        world.settle()
        self.assertTrue(self.successResultOf(joining).joined)

    def test_query_keeps_after(self) -> None:
        """A query that a limit refuses is sent again after that time, and not after its connection is lost."""
        world = self.up()
        for is_lost in (False, True):
            reply = world.core.query({"type": "history", "room": "lobby"})
            (command,) = world.link.commands
            world.link.commands.clear()
            world.link.replies.append(self.limited(command["id"], 2.0))
            world.link.deliver_reply()
            world.clock.advance(1.9)
            self.assertFalse(world.link.commands)
            if is_lost:
                world.link.cut()
                break
            world.clock.advance(0.2)
            self.assertEqual([command], list(world.link.commands))
            world.link.commands.clear()
            world.link.replies.append({"type": "history", "id": command["id"]})
            world.link.deliver_reply()
            self.assertEqual("history", self.successResultOf(reply)["type"])
        reply.addErrback(lambda failure: failure.trap(Closed))
        self.successResultOf(world.core.connector.close())
        self.assertEqual([], world.clock.getDelayedCalls())

    def test_first_hello_keeps_after(self) -> None:
        """A first hello that a limit refuses is said again after that time, though the client isn't patient."""
        world = World(("a",))
        world.link.commands.clear()
        world.link.events.append(self.limited(None, 5.0))
        world.link.deliver_event()
        self.assertEqual("waiting", world.states[-1].kind)
        world.clock.advance(5)
        self.assertEqual(1, len(world.links))
        world.settle()
        self.assertEqual("connected", world.states[-1].kind)

    def test_in_doubt_after_a_loss(self) -> None:
        """A temporary error of a retry doesn't prove that the first attempt was not stored."""
        world = self.up()
        promise = world.core.outbox.publish("other", b'"a"', "message", "k")
        world.link.deliver_command()
        world.link.cut()
        world.clock.advance(1)
        while not world.link.commands or world.link.commands[0]["type"] != "publish":
            world.step()
        (command,) = world.link.commands
        world.link.commands.clear()
        refused = {"type": "error", "id": command["id"], "code": "store_unavailable", "message": "", "temporary": True}
        world.link.replies.append(refused)
        world.link.deliver_reply()
        self.assertNoResult(promise)
        world.settle()
        self.assertEqual(1, self.successResultOf(promise).offset)
        self.assertEqual(1, world.server.log.top)

    def test_in_doubt_for_too_long(self) -> None:
        """A publish in doubt is not retried after its key has expired: it fails with FateUnknown. No timer is left."""
        world = self.up()
        world.server.publish_errors += ["in_doubt"] * 1000
        promise = world.core.outbox.publish("other", b'"a"', "message", "k")
        for _ in range(400):
            while world.step():
                pass
            world.clock.advance(1)
        self.failureResultOf(promise, FateUnknown)
        self.successResultOf(world.core.connector.close())
        self.assertEqual([], world.clock.getDelayedCalls())

    def test_pauses(self) -> None:
        """A link is paused when the buffer is half full, and resumed when it is a quarter full."""
        world = self.up(buffer=10)
        for number in range(6):
            world.server.publish("other", {"key": f"o{number}", "id": 0, "event": "message", "data": b"1"})
            world.link.deliver_event()
        self.assertTrue(world.link.paused)
        world.consume(2)
        self.assertTrue(world.link.paused)
        world.consume(2)
        self.assertFalse(world.link.paused)

    def test_a_promise_wakes_a_paused_link(self) -> None:
        """A publish is answered although the reader takes nothing."""
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
        """A room that may no longer be read ends with the error."""
        world = self.up()
        world.link.cut()
        world.clock.advance(1)
        while not (world.link.commands and world.link.commands[0]["type"] == "join"):
            world.step()
        world.link.commands.clear()
        world.link.events.append({"type": "refused", "code": "forbidden", "message": "no longer"})
        world.link.deliver_event()
        assert world.subscription is not None
        self.assertIsInstance(world.subscription.ended, Refused)

    def refuse_join(self, world: World, code: str, temporary: bool) -> None:
        """Lose the connection; the server refuses the ``join`` on the next one."""
        self.reconnect(world, "history")
        world.link.commands.popleft()
        world.link.events.append({"type": "refused", "code": code, "message": "no", "temporary": temporary})
        world.link.deliver_event()

    def test_too_many_rooms(self) -> None:
        """A room that is one too many ends with the error, although that is temporary."""
        world = self.up()
        self.refuse_join(world, "too_many", True)
        assert world.subscription is not None
        self.assertIsInstance(world.subscription.ended, Refused)
        self.assertEqual({}, world.core.rooms)

    def test_no_late_join(self) -> None:
        """A room that can't be read for a while isn't joined after it was left, nor twice after a reconnect."""
        world = self.up()
        world.server.room_away = True
        self.reconnect(world, "history")
        for _ in range(4):
            self.seconds_until_sent(world, "join")
        world.link.cut()
        world.clock.advance(1.3)
        world.link.deliver_command()
        world.link.deliver_event()
        self.assertEqual("connected", world.core.connector.state.kind)
        self.assertEqual([], world.clock.getDelayedCalls())
        self.refuse_join(world, "store_unavailable", True)
        self.assertEqual(1, len(world.clock.getDelayedCalls()))
        assert world.subscription is not None
        world.core.subscriptions.leave(world.subscription)
        self.assertEqual([], world.clock.getDelayedCalls())

    def test_no_longer_read(self) -> None:
        """What is in doubt in a room that is no longer read is not sent again as another user."""
        for refused in (True, False):
            world = self.up()
            world.publish()
            world.link.deliver_command()
            if refused:
                self.refuse_join(world, "forbidden", False)
            else:
                assert world.subscription is not None
                world.core.subscriptions.leave(world.subscription)
                world.link.cut()
            world.server.forget_clients()
            world.link.cut()
            world.subscription = None
            world.settle()
            self.assertEqual(1, world.server.log.top)
            self.assertIsInstance(world.results["m0"][0], FateUnknown)

    def test_refused_room_is_published_to(self) -> None:
        """What waits for a room to be read is sent when the server refuses that."""
        world = World()
        world.join()
        world.link.deliver_command()
        world.link.deliver_event()
        world.publish()
        self.assertEqual(["join"], [command["type"] for command in world.link.commands])
        world.link.commands.clear()
        world.link.events.append({"type": "refused", "code": "forbidden", "message": "no"})
        world.link.deliver_event()
        self.assertEqual(["publish"], [command["type"] for command in world.link.commands])

    def test_skipped_message(self) -> None:
        """A message that doesn't follow the one before is preceded by a reset."""
        world = self.up()
        message = {"type": "message", "room": "lobby", "event": "message", "data": 1, "at": 0}
        world.link.events.append({**message, "position": "e1:7", "from": {"id": "u", "name": "x"}})
        world.link.deliver_event()
        world.consume(2)
        self.assertEqual(
            [Reset("lobby", Position("e1", 6)), Position("e1", 7)], [world.seen[0], world.seen[1].position]
        )

    def test_full_presence_buffer(self) -> None:
        """A reader whose buffer had no room for members gets the full list later."""
        world = self.up(buffer=2)
        assert world.subscription is not None
        members = [{"id": f"u{number}", "name": "x"} for number in range(5)]
        world.link.events.append({"type": "presence", "room": "lobby", "count": 1, "members": members[:1]})
        for count in range(2, 6):
            joined = [members[count - 1]]
            world.link.events.append({"type": "presence", "room": "lobby", "count": count, "joined": joined})
        world.link.paused = False
        while world.link.deliver_event():
            world.link.paused = False
        world.consume(3)
        last = world.seen[-1]
        assert isinstance(last, Presence)
        assert last.members is not None
        self.assertEqual((5, ["u0", "u1", "u2", "u3", "u4"]), (last.count, [member.id for member in last.members]))

    def test_nonsense(self) -> None:
        """An invalid event closes the link and nothing else; events of unknown types are ignored."""
        world = self.up()
        world.link.events.append({"type": "weather", "room": "lobby"})
        world.link.deliver_event()
        self.assertEqual("connected", world.core.connector.state.kind)
        world.link.events.append({"type": "message", "room": "lobby", "position": 7})
        world.link.deliver_event()
        self.assertEqual("waiting", world.core.connector.state.kind)
        self.assertEqual(1, len(self.flushLoggedErrors(Exception)))
        world.settle()
        self.assertEqual("connected", world.core.connector.state.kind)
