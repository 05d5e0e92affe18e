"""Socket.IO: applications of namespaces, for the official clients (``docs/howto/socket-io.rst``)."""

from realtime_chat.socketio.acks import TimedOut
from realtime_chat.socketio.application import Application
from realtime_chat.socketio.namespace import Namespace, event
from realtime_chat.socketio.room_namespaces import PubSubNamespace, Rooms
from realtime_chat.socketio.socket import Refused

__all__ = ["Application", "Namespace", "PubSubNamespace", "Refused", "Rooms", "TimedOut", "event"]
