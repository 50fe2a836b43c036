"""A client of the wire protocol that shows every frame, for tests of what is actually sent."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import websockets
from websockets.asyncio.client import ClientConnection

from tests.support.machine import within


class Client:
    """Acts as one attentive client of the service. Answers pings unless told not to."""

    def __init__(self, socket: ClientConnection, *, answers_pings: bool = True) -> None:
        self._socket = socket
        self._answers_pings = answers_pings
        self._waiting: deque[Any] = deque()
        self._id = 0
        self.frames = 0
        self.pings = 0
        self._unanswered = 0

    @classmethod
    async def open(
        cls, url: str, *, connect: bool = True, answers_pings: bool = True, **options: Any
    ) -> Client:
        client = cls(
            await websockets.connect(url, compression=None, **options), answers_pings=answers_pings
        )
        try:
            if connect:
                await client.connect()
        except BaseException:  # the caller has nothing yet that could be closed
            client._socket.transport.abort()
            raise
        return client

    async def connect(self) -> dict[str, Any]:
        reply = await self.ask(connect={})
        await self.next()  # the state, which follows
        return reply

    async def subscribe(self, channel: str) -> dict[str, Any]:
        """Subscribe and return the reply's result: epoch and offset."""
        reply = await self.ask(subscribe={"channel": channel})
        result: dict[str, Any] = reply["subscribe"]
        return result

    async def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and return its reply; earlier pushes stay for `next`."""
        command_id = await self.tell(**command)
        passed: deque[Any] = deque()
        while (message := await self.next()).get("id") != command_id:
            passed.append(message)
        self._waiting.extendleft(reversed(passed))
        reply: dict[str, Any] = message
        return reply

    async def tell(self, **command: Any) -> int:
        """Send a command and return its id."""
        self._id += 1
        await self.send(json.dumps({"id": self._id, **command}))
        return self._id

    async def send(self, text: str | bytes) -> None:
        await self._socket.send(text)

    async def next(self, seconds: float = 5.0) -> Any:
        """Return the next reply or push."""
        async with within(seconds):
            while not self._waiting:
                await self._read_frame()
        return self._waiting.popleft()

    async def silence(self, seconds: float) -> None:
        """Read for so long, and fail if anything but pings arrives.

        In real time: a deadline that is extended while the machine is busy would wait for nothing,
        up to minutes.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._waiting:
                    await self._read_frame()
        assert not self._waiting, self._waiting

    async def _read_frame(self) -> None:
        frame = await self._socket.recv()
        self.frames += 1
        for line in str(frame).split("\n"):
            if line != "{}":
                self._waiting.append(json.loads(line))
                continue
            self.pings += 1
            self._unanswered += 1
            if self._answers_pings:
                await self.answer_pings()

    async def answer_pings(self) -> None:
        """Answer the pings that were not answered on arrival."""
        self._answers_pings = True
        while self._unanswered:
            self._unanswered -= 1
            await self._socket.send("{}")

    @asynccontextmanager
    async def attentive(self) -> AsyncIterator[None]:
        """Keep reading and answering pings until the connection ends; nothing else may read."""
        reading = asyncio.create_task(self._read_on())
        try:
            yield
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading

    async def _read_on(self) -> None:
        with suppress(websockets.ConnectionClosed):
            while True:
                await self._read_frame()

    async def push(
        self, kind: str, seconds: float = 5.0, *, passing_over: str | tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """Return the next message, which must be a push of this kind (pub, gap, state).

        Pushes of the kinds ``passing_over`` may come before it.
        """
        others = {passing_over} if isinstance(passing_over, str) else set(passing_over)
        message = await self.next(seconds)
        while others & message.get("push", {}).keys():
            message = await self.next(seconds)
        assert kind in message.get("push", {}), f"expected a push of {kind}, got {message}"
        push: dict[str, Any] = message["push"][kind]
        return push

    async def data(self) -> Any:
        """Return the data of the next message, which must be a publication."""
        return (await self.push("pub"))["data"]

    async def closed(self, seconds: float = 5.0) -> tuple[int, str]:
        """Read until the server closes the connection, and return code and reason."""
        async with within(seconds):
            try:
                while True:
                    await self._read_frame()
            except websockets.ConnectionClosed:
                return self._socket.close_code or 1006, self._socket.close_reason or ""

    async def close(self) -> None:
        await self._socket.close()
