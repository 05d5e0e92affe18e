"""A client of the daemon, on Twisted: rooms as streams of events, over the best transport that works.

.. code-block:: python

   async with connect(reactor, "http://127.0.0.1:8080/", name="Bob") as chat:
       room = await chat.join("lobby")
       await room.publish({"text": "hi"})
       async for event in room:
           ...

``docs/howto/python-client.rst`` shows more.
"""

from typing import TYPE_CHECKING, Any

from realtime_chat.client.errors import ChatError, Closed, FateUnknown, NoToken, QueueFull, Refused, Unreachable
from realtime_chat.client.events import (
    TRANSPORTS,
    Event,
    Member,
    Message,
    OwnUser,
    Presence,
    Property,
    Reset,
    Rights,
    Sender,
    Signal,
    State,
)
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import Position, User

if TYPE_CHECKING:
    from realtime_chat.client.chat import Chat, History, Room, connect

__all__ = [
    "TRANSPORTS",
    "Chat",
    "ChatError",
    "Closed",
    "Event",
    "FateUnknown",
    "History",
    "Member",
    "Message",
    "NoToken",
    "OwnUser",
    "Position",
    "Presence",
    "Property",
    "QueueFull",
    "RealtimeError",
    "Refused",
    "Reset",
    "Rights",
    "Room",
    "Sender",
    "Signal",
    "State",
    "Unreachable",
    "User",
    "connect",
]


def __getattr__(name: str) -> Any:
    """Import what connects when it is first used, as it needs HTTP, TLS and WebSockets; events and errors don't."""
    if name not in ("Chat", "History", "Room", "connect"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import realtime_chat.client.chat

    return getattr(realtime_chat.client.chat, name)
