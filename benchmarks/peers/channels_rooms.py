"""Django Channels: its tutorial's chat consumer. daphne -p PORT channels_rooms:application

With the in-memory layer; with CHANNELS_REDIS=URL in the environment with channels_redis's.
"""

import json
import os

import django
from django.conf import settings

if "CHANNELS_REDIS" in os.environ:
    layer = {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [os.environ["CHANNELS_REDIS"]]},
    }
else:
    layer = {"BACKEND": "channels.layers.InMemoryChannelLayer"}

settings.configure(
    SECRET_KEY="only for the benchmark",
    ALLOWED_HOSTS=["127.0.0.1"],
    INSTALLED_APPS=["daphne", "channels"],
    CHANNEL_LAYERS={"default": layer},
)
django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path  # noqa: E402


class ChatConsumer(AsyncWebsocketConsumer):
    async def connect(self):
        self.room = "chat_" + self.scope["url_route"]["kwargs"]["room"]
        await self.channel_layer.group_add(self.room, self.channel_name)
        await self.accept()

    async def disconnect(self, code):
        await self.channel_layer.group_discard(self.room, self.channel_name)

    async def receive(self, text_data=None, bytes_data=None):
        await self.channel_layer.group_send(self.room, {"type": "chat.message", "message": text_data})

    async def chat_message(self, event):
        await self.send(text_data=event["message"])


class PresenceConsumer(ChatConsumer):
    """The same, where everybody is told who comes and goes."""

    async def connect(self):
        await super().connect()
        await self.tell("entered")

    async def disconnect(self, code):
        await super().disconnect(code)
        await self.tell("left")

    async def tell(self, what):
        name = self.channel_name[-32:]
        await self.receive(json.dumps({"type": what, "member": {"id": name, "name": "Guest " + name[:4]}}))


application = ProtocolTypeRouter(
    {
        "websocket": URLRouter(
            [path("ws/<str:room>", ChatConsumer.as_asgi()), path("enter/<str:room>", PresenceConsumer.as_asgi())]
        )
    }
)
