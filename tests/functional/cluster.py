"""A real redis-server, several real daemons that share it, and load on them."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections import Counter
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from tests.deadlines import DEADLINE
from tests.functional.daemon import NO_LIMITS, TWISTD, Daemon, DaemonTestCase, wait_until
from tests.functional.load import Load, Place
from tests.redis_server import RedisServer

__all__ = ["ClusterTestCase", "status_of"]

HISTORY = "1000000"


def status_of(url: str) -> int:
    """The status of the answer to a GET; 0 if there is no answer."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


class ClusterTestCase(DaemonTestCase):
    """Tests of several nodes that share one Redis, and of what writers and readers saw meanwhile."""

    _log = Logger()

    async def redis_server(self, *options: str, **more: Any) -> RedisServer:
        """Start a redis-server."""
        server = RedisServer(self.mktemp(), *options, **more)
        self.addCleanup(server.kill)
        await deferToThread(server.start)
        return server

    async def nodes(self, count: int, store: str, *options: str, program: str = TWISTD) -> list[Daemon]:
        """Start so many daemons."""
        words = ("--store", store, "--history", HISTORY, *NO_LIMITS, *options)
        daemons = [self.daemon(*words, program=program) for _ in range(count)]
        await gatherResults([deferToThread(daemon.start) for daemon in daemons])
        return daemons

    def load(self, nodes: list[Daemon], redis: RedisServer | None = None, room: str = "lobby", **more: Any) -> Load:
        """Start a process with writers and readers of a room; it ends with the test."""
        ports = [node.port for node in nodes]
        load = Load(Place(ports, room, None if redis is None else redis.port, **more))
        self.addCleanup(load.kill)
        return load

    async def ask(self, load: Load, do: str, **arguments: Any) -> dict[str, Any]:
        """Call a function of the load process; the reactor goes on meanwhile."""
        return await deferToThread(load.ask, do, **arguments)

    async def eventually(self, condition: Any, describe: Any = lambda: "", patience: float = DEADLINE) -> Any:
        """Wait until a blocking function returns something true."""
        return await deferToThread(wait_until, condition, describe, patience)

    async def sleep(self, seconds: float) -> None:
        """Sleep, while the reactor goes on."""
        await deferLater(reactor, seconds, lambda: None)

    async def all_see(self, load: Load, count: int, patience: float = DEADLINE) -> None:
        """Wait until all readers see so many members, and forget the leaves that they saw until then.

        While many clients join at once, one node may know of some of them before another node does.
        """

        def counts() -> dict[int, int]:
            return dict(Counter(reader["count"] for reader in load.ask("see").values()))

        await self.eventually(lambda: set(counts()) == {count}, lambda: str(counts()), patience)
        await self.ask(load, "forget_who_left")

    async def acknowledged(self, load: Load, more: int) -> None:
        """Wait for so many more acknowledged publishes."""
        progress = await self.ask(load, "progress")
        target = progress["acknowledged"] + more
        await self.eventually(lambda: load.ask("progress")["acknowledged"] >= target, lambda: str(progress))

    def assert_balanced(self, report: dict[str, Any]) -> None:
        """No message is lost, doubled, out of order or silently missing, and all readers saw the same messages."""
        ledger, readers = report["ledger"], report["readers"]
        sums = {
            what: sum(account[what] for account in readers.values()) for what in ("received", "lost", "connections")
        }
        self._log.info("{ledger} {sums}", ledger=ledger, sums=sums)
        wrong = {name: account for name, account in readers.items() if account["wrong"] or account["lost"]}
        self.assertEqual({}, wrong)
        self.assertEqual(([], [], 0), (report["failures"], report["log_differs"], report["unlike_log"]))
        self.assertEqual({report["top"]}, {account["position"] for account in readers.values()})
        counted = {name: ledger[name] for name in ("twice", "never_sent", "moved", "stored_later")}
        self.assertEqual({"twice": 0, "never_sent": 0, "moved": [], "stored_later": []}, counted)

    def assert_nobody_left(self, report: dict[str, Any]) -> None:
        """No reader saw a member leave."""
        left = {name: account["left"] for name, account in report["readers"].items() if account["left"]}
        self.assertEqual({}, left)

    def assert_nothing_lost(self, report: dict[str, Any]) -> None:
        """Each acknowledged message is in the log, the log has no gap, and no reader got a reset."""
        told = {name: account["told"] for name, account in report["readers"].items() if account["told"]}
        self.assertEqual(({}, 0, 0), (told, report["ledger"]["lost"], report["ledger"]["holes"]))
