"""An application of Engine.IO that sends back what it gets, and a daemon with it at ``/engine.io/``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from realtime_chat import composition
from realtime_chat.core.turns import Turns
from realtime_chat.engineio.connection import Connection
from realtime_chat.engineio.prepared import Binary, PreparedMessage
from realtime_chat.engineio.resource import ConnectionsResource
from realtime_chat.engineio.settings import Settings
from realtime_chat.http.answers import JSONResource
from realtime_chat.service import Configuration
from tests.functional.daemon import TWISTD


class Echo:
    """Sends each message back.

    :ivar reason: why the connection was closed.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.reason: str | None = None

    def text_received(self, text: bytes) -> None:
        self.connection.send(PreparedMessage([text]))

    def binary_received(self, data: bytes) -> None:
        self.connection.send(PreparedMessage([Binary(data)]))

    def pause_writing(self) -> None:
        """Send on: the connection keeps it."""

    def resume_writing(self) -> None:
        """Nothing was held back."""

    def closed(self, reason: str) -> None:
        self.reason = reason


def program(**settings: Any) -> str:
    """A program that runs ``twistd`` with an echo at ``/engine.io/``, for :class:`~tests.functional.daemon.Daemon`."""
    return f"from tests.engineio.echo import install\ninstall({settings!r})\n{TWISTD}"


def install(settings: Mapping[str, Any]) -> None:
    """Let each daemon of this process have an echo at ``/engine.io/``."""
    make_own = composition._SiteMaker._own_resources

    def own_resources(maker: Any, configuration: Configuration, turns: Turns) -> Mapping[bytes, JSONResource]:
        echo = ConnectionsResource(
            maker.reactor, maker.hub, Echo, Settings(**settings), turns, maker.random_bytes, maker.io
        )
        return {**make_own(maker, configuration, turns), b"engine.io": echo}

    composition._SiteMaker._own_resources = own_resources  # type: ignore[method-assign]
