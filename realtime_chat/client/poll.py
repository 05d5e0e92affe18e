"""A link by long polling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.task import deferLater

from realtime_chat.client.http_client import JSONResponse
from realtime_chat.client.http_link import HTTPLink
from realtime_chat.client.link import ClientIdentity, Disconnect, LinkListener
from realtime_chat.client.server_url import ServerURL

_WAIT = 25.0
_ANSWER_WITHIN = 15.0
_MIN_INTERVAL = 1.0
_LEAVE_WITHIN = 1.0
_LAST = 1000


class PollLink(HTTPLink):
    """One poll after the other, for all rooms at once or for groups of them side by side."""

    kind = "poll"

    def __init__(self, server: ServerURL, listener: LinkListener, identity: ClientIdentity) -> None:
        super().__init__(server, listener, identity)
        self._presence: dict[str, str] = {}

    async def _read(self, rooms: Sequence[str]) -> None:
        generation = self._generation
        while generation == self._generation and not self._closed:
            if self._paused:
                await self._resumed()
                continue
            started = self._server.reactor.seconds()
            response = await self._poll(rooms)
            error = response.error("poll")
            if error is not None and error.after is not None and generation == self._generation:
                await deferLater(self._server.reactor, error.after)
                continue
            if error is not None:
                self._read_refused(response, error, generation)
                return
            if generation == self._generation:
                self._polled(response.body, generation)
            if not response.body["events"] and self._server.reactor.seconds() - started < _MIN_INTERVAL:
                # Something between us and the server answers at once; this must not become a busy loop.
                await deferLater(self._server.reactor, _MIN_INTERVAL)

    async def _poll(self, rooms: Sequence[str]) -> JSONResponse:
        query = [*self._cursors.query(rooms), ("last", str(_LAST)), ("wait", f"{_WAIT:.0f}")]
        query += [("presence", self._presence.get(room, "")) for room in rooms]
        query += self._name_query()
        return await self._http.exchange("poll", query, self._client, seconds=_WAIT + _ANSWER_WITHIN)

    def _polled(self, body: dict[str, Any], generation: int) -> None:
        if body["client"] != self._client and not self._is_user:
            self._disconnect(Disconnect("the server no longer knows this client"))
            return
        self._read_started()
        goodbye = None
        for event in body["events"]:
            if event["type"] == "goodbye":
                goodbye = event
            else:
                self._deliver(event)
            if generation != self._generation:  # the next poll brings the others again
                return
        self._presence.update(body.get("presence", {}))
        for room, rights in body.get("rights", {}).items():
            self._deliver({"type": "rights", "room": room, "rights": rights})
        self._cursors.update(body["positions"], body.get("properties", {}))
        if goodbye is not None:
            self._disconnect(Disconnect.by_goodbye(goodbye))

    # The end of a poll doesn't tell the server that its client leaves, so a command does.

    def leave(self, room: str) -> None:
        super().leave(room)
        self._presence.pop(room, None)
        self.send({"type": "leave", "room": room})

    async def _end(self, leaving: bool) -> None:
        if leaving and self._cursors:
            commands = [{"type": "leave", "room": room} for room in self._cursors]
            try:
                await self._within(_LEAVE_WITHIN, self._post(commands))
            except Exception as error:  # the server notices by itself, only later
                self._log.debug("the server wasn't told: {error}", error=error)
        await super()._end(leaving)
