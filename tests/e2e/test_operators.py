"""An operator sees each kind of connection, and can block its user."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.support.client import Client
from tests.support.event_stream import Parser
from tests.support.machine import within
from tests.support.redis_server import RedisServer
from tests.support.service import Service
from tests.support.tokens import token

ENDPOINT = "tests.asgi_endpoint:application"


@pytest.fixture(scope="module")
def service(redis: RedisServer) -> Iterator[Service]:
    running = Service(redis.url, app=ENDPOINT).start()
    yield running
    assert "Traceback" not in running.log
    running.stop()


def connect(user: str) -> dict[str, Any]:
    return {"connect": {"token": token(user)}}


class Lines:
    """The messages in a stream, whichever transport it has."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self._lines = response.aiter_lines()
        self._parser = Parser()
        self._is_sse = response.headers["content-type"].startswith("text/event-stream")

    async def next(self) -> dict[str, Any]:
        """Return the next message; EOFError at the end."""
        async with within(10):
            async for line in self._lines:
                event = self._parser.feed(line) if self._is_sse else None
                if text := event.data if event else "" if self._is_sse else line:
                    message: dict[str, Any] = json.loads(text)
                    return message
        raise EOFError

    async def until_end(self) -> list[dict[str, Any]]:
        """Return all further messages."""
        found = []
        while True:
            try:
                found.append(await self.next())
            except EOFError:
                return found


@asynccontextmanager
async def stream(service: Service, transport: str, user: str) -> AsyncIterator[Lines]:
    command = connect(user) if transport == "http_stream" else connect(user)["connect"]
    body = json.dumps({"id": 1, **command} if transport == "http_stream" else command)
    async with (
        httpx.AsyncClient(base_url=service.http, timeout=60) as client,
        client.stream("POST", f"/connection/{transport}", content=body) as response,
    ):
        yield Lines(response)


async def call(service: Service, method: str, **fields: Any) -> dict[str, Any]:
    result: dict[str, Any] = (await asyncio.to_thread(service.post, method, fields)).json()[
        "result"
    ]
    return result


async def test_each_transport_is_named(service: Service) -> None:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        socket = await Client.open(service.ws)
        stack.push_async_callback(socket.close)
        # In a list: a stream that nobody refers to is closed.
        streams = [await enter(stream(service, each, "ada")) for each in ("http_stream", "uni_sse")]
        http = await enter(httpx.AsyncClient(base_url=service.http, timeout=60))
        command = json.dumps({"id": 1, "connect": {}})
        for query in ({"channel": "public:news"}, {"cf_connect": command}):
            plain = await enter(http.stream("GET", "/connection/sse", params=query))
            streams.append(Lines(plain))
        for each in streams:
            assert each.status == 200
            await each.next()
        found = (await call(service, "connections"))["connections"]
        assert sorted((each["transport"], each["user"]) for each in found) == [
            ("http_stream", "ada"),
            ("sse", ""),
            ("sse", ""),
            ("uni_sse", "ada"),
            ("websocket", ""),
        ]


async def test_a_block_ends_all_connections_of_a_user_and_refuses_others(service: Service) -> None:
    async with (
        stream(service, "http_stream", "ben") as lines,
        stream(service, "uni_sse", "ben") as events,
    ):
        socket = await Client.open(service.ws, connect=False)
        await socket.ask(**connect("ben"))
        for each in (lines, events):
            assert "connect" in await each.next()
        await call(service, "block_user", user="ben", seconds=3600)
        assert await socket.closed() == (3503, "force disconnect")
        for each in (lines, events):
            last = (await each.until_end())[-1]
            told = last.get("push", last)["disconnect"]
            assert told == {"code": 3503, "reason": "force disconnect"}
    again = await Client.open(service.ws, connect=False)
    await again.tell(**connect("ben"))
    assert await again.closed() == (3503, "force disconnect")
    async with stream(service, "http_stream", "ben") as lines:
        [told] = await lines.until_end()
        assert told["push"]["disconnect"]["code"] == 3503
    async with stream(service, "uni_sse", "ben") as refused:
        assert refused.status == 403
    await call(service, "unblock_user", user="ben")
    async with stream(service, "uni_sse", "ben") as events:
        assert "connect" in await events.next()
