"""What ``docs/operations.rst`` says of many nodes, as it stands there: the unit's command, and what balances."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread

from tests.functional.cluster import ClusterTestCase
from tests.functional.daemon import CHECKOUT, TWISTD, Daemon
from tests.functional.proxies import Proxy, balancer
from tests.redis_server import PERSISTENT, RedisServer
from tests.tokens.made import SECRET


def documented_line(pattern: str) -> str:
    """The one line of the operator's pages that fits a pattern: what stands in its group."""
    text = (CHECKOUT / "docs" / "operations.rst").read_text("utf-8")
    (line,) = re.findall(pattern, text, re.MULTILINE)
    return str(line)


class UnitDaemon(Daemon):
    """What systemd would start.

    :param places: what stands in the unit, and what it is here.
    """

    def __init__(self, directory: str, places: Mapping[str, str]) -> None:
        super().__init__(directory)
        self._places = {**places, "%i": str(self.port)}

    def command(self) -> list[str]:
        line = documented_line(r"^   ExecStart=(.* --store redis.*)$")
        for there, here in self._places.items():
            assert line.count(there) == 1, (there, line)
            line = line.replace(there, here)
        program, *words = shlex.split(line)
        assert program == "/opt/realtime_chat/bin/twistd", program
        return [sys.executable, "-c", TWISTD, *words]


class OperationsTests(ClusterTestCase):
    """Three daemons of the template unit on one machine, with one Redis, behind haproxy."""

    async def start(self) -> tuple[list[UnitDaemon], Proxy]:
        """All of it; Redis has a user for the daemons, and lets nobody else in."""
        redis: RedisServer = await self.redis_server(*PERSISTENT, unix=True)
        user = shlex.split(documented_line(r"^ +\$ redis-cli (ACL SETUSER .*)$"))
        for words in (user, ["ACL", "SETUSER", "default", "off"]):
            await deferToThread(redis.command, *words)
        secret = Path(self.mktemp()).resolve()
        secret.write_text(next(word[1:] for word in user if word.startswith(">")) + "\n")
        key = Path(self.mktemp()).resolve()
        key.write_text(SECRET + "\n")
        places = {"/run/redis/redis-server.sock": redis.path, "%d/redis": str(secret), "%d/key": f"{key} --open"}
        nodes = [UnitDaemon(self.mktemp(), places) for _ in range(3)]
        for node in nodes:
            self.addCleanup(node.kill)
        await gatherResults([deferToThread(node.start) for node in nodes])
        proxy = await deferToThread(balancer, Path(self.mktemp()), nodes)
        self.addCleanup(proxy.end)
        return nodes, proxy

    async def test_upgrade(self) -> None:
        """Clients read and write through the balancer while one node after the other is restarted: nothing is lost, no
        publish is refused, and nobody is seen to leave."""
        nodes, proxy = await self.start()
        load = self.load([proxy])
        kinds = {"socket": 6, "events": 6, "poll": 6}
        await self.ask(load, "read", kinds=kinds)
        await self.all_see(load, 18)
        # Fewer in all than the thousand that the unit keeps, as the whole log is compared.
        await self.ask(load, "write", kinds={"socket": 1, "rooms": 1, "commands": 1}, rate=50)
        for node in nodes:
            await self.acknowledged(load, 20)
            await deferToThread(node.terminate)
            await self.acknowledged(load, 20)
            await deferToThread(node.start)
        await self.acknowledged(load, 20)
        await self.ask(load, "rest")
        report = await self.ask(load, "balance")
        self.assert_balanced(report)
        self.assert_nothing_lost(report)
        self.assertEqual(0, report["ledger"]["refused"])
        self.assert_nobody_left(report)
        await self.all_see(load, 18)
        self.assertGreater(min(account["connections"] for account in report["readers"].values()), 1)
