"""A client of the daemon, on Twisted: rooms as streams of events, over the best transport that works.

.. code-block:: python

   async with connect(reactor, "http://127.0.0.1:8080/", name="Bob") as chat:
       room = await chat.join("lobby")
       await room.publish({"text": "hi"})
       async for event in room:
           ...

``docs/howto/python-client.rst`` shows more.
"""

from realtime_chat.client.chat import TRANSPORTS, Chat, History, Room, connect
from realtime_chat.client.errors import ChatError, Closed, FateUnknown, NoToken, QueueFull, Refused, Unreachable
from realtime_chat.client.events import (
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
