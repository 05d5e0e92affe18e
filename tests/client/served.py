"""Chats with a daemon in this process, for tests."""

from __future__ import annotations

import os
import time
from typing import Any

from twisted.internet import reactor

from realtime_chat.broker.local import LocalBroker
from realtime_chat.client import Chat, Event, Message, Room, State, connect
from realtime_chat.composition import make_service
from realtime_chat.service import Configuration, RealtimeService
from realtime_chat.store.retention import Retention
from realtime_chat.store.sqlite.store import SQLiteStore
from realtime_chat.values.limits import Limits
from tests.transports.test_contract import ServedTestCase

__all__ = ["ChatTestCase"]


class ChatTestCase(ServedTestCase):
    """A test with chats, which it closes at its end."""

    def setUp(self) -> None:
        super().setUp()
        self.states_of: dict[Chat, list[State]] = {}

    transports: tuple[str, ...] = ("websocket", "sse", "poll")

    listen = "tcp:0:interface=127.0.0.1"

    def make_service(self) -> RealtimeService:
        limits = Limits(history=self.history, **self.limits)
        return make_service(
            reactor, self.store, LocalBroker(), Configuration((self.listen,), limits=limits), time.time, os.urandom
        )

    async def keep_on_disk(self) -> None:
        """Restart the daemon on the same port, with a store that survives restarts."""
        self.listen = f"tcp:{self.port}:interface=127.0.0.1"
        self.path = self.mktemp()
        await self.service.stopService()
        await self.start_again()

    async def start_again(self) -> None:
        """Start the daemon that was stopped."""
        self.store: Any = SQLiteStore(reactor, self.path, Retention(self.history), time.time, os.urandom)
        self.service = self.make_service()
        self.service.startService()
        await self.until(self.service.ports)

    @property
    def url(self) -> str:
        """The daemon's URL."""
        return f"http://127.0.0.1:{self.port}/"

    async def chat(self, *transports: str, **options: Any) -> Chat:
        """Connect a chat."""
        states: list[State] = []
        chat = connect(reactor, self.url, transports=transports or self.transports, on_state=states.append, **options)
        self.states_of[chat] = states
        self.addCleanup(chat.close)
        return await chat.__aenter__()

    def assert_never_lost(self, chat: Chat) -> None:
        """Assert that a chat still has its first connection."""
        self.assertEqual(["connecting", "connected"], [state.kind for state in self.states_of[chat]])

    async def messages(self, room: Room, count: int) -> list[Message]:
        """The next messages of a room; other events are skipped."""
        found: list[Message] = []
        while len(found) < count:
            event = await self.event(room)
            if isinstance(event, Message):
                found.append(event)
        return found

    async def data(self, room: Room, count: int) -> list[Any]:
        """The data of the next messages."""
        return [message.data for message in await self.messages(room, count)]

    async def event(self, room: Room, kind: type[Event] | None = None) -> Any:
        """The next event of a kind."""
        async for event in room:
            if kind is None or isinstance(event, kind):
                return event
        raise AssertionError("the room came to its end")
