"""Many nodes over one store: what is promised of one holds for all of them together, whatever fails."""

from __future__ import annotations

from tests.functional.cluster import ClusterTestCase
from tests.functional.load import Place

READERS = {"socket": 20, "events": 20, "poll": 20}


class OneNodeTests(ClusterTestCase):
    """One node with SQLite."""

    async def test_all_see_the_same(self) -> None:
        """Sixty readers on all transports see the same messages, all of them and in order."""
        (node,) = await self.nodes(1)
        load = self.load(Place([node.port]))
        await self.ask(load, "read", kinds=READERS)
        await self.ask(load, "write", kinds={"socket": 2, "rooms": 2, "commands": 2}, total=20_000)
        await self.ask(load, "written")
        report = await self.ask(load, "balance")
        self.assert_balanced(report)
        self.assert_told_nothing(report)
        self.assertEqual(20_000, report["books"]["in_log"])
