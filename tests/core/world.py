"""A hub over a store in memory, and clients without sockets."""

import json
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core.performing_session import PerformingSession
from realtime_chat.store.memory import MemoryStore
from realtime_chat.store.retention import Retention
from realtime_chat.values.model import ANONYMOUS, Draft
from tests.fakes import (
    FakeTransport,
    HeldStore,
    make_hub,
    make_session,
    tokens,
)


class World(SynchronousTestCase):
    """A hub over a store in memory, and clients without sockets."""

    history = 20
    limits: dict[str, Any] = {}

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(Retention(self.history), self.clock.seconds, tokens())
        self.held = HeldStore(self.store)
        self.hub = make_hub(self.store, self.clock, **{"history": self.history, **self.limits})

    def slow_hub(self) -> None:
        """From now on the store answers when it is told to."""
        self.hub = make_hub(self.held, self.clock, **{"history": self.history, **self.limits})

    def client(self, window: int | None = None, **transport: Any) -> tuple[PerformingSession, FakeTransport]:
        fake = FakeTransport(window, **transport)
        return make_session(self.hub, fake), fake

    def tell(self, session: PerformingSession, type: str, **fields: Any) -> None:
        session.receive(json.dumps({"type": type, **fields}).encode())

    def joined(self, room: str = "lobby", **fields: Any) -> tuple[PerformingSession, FakeTransport]:
        session, transport = self.client()
        self.tell(session, "join", room=room, **fields)
        return session, transport

    def publish(self, *texts: Any, room: str = "lobby") -> None:
        for text in texts:
            self.hub.publish(Draft(room, "message", json.dumps(text).encode(), ANONYMOUS))

    def turn(self) -> None:
        self.clock.advance(0)

    def data(self, transport: FakeTransport) -> list[Any]:
        return [message["data"] for message in transport.of_type("message")]
