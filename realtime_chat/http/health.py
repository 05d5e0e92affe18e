"""``/healthz`` and ``/readyz``: whether the process runs, and whether it should get traffic."""

from __future__ import annotations

from twisted.web.server import Request

from realtime_chat import __version__
from realtime_chat.core.hub import Hub
from realtime_chat.http.answers import JSONResource, answer_later
from realtime_chat.values.json import encode_value

__all__ = ["HealthResource", "ReadinessResource"]

_OK = b'{"status":"ok"}'
_ALIVE = encode_value({"status": "ok", "version": __version__})


class HealthResource(JSONResource):
    """Answers with the daemon's version, as long as the process runs."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        """Say that the daemon runs, and its version."""
        return _ALIVE


class ReadinessResource(JSONResource):
    """Answers ok while messages can be stored and the daemon is not stopping."""

    isLeaf = True

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self._hub = hub

    def render_GET(self, request: Request) -> int:
        """Say whether messages can be stored."""
        self._hub.check_open()
        return answer_later(request, self._check())

    async def _check(self) -> bytes:
        await self._hub.check_store()
        return _OK
