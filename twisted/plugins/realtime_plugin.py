"""Makes ``twistd realtime`` and ``twist realtime`` known to Twisted."""

from twisted.application.service import ServiceMaker

realtime = ServiceMaker(
    "realtime_chat",
    "realtime_chat.tap",
    "Chat rooms over WebSocket, long poll and plain HTTP, from one durable store.",
    "realtime",
)
