"""Tests for ``Hub.read_history``: pages for those who read without a cursor."""

from typing import Any

from tests.core.world import World


class HistoryTests(World):
    """Reading pages of a log."""

    def history_of(self, **fields: Any) -> dict[str, Any]:
        session, transport = self.client()
        self.tell(session, "history", room="lobby", **fields)
        return transport.received[0]

    def test_pages(self) -> None:
        """Pages before and after a position, and the last one, hold what they should, and say where they end."""
        self.publish(*range(10))
        epoch = self.successResultOf(self.store.read_before("lobby", None, 1)).epoch
        for fields, expected, end in (
            ({}, list(range(10)), 10),
            ({"limit": 2}, [8, 9], 10),
            ({"before": f"{epoch}:3"}, [0, 1], 2),
            ({"before": f"{epoch}:9", "limit": 3}, [5, 6, 7], 8),
            ({"since": f"{epoch}:8"}, [8, 9], 10),
            ({"since": f"{epoch}:2", "limit": 2}, [2, 3], 4),
            ({"since": f"{epoch}:10"}, [], 10),
            ({"before": f"{epoch}:1"}, [], 0),
        ):
            page = self.history_of(**fields)
            self.assertEqual(expected, [message["data"] for message in page["messages"]], fields)
            self.assertEqual((f"{epoch}:{end}", f"{epoch}:10"), (page["position"], page["top"]), fields)

    def test_both_ways(self) -> None:
        """A page goes before or after, not both; and a position of another log has no before."""
        self.publish(1)
        self.assertEqual("bad_request", self.history_of(before="a:1", since="a:1")["code"])
        self.assertEqual("bad_position", self.history_of(before="other:1")["code"])
