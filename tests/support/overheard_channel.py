"""Publications as they appear on Redis itself: those of every channel, in order."""

from __future__ import annotations

import json
import time
from types import TracebackType
from typing import Any

from realtime.core.envelope import decode_envelope
from tests.support.pubsub import published_so_far
from tests.support.redis_server import RedisServer


class Heard:
    """Listens from the start of the `with` block."""

    def __init__(self, server: RedisServer, prefix: str = "rt") -> None:
        self._client = server.client()
        self._pubsub = self._client.pubsub()
        self._strip = len(f"{prefix}:{{0}}:ch:")
        self._pattern = f"{prefix}:{{0}}:ch:*"
        self.publications: list[tuple[str, Any]] = []

    def __enter__(self) -> Heard:
        self._pubsub.psubscribe(self._pattern)
        self._pubsub.get_message(timeout=60)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pubsub.close()
        self._client.close()

    def data_on(self, channel: str) -> list[Any]:
        """Return the data published on a channel so far."""
        for message in published_so_far(self._pubsub):
            self._note(message)
        return [data for name, data in self.publications if name == channel]

    def until(self, channel: str, state: str, *more: str, seconds: float = 10) -> list[Any]:
        """Return the data on a channel up to a task's state; with ``more`` tasks, up to theirs."""
        deadline = time.monotonic() + seconds
        wanted = {channel, *(f"job:{task_id}" for task_id in more)}
        while not self._has(channel, state):
            assert time.monotonic() < deadline, f"no {state} on {channel}: {self.publications}"
            if (message := self._pubsub.get_message(timeout=0.5)) is not None:
                self._note(message)
        return [
            data
            for name, data in self.publications
            if name in ((more and wanted - {channel}) or wanted)
        ]

    def _note(self, message: dict[str, Any]) -> None:
        if message["type"] == "pmessage":
            name = message["channel"][self._strip :].decode()
            if not name.startswith("!"):  # messages between nodes
                body = decode_envelope(message["data"]).body
                self.publications.append((name, json.loads(body)["data"]))

    def _has(self, channel: str, state: str) -> bool:
        return any(
            name == channel and isinstance(data, dict) and data.get("state") == state
            for name, data in self.publications
        )
