"""The Channels tutorial's chat, as documented: channels_redis and `group_send`.

channels.readthedocs.io/en/stable/tutorial/part_3.html, with the pub/sub layer, which channels_redis
recommends for speed. Publishing works as in a view there: `group_send` in another process.

    uvicorn bench.peers.tutorial:application        daphne bench.peers.tutorial:application
"""

from __future__ import annotations

import json
import os
from typing import Any

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.urls import path

if not settings.configured:
    settings.configure(
        SECRET_KEY="bench",
        ALLOWED_HOSTS=["*"],
        INSTALLED_APPS=["channels"],
        CHANNEL_LAYERS={
            "default": {
                "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
                "CONFIG": {"hosts": [os.environ.get("REDIS_URL", "redis://127.0.0.1:6379")]},
            }
        },
    )
    django.setup()


class ChatConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    """The tutorial's consumer, with the same behaviour."""

    async def connect(self) -> None:
        self.group = self.scope["url_route"]["kwargs"]["room"]
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def chat_message(self, event: dict[str, Any]) -> None:
        await self.send(text_data=json.dumps({"message": event["message"]}))


application = ProtocolTypeRouter(
    {"websocket": URLRouter([path("ws/chat/<str:room>/", ChatConsumer.as_asgi())])}
)
