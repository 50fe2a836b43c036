"""Publishers under load, which post over HTTP and record the outcome of each publication."""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import TYPE_CHECKING, Any

from realtime.core.positions import Position
from tests.support.ledger import Attempt, Outcome
from tests.support.machine import allowed, within
from tests.support.service import KEY

if TYPE_CHECKING:
    from tests.support.load import Load

ANSWER_SECONDS = 1.5  # within which a publish must be answered, whatever the fault
GIVE_UP_SECONDS = 5.0
INSIST_SECONDS = 15.0


class NoAnswer(Exception):
    """The connection ended before the answer; ``sent`` tells whether anything was in flight."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__()
        self.sent = sent


class Publisher:
    """Posts over one keep-alive connection, one publication at a time."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def publish(self, number: int, channel: str, **fields: object) -> Attempt:
        """Publish once and record the outcome."""
        body = {"channel": channel, "data": {"n": number}, **fields}
        began = time.monotonic()
        status, answer = await self._answer("publish", body)
        attempt = self._attempt(number, channel, began, status, answer)
        attempt.key = fields.get("idempotency_key")
        if (took := attempt.ended - began) > allowed(ANSWER_SECONDS, began):
            self._load.complain(f"an answer ({attempt.outcome.value}) took {took:.2f} s")
        return attempt

    async def insist(self, number: int, channel: str) -> Attempt:
        """Publish with an idempotency key, retry until it is published, and then once more.

        The last must be answered like the first, and other data with the same key be rejected.
        """
        key = {"idempotency_key": f"{self._load.name}-{number}"}
        began = time.monotonic()
        while (attempt := await self.publish(number, channel, **key)).position is None:
            if time.monotonic() - began > allowed(INSIST_SECONDS, began):
                self._load.complain(f"{number} could not be published in {INSIST_SECONDS} s")
                return attempt
            await asyncio.sleep(random.uniform(0, 0.3))
        await self._again(attempt, key)
        return attempt

    async def _again(self, first: Attempt, key: dict[str, object]) -> None:
        """Repeat it, also with other data; the ledger finds what was published twice."""
        await self.publish(first.number, first.channel, **key)
        await self.publish(-first.number, first.channel, **key)

    async def batch(self, publications: dict[int, str], padding: str) -> None:
        """Publish many (number -> channel) in one request, each with padding beside its number."""
        commands = [
            {"publish": {"channel": channel, "data": {"n": number, "pad": padding}}}
            for number, channel in publications.items()
        ]
        began = time.monotonic()
        status, answer = await self._answer("batch", {"commands": commands})
        for at, (number, channel) in enumerate(publications.items()):
            reply = answer["replies"][at] if status == 200 else {}
            result = {"result": reply.get("publish")} if "publish" in reply else reply
            self._attempt(number, channel, began, status if "error" not in reply else 503, result)

    def close(self) -> None:
        """Close the connection; the next publish reconnects."""
        if self._stream is not None:
            self._stream[1].close()
            self._stream = None

    def _attempt(
        self, number: int, channel: str, began: float, status: int, answer: Any
    ) -> Attempt:
        outcome, position = Outcome.UNKNOWN, None
        if status == 200:
            result = answer["result"]
            outcome, position = Outcome.PUBLISHED, Position(result["epoch"], result["offset"])
        elif status == 503 or (status == 409 and number < 0):
            outcome = Outcome.NOT_PUBLISHED
        elif status not in (0, 504):
            self._load.complain(f"a publish was answered {status}: {answer}")
        attempt = Attempt(number, channel, began, time.monotonic(), outcome, position)
        self._load.ledger.attempts.append(attempt)
        return attempt

    async def _answer(self, method: str, body: object) -> tuple[int, Any]:
        """Return status and body; (0, None) means no answer, 503 that no node was available."""
        try:
            async with within(GIVE_UP_SECONDS):
                status, answer = await self._post(method, json.dumps(body).encode())
        except (NoAnswer, TimeoutError) as error:
            self.close()
            if isinstance(error, NoAnswer) and not error.sent:
                return 503, None
            self._load.unanswered.append(time.monotonic())
            return 0, None
        self._load.statuses[status] += 1
        return status, answer

    async def _post(self, method: str, body: bytes) -> tuple[int, Any]:
        reader, writer = await self._connected()
        writer.write(
            b"POST /api/%b HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: %b\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (method.encode(), KEY["X-API-Key"].encode(), len(body), body)
        )
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length:")[2].split("\r\n")[0])
            answer = json.loads(await reader.readexactly(length))
        except (OSError, asyncio.IncompleteReadError) as error:
            raise NoAnswer(sent=True) from error
        if "connection: close" in head:
            self.close()
        return int(head.split()[1]), answer

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection; if a node rejects it, try the next one, as a proxy would."""
        if self._stream is not None and self._stream[0].at_eof():
            self.close()
        if self._stream is None:
            for host, port in self._load.apis():
                try:
                    self._stream = await asyncio.open_connection(host, port)
                    break
                except OSError:
                    continue
            else:
                raise NoAnswer(sent=False)
        return self._stream
