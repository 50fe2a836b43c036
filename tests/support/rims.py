"""The HTTP API through each of its entry points, as one function: bytes in, response out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, NamedTuple

import httpx
import msgspec
from django.test import Client

from realtime.api.answers import STATUSES
from realtime.endpoint import HttpEndpoint

RIMS = ("view under ASGI", "view under WSGI", "endpoint")
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
    """One entry point of `realtime.api.methods.respond`, in this process, without a socket."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    async def post(self, method: str, body: Any, **changed: Any) -> Answer:
        """Send a body: bytes as they are, anything else as JSON; a header of None is omitted."""
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return await self.send("POST", f"/api/{method}", raw, headers(**changed))

    async def send(self, verb: str, path: str, raw: bytes, given: Headers) -> Answer:
        if self._kind == "view under WSGI":
            return await asyncio.to_thread(_through_wsgi, verb, path, raw, given)
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
