"""Other processes, kills, and what reaches the disk."""

from __future__ import annotations

import os
import re

from realtime_chat.values.model import Draft, User
from tests.contracts import draft
from tests.functional.browsers import program
from tests.store.sqlite.fixtures import AppenderProcess, SQLiteTestCase


class ProcessTests(SQLiteTestCase):
    """Other processes: a second one on the file, one that is killed, and what the disk sees."""

    async def test_second_process(self) -> None:
        """A second process on the same file is refused until the first is killed. The message names the first one."""
        child = AppenderProcess(self.path, 100_000, 1)
        try:
            child.read_until(lambda line: line.startswith("+"))
            child.stop()
            refusal = f"in use by another process, pid {child.process.pid}; right would be another file$"
            await self.assert_refused(refusal)
        finally:
            child.kill()
        await (await self.open_store()).append(draft())

    async def test_second_store(self) -> None:
        """A second store on the same file in the same process is refused too, and the first one goes on."""
        store = await self.open_store()
        await self.assert_refused(f"in use by another process, pid {os.getpid()}; right would be another file$")
        await store.append(draft())

    async def test_killed(self) -> None:
        """After kill -9 every acknowledged message is there, once, and every key is still known."""
        children = []
        for round_ in range(5):
            child = AppenderProcess(self.path, 100_000, 20)
            children.append(child)
            child.read_until(lambda line: line.startswith("+"), times=100 + 300 * round_)
            child.kill()
        store = await self.assert_ledger(children)
        last = (await store.read_before("lobby", None, 1)).messages[0]
        again = await store.append(Draft("lobby", "message", last.data, User("u", "n"), last.key))
        self.assertEqual((again.message, again.duplicate), (last, True))

    async def test_sync_before_acknowledgement(self) -> None:
        """The system calls show it: each acknowledgement is written after a sync of its commit."""
        tracer = program("strace")
        trace = self.directory / "trace"
        watched = "trace=fdatasync,fsync,pwrite64,write"
        child = AppenderProcess(
            self.path, 20, 1, before=[tracer, "-f", "-y", "-s", "64", "-o", str(trace), "-e", watched]
        )
        try:
            child.read_until(lambda line: line == "done")
        finally:
            child.kill()
        self.assert_synced(trace.read_text(errors="replace").splitlines())

    def assert_synced(self, calls: list[str]) -> None:
        """Between the last write to the log before an acknowledgement and that one there is a finished sync."""
        dirty, acknowledged = False, 0
        for call in calls:
            if "pwrite64(" in call and "-wal>" in call:
                dirty = True
            elif re.search(r"f(data)?sync.*= 0$", call) and ("-wal>" in call or "resumed" in call):
                dirty = False
            elif re.search(r'write\(1<.*"\+ ', call):
                acknowledged += 1
                self.assertFalse(dirty, call)
        self.assertEqual(acknowledged, 20)
