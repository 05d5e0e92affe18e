"""The accounts by which others are judged find what is wrong."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.functional.delivery_ledger import DeliveryLedger, ReaderRecord


class DeliveryLedgerTests(SynchronousTestCase):
    """What was written."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.ledger = DeliveryLedger(self.clock.seconds)

    def test_lost(self) -> None:
        """What was acknowledged and isn't in the log at its place is lost."""
        for number in (1, 2, 3):
            self.ledger.attempt(f"k{number}")
            self.ledger.acknowledge(f"k{number}", f"e:{number}")
        balance = self.ledger.balance({1: "k1", 3: "k2"}, "e")
        self.assertEqual((2, 1, 0), (balance["lost"], balance["holes"], balance["twice"]))

    def test_twice(self) -> None:
        """One key at two places is a message that was stored twice; one that nobody sent was made up."""
        self.ledger.attempt("k1")
        balance = self.ledger.balance({1: "k1", 2: "k1", 3: "k9"}, "e")
        self.assertEqual((1, 1), (balance["twice"], balance["never_sent"]))

    def test_moved(self) -> None:
        """The same key is acknowledged at the same place."""
        self.ledger.acknowledge("k1", "e:1")
        self.ledger.acknowledge("k1", "e:2")
        self.assertEqual(["k1: e:1 and then e:2"], self.ledger.moved)

    def test_stored_later(self) -> None:
        """What was refused, and stands in the log behind something that was sent after that, was stored later."""
        self.ledger.attempt("early")
        self.ledger.attempt("late")
        self.clock.advance(1)
        self.ledger.refuse("early")
        self.ledger.refuse("late")
        self.clock.advance(1)
        self.ledger.attempt("next")
        self.assertEqual(["late at 3"], self.ledger.stored_later({1: "early", 2: "next", 3: "late"}))


class ReaderRecordTests(SynchronousTestCase):
    """What was read."""

    def setUp(self) -> None:
        self.ledger = DeliveryLedger(lambda: 7.0)
        self.account = ReaderRecord(self.ledger, "e:0")

    def take(self, *offsets: int) -> None:
        """Messages come."""
        for offset in offsets:
            self.account.message(f"e:{offset}", f"k{offset}")

    def test_in_order(self) -> None:
        """All messages in order leave nothing to be found."""
        self.take(1, 2, 3)
        log = {1: "k1", 2: "k2", 3: "k3"}
        self.assertEqual((3, {}, 0), (self.account.received, self.account.wrong, self.account.lost(log, "e")))

    def test_wrong(self) -> None:
        """What came twice, what came late, and what was left out are told apart."""
        self.take(1, 2, 2, 5, 3)
        self.assertEqual({"doubled": 1, "silent": 2, "out_of_order": 1}, self.account.wrong)
        self.assertEqual(2, self.account.lost(dict.fromkeys(range(1, 6), "k"), "e"))

    def test_other(self) -> None:
        """Two readers get the same message at the same place."""
        self.take(1)
        other = ReaderRecord(self.ledger, "e:0")
        other.message("e:1", "another")
        self.assertEqual({"other": 1}, other.wrong)

    def test_strange(self) -> None:
        """A message of another epoch comes after a word about it only."""
        self.account.message("f:1", "k1")
        self.assertEqual({"strange": 1}, self.account.wrong)
        self.account.reset("f:0")
        self.account.message("f:1", "k1")
        self.assertEqual(({"strange": 1}, 1), (self.account.wrong, self.account.received))

    def test_told(self) -> None:
        """What it was told to be gone isn't lost to it; what follows may be."""
        self.take(1)
        self.account.joined("e:5", recovered=False)
        self.assertEqual([(7.0, "e:1", "e:5")], self.account.told)
        self.assertEqual(1, self.account.lost(dict.fromkeys(range(1, 7), "k"), "e"))

    def test_recovered(self) -> None:
        """Who is said to miss nothing goes on from its own position."""
        self.take(1, 2)
        self.account.joined("e:2", recovered=True)
        self.account.stands_at("e:2")
        self.assertEqual({}, self.account.wrong)
        self.account.joined("e:1", recovered=True)
        self.account.stands_at("e:3")
        self.assertEqual({"silent": 2}, self.account.wrong)
