"""The ledger by which recovery is judged finds what is wrong."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.event_ledger import EventLedger, SocketRecord


class SocketRecordTests(SynchronousTestCase):
    """What a socket in the room ``a`` received of five events."""

    def setUp(self) -> None:
        self.ledger = EventLedger()
        for number, (to, skip) in enumerate(((None, ()), (["a"], ()), (["b"], ()), (None, ["a"]), (["a", "b"], ()))):
            self.ledger.emit(number, to, skip)
            self.ledger.acknowledge(number)
        self.record = SocketRecord(self.ledger, "x", ["a"])
        self.record.connected(recovered=False)

    def take(self, *numbers: int) -> list[str]:
        """Receive events, and see what is wrong."""
        for number in numbers:
            self.record.told(number, f"e:{number + 1}")
        self.record.note_positions()
        return self.record.wrong()

    def test_right(self) -> None:
        """All that is for a socket, once and in order, is right; what others get isn't missed."""
        self.assertEqual(([], 4), (self.take(0, 1, 4), self.record.last()))

    def test_lost(self) -> None:
        """An acknowledged event that didn't come was lost."""
        self.assertEqual(["x: lost 1 (to a) at None"], self.take(0, 4))

    def test_seen(self) -> None:
        """What was never acknowledged may be gone, but not if another socket has received it."""
        self.ledger.emit(5)
        self.assertEqual([], self.take(0, 1, 4))
        self.ledger.positions[5] = "e:6"
        self.assertEqual(["x: lost 5 (to all) at e:6"], self.record.wrong())

    def test_doubled(self) -> None:
        """An event that came twice is found."""
        self.assertEqual(["x: 1 came 2 times"], self.take(0, 1, 1, 4))

    def test_out_of_order(self) -> None:
        """An event that came late is found."""
        self.assertEqual(["x: 1 at e:2 came after 4 at e:5"], self.take(0, 4, 1))

    def test_not_for_it(self) -> None:
        """Events for others, and events that nobody emitted, are found."""
        wrong = self.take(0, 1, 3, 4, 9)
        self.assertEqual(["x: 3 (to all without a) was not for it", "x: 9 (None) was not for it"], wrong)

    def test_moved(self) -> None:
        """An event has one position, for all sockets."""
        self.ledger.positions[1] = "e:7"
        self.assertEqual(["x: 1 came at e:2, to others at e:7"], self.take(0, 1, 4))

    def test_not_recovered(self) -> None:
        """What a socket knows to be gone isn't lost to it, but what follows is, once it is in its rooms."""
        self.take(0)
        self.record.connected(recovered=False)
        self.assertEqual([], self.take(3, 4))
        self.ledger.emit(6)
        self.ledger.acknowledge(6)
        self.assertEqual(["x: lost 6 (to all) at None"], self.record.wrong())

    def test_late(self) -> None:
        """A socket that connects later misses nothing of what was before."""
        self.record = SocketRecord(self.ledger, "x", ["a"], is_late=True)
        self.record.connected(recovered=False)
        self.assertEqual([], self.record.wrong())
        self.assertEqual([], self.take(0))
        self.assertEqual([], self.take(4))
        self.ledger.emit(6)
        self.ledger.acknowledge(6)
        self.assertEqual(["x: lost 6 (to all) at None"], self.record.wrong())

    def test_recovered(self) -> None:
        """A socket that is recovered misses nothing."""
        self.take(0)
        self.record.connected(recovered=True)
        self.assertEqual(["x: lost 1 (to a) at None"], self.take(4))
