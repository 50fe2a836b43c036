"""The HTTP API through each of its entry points, as one function: bytes in, response out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx
import msgspec
from django.test import Client
from uvicorn.server import ServerState

from notifier.counting import Config
from notifier.http import HttpProtocol
from notifier.http_answers import Lane
from realtime.api import methods
from realtime.api.answers import STATUSES
from realtime.endpoint import COMMON_HEADERS, HttpEndpoint, WholeRequest

NOTHING = b"[]"
"""A body that no method takes. In the lane it comes first, so that the head is known in the end."""
LANE = "lane of the server"
RIMS = ("view under ASGI", "view under WSGI", "endpoint", LANE)
HEADERS = {"X-API-Key": "test-key", "Content-Type": "application/json"}
Headers = Iterable[tuple[str, str | bytes]]


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.raw)

    @property
    def result(self) -> Any:
        assert self.status == 200, self
        return self.json["result"]


class Rim:
    """One entry point of `realtime.api.methods.respond`, in this process.

    Without a socket, except for the lane, which belongs to the protocol class of our server.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.taken = 0
        """How many requests the lane has taken."""

    async def post(self, method: str, body: Any, **changed: Any) -> Answer:
        """Send a body: bytes as they are, anything else as JSON; a header of None is omitted."""
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return await self.send("POST", f"/api/{method}", raw, headers(**changed))

    async def send(self, verb: str, path: str, raw: bytes, given: Headers) -> Answer:
        if self._kind == "view under WSGI":
            return await asyncio.to_thread(_through_wsgi, verb, path, raw, given)
        if self._kind == LANE:
            return await self._through_lane(verb, path, raw, given)
        return await self._through_asgi(verb, path, raw, given)

    async def _through_asgi(self, verb: str, path: str, raw: bytes, given: Headers) -> Answer:
        from tests.asgi import application

        app: Any = (
            HttpEndpoint(application, api="/api/") if self._kind == "endpoint" else application
        )
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            pairs = [(name.encode(), _bytes(value)) for name, value in given]
            response = await client.request(verb, path, content=raw, headers=pairs)
        return Answer(response.status_code, dict(response.headers), response.content)

    async def _through_lane(self, verb: str, path: str, raw: bytes, given: Headers) -> Answer:
        from tests.asgi import application

        endpoint = HttpEndpoint(application, api="/api/")

        def take(url: bytes, pairs: Sequence[tuple[bytes, bytes]]) -> WholeRequest | None:
            work = endpoint.take_whole(url, pairs)
            self.taken += work is not None
            return work

        config = Config(
            endpoint,
            reached=lambda limit: None,
            lane=Lane(take, COMMON_HEADERS),
            body_bytes=1 << 40,  # so that the API refuses larger bodies, not the server
            lifespan="off",
            log_config=None,
        )
        config.load()
        state, made = ServerState(), list[HttpProtocol]()

        def connection() -> HttpProtocol:
            made.append(HttpProtocol(config, state, {}))
            return made[-1]

        server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
        try:
            port = server.sockets[0].getsockname()[1]
            first = f"{verb} {path} HTTP/1.1".encode()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            if not path.endswith("/events"):  # an event may have any body
                with _without_debts():
                    writer.write(_whole(first, NOTHING, given))
                    await _read_answer(reader)
                if made[0]._repeated is None:
                    writer.close()
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(_whole(first, raw, given))
            answer = await _read_answer(reader)
            writer.close()
            await writer.wait_closed()
        finally:
            server.close()
        return answer


@contextmanager
def _without_debts() -> Iterator[None]:
    """Let a request that is only to be repeated, and is invalid, cost its key nothing."""
    debts = methods._debts
    before = dict(debts._failed), dict(debts._until)
    try:
        yield
    finally:
        debts._failed, debts._until = before


def _whole(first: bytes, raw: bytes, given: Headers) -> bytes:
    """Return a request, for a single write, as most clients send a small one."""
    sent = [("Host", "testserver"), ("Content-Length", str(len(raw))), *given]
    head = b"".join(b"%b: %b\r\n" % (name.encode(), _bytes(value)) for name, value in sent)
    return b"%b\r\n%b\r\n%b" % (first, head, raw)


async def _read_answer(reader: asyncio.StreamReader) -> Answer:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
    found = dict(line.split(": ", 1) for line in lines)
    raw = await reader.readexactly(int(found["content-length"]))
    return Answer(int(first.split()[1]), found, raw)


def headers(**changed: Any) -> list[tuple[str, str | bytes]]:
    """Return the usual headers with changes: ``x_api_key=None`` omits that one."""
    given = dict(HEADERS) | {name.replace("_", "-").title(): v for name, v in changed.items()}
    if "X-Api-Key" in given:
        given["X-API-Key"] = given.pop("X-Api-Key")
    return [(name, value) for name, value in given.items() if value is not None]


def refused(answer: Answer, reason: str) -> dict[str, Any]:
    """Check that this is exactly the error with this reason, and return the error."""
    status, number = STATUSES[reason]
    assert (answer.status, answer.json["error"]["reason"]) == (status, reason), answer
    assert set(answer.json) == {"error", "request_id"}
    return checked_error(answer.json, reason, number)


def checked_error(body: dict[str, Any], reason: str, number: int | None = None) -> dict[str, Any]:
    """Check the shape of an error, of a whole answer or of one item, and return it."""
    error: dict[str, Any] = body["error"]
    about = {"attribute"} if reason == "invalid_attribute" else set()
    assert set(error) == {"code", "reason", "message"} | about
    assert error["reason"] == reason, error
    assert error["code"] == STATUSES[reason][1] == (number or STATUSES[reason][1])
    assert error["message"].replace("…", "").isascii()
    assert error["message"].isprintable()
    assert len(error["message"]) < 400
    return error


def _through_wsgi(verb: str, path: str, raw: bytes, given: Headers) -> Answer:
    named = {name: _bytes(value).decode("latin-1") for name, value in given}
    content_type = named.pop("Content-Type", "")
    client = Client(CONTENT_TYPE=content_type)  # else it says none of an empty body
    response = client.generic(verb, path, raw, content_type=content_type, headers=named)
    return Answer(
        response.status_code,
        {name.lower(): value for name, value in response.headers.items()},
        response.content,
    )


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()
