"""Chats over a slow line: a request that makes progress is never cut off; one that makes none is, in time."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from realtime_chat.client import Chat, connect, http_client, poll, server_url, sse, websocket
from tests.client.served import ChatTestCase
from tests.deadlines import Stopwatch
from tests.slow import SlowLine

_RATE = 300_000
_SECONDS = 1.0
"""The client's time-outs in these tests."""


class SlowContract:
    """What holds on each transport. Everything takes several times as long as the time-outs."""

    async def test_history(self: Any) -> None:
        """Slow history arrives, however it is asked for."""
        room = await self.slow_room()
        page = await room.history()
        self.assertEqual(self.said, [message.data for message in page.messages])
        self.assertEqual(self.said, await self.data(room, len(self.said)))

    async def test_large_message(self: Any) -> None:
        """A slow message arrives, in both directions."""
        room = await self.slow_room(last=0)
        text = "x" * 500_000
        await room.publish(text)
        self.assertEqual([text], await self.data(room, 1))
        self.assert_never_lost(room._chat)

    async def test_stopped(self: Any) -> None:
        """A line that stops is noticed in time, and the chat goes on over the next connection."""
        room = await self.slow_room(last=0)
        asked = Deferred.fromCoroutine(room.history())
        chat, carried = room._chat, self.line.carried
        await self.until(lambda: self.line.carried > carried + 100_000)
        self.line.stopped = True
        watch = Stopwatch()
        await self.until(lambda: chat.state.kind != "connected")
        self.assertLess(watch.seconds(), 4 * _SECONDS)
        self.line.stopped = False
        self.assertEqual(self.said, [message.data for message in (await asked).messages])


class SlowTestCase(ChatTestCase):
    """A daemon behind a line of 300 kB/s, with 360 kB in its room."""

    limits = {"max_message": 4 * 1024 * 1024, "ping": 0.5, "pong": 30.0, "heartbeat": 0.5}
    kind = ""

    async def slow_room(self, **options: Any) -> Any:
        """The room, joined over the line."""
        self.patch(http_client, "_IDLE_TIMEOUT", _SECONDS)
        self.patch(server_url, "_SEND_BUFFER", 8 * 1024)
        self.patch(poll, "_ANSWER_WITHIN", _SECONDS)
        self.patch(poll, "_WAIT", _SECONDS)
        self.patch(sse, "_IDLE_TIMEOUT", _SECONDS)
        self.patch(websocket, "_PONG", _SECONDS / 2)
        quick = await self.chat("poll")
        self.said = [f"{number}" * 30_000 for number in range(10, 16)]
        for text in self.said:
            await quick.publish("lobby", text)
        self.line = SlowLine(reactor, self.port, _RATE)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.line.close()))
        chat = await self._over_the_line()
        return await chat.join("lobby", **options)

    async def _over_the_line(self) -> Chat:
        states: list[Any] = []
        url = f"http://127.0.0.1:{self.line.port}/"
        chat = connect(reactor, url, transports=(self.kind,), on_state=states.append)
        self.states_of[chat] = states
        self.addCleanup(chat.close)
        return await chat.__aenter__()

    async def until(self, condition: Any) -> None:
        """Wait until a condition is true."""
        while not condition():
            await deferLater(reactor, 0.02, lambda: None)


class WebSocketSlowTests(SlowContract, SlowTestCase):
    """Over a WebSocket."""

    kind = "websocket"


class SSESlowTests(SlowContract, SlowTestCase):
    """Over server-sent events."""

    kind = "sse"


class PollSlowTests(SlowContract, SlowTestCase):
    """Over long polls."""

    kind = "poll"
