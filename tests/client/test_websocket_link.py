"""Tests for :mod:`realtime_chat.client.websocket`: what a link reports."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.client.link import ClientIdentity, Disconnect
from realtime_chat.client.server_url import ServerURL
from realtime_chat.client.websocket import WebSocketLink


class ReportTests(SynchronousTestCase):
    """A link whose WebSocket is lost."""

    def test_closed(self) -> None:
        """It is reported once it can't be used any more, and no longer after it was closed."""
        told: list[Any] = []

        class Listener:
            def closed(self, link: object, disconnect: Disconnect) -> None:
                told.append(disconnect)

        listener: Any = Listener()
        link = WebSocketLink(ServerURL(Clock(), "http://localhost:8080/"), listener, ClientIdentity())
        lost = Disconnect("it was lost")
        link.disconnected(lost)
        self.assertEqual([lost], told)
        link.close()
        link.disconnected(lost)
        self.assertEqual([lost], told)
