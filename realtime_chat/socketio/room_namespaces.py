"""Ready-made namespaces for native rooms."""

from __future__ import annotations

from typing import Any

from realtime_chat.socketio.namespace import Namespace, event
from realtime_chat.values.commands import convert_command
from realtime_chat.values.errors import RealtimeError


class PubSubNamespace(Namespace):
    """Clients ``subscribe`` to native rooms. What is published there comes to them as ``pubblication``.

    That event has the data, and where the message stands: ``{room, position, from, at}``.
    """

    message_event = "pubblication"
    message_as_arguments = True

    def subscribe_room(self, room: Any) -> Any:
        """Which room a client gets that asks for one.

        :param room: what the client has sent.
        :returns: the room's name; None for the one that the client has named; False to refuse. Or a Deferred of that.
        """

    async def on_subscribe(self, room: Any) -> Any:
        """Subscribe the client to a room; the acknowledgement is ``joined``, or False if it was refused."""
        chosen = await _result(self.subscribe_room(room))
        if chosen is False:
            return False
        name = room if chosen is None else chosen
        if not isinstance(name, str):
            raise RealtimeError("bad_room", "subscribe is sent with the name of a room")
        return await self.follow(name)

    async def on_unsubscribe(self, room: Any) -> Any:
        """End a subscription."""
        if not isinstance(room, str):
            raise RealtimeError("bad_room", "unsubscribe is sent with the name of a room")
        return await self.unfollow(room)


class Rooms(Namespace):
    """The native commands as events: any Socket.IO client can join, publish and resume.

    Each event has the fields of a command. Its acknowledgement is the reply or the error of ``docs/protocol.rst``.
    ``hello`` may be left out: who somebody is comes from ``auth: {token}``.
    """

    async def _command(self, type: str, fields: Any) -> Any:
        if not isinstance(fields, dict):
            raise RealtimeError("bad_request", f"{type} is sent with an object, the fields of the command")
        return await self.perform(convert_command({**fields, "type": type}))

    async def on_join(self, fields: Any) -> Any:
        """Read a room."""
        return await self._command("join", fields)

    async def on_leave(self, fields: Any) -> Any:
        """Read a room no more."""
        return await self._command("leave", fields)

    async def on_publish(self, fields: Any) -> Any:
        """Publish a message."""
        return await self._command("publish", fields)

    async def on_set(self, fields: Any) -> Any:
        """Set or remove a property."""
        return await self._command("set", fields)

    async def on_history(self, fields: Any) -> Any:
        """Read a page of a room's log."""
        return await self._command("history", fields)

    async def on_signal(self, fields: Any) -> Any:
        """Send a signal to all who read a room now."""
        return await self._command("signal", fields)

    async def on_state(self, fields: Any) -> Any:
        """Set the client's presence state."""
        return await self._command("state", fields)

    async def on_members(self, fields: Any) -> Any:
        """Read a page of a room's members."""
        return await self._command("members", fields)

    @event("hello")
    async def say_hello(self, fields: Any) -> Any:
        """Say who one is: with a new token, to go on when the time of the first one is over."""
        return await self._command("hello", fields)


async def _result(value: Any) -> Any:
    return await value if hasattr(value, "__await__") else value
