"""Tests for :mod:`realtime_chat.core.properties`: what readers of a room's properties are sent, and what is skipped."""

from __future__ import annotations

import json
import random
from typing import Any

from realtime_chat.core.access import AccessPolicy
from realtime_chat.core.properties import PropertyLog, after_position
from realtime_chat.store.memory import MemoryStore
from realtime_chat.store.retention import Retention
from realtime_chat.values.access import RoomRule, RoomRules
from realtime_chat.values.model import ANONYMOUS, Draft, properties_log
from tests.core.world import World
from tests.fakes import FakeTransport, HeldBroker, make_hub, tokens
from tests.views import Properties

INTERVAL = 0.1
LOG = properties_log("lobby")


class PropertiesWorld(World):
    """A hub, and clients that read properties."""

    def set(self, name: str, *data: Any, room: str = "lobby") -> None:
        """Set a property, or remove it."""
        value = json.dumps(data[0]).encode() if data else b""
        self.hub.publish(Draft(properties_log(room), name, value, ANONYMOUS)).addErrback(lambda _: None)

    def log(self, room: str = "lobby") -> PropertyLog:
        log = self.hub.rooms[properties_log(room)]
        assert isinstance(log, PropertyLog)
        return log

    def read(self, transport: FakeTransport) -> Any:
        return Properties().take(transport.received)

    def changes(self, transport: FakeTransport) -> list[tuple[str, Any]]:
        return [(event["name"], event.get("data")) for event in transport.of_type("property")]


class ReadingTests(PropertiesWorld):
    """What somebody is sent who can keep up."""

    def test_joined(self) -> None:
        """Who joins with properties is told all of them, sorted by position."""
        self.set("a", 1)
        self.set("b", {"x": None})
        self.set("a", 2)
        _, transport = self.joined(properties=True)
        (joined,) = transport.of_type("joined")
        properties = joined["properties"]
        self.assertEqual((True, properties["top"]), (properties["full"], properties["position"]))
        self.assertEqual([("b", {"x": None}), ("a", 2)], [(one["name"], one["data"]) for one in properties["values"]])
        self.assertEqual("lobby", properties["values"][0]["room"])
        self.assertEqual({"id": "anonymous", "name": "anonymous", "guest": True}, properties["values"][0]["from"])
        self.assertTrue(properties["position"].endswith(":3"))

    def test_not_asked(self) -> None:
        """Who doesn't ask for properties is told nothing of them, and nothing of them is in memory."""
        self.set("a", 1)
        for asked in ({}, {"properties": False}):
            _, transport = self.joined(**asked)
            self.set("a", 2)
            self.clock.advance(INTERVAL)
            self.assertEqual(["joined"], [event["type"] for event in transport.received])
            self.assertNotIn("properties", transport.received[0])
        self.assertEqual(["lobby"], list(self.hub.rooms))

    def test_changes(self) -> None:
        """A change comes at the end of the turn, and a removal without data; messages go on beside."""
        _, transport = self.joined(properties=True)
        self.set("a", 1)
        self.publish("m")
        self.turn()
        self.assertEqual([("a", 1)], self.changes(transport))
        self.assertEqual(["m"], self.data(transport))
        self.clock.advance(INTERVAL)
        self.set("a")
        self.turn()
        self.assertNotIn("data", transport.of_type("property")[-1])
        self.assertEqual({}, self.read(transport).values)

    def test_ten_times_a_second(self) -> None:
        """However fast changes come, they are sent ten times a second, with the last value of each name."""
        _, transport = self.joined(properties=True)
        for number in range(200):
            self.set(f"n{number % 3}", number)
            self.clock.advance(0.005)
        self.clock.advance(INTERVAL)
        self.assertEqual({"n0": 198, "n1": 199, "n2": 197}, self.read(transport).values)
        self.assertLessEqual(len(self.changes(transport)), 3 * 11 + 1)

    def test_first_change_at_once(self) -> None:
        """After a pause a change waits for nothing."""
        _, transport = self.joined(properties=True)
        for number in range(3):
            self.clock.advance(INTERVAL)
            self.set("a", number)
            self.turn()
            self.assertEqual(("a", number), self.changes(transport)[-1])

    def test_join_within_the_interval(self) -> None:
        """Who joins while changes wait to be sent gets them once, and so do the others."""
        _, first = self.joined(properties=True)
        self.set("a", 1)
        self.turn()
        self.set("a", 2)
        _, second = self.joined(properties=True)
        self.set("b", 3)
        self.clock.advance(INTERVAL)
        self.turn()
        self.assertEqual([{"a": 2, "b": 3}] * 2, [self.read(one).values for one in (first, second)])
        self.assertEqual([("b", 3)], self.changes(second))

    def test_leave(self) -> None:
        """Who leaves the room reads its properties no longer, and may join again."""
        session, transport = self.joined(properties=True)
        self.tell(session, "leave", room="lobby")
        self.set("a", 1)
        self.clock.advance(INTERVAL)
        self.assertEqual([], self.changes(transport))
        self.tell(session, "join", room="lobby", properties=True)
        self.assertEqual({"a": 1}, self.read(transport).values)

    def test_many_readers(self) -> None:
        """A change is encoded once for all."""
        transports = [self.joined(properties=True)[1] for _ in range(20)]
        before = transports[0].fanout.encoded
        self.set("a", 1)
        self.turn()
        self.assertEqual(1, transports[0].fanout.encoded - before)
        self.assertEqual([[("a", 1)]] * 20, [self.changes(one) for one in transports])

    def test_lost_right(self) -> None:
        """Who may no longer read the room is told so once, and reads its properties no longer."""
        _, transport = self.joined(properties=True)
        self.hub.replace_access(AccessPolicy(RoomRules((RoomRule("lobby", guests=0),))))
        self.clock.advance(1)
        self.set("a", 1)
        self.clock.advance(1)
        self.assertEqual(["joined", "left"], [event["type"] for event in transport.received])
        self.assertEqual({0}, {room.reader_count for room in self.hub.rooms.values()})

    def test_rooms_counted(self) -> None:
        """Properties don't count as rooms that a connection reads."""
        self.hub = make_hub(self.store, self.clock, max_rooms=2)
        session, transport = self.joined("a", properties=True)
        self.tell(session, "join", room="b", properties=True)
        self.tell(session, "join", room="c")
        self.assertEqual(["joined", "joined", "error"], [event["type"] for event in transport.received])


class BehindTests(PropertiesWorld):
    """What is skipped for who is behind."""

    limits = {"page_bytes": 2000}

    def resume(self, session: Any, transport: FakeTransport, window: int | None) -> None:
        transport.window, transport.write_paused = window, False
        session.resume_writing()

    def test_last_values(self) -> None:
        """Who was behind gets the last value of each name, in the order of the positions, and goes on live."""
        session, transport = self.client(window=0)
        self.tell(session, "join", room="lobby", properties=True)
        self.set("z", 0)
        self.turn()  # for which the transport has no space
        for number in range(1000):
            self.set(f"n{number % 3}", number)
            self.clock.advance(0.005)
        self.assertEqual([], self.changes(transport))
        self.resume(session, transport, None)
        self.assertEqual([("z", 0), ("n1", 997), ("n2", 998), ("n0", 999)], self.changes(transport))
        self.clock.advance(INTERVAL)
        self.set("live", 1)
        self.turn()
        self.assertEqual(("live", 1), self.changes(transport)[-1])
        self.read(transport)

    def test_bit_by_bit(self) -> None:
        """A reader that takes one change at a time never sees an older value after a newer one."""
        session, transport = self.client(window=0)
        self.tell(session, "join", room="lobby", properties=True)
        properties = Properties()
        for number in range(300):
            self.set(f"n{number % 7}", number)
            self.clock.advance(0.005)
            if number % 5 == 0:
                self.resume(session, transport, 1)
                self.turn()
            properties.take(transport.received)
        self.resume(session, transport, None)
        self.clock.advance(INTERVAL)
        expected = {f"n{number % 7}": number for number in range(300)}
        self.assertEqual(expected, properties.take(transport.received).values)

    def test_slow_reader_is_sent_one_page(self) -> None:
        """A reader whose connection takes no more is given nothing more, and behind it there is no queue."""
        session, transport = self.client(window=0)
        self.tell(session, "join", room="lobby", properties=True)
        for number in range(200):
            self.set(f"n{number}", "x" * 100)
        self.turn()
        for _ in range(400):
            before = len(transport.received)
            self.resume(session, transport, 3)
            self.assertLessEqual(len(transport.received) - before, 3)
        self.assertEqual(200, len(self.read(transport).values))

    def test_large_first_answer(self) -> None:
        """What is more than a page doesn't come with the joined, but after it, page by page; removals among it too."""
        for number in range(100):
            self.set(f"n{number}", "x" * 100)
        self.set("n50")
        session, transport = self.client(window=2)
        self.tell(session, "join", room="lobby", properties=True)
        properties = transport.received[0]["properties"]
        self.assertLess(len(properties["values"]), 20)
        self.assertTrue(properties["top"].endswith(":101"))
        self.assertNotEqual(properties["top"], properties["position"])
        self.set("n60")
        self.set("n0", "new")
        for _ in range(99):
            self.resume(session, transport, 7)
        expected = {f"n{number}": "x" * 100 for number in range(100) if number not in (0, 50, 60)} | {"n0": "new"}
        self.assertEqual(expected, self.read(transport).values)
        self.assertEqual([], transport.of_type("properties"))

    def test_removal_at_the_end(self) -> None:
        """A large first answer ends where the log ends, also if a removal that this node doesn't know is the last."""
        for number in range(100):
            self.set(f"n{number}", "x" * 100)
        self.set("n50")
        session, transport = self.client(window=2)
        self.tell(session, "join", room="lobby", properties=True)
        for _ in range(99):
            self.resume(session, transport, 7)
        view = self.read(transport)
        self.assertEqual({f"n{number}": "x" * 100 for number in range(100) if number != 50}, view.values)
        self.assertEqual(str(self.log().position), view.position)

    def test_page_bytes(self) -> None:
        """One page is bounded in bytes."""
        log = self.joined(properties=True) and self.log()
        for number in range(100):
            self.set(f"n{number}", "x" * 100)
        page = log.page_for(log.epoch, 0, 0)
        self.assertLess(sum(len(entry.json) for entry in page.entries), 2000)


class ResumeTests(PropertiesWorld):
    """Going on from a position."""

    def position(self) -> str:
        return str(self.log().position)

    def test_resume(self) -> None:
        """Who comes back with its position is told what has changed since, removals among it."""
        self.joined(properties=True)
        self.set("a", 1)
        self.set("b", 2)
        position = self.position()
        self.set("a")
        self.set("c", 3)
        _, transport = self.joined(properties=position)
        properties = transport.received[0]["properties"]
        self.assertEqual((False, ["a", "c"]), (properties["full"], [one["name"] for one in properties["values"]]))
        self.assertNotIn("data", properties["values"][0])
        self.assertEqual(self.position(), properties["position"])
        self.clock.advance(1)
        self.set("d", 4)
        self.turn()
        self.assertEqual([("d", 4)], self.changes(transport))

    def test_nothing_new(self) -> None:
        """Who has everything is told nothing."""
        self.joined(properties=True)
        self.set("a", 1)
        _, transport = self.joined(properties=self.position())
        properties = transport.received[0]["properties"]
        self.assertEqual(
            (False, [], self.position()), (properties["full"], properties["values"], properties["position"])
        )

    def test_removal_is_not_known(self) -> None:
        """If something was removed that this node doesn't know of, who comes back is sent all properties anew."""
        self.set("a", 1)
        self.set("b", 2)
        self.set("a")
        self.joined(properties=True)
        epoch = self.log().epoch
        for offset, full in ((2, True), (3, False)):
            _, transport = self.joined(properties=f"{epoch}:{offset}")
            self.assertEqual(full, transport.received[0]["properties"]["full"])

    def test_other_positions(self) -> None:
        """A position of another epoch, and one that is from the future, gives all properties anew."""
        self.set("a", 1)
        for position in ("zzzz:1", "zzzz:0"):
            _, transport = self.joined(properties=position)
            properties = transport.received[0]["properties"]
            self.assertEqual((True, 1), (properties["full"], len(properties["values"])))
        _, transport = self.joined(properties=f"{self.log().epoch}:99")
        self.assertTrue(transport.received[0]["properties"]["full"])

    def test_bad_position(self) -> None:
        """What is no position is refused, and the room isn't read."""
        session, transport = self.joined(properties="nonsense")
        self.assertEqual("bad_position", transport.received[0]["code"])
        self.tell(session, "join", room="lobby", properties=3)
        self.assertEqual("bad_request", transport.received[1]["code"])
        self.tell(session, "join", room="lobby", properties=True)
        self.assertEqual("joined", transport.received[2]["type"])

    def test_many_removals(self) -> None:
        """The removals that are remembered are bounded; who lacks an older one is sent all properties anew."""
        session, transport = self.client(window=0)
        self.tell(session, "join", room="lobby", properties=True)
        self.set("kept", 1)
        for number in range(3000):
            self.set(f"n{number}", number)
            self.set(f"n{number}")
        log = self.log()
        self.assertLessEqual(len(log._entries), 2001)
        self.turn()
        transport.window, transport.write_paused = None, False
        session.resume_writing()
        self.assertEqual(({"kept": 1}, 1), (self.read(transport).values, len(transport.of_type("properties"))))
        self.clock.advance(1)
        self.set("x", 1)
        self.turn()
        self.assertEqual({"kept": 1, "x": 1}, self.read(transport).values)


class SettingTests(PropertiesWorld):
    """The command ``set``."""

    limits = {"max_property": 20}

    def test_reply(self) -> None:
        """The reply names the property and its position; the change carries the key."""
        session, transport = self.joined(properties=True)
        self.tell(session, "set", id=1, room="lobby", name="a", data=[1], key="k")
        self.turn()
        (reply,) = transport.of_type("set")
        (change,) = transport.of_type("property")
        expected = {"type": "set", "id": 1, "room": "lobby", "name": "a", "position": change["position"]}
        self.assertEqual(expected, reply)
        self.assertEqual(("k", "a", [1], "lobby"), tuple(change[name] for name in ("key", "name", "data", "room")))

    def test_null_and_nothing(self) -> None:
        """``null`` is a value; without data the property is removed."""
        session, transport = self.joined(properties=True)
        self.tell(session, "set", room="lobby", name="a", data=None)
        self.turn()
        self.assertEqual({"a": None}, self.read(transport).values)
        self.clock.advance(1)
        self.tell(session, "set", room="lobby", name="a")
        self.turn()
        self.assertEqual({}, self.read(transport).values)

    def test_refused(self) -> None:
        """What can't be set is refused with the id: a bad name, too much data, a bad room, a bad key."""
        session, transport = self.joined()
        cases = [
            ("bad_request", {"name": "$x", "data": 1}),
            ("bad_request", {"name": "", "data": 1}),
            ("bad_request", {"name": "a\n", "data": 1}),
            ("bad_request", {"name": "a", "data": 1, "key": ""}),
            ("bad_request", {"data": 1}),
            ("too_large", {"name": "a", "data": "x" * 19}),
            ("bad_room", {"name": "a", "data": 1, "room": "lobby/properties"}),
        ]
        for id, (_, fields) in enumerate(cases):
            self.tell(session, "set", id=id, **{"room": "lobby", **fields})
        errors = transport.of_type("error")
        self.assertEqual([code for code, _ in cases], [error["code"] for error in errors])
        self.assertEqual(list(range(len(cases))), [error["id"] for error in errors])
        for error in errors[:3]:
            self.assertIn("property", error["message"])
        self.tell(session, "set", room="lobby", name="a", data="x" * 18)
        self.turn()
        self.assertEqual(1, len(transport.of_type("set")))

    def test_order_of_replies(self) -> None:
        """Sets and publishes of one connection are under way together, and are answered in their order."""
        self.slow_hub()
        session, transport = self.client()
        for id in range(6):
            kind = ("set", {"name": "a", "data": id}) if id % 2 else ("publish", {"data": id})
            self.tell(session, kind[0], id=id, room="lobby", **kind[1])
        self.assertEqual(6, len(self.held.appends))
        self.held.settle()
        self.turn()
        self.assertEqual(list(range(6)), [reply["id"] for reply in transport.received])

    def test_again_under_a_key(self) -> None:
        """Setting again under a key answers the same position and tells nobody again."""
        session, transport = self.joined(properties=True)
        for data in (1, 1, 2):
            self.tell(session, "set", room="lobby", name="a", data=data, key="k")
        self.clock.advance(1)
        first, again = transport.of_type("set")
        self.assertEqual(first, again)
        self.assertEqual(["key_reused"], [error["code"] for error in transport.of_type("error")])
        self.assertEqual(1, len(self.changes(transport)))


class EpochTests(PropertiesWorld):
    """Another log takes the place of the one that was read."""

    def test_new_epoch(self) -> None:
        """Live and slow readers are sent all properties of the new log, and go on there."""
        _, live = self.joined(properties=True)
        behind, slow = self.client(window=0)
        self.tell(behind, "join", room="lobby", properties=True)
        self.set("old", 1)
        self.set("both", 1)
        self.turn()
        other = MemoryStore(Retention(20), self.clock.seconds, tokens(7))
        for name in ("both", "new"):
            self.successResultOf(other.append(Draft(LOG, name, b"2", ANONYMOUS)))
        for attribute in ("_epoch", "_logs"):
            setattr(self.store, attribute, getattr(other, attribute))
        self.hub.cache.all_may_have_missed()
        self.turn()
        slow.window, slow.write_paused = None, False
        behind.resume_writing()
        self.clock.advance(1)
        self.set("new", 3)
        self.turn()
        for transport in (live, slow):
            self.assertEqual({"both": 2, "new": 3}, self.read(transport).values)
            self.assertEqual([True], [event["full"] for event in transport.of_type("properties")])
            self.assertEqual([], [one for one in transport.of_type("reset") if "/" in one["room"]])

    def test_shared_snapshot(self) -> None:
        """However many readers need all properties anew, these are put together once."""
        readers = [self.joined(properties=True)[1] for _ in range(5)]
        self.set("old", 1)
        self.turn()
        log = self.log()
        self.assertIs(log.page_for("other", 1, 0), log.page_for("", -1, 0))
        before = log.page_for("other", 1, 0)
        self.set("new", 2)
        self.assertIsNot(before, log.page_for("other", 1, 0))
        self.assertEqual(5, len(readers))

    def test_taken_later(self) -> None:
        """A reader that didn't take the new properties is sent them when it takes something."""
        session, transport = self.joined(properties=True)
        self.set("old", 1)
        self.turn()
        other = MemoryStore(Retention(20), self.clock.seconds, tokens(7))
        self.successResultOf(other.append(Draft(LOG, "new", b"2", ANONYMOUS)))
        for attribute in ("_epoch", "_logs"):
            setattr(self.store, attribute, getattr(other, attribute))
        transport.window = 0
        self.hub.cache.all_may_have_missed()
        self.turn()
        self.assertEqual([], transport.of_type("properties"))
        transport.window, transport.write_paused = None, False
        session.resume_writing()
        self.assertEqual({"new": 2}, self.read(transport).values)


class GapTests(PropertiesWorld):
    """Announcements of another node that are lost, come twice, or in another order."""

    def setUp(self) -> None:
        super().setUp()
        self.broker = HeldBroker()
        self.hub = make_hub(self.store, self.clock, self.broker, history=20)
        self.broker.start(self.hub.cache)

    def elsewhere(self, name: str, *data: Any) -> None:
        """Another node sets a property."""
        value = json.dumps(data[0]).encode() if data else b""
        stored = self.successResultOf(self.store.append(Draft(LOG, name, value, ANONYMOUS)))
        if not stored.duplicate:
            self.broker.announce([stored.message])

    def joined(self, room: str = "lobby", **fields: Any) -> Any:
        session, transport = super().joined(room, **fields)
        while self.broker.asked:
            self.broker.subscribe()
        return session, transport

    def test_announced(self) -> None:
        """A change on another node comes like one on this node."""
        _, transport = self.joined(properties=True)
        self.elsewhere("a", 1)
        self.broker.deliver(0)
        self.turn()
        self.assertEqual([("a", 1)], self.changes(transport))

    def test_lost(self) -> None:
        """After a lost announcement the log is read; a lost removal gives all properties anew."""
        _, transport = self.joined(properties=True)
        self.elsewhere("a", 1)
        self.elsewhere("b", 1)
        self.broker.held.pop(0)
        self.broker.deliver(0)
        self.clock.pump([0.05] * 10)
        self.assertEqual(({"a": 1, "b": 1}, []), (self.read(transport).values, transport.of_type("properties")))
        self.elsewhere("a")
        self.elsewhere("c", 1)
        self.broker.held.pop(0)
        self.broker.deliver(0)
        self.clock.pump([0.05] * 10)
        self.assertEqual(({"b": 1, "c": 1}, 1), (self.read(transport).values, len(transport.of_type("properties"))))

    def test_last_removal_lost(self) -> None:
        """A lost removal that nothing follows is found when the broker is back."""
        _, transport = self.joined(properties=True)
        self.elsewhere("a", 1)
        self.broker.deliver(0)
        self.broker.lose()
        self.elsewhere("a")
        self.broker.come_back()
        self.clock.pump([0.05] * 10)
        self.assertEqual({}, self.read(transport).values)

    def test_any_order(self) -> None:
        """Whatever becomes of the announcements, every reader ends with the last values, and sees none go back."""
        for seed in range(20):
            self.setUp()
            chance = random.Random(seed)
            readers = [self.joined(properties=True) for _ in range(3)]
            for number in range(200):
                self.elsewhere(f"n{chance.randrange(5)}", *([number] if chance.random() < 0.8 else []))
                while self.broker.held and chance.random() < 0.7:
                    if chance.random() < 0.1:
                        self.broker.held.pop(0)
                    else:
                        self.broker.deliver(chance.randrange(9), chance.random() < 0.2)
                session, transport = chance.choice(readers)
                transport.window, transport.write_paused = chance.choice((None, 0, 1, 2)), False
                session.resume_writing()
                self.clock.advance(chance.choice((0, 0.01, 0.05)))
            self.broker.lose()
            self.broker.come_back()
            for session, transport in readers:
                transport.window, transport.write_paused = None, False
                session.resume_writing()
            self.clock.pump([0.1] * 20)
            page = self.successResultOf(self.store.read_after(LOG, 0, 99))
            expected = {one.event: json.loads(one.data) for one in page.messages}
            self.assertEqual([expected] * 3, [self.read(transport).values for _, transport in readers], seed)


class MemoryTests(PropertiesWorld):
    """What is in memory, and for how long."""

    def test_forgotten(self) -> None:
        """Properties that nobody reads any more leave memory, and are read again for the next reader."""
        self.set("a", 1)
        session, _ = self.joined(properties=True)
        self.tell(session, "leave", room="lobby")
        self.clock.pump([1] * 90)
        self.assertEqual({}, self.hub.rooms)
        _, transport = self.joined(properties=True)
        self.assertEqual({"a": 1}, self.read(transport).values)

    def test_polls_keep_it(self) -> None:
        """What is read by polls alone stays in memory between them, however long they go on."""
        self.set("a", 1)
        self.joined(properties=True)[0].close()
        log = self.log()
        for _ in range(20):
            self.clock.pump([1] * 4)
            session, _ = self.client()
            session.subscribe(self.successResultOf(self.hub.cache.load("lobby")), after_position(True))
            known = self.hub.known_properties("lobby", True)
            self.assertIs(log, known)
            session.subscribe_properties((log, True), None)
            session.close(polls=True)

    def test_bounded(self) -> None:
        """What is in memory is counted; where it is too much, no further room's are taken in until some leave."""
        self.hub = make_hub(self.store, self.clock, properties_bytes=3000)
        session, transport = self.client()
        for number in range(9):
            self.set("a", "x" * 500, room=f"r{number}")
            self.tell(session, "join", room=f"r{number}", properties=True)
        kinds = [event["type"] for event in transport.received]
        self.assertEqual(["joined"] * 5 + ["error"] * 4, kinds)
        self.assertEqual(("too_many", "r5"), tuple(transport.received[5][name] for name in ("code", "room")))
        logs = [room for room in self.hub.rooms.values() if isinstance(room, PropertyLog)]
        self.assertEqual(self.hub.cache.property_bytes, sum(log.size for log in logs))
        for room in ("r0", "r1"):
            self.tell(session, "leave", room=room)
        self.tell(session, "join", room="r8", properties=True)
        self.assertEqual("joined", transport.received[-1]["type"])
        session.close()
        self.clock.pump([1] * 90)
        self.assertEqual((0, {}), (self.hub.cache.property_bytes, self.hub.rooms))

    def test_idle_properties_make_place(self) -> None:
        """Where properties are too much, idle properties are evicted, and no rooms, however many of them are idle."""
        self.hub = make_hub(self.store, self.clock, properties_bytes=3000)
        session, transport = self.client()
        for number in range(20):
            self.publish("m", room=f"m{number}")
            self.tell(session, "join", room=f"m{number}")
            self.tell(session, "leave", room=f"m{number}")
        for number in range(12):
            self.set("a", "x" * 500, room=f"r{number}")
            self.tell(session, "join", room=f"r{number}", properties=True)
            self.tell(session, "leave", room=f"r{number}")
        self.assertEqual([], transport.of_type("error"))
        self.assertEqual({f"m{number}" for number in range(20)}, {room for room in self.hub.rooms if room[0] == "m"})
        self.assertLess(self.hub.cache.property_bytes, 3000 + 1000)

    def test_size(self) -> None:
        """The bytes are those of what is held, whatever was set, removed or read anew."""
        self.joined(properties=True)
        for number in range(5000):
            self.set(f"n{number % 1500}", "x" * (number % 50)) if number % 3 else self.set(f"n{number % 1500}")
        log = self.log()
        self.assertEqual(sum(len(entry.json) for entry in log._entries.values()), log.size)
        self.assertEqual(log.size, self.hub.cache.property_bytes)

    def test_stopped(self) -> None:
        """When the hub stops, no change is sent any more, and nothing is left to be called."""
        self.joined(properties=True)
        self.set("a", 1)
        self.turn()
        self.set("a", 2)
        self.hub.stop()
        self.assertFalse([call for call in self.clock.getDelayedCalls() if call.func == self.log()._end_interval])

    def test_forgotten_while_the_room_is_looked_up(self) -> None:
        """Nobody reads an object that is no longer that of the room."""
        self.slow_hub()
        _, transport = self.joined(properties=True)
        while self.held.looks:
            self.held.look(0)
            self.held.answer(0)
            self.clock.pump([1] * 3)
        self.held.settle()
        self.assertEqual("joined", transport.received[0]["type"])
        self.hub.publish(Draft(LOG, "a", b"1", ANONYMOUS))
        self.held.settle()
        self.clock.advance(1)
        self.assertEqual({"a": 1}, self.read(transport).values)


class UnavailableTests(PropertiesWorld):
    """The store can't be read."""

    def test_join(self) -> None:
        """The join is refused for now, and names the room."""
        self.slow_hub()
        _, transport = self.joined(properties=True)
        self.held.fail_read()
        (error,) = transport.of_type("error")
        self.assertEqual(("store_unavailable", "lobby"), (error["code"], error["room"]))
