"""Several real daemons over one store, and what is sent through them."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from tests.functional.daemon import Daemon, DaemonTestCase
from tests.functional.load import Load, Place

__all__ = ["ClusterTestCase"]

HISTORY = "1000000"


class ClusterTestCase(DaemonTestCase):
    """Tests of some nodes under load, whose accounts have to balance."""

    _log = Logger()

    async def nodes(self, count: int, *options: str) -> list[Daemon]:
        """So many daemons that run."""
        daemons = [self.daemon("--history", HISTORY, *options) for _ in range(count)]
        await gatherResults([deferToThread(daemon.start) for daemon in daemons])
        return daemons

    def load(self, place: Place) -> Load:
        """Writers and readers of a room, who end with the test."""
        load = Load(place)
        self.addCleanup(load.kill)
        return load

    async def ask(self, load: Load, do: str, **arguments: Any) -> dict[str, Any]:
        """Let them do something; others may be asked meanwhile."""
        return await deferToThread(load.ask, do, **arguments)

    def assert_balanced(self, report: dict[str, Any]) -> None:
        """Nothing is lost, doubled, out of order or silently missing; everybody has seen the same."""
        self._log.info("{report}", report=report)
        books, top = report["books"], report["top"]
        wrong = {name: account for name, account in report["readers"].items() if account["wrong"] or account["lost"]}
        self.assertEqual({}, wrong)
        self.assertEqual(([], [], 0), (report["failures"], report["log_differs"], report["unlike_log"]))
        self.assertEqual({top}, {account["position"] for account in report["readers"].values()})
        counted = {name: books[name] for name in ("holes", "twice", "lost", "never_sent", "moved", "stored_later")}
        self.assertEqual({"holes": 0, "twice": 0, "lost": 0, "never_sent": 0, "moved": [], "stored_later": []}, counted)

    def assert_told_nothing(self, report: dict[str, Any]) -> None:
        """Nobody was told that anything is missing."""
        told = {name: account["told"] for name, account in report["readers"].items() if account["told"]}
        self.assertEqual({}, told)
