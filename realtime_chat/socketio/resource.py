"""Where Socket.IO is reached over HTTP."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import attrs

from realtime_chat.core.hub import Hub
from realtime_chat.core.turns import Turns
from realtime_chat.engineio.resource import ConnectionsResource
from realtime_chat.engineio.settings import Settings
from realtime_chat.http.answers import Answer, answer
from realtime_chat.http.request import RealtimeRequest
from realtime_chat.socketio.application import Application
from realtime_chat.transports.fast.choice import FAST, SocketIO

DEFAULT_PATH = "socket.io"

_SCRIPT = [b"socket.io.js"]
_SCRIPT_TYPE = b"text/javascript; charset=utf-8"


@attrs.frozen
class Mount:
    """An application, and how the daemon serves it.

    :ivar path: the part of the URL's path at which it stands.
    :ivar eio3: whether clients of Socket.IO 1 and 2 are served.
    :ivar script: a file with the client, which is served as ``socket.io.js``; None for none.
    """

    application: Application
    path: str = DEFAULT_PATH
    eio3: bool = False
    script: str | None = None


class SocketIOResource(ConnectionsResource):
    """``/socket.io/``: serves an application.

    :param settings: by default those of Engine.IO, with the largest message of the hub.
    :param reactor: by default the hub's clock, which is the reactor in a daemon.
    :param script: the client for browsers, which is served as ``socket.io.js``.
    """

    def __init__(
        self,
        application: Application,
        hub: Hub,
        settings: Settings | None = None,
        reactor: Any = None,
        turns: Turns | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
        io: SocketIO = FAST,
        script: bytes | None = None,
    ) -> None:
        settings = settings or Settings(max_payload=hub.limits.max_message)
        accept = application.acceptor(hub, settings, random_bytes)
        clock = hub.clock if reactor is None else reactor
        super().__init__(clock, hub, accept, settings, turns or Turns(clock), random_bytes, io)
        self.application = application
        self._script = script

    def render(self, request: RealtimeRequest) -> int:  # type: ignore[override]
        """Serve the client's script, or a request of Engine.IO."""
        if self._script is not None and request.postpath == _SCRIPT and request.method in (b"GET", b"HEAD"):
            return answer(request, Answer(self._script, 200, _SCRIPT_TYPE))
        return super().render(request)
