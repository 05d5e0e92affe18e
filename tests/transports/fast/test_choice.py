"""Tests for :mod:`realtime_chat.transports.fast.choice`."""

from __future__ import annotations

from realtime_chat import composition
from realtime_chat.http.fast_channel import FastChannel
from realtime_chat.transports.fast.choice import FAST, PLAIN
from tests.clients import PollClient
from tests.transports.test_contract import ServedTestCase


class ChoiceTests(ServedTestCase):
    """What a daemon is made of."""

    async def test_requests(self) -> None:
        """Requests are read and answered by our own code, except where everything is Twisted's."""
        made: list[FastChannel] = []

        class Channel(FastChannel):
            def __init__(self) -> None:
                super().__init__()
                made.append(self)

        self.patch(composition, "FastChannel", Channel)
        for io, ours in ((FAST, True), (PLAIN, False)):
            self.io = io
            await self.serve_anew()
            made.clear()
            await (await self.started(PollClient)).publish("a")
            self.assertEqual(ours, bool(made))
