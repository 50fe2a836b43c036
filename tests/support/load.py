"""Clients and publishers that keep at it while something breaks, and write all of it down.

Clients behave as `client.js` does: they answer pings, come back by back-off with full jitter, and
compute with the twin of its tracker what they missed. Publishers post over HTTP. What either sees
and must never see (a close code, another status, an answer that took too long) is a complaint.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import websockets
from websockets.asyncio.client import ClientConnection

from realtime.gaps import Gap, Position
from realtime.tracker import Missed, Tracker
from tests.support.eventually import eventually
from tests.support.ledger import Attempt, Fault, Heard, Journal, Ledger, Outcome, Told
from tests.support.service import KEY, Service

ANSWER_SECONDS = 1.5  # within which a publish must be answered, whatever is broken
STATE_SECONDS = 2.0  # within which a change of state must be pushed


class Listener:
    """One client on one channel, through all its reconnects."""

    def __init__(self, name: str, channel: str, load: Load) -> None:
        self.name = name
        self._channel = channel
        self._load = load
        self._tracker = Tracker()
        self._journal: Journal | None = None
        self._last: dict[str, int] = {}  # epoch -> the last offset on this connection
        self.closes: Counter[int] = Counter()
        """Close codes that ended its connections."""
        self.states: list[tuple[float, bool]] = []
        """When it was told that its node is live, or is not."""
        self.heard: set[int] = set()

    @property
    def is_live(self) -> bool:
        """Whether the last that it was told is that its node is live, and it is subscribed."""
        return self._journal is not None and bool(self.states) and self.states[-1][1]

    async def run(self) -> None:
        """Listen until cancelled."""
        attempt = 0
        while True:
            url = self._load.address()
            with suppress(OSError, websockets.InvalidHandshake, TimeoutError):
                async with websockets.connect(
                    url, compression=None, ping_interval=None, max_queue=None
                ) as socket:
                    attempt = 0
                    await self._listen(socket)
                    self.closes[socket.close_code or 0] += 1
                    self.states.append((time.monotonic(), False))
            attempt += 1
            await asyncio.sleep(random.uniform(0, min(5.0, 0.2 * 2**attempt)))

    async def _listen(self, socket: ClientConnection) -> None:
        subscribe = {"id": 2, "subscribe": {"channel": self._channel}}
        self._last.clear()
        await socket.send('{"id":1,"connect":{}}')
        await socket.send(json.dumps(subscribe))
        with suppress(websockets.ConnectionClosed):
            async for frame in socket:
                now = time.monotonic()
                for line in str(frame).split("\n"):
                    if line == "{}":
                        await socket.send("{}")
                        continue
                    message = json.loads(line)
                    self._take(message, now)
                    if message.get("id") == 2 and message.get("error", {}).get("temporary"):
                        await asyncio.sleep(random.uniform(0, 0.5))
                        await socket.send(json.dumps(subscribe))

    def _take(self, message: dict[str, Any], now: float) -> None:
        if "error" in message and not message["error"].get("temporary"):
            self._load.complain(f"{self.name} was refused: {message}")
        if message.get("id") == 2 and "subscribe" in message:
            self._subscribed(
                Position(message["subscribe"]["epoch"], message["subscribe"]["offset"])
            )
        push = message.get("push", {})
        if "state" in push:
            self.states.append((now, push["state"]["live"]))
        elif "gap" in push:
            told = push["gap"]
            gap = Gap(told["epoch"], told["from"], told["to"])
            self._note(self._tracker.gap(gap, told["reason"]), now)
        elif "pub" in push:
            self._publication(push["pub"], now)

    def _subscribed(self, position: Position) -> None:
        now = time.monotonic()
        if self._journal is None:
            self._journal = Journal(self.name, self._channel, now, position)
            self._load.ledger.journals.append(self._journal)
        self._note(self._tracker.subscribed(position), now)

    def _publication(self, pub: dict[str, Any], now: float) -> None:
        is_new, missed = self._tracker.publication(pub["offset"], pub.get("epoch"))
        self._note(missed, now)
        position = self._tracker.position
        assert position is not None
        assert self._journal is not None
        if pub["offset"] <= self._last.get(position.epoch, 0):
            self._load.complain(f"{self.name} heard {pub['offset']} again on one connection")
        self._last[position.epoch] = pub["offset"]
        self.heard.add(pub["data"]["n"])
        if is_new:
            self._journal.entries.append(Heard(now, position, pub["data"]["n"]))

    def _note(self, missed: Sequence[Missed], now: float) -> None:
        if self._journal is not None:
            self._journal.entries += [Told(now, each.gap, each.reason) for each in missed]


class Publisher:
    """Posts over one kept-alive connection, one publication at a time."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def publish(self, number: int, channel: str, **fields: object) -> Attempt:
        """Publish once and write down what became of it."""
        began = time.monotonic()
        outcome, position = await self._outcome(number, channel, fields)
        attempt = Attempt(number, channel, began, time.monotonic(), outcome, position)
        self._load.ledger.attempts.append(attempt)
        if attempt.ended - began > ANSWER_SECONDS:
            took = attempt.ended - began
            self._load.complain(f"an answer ({outcome.value}) took {took:.2f} s")
        return attempt

    async def _outcome(
        self, number: int, channel: str, fields: dict[str, object]
    ) -> tuple[Outcome, Position | None]:
        body = json.dumps({"channel": channel, "data": {"n": number}, **fields}).encode()
        try:
            async with asyncio.timeout(5.0):
                status, answer = await self._post(body)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            self.close()
            return Outcome.UNKNOWN, None
        self._load.statuses[status] += 1
        if status == 200:
            result = answer["result"]
            return Outcome.PUBLISHED, Position(result["epoch"], result["offset"])
        if status == 503:
            return Outcome.NOT_PUBLISHED, None
        if status != 504:
            self._load.complain(f"a publish was answered {status}: {answer}")
        return Outcome.UNKNOWN, None

    async def _post(self, body: bytes) -> tuple[int, Any]:
        if self._stream is None:
            host, port = self._load.api()
            self._stream = await asyncio.open_connection(host, port)
        reader, writer = self._stream
        writer.write(
            b"POST /api/publish HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: %b\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (KEY["X-API-Key"].encode(), len(body), body)
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().partition("content-length:")[2].split("\r\n")[0])
        answer = json.loads(await reader.readexactly(length))
        if "connection: close" in head.lower():
            self.close()
        return int(head.split()[1]), answer

    def close(self) -> None:
        """Hang up; the next publish connects again."""
        if self._stream is not None:
            self._stream[1].close()
            self._stream = None


class Load:
    """So many clients, so many publications a second, and the ledger of it."""

    def __init__(
        self,
        services: Sequence[Service],
        *,
        clients: int,
        per_second: int,
        channels: int,
        publishers: int = 64,
    ) -> None:
        self.services = list(services)
        self.ledger = Ledger()
        self.complaints: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self._channels = [f"public:load{number}" for number in range(channels)]
        self.listeners = [
            Listener(f"client {number}", self._channels[number % channels], self)
            for number in range(clients)
        ]
        self._per_second = per_second
        self._publishers = [Publisher(self) for _ in range(publishers)]
        self._free: asyncio.Queue[Publisher] = asyncio.Queue()
        self._number = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._asks = 0

    def complain(self, sentence: str) -> None:
        """Write down what nobody should ever see."""
        self.complaints[sentence] += 1

    def address(self) -> str:
        """Return where a client connects to: one service after the other."""
        self._asks += 1
        return self.services[self._asks % len(self.services)].ws

    def api(self) -> tuple[str, int]:
        """Return where a publisher posts to."""
        self._asks += 1
        return "127.0.0.1", self.services[self._asks % len(self.services)].port

    async def __aenter__(self) -> Load:
        for publisher in self._publishers:
            self._free.put_nowait(publisher)
        for listener in self.listeners:
            self._start(listener.run())
        await eventually(lambda: all(each.is_live for each in self.listeners), seconds=30)
        self._start(self._publish())
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for publisher in self._publishers:
            publisher.close()

    def _start(self, work: Any) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def run(self, seconds: float) -> None:
        """Let it go on for a while; ends early if something of it fails."""
        done, _ = await asyncio.wait(
            self._tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION
        )
        for task in done:
            task.result()

    @asynccontextmanager
    async def fault(self, name: str, *, ends_epochs: bool = False) -> AsyncIterator[Fault]:
        """Something is broken inside; at the end of it everything could work again."""
        fault = Fault(name, time.monotonic(), float("inf"), ends_epochs)
        self.ledger.faults.append(fault)
        yield fault
        fault.ended = time.monotonic()

    async def recovered(self, seconds: float = STATE_SECONDS) -> float:
        """Wait until every client is live again; return how long that took."""
        start = time.monotonic()
        await eventually(lambda: all(each.is_live for each in self.listeners), seconds=seconds)
        return time.monotonic() - start

    async def balance(self) -> None:
        """Publish no more but a last one on each channel, and wait until all have heard it."""
        publishing = self._tasks.pop()
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        await eventually(lambda: self._free.qsize() == len(self._publishers), seconds=10)
        markers = {channel: await self._marker(channel) for channel in self._channels}
        waiting: Callable[[], bool] = lambda: all(  # noqa: E731 - said once, with its name
            markers[each._channel] in each.heard for each in self.listeners
        )
        await eventually(waiting, seconds=10)

    async def _marker(self, channel: str) -> int:
        self._number += 1
        attempt = await self._publishers[0].publish(self._number, channel)
        assert attempt.outcome is Outcome.PUBLISHED, "the last word of a channel must be out"
        return self._number

    async def _publish(self) -> None:
        """Publish at the rate, whatever the answers are; when all publishers wait, so does this."""
        begin, done = time.monotonic(), 0
        while True:
            due = int((time.monotonic() - begin) * self._per_second)
            if due - done > self._per_second:  # nobody was free for a second: no avalanche after it
                done = due - self._per_second // 10
            while done < due:
                publisher = await self._free.get()
                self._number += 1
                done += 1
                task = asyncio.create_task(self._one(publisher, self._number))
                self._tasks.insert(0, task)
                task.add_done_callback(self._tasks.remove)
            await asyncio.sleep(0.01)

    async def _one(self, publisher: Publisher, number: int) -> None:
        channel = self._channels[number % len(self._channels)]
        try:
            await publisher.publish(number, channel)
        finally:
            self._free.put_nowait(publisher)

    def verdict(self) -> list[str]:
        """Return every violation and every complaint; empty if the promise was kept."""
        complaints = [f"{count} × {said}" for said, count in self.complaints.items()]
        return [*self.ledger.violations(), *complaints]
