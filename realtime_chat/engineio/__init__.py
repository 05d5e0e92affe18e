"""Engine.IO 4 and 3: connections over polling and WebSocket that carry messages in order, text and binary.

It is usable alone: :class:`~realtime_chat.engineio.resource.ConnectionsResource` is given a function that accepts a
:class:`~realtime_chat.engineio.connection.Connection` and returns its
:class:`~realtime_chat.engineio.connection.Receiver`.
"""
