"""Publishes over HTTP and listens over WebSockets, as users of the service do, to measure loss.

Each publication takes the whole way: HTTP API, Redis, every node with a listener, WebSocket.
`realtime.client.probe_ledger` has the rules.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

from realtime.client.events import Event, GapFound, Live, NotLive, Published, Reconnecting
from realtime.client.listening import ListeningClient, websocket_url
from realtime.client.probe_ledger import ProbeLedger, SilentLoss
from realtime.core.meters import NOT_PUBLISHED, PUBLISHED, UNKNOWN
from realtime.core.positions import Position

ANSWER_SECONDS = 5.0
"""The timeout of a publish; the API itself answers within REALTIME_PUBLISH_SECONDS."""
START_SECONDS = 30.0
"""How long the listeners may take to be live for the first time."""

SETTLE_SECONDS = 0.1

Tell = Callable[[str], None]


class ProbeOptions(NamedTuple):
    """What a probe does."""

    urls: Sequence[str]
    """The services or nodes to listen at, as `websocket_url` accepts them."""
    publish_url: str
    """``http://host:port``, with the prefix under which the API is mounted, if any."""
    api_key: str
    channel: str
    connections: int
    """Listeners for each URL."""
    every_seconds: float
    """The time between two publications."""


class Probe:
    """See the module. Call `run` once."""

    def __init__(self, options: ProbeOptions, tell: Tell) -> None:
        """Create a probe.

        Args:
            options: What it does.
            tell: Called with each sentence for people.
        """
        self._options = options
        self._tell = tell
        numbers = range(1, options.connections + 1)
        self._urls = {f"{url} #{number}": url for url in options.urls for number in numbers}
        self.ledger = ProbeLedger(list(self._urls))
        self._all_live = asyncio.Event()
        self._run = secrets.token_hex(4)
        self._number = 0

    async def run(self, seconds: float | None) -> None:
        """Probe for a time, or until it is cancelled.

        Raises:
            ListeningError: The service refuses a listener permanently.
            TimeoutError: The listeners were not live in time.
        """
        work = [asyncio.create_task(self._publish_for(seconds))]
        work += [asyncio.create_task(self._listen(*each)) for each in self._urls.items()]
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)

    async def _publish_for(self, seconds: float | None) -> None:
        async with asyncio.timeout(START_SECONDS):
            await self._all_live.wait()
        self._tell(f"{len(self._urls)} listeners are live on {self._options.channel}")
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._publish_forever()
        await self._settle()

    async def _settle(self) -> None:
        """Wait for what is on its way; what does not come in time is lost."""
        while any(each.is_owed for each in self.ledger.listeners.values()):
            await asyncio.sleep(SETTLE_SECONDS)
            for loss in self.ledger.look(time.monotonic()):
                self._report(loss)

    async def _listen(self, name: str, url: str) -> None:
        channel = self._options.channel
        await ListeningClient(url, [channel], lambda event: self._hear(name, event)).run()

    def _hear(self, name: str, event: Event) -> None:
        now = time.monotonic()
        listener = self.ledger.listeners[name]
        match event:
            case Published(position=position, data=data):
                self.ledger.note_received(name, position, now - _time_of(data, self._run, now))
            case GapFound(missed=missed):
                for loss in self.ledger.note_gap(name, missed.gap, missed.reason):
                    self._report(loss)
                self._tell(f"{name}: gap {missed.gap.first}-{missed.gap.last} ({missed.reason})")
            case Live(positions=positions):
                listener.note_live(positions[self._options.channel], now)
                if all(each.live_since for each in self.ledger.listeners.values()):
                    self._all_live.set()
            case NotLive(reason=reason) | Reconnecting(reason=reason):
                listener.note_away()
                self._tell(f"{name}: not live: {reason}")

    async def _publish_forever(self) -> None:
        while True:
            began = time.monotonic()
            outcome, position = await asyncio.to_thread(self._publish)
            now = time.monotonic()
            self.ledger.note_published(outcome, position, now)
            if outcome != PUBLISHED:
                self._tell(f"publish: {outcome}")
            for loss in self.ledger.look(now):
                self._report(loss)
            await asyncio.sleep(max(0.0, began + self._options.every_seconds - time.monotonic()))

    def _publish(self) -> tuple[str, Position | None]:
        """Publish once, in a thread; return the outcome and the position."""
        self._number += 1
        data = {"probe": self._run, "number": self._number, "at": time.monotonic()}
        body = json.dumps({"channel": self._options.channel, "data": data})
        parts = urlsplit(self._options.publish_url)
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        connection = kind(parts.hostname or "", parts.port, timeout=ANSWER_SECONDS)
        headers = {"X-API-Key": self._options.api_key, "Content-Type": "application/json"}
        try:
            connection.connect()
        except OSError:
            return NOT_PUBLISHED, None
        try:
            connection.request("POST", f"{parts.path.rstrip('/')}/api/publish", body, headers)
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException):
            return UNKNOWN, None
        finally:
            connection.close()
        return _read_outcome(response.status, text)

    def _report(self, loss: SilentLoss) -> None:
        epoch, offset = loss.position
        self._tell(f"SILENT LOSS: {loss.listener} never got {offset} ({epoch})")


def _time_of(data: object, run: str, now: float) -> float:
    """Return when this probe sent a publication; now if it is not one of ours."""
    if isinstance(data, dict) and data.get("probe") == run and isinstance(data.get("at"), float):
        return float(data["at"])
    return now


def _read_outcome(status: int, text: bytes) -> tuple[str, Position | None]:
    if status == 200:
        try:
            result = json.loads(text)["result"]
            return PUBLISHED, Position(str(result["epoch"]), int(result["offset"]))
        except (ValueError, LookupError, TypeError):
            return UNKNOWN, None
    is_certain = status in (400, 401, 403, 404, 405, 413, 415, 429, 503)
    return (NOT_PUBLISHED if is_certain else UNKNOWN), None


def site_of(url: str) -> str:
    """Return ``http://host:port`` of a WebSocket's URL, to which the API belongs by default."""
    parts = urlsplit(websocket_url(url))
    return f"{'https' if parts.scheme == 'wss' else 'http'}://{parts.netloc}"
