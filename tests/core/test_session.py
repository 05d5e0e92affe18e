"""Tests for :mod:`realtime_chat.core.session`: what each command does."""

from tests.core.world import World


class HelloTests(World):
    """Saying who one is."""

    def test_welcome(self) -> None:
        """A hello makes a guest with the name that it gives."""
        session, transport = self.client()
        self.tell(session, "hello", id=1, name="Bob")
        (welcome,) = transport.received
        self.assertEqual(("welcome", 1, 1, 25), tuple(welcome[field] for field in ("type", "id", "v", "ping")))
        self.assertEqual(("Bob", True), (welcome["user"]["name"], welcome["user"]["guest"]))
        self.assertEqual(self.hub.limits.max_rooms, welcome["rooms"])

    def test_same_client_again(self) -> None:
        """With the client of before, one is the same user on another connection."""
        first, one = self.client()
        self.tell(first, "hello")
        second, two = self.client()
        self.tell(second, "hello", client=one.received[0]["client"])
        self.assertEqual(one.received[0]["user"], two.received[0]["user"])

    def test_made_up_client(self) -> None:
        """A client that was never issued is replaced by a new one."""
        session, transport = self.client()
        self.tell(session, "hello", client="A" * 32)
        self.assertNotEqual("A" * 32, transport.received[0]["client"])

    def test_once(self) -> None:
        """Who one is can't be changed later, only said again."""
        session, transport = self.client()
        self.tell(session, "hello", name="Bob")
        self.tell(session, "hello", name="Bob")
        self.tell(session, "hello", name="Eve")
        self.assertEqual(["welcome", "welcome", "error"], [event["type"] for event in transport.received])
        self.assertEqual("forbidden", transport.received[2]["code"])

    def test_other_version(self) -> None:
        """Another version of the protocol is refused."""
        session, transport = self.client()
        self.tell(session, "hello", v=2)
        self.assertEqual("bad_request", transport.received[0]["code"])

    def test_guest_without_hello(self) -> None:
        """Who publishes without a hello is a guest from then on."""
        _reader, seen = self.joined()
        session, _ = self.client()
        self.tell(session, "publish", room="lobby", data=1)
        self.tell(session, "publish", room="lobby", data=2)
        self.turn()
        ids = {message["from"]["id"] for message in seen.of_type("message")}
        self.assertEqual(1, len(ids))
        self.assertNotIn("anonymous", ids)


class JoinTests(World):
    """Where a reader starts."""

    def test_empty_room(self) -> None:
        """A room that nobody has written to can be joined; nothing is stored for that."""
        _, transport = self.joined(id=7)
        (joined,) = transport.received
        self.assertEqual(("joined", 7, True), (joined["type"], joined["id"], joined["recovered"]))
        self.assertEqual((joined["position"], joined["top"]), (joined["top"], joined["position"]))
        self.assertEqual([], list(self.successResultOf(self.store.rooms("", 1000))))

    def test_last(self) -> None:
        """Without a position one starts so many messages before the top."""
        self.publish(*range(10))
        for last, expected in ((0, []), (3, [7, 8, 9]), (10, list(range(10))), (500, list(range(10)))):
            _, transport = self.joined(last=last)
            self.assertEqual(expected, self.data(transport), last)

    def test_resume(self) -> None:
        """With a position one goes on from there, and is told so."""
        _, first = self.joined()
        self.publish(*range(10))
        self.turn()
        since = first.of_type("message")[3]["position"]
        _, transport = self.joined(since=since)
        self.assertEqual((True, since), (transport.received[0]["recovered"], transport.received[0]["position"]))
        self.assertEqual(list(range(4, 10)), self.data(transport))

    def test_position_that_is_gone(self) -> None:
        """With a position that the log no longer covers one starts at the last messages, and is told so."""
        _, first = self.joined()
        self.publish(0)
        self.turn()
        since = first.of_type("message")[0]["position"]
        self.publish(*range(1, 40))
        _, transport = self.joined(since=since, last=2)
        self.assertFalse(transport.received[0]["recovered"])
        self.assertEqual([38, 39], self.data(transport))

    def test_foreign_positions(self) -> None:
        """A position of another epoch, or from the future, isn't recovered."""
        self.publish(*range(5))
        epoch = self.successResultOf(self.store.read_before("lobby", None, 1)).epoch
        for since in ("other:3", f"{epoch}:6", f"{epoch}:9999999999999999", "other:0"):
            _, transport = self.joined(since=since, last=1)
            self.assertFalse(transport.received[0]["recovered"], since)
            self.assertEqual([4], self.data(transport), since)

    def test_top_is_covered(self) -> None:
        """At the top nothing is missing, also when all messages are gone."""
        _, first = self.joined()
        self.publish(0)
        self.turn()
        _, transport = self.joined(since=first.of_type("message")[0]["position"])
        self.assertTrue(transport.received[0]["recovered"])

    def test_twice(self) -> None:
        """A room is joined once on a connection."""
        session, transport = self.joined()
        self.tell(session, "join", room="lobby")
        self.assertEqual("already_joined", transport.received[-1]["code"])

    def test_wrong_positions_and_rooms(self) -> None:
        """What is no position and no room's name is refused with its code."""
        session, transport = self.client()
        self.tell(session, "join", room="lobby", since="nonsense", id=1)
        self.tell(session, "join", room="no spaces", id=2)
        self.assertEqual([(1, "bad_position"), (2, "bad_room")], [(e["id"], e["code"]) for e in transport.received])

    def test_too_many_rooms(self) -> None:
        """One connection reads so many rooms and no more."""
        session, transport = self.client()
        for number in range(self.hub.limits.max_rooms + 1):
            self.tell(session, "join", room=f"r{number}")
        self.assertEqual("too_many", transport.received[-1]["code"])
        self.assertEqual(self.hub.limits.max_rooms, len(transport.of_type("joined")))

    def test_private_room(self) -> None:
        """A room @ID is read by the user with that id, and by nobody else."""
        session, transport = self.client()
        self.tell(session, "hello")
        own = "@" + transport.received[0]["user"]["id"]
        for reader, expected in ((session, "joined"), (self.client()[0], "error")):
            self.tell(reader, "join", room=own)
            self.assertEqual(expected, reader.transport.received[-1]["type"])
            self.tell(reader, "history", room=own)
            self.assertEqual("history" if expected == "joined" else "error", reader.transport.received[-1]["type"])

    def test_publish_to_private_room(self) -> None:
        """Everybody may write to a user's private room."""
        session, transport = self.client()
        self.tell(session, "hello")
        own = "@" + transport.received[0]["user"]["id"]
        self.tell(session, "join", room=own)
        self.tell(self.client()[0], "publish", room=own, data="psst")
        self.turn()
        self.assertEqual(["psst"], self.data(transport))
