"""A link by long poll."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.task import deferLater

from realtime_chat.client.address import Address
from realtime_chat.client.http import Answer, HTTPLink
from realtime_chat.client.link import Disconnect, Identity, LinkListener, loss_by_goodbye

__all__ = ["PollLink"]

_WAIT = 25.0
_ANSWER_WITHIN = 15.0
_HASTY = 1.0
_LEAVE_WITHIN = 1.0
_LAST = 1000


class PollLink(HTTPLink):
    """One poll after the other, for all rooms at once, or for parts of them side by side."""

    kind = "poll"

    def __init__(self, address: Address, above: LinkListener, identity: Identity) -> None:
        super().__init__(address, above, identity)
        self._presence: dict[str, str] = {}

    async def _read(self, rooms: Sequence[str]) -> None:
        generation = self._generation
        while generation == self._generation and not self._closed:
            if self._paused:
                await self._unpaused()
                continue
            begun = self._address.reactor.seconds()
            answer = await self._poll(rooms)
            error = answer.error("poll")
            if error is not None and generation == self._generation and self._survives(answer, error):
                return
            if error is not None:
                self._lost(Disconnect(error.message, answer.retry_after, error, not error.temporary))
                return
            if generation == self._generation:
                self._polled(answer.body, generation)
            if not answer.body["events"] and self._address.reactor.seconds() - begun < _HASTY:
                # Somebody on the way answers for the server; lest this become a loop.
                await deferLater(self._address.reactor, _HASTY)

    async def _poll(self, rooms: Sequence[str]) -> Answer:
        query = [*self._wanted(rooms), ("last", str(_LAST)), ("wait", f"{_WAIT:.0f}")]
        query += [("presence", self._presence.get(room, "")) for room in rooms]
        if self._identity.name is not None:
            query.append(("name", self._identity.name))
        return await self._web.get("poll", query, self._client, _WAIT + _ANSWER_WITHIN)

    def _polled(self, answer: dict[str, Any], generation: int) -> None:
        if answer["client"] != self._client:
            self._lost(Disconnect("the server no longer knows this client"))
            return
        self._reading_began()
        goodbye = None
        for event in answer["events"]:
            if event["type"] == "goodbye":
                goodbye = event
            else:
                self._take(event)
            if generation != self._generation:  # the rest comes again
                return
        self._presence.update(answer.get("presence", {}))
        self._cursors.update({room: at for room, at in answer["positions"].items() if room in self._cursors})
        if goodbye is not None:
            self._lost(loss_by_goodbye(goodbye))

    # A poll's end says nothing of its client's going.

    def leave(self, room: str) -> None:
        super().leave(room)
        self._presence.pop(room, None)
        self.send({"type": "leave", "room": room})

    async def _end(self, leaving: bool) -> None:
        if leaving and self._cursors:
            commands = [{"type": "leave", "room": room} for room in self._cursors]
            try:
                await self._within(_LEAVE_WITHIN, self._post(commands))
            except Exception as error:  # it was only a courtesy
                self._log.debug("the server wasn't told: {error}", error=error)
        await super()._end(leaving)
