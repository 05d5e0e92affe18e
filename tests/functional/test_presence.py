"""Presence with many: they come at once, vanish without a word, and reload.

With ``SOAK=1`` in the environment there are 5,000 of them and not 500, and 200 who reload and not 50.
"""

from __future__ import annotations

import json
import signal
import threading
import urllib.request
from collections.abc import Callable
from typing import Any

from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from tests.deadlines import DEADLINE, Stopwatch
from tests.functional.daemon import SOAK, Daemon, DaemonTestCase, wait_until
from tests.functional.swarm import Swarm
from tests.functional.test_growth import MIB, descriptors, memory

MANY = 5000 if SOAK else 500
VANISHING = MANY // 5
RELOADING = 200 if SOAK else 50
BYTES_EACH = 16 * 1024
SECONDS = 10
"""What one of many may get while all come in so many seconds. In a longer time there are more events."""


class _Writer:
    """Publishes all the time, until it is told to end."""

    def __init__(self, server: Daemon) -> None:
        self._url = server.url + "rooms/lobby/messages"
        self._over = threading.Event()
        self._top = ""
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.03):
            with urllib.request.urlopen(self._url, b"text=hi", timeout=DEADLINE) as answer:
                self._top = json.load(answer)["position"]

    def end(self) -> str:
        """Stop; give the position of the last message."""
        self._over.set()
        self._thread.join()
        return self._top


class CrowdTestCase(DaemonTestCase):
    """Tests with many clients."""

    _log = Logger()
    timeout = 600

    def swarm(self) -> Swarm:
        """Some clients, of whom none is there yet."""
        swarm = Swarm(self.server.port)
        self.addCleanup(swarm.kill)
        return swarm

    def members(self) -> int:
        """How many members the lobby has, as the daemon says."""
        return int(self.server.get("rooms/lobby/members")["count"])

    def agree(self, swarms: list[Swarm], condition: Callable[[dict[str, Any]], bool]) -> None:
        """Wait until the reports of all swarms fulfil a condition."""
        for swarm in swarms:
            report: dict[str, Any] = {}

            def agreed(swarm: Swarm = swarm, report: dict[str, Any] = report) -> bool:
                report.update(swarm.ask("report"))
                return condition(report)

            wait_until(agreed, lambda report=report: str(report)[:3000])  # type: ignore[misc]

    def assert_nothing_wrong(self, swarm: Swarm) -> dict[str, Any]:
        """Nobody has noticed a mistake; give what they know."""
        report = swarm.ask("report")
        self.assertEqual([], report["wrong"])
        return report


class ManyTests(CrowdTestCase):
    """Very many in one room, half of them polling."""

    async def test_many(self) -> None:
        """They come within ten seconds for so many bytes each, and all end with the same count; a fifth of them vanish
        without a FIN, and are gone in 35 seconds with their descriptors and their memory."""
        self.server = await self.started()
        await deferToThread(self._test)

    def _test(self) -> None:
        staying, vanishing = self.swarm(), self.swarm()
        watch = Stopwatch(self.server.pid, staying.process.pid, vanishing.process.pid)
        stay = MANY - VANISHING
        staying.ask("open", sockets=stay // 2, polls=stay - stay // 2, over=7.5, name="s")
        before = descriptors(self.server.pid)
        self._come(vanishing)
        joining = watch.seconds()
        self.agree([staying, vanishing], lambda report: set(report["counts"]) == {str(MANY)})
        known = watch.seconds()
        reports = [self.assert_nothing_wrong(swarm) for swarm in (staying, vanishing)]
        received = sum(report["received"] for report in reports)
        told = sum(report["presence"] for report in reports)
        self._log.info(
            f"{MANY} joined in {joining:.1f} s; {received / MANY:.0f} bytes and {told / MANY:.1f} events each; "
            f"{memory(self.server.pid) / MIB:.0f} MiB resident"
        )
        self.assertLess(received, MANY * BYTES_EACH * max(1, known / SECONDS))
        if not SOAK:  # with 5,000 the generators may need longer than that, on a busy machine
            self.assertLess(joining, 10.5)
        self._vanish(staying, vanishing, before)

    def _come(self, vanishing: Swarm) -> None:
        vanishing.ask("open", sockets=VANISHING // 2, polls=VANISHING - VANISHING // 2, over=1.5, name="v")

    def _go(self, vanishing: Swarm) -> int:
        """Those who will vanish go once as they should; give the memory that this leaves in use."""
        vanishing.ask("close")
        wait_until(lambda: self.members() == MANY - VANISHING, lambda: f"{self.members()} members")
        return memory(self.server.pid)

    def _vanish(self, staying: Swarm, vanishing: Swarm, before: int) -> None:
        stay = MANY - VANISHING
        memory_before = self._go(vanishing)
        self._come(vanishing)
        self.agree([staying, vanishing], lambda report: set(report["counts"]) == {str(MANY)})
        vanishing.signal(signal.SIGSTOP)  # the kernel goes on acknowledging for it, so that nothing breaks
        watch = Stopwatch(self.server.pid)
        wait_until(lambda: self.members() == stay, lambda: f"{self.members()} members")
        gone = watch.seconds()
        self.agree([staying], lambda report: set(report["counts"]) == {str(stay)})
        told = watch.seconds()
        vanishing.kill()
        wait_until(
            lambda: descriptors(self.server.pid) <= before,
            lambda: f"{descriptors(self.server.pid)}, not {before} descriptors",
        )
        grown = memory(self.server.pid) - memory_before
        self._log.info(f"{VANISHING} were gone after {gone:.1f} s, told after {told:.1f}; {grown / MIB:.1f} MiB grown")
        self.assertLess(gone, 35)
        self.assertLess(grown, 4 * MIB)
        self.assert_nothing_wrong(staying)
        self.assertNotIn("Traceback", self.server.log)


class SomeTests(CrowdTestCase):
    """As many in a room as are listed."""

    async def test_same_members(self) -> None:
        """150 over both transports come at once, and everyone ends with the same members."""
        self.server = await self.started()
        await deferToThread(self._test)

    def _test(self) -> None:
        swarms = [self.swarm(), self.swarm()]
        swarms[0].ask("open", sockets=60, polls=15, over=0.5, name="a")
        swarms[1].ask("open", sockets=15, polls=60, over=0, name="b")
        ids = self._ids()
        self.assertEqual(150, len(ids))
        self.agree(swarms, lambda report: report["lists"] == [[" ".join(ids), 75]])
        swarms[1].ask("close")
        wait_until(lambda: self.members() == 75, lambda: f"{self.members()} members")
        self.agree(swarms[:1], lambda report: report["lists"] == [[" ".join(self._ids()), 75]])
        for swarm in swarms:
            self.assert_nothing_wrong(swarm)

    def _ids(self) -> list[str]:
        return [member["id"] for member in self.server.get("rooms/lobby/members")["members"]]


class ReloadTests(CrowdTestCase):
    """A reload storm."""

    async def test_reloads(self) -> None:
        """All disconnect and come back, ten times each: nobody is seen to leave, no message is lost or doubled."""
        self.server = await self.started("--presence-limit", str(2 * RELOADING))
        await deferToThread(self._test)

    def _test(self) -> None:
        swarm = self.swarm()
        swarm.ask("open", sockets=RELOADING // 2, polls=RELOADING - RELOADING // 2, over=1)
        self.agree([swarm], lambda report: set(report["counts"]) == {str(RELOADING)})
        writer = _Writer(self.server)
        self.addCleanup(writer.end)
        swarm.ask("storm", times=10, away=0.9)
        top = writer.end()
        self.agree([swarm], lambda report: set(report["positions"]) == {top})
        report = self.assert_nothing_wrong(swarm)
        number = top.partition(":")[2]
        self._log.info(f"{RELOADING} came back ten times each, and got {number} messages")
        self.assertEqual(({number: RELOADING}, []), (report["messages"], report["left"]))
        self.agree([swarm], lambda report: len(report["lists"]) == 1 and len(report["lists"][0][0]) > 0)
        self.assertEqual({str(RELOADING): RELOADING}, swarm.ask("report")["counts"])
