"""One client under load, which behaves like `client.js` and records everything it receives.

It answers pings, reconnects by back-off with full jitter, and computes what it missed with the
Python counterpart of client.js' tracker.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from realtime.client.tracker import MissedPublications, Tracker
from realtime.core.positions import Gap, Position
from tests.support.lean_client import LeanClient
from tests.support.ledger import Heard, Journal, Told

if TYPE_CHECKING:
    from tests.support.load import Load


class Ended(NamedTuple):
    """One of its connections ended."""

    at: float
    code: int


class Listener:
    """One client on one channel, through all its reconnects."""

    def __init__(self, name: str, channel: str, load: Load) -> None:
        self.name = name
        self.channel = channel
        self._load = load
        self._tracker = Tracker()
        self._last: dict[str, int] = {}  # epoch -> the last offset on this connection
        self._client: LeanClient | None = None
        self._is_subscribed = False
        self.journal: Journal | None = None
        self.ended: list[Ended] = []
        self.states: list[tuple[float, bool]] = []
        """When it was told that its node is live, or is not."""
        self.heard: set[int] = set()
        self.url = ""
        """The server it is, or was last, connected to."""

    @property
    def is_live(self) -> bool:
        """Whether it was last told that its node is live, and is subscribed."""
        return self._is_subscribed and bool(self.states) and self.states[-1][1]

    def was_away_since(self, when: float) -> bool:
        """Whether it was told after ``when`` that its node is not live, or was disconnected."""
        return any(not live for at, live in self.states if at >= when)

    async def run(self) -> None:
        """Listen until cancelled."""
        attempt = 0
        try:
            while True:
                try:
                    self._client = await self._open()
                except (OSError, TimeoutError):
                    attempt += 1
                else:
                    attempt = 1
                    self._greet(self._client)
                    code = await asyncio.shield(self._client.closed)
                    self._lost(code)
                await asyncio.sleep(random.uniform(0, min(5.0, 0.2 * 2**attempt)))
        finally:
            if self._client is not None:
                self._client.abort()

    async def _open(self) -> LeanClient:
        """Connect; if a node rejects connections, try the next one, as a proxy would."""
        *others, last = self._load.addresses()
        for url in others:
            with suppress(ConnectionRefusedError):
                return await self._open_at(url)
        return await self._open_at(last)

    async def _open_at(self, url: str) -> LeanClient:
        self.url = url
        return await LeanClient.open(url, self._frame)

    def _greet(self, client: LeanClient) -> None:
        self._last.clear()
        client.send('{"id":1,"connect":{}}')
        self._subscribe(client)

    def _subscribe(self, client: LeanClient) -> None:
        if not client.closed.done():
            client.send(json.dumps({"id": 2, "subscribe": {"channel": self.channel}}))

    def _lost(self, code: int) -> None:
        now = time.monotonic()
        self._is_subscribed = False
        self.ended.append(Ended(now, code))
        self.states.append((now, False))

    def _frame(self, frame: str) -> None:
        now = time.monotonic()
        for line in frame.split("\n"):
            if line == "{}":
                assert self._client is not None
                self._client.send("{}")
            else:
                self._take(msgspec.json.decode(line), now)

    def _take(self, message: dict[str, Any], now: float) -> None:
        if (push := message.get("push")) is not None:
            self._push(push, now)
        elif (error := message.get("error")) is not None:
            if not error.get("temporary"):
                self._load.complain(f"{self.name} was refused: {message}")
            else:
                later = random.uniform(0, 0.5)
                asyncio.get_running_loop().call_later(later, self._subscribe, self._client)
        elif (subscribed := message.get("subscribe")) is not None:
            self._subscribed(Position(subscribed["epoch"], subscribed["offset"]), now)

    def _push(self, push: dict[str, Any], now: float) -> None:
        if (pub := push.get("pub")) is not None:
            self._publication(pub, now)
        elif (told := push.get("gap")) is not None:
            gap = Gap(told["epoch"], told["from"], told["to"])
            self._note(self._tracker.note_gap(gap, told["reason"]), now)
        elif (state := push.get("state")) is not None:
            self.states.append((now, state["live"]))

    def _subscribed(self, position: Position, now: float) -> None:
        self._is_subscribed = True
        if self.journal is None:
            self.journal = Journal(self.name, self.channel, now, position)
            self._load.ledger.journals.append(self.journal)
        self._note(self._tracker.note_subscribed(position), now)

    def _publication(self, pub: dict[str, Any], now: float) -> None:
        offset, number = pub["offset"], pub["data"]["n"]
        is_new, missed = self._tracker.note_publication(offset, pub.get("epoch"))
        self._note(missed, now)
        position = self._tracker.position
        assert position is not None
        assert self.journal is not None
        if offset <= self._last.get(position.epoch, 0):
            self._load.complain(f"{self.name} heard {offset} again on one connection")
        self._last[position.epoch] = offset
        self.heard.add(number)
        if is_new:
            self.journal.entries.append(Heard(now, Position(position.epoch, offset), number))

    def _note(self, missed: Sequence[MissedPublications], now: float) -> None:
        if missed and self.journal is not None:
            self.journal.entries += [Told(now, each.gap, each.reason) for each in missed]
