"""The programs of ``docs/howto`` run as they stand there."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from realtime_chat.client import Message, Room, connect
from tests.functional.daemon import CHECKOUT, DaemonTestCase, wait_until

_HOWTO = CHECKOUT / "docs" / "howto"


class ExampleTests(DaemonTestCase):
    """Bots in processes of their own, and chats here that talk to them."""

    def start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one of the programs."""
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        command = [sys.executable, str(_HOWTO / program), *arguments]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.addCleanup(_end, process)
        return process

    async def texts(self, room: Room, count: int) -> list[Any]:
        """What the next messages say."""
        found: list[Any] = []
        async for event in room:
            found += [event.text] if isinstance(event, Message) else []
            if len(found) == count:
                break
        return found

    async def test_echo_bot(self) -> None:
        """The bot says again what others say, also after the daemon was killed and started again."""
        server = await self.started()
        bot = self.start("echo_bot.py", server.url, "lobby")
        await deferToThread(wait_until, lambda: server.get("rooms/lobby/members")["count"] == 1, lambda: _fate(bot))
        async with connect(reactor, server.url, name="Ann") as chat:
            room = await chat.join("lobby", last=0)
            await room.publish({"text": "one"})
            self.assertEqual(["one", "Ann said: one"], await self.texts(room, 2))
            server.kill()
            await deferToThread(server.start)
            await room.publish({"text": "two"})
            self.assertEqual(["two", "Ann said: two"], await self.texts(room, 2))

    async def test_asyncio(self) -> None:
        """The client works on asyncio's event loop, from asyncio's coroutines."""
        server = await self.started("--store=memory:")
        program = self.start("asyncio_bot.py", server.url, "lobby")
        output, _ = await deferToThread(program.communicate, timeout=30)
        self.assertEqual(b"message 0\nmessage 1\nmessage 2\n", output)
        self.assertEqual(0, program.returncode)


def _fate(process: subprocess.Popen[bytes]) -> str:
    return f"the program ended with {process.returncode}" if process.poll() is not None else "it runs"


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
