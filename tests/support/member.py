"""One connection of a hub in this event loop, with the test as its server."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

from realtime.core.identity import ANONYMOUS, Identity
from realtime.delivery.conversation import Conversation
from realtime.delivery.hub import Hub
from tests.support.eventually import eventually


class Member:
    """One connection whose server is this test: `lines` has what the hub sends."""

    def __init__(self, hub: Hub, identity: Identity | None = None, session: str = "") -> None:
        self.lines: list[dict[str, Any]] = []
        self.closed: tuple[int, str] | None = None
        self._identity = identity or ANONYMOUS
        self._session = session
        self._hub = hub
        self._task = asyncio.create_task(self._serve())
        self.conversation: Conversation | None = None
        self.heard: Callable[[], None] = lambda: None

    async def _serve(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.conversation = self._hub.connections.attach(
            self._send, task, identity=self._identity, session=self._session
        )
        try:
            await asyncio.Event().wait()
        finally:
            self.conversation.end(None)

    @property
    def ended(self) -> bool:
        """Whether the hub has closed it."""
        return self.conversation is not None and self.conversation.ended

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "websocket.close":
            self.closed = (message["code"], message["reason"])
        for line in message.get("text", "").split("\n"):
            if line not in ("", "{}"):
                self.lines.append(json.loads(line))
                self.heard()

    def say(self, *commands: dict[str, Any]) -> None:
        assert self.conversation is not None
        self.conversation.receive("\n".join(map(json.dumps, commands)))

    async def until(self, count: int) -> list[dict[str, Any]]:
        await eventually(lambda: len(self.lines) >= count)
        return self.lines

    def pushes(self, kind: str) -> list[dict[str, Any]]:
        """Return the pushes of this kind (pub, subscribe, …), each with its channel."""
        found = [line["push"] for line in self.lines if kind in line.get("push", {})]
        return [{"channel": push.get("channel"), **push[kind]} for push in found]

    def offsets(self) -> list[int]:
        return [
            line["push"]["pub"]["offset"] for line in self.lines if "pub" in line.get("push", {})
        ]

    async def leave(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
