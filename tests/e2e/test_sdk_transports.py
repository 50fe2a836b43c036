"""The stock JavaScript SDK over each of its transports, unmodified, with all features."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from realtime.brokers.redis_sync import SyncRedisBroker
from realtime.core.node_commands import (
    DisconnectUser,
    SendToUser,
    SubscribeUser,
    UnsubscribeUser,
    encode_command,
)
from realtime.core.publication import Publication
from tests.settings import REALTIME_TOKEN_SECRET
from tests.support.eventually import eventually, eventually_sync
from tests.support.machine import in_time
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, Service

pytestmark = pytest.mark.node

SDK = Path(__file__).parent / "sdk"
ENDPOINT = "tests.asgi_endpoint:application"
TRANSPORTS = ("websocket", "http_stream", "sse")
WORN = (*TRANSPORTS, "client.js")
"""The clients of the endurance tests, including our own."""
Serve = Callable[..., Service]


@pytest.fixture(scope="module", params=["uvicorn", "daphne"])
def service(redis_server: RedisServer, request: pytest.FixtureRequest) -> Iterator[Service]:
    running = Service(redis_server.url, request.param, app=ENDPOINT).start()
    yield running
    assert "Traceback" not in running.log
    running.stop()


class Script:
    """A script of the SDK that prints lines of JSON."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.said: list[dict[str, Any]] = []

    async def next(self, seconds: float = 30) -> dict[str, Any] | None:
        """Return the next line; None at the end."""
        assert self._process.stdout is not None
        line = await in_time(self._process.stdout.readline(), seconds)
        if not line:
            return None
        self.said.append(json.loads(line))
        return self.said[-1]

    async def until(self, event: str, seconds: float = 30) -> dict[str, Any]:
        while (line := await self.next(seconds)) is not None:
            if line["event"] == event:
                return line
        raise AssertionError(f"it ended without {event}: {self.said}")

    async def ended(self) -> int:
        return await in_time(self._process.wait(), 10)


def worn(what: str, client: str, service: Service, *how_often: str) -> tuple[str, ...]:
    """Return the command of a script that uses one of the clients."""
    if client == "client.js":
        return ("own.mjs", what, service.http, *how_often)
    return ("loops.mjs", what, client, service.http, *how_often)


@asynccontextmanager
async def script(*command: str) -> AsyncIterator[Script]:
    process = await asyncio.create_subprocess_exec(
        "node", *command, cwd=SDK, stdout=subprocess.PIPE
    )
    try:
        yield Script(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def obey(line: dict[str, Any], service: Service, redis_server: RedisServer) -> None:
    """Do what a script asks the server to do."""
    user, channel = line.get("user", ""), line.get("channel", "")
    if line["want"] == "publish":
        service.publish(channel, {"n": 1}, event="e", tags={"a": "b"})
        return
    if line["want"] == "nobody":
        # The client gets its reply before Redis gets the node's UNSUBSCRIBE.
        eventually_sync(lambda: service.publish(channel, {})["nodes"] == 0)
        return
    command = {
        "message": SendToUser(user, '{"text":"for you"}'),
        "subscribe": SubscribeUser(user, channel),
        "unsubscribe": UnsubscribeUser(user, channel),
        "disconnect": DisconnectUser(user),
    }[line["want"]]
    broker = SyncRedisBroker(redis_server.url)
    broker.send_node_command(json.dumps(encode_command(command)).encode())
    broker.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_every_feature_works_over_each_transport(
    service: Service, redis_server: RedisServer, transport: str
) -> None:
    async with script("full.mjs", transport, service.http, REALTIME_TOKEN_SECRET) as full:
        while (line := await full.next()) is not None:
            if line["event"] == "want":
                await asyncio.to_thread(obey, line, service, redis_server)
        assert await full.ended() == 0, full.said
    said = {line.pop("event"): line for line in full.said}
    assert said["connected"]["transport"] == transport
    assert said["served"]["channel"] == "user:#ada"
    assert said["own join"] == {"user": "ada"}
    # Over SSE, a cookie identifies them, since a URL must not contain a token; a token has an info.
    ada, ben = ({} if transport == "sse" else {"info": {"name": name}} for name in ("ada", "ben"))
    assert said["join"] == {"user": "ben"} | ben
    assert said["presence"] == {"users": ["ada", "ben"]}
    assert said["presence stats"] == {"numClients": 2, "numUsers": 2}
    assert said["leave"] == {"user": "ben"}
    assert said["publish"].pop("offset") >= 1
    assert said["publish"] == {"data": {"text": "hello"}, "user": "ada"} | ada
    offset = said["publication"].pop("offset")
    assert said["publication"] == {"data": {"n": 1}, "tags": {"a": "b", "event": "e"}}
    assert said["history"] == {"offset": offset, "publications": []}
    assert said["no history"] == {"code": 108}
    assert said["rpc"] == {"user": "ada", "data": {"n": 1}}
    assert said["send"] == {"said": {"sent": transport}}
    assert said["refused"] == {"code": 103}
    assert said["message"] == {"data": {"text": "for you"}}
    assert said["served later"] == said["served no more"] == {"channel": "closed-too"}
    assert said["refreshed"] == {"state": "connected"}
    assert said["disconnected"] == {"code": 3503, "reason": "force disconnect"}
    assert "error" not in said


@pytest.mark.parametrize("transport", WORN)
async def test_the_sdk_survives_the_death_of_the_server(
    redis_server: RedisServer, serve: Serve, transport: str
) -> None:
    service = await asyncio.to_thread(serve, redis_server.url, app=ENDPOINT)
    async with script(*worn("survive", transport, service)) as survivor:
        await survivor.until("subscribed")
        await asyncio.to_thread(service.kill)
        missed = await asyncio.to_thread(publish_elsewhere, redis_server, "public:survive")
        await asyncio.to_thread(service.start)
        again = await survivor.until("subscribed")
        assert again["position"]["offset"] == missed
        await asyncio.to_thread(service.publish, "public:survive", "after")
        assert (await survivor.until("publication"))["data"] == "after"
        assert await survivor.ended() == 0


def publish_elsewhere(server: RedisServer, channel: str) -> int:
    """Publish while no node is running; return the offset."""
    broker = SyncRedisBroker(server.url)
    receipt = broker.publish(Publication.of(channel, "missed"))
    broker.close()
    return receipt.offset


@pytest.mark.parametrize("transport", WORN)
async def test_the_sdk_may_subscribe_to_thousands_of_channels(
    redis_server: RedisServer, serve: Serve, transport: str
) -> None:
    service = await asyncio.to_thread(
        serve, redis_server.url, app=ENDPOINT, TEST_CHANNELS_PER_CONNECTION="3000"
    )
    async with script(*worn("many", transport, service, "3000")) as many:
        assert (await many.until("subscribed"))["channels"] == 3000
        for number in (0, 1499, 2999):
            await asyncio.to_thread(service.publish, f"public:many-{number}", number)
        assert (await many.until("heard"))["data"] == [0, 1499, 2999]
        assert await many.ended() == 0


@pytest.mark.parametrize("transport", WORN)
@pytest.mark.parametrize("loop", ["subscribe-loop", "connect-loop"])
async def test_the_sdk_subscribes_and_unsubscribes_repeatedly(
    redis_server: RedisServer, serve: Serve, transport: str, loop: str
) -> None:
    service = await asyncio.to_thread(
        serve,
        redis_server.url,
        app=ENDPOINT,
        TEST_COMMANDS_PER_SECOND="1000",
        TEST_REDIS_PREFIX=f"loop-{transport}-{loop}",
    )
    async with script(*worn(loop, transport, service, "50")) as looping:
        assert (await looping.until("done"))["rounds"] == 50
        await asyncio.to_thread(service.publish, "public:loop", "end")
        assert (await looping.until("publication"))["data"] == "end"
        assert await looping.ended() == 0
    await eventually(lambda: asyncio.to_thread(is_deserted, service))
    assert "Traceback" not in service.log


def is_deserted(service: Service) -> bool:
    [node] = service.post("info", {}).json()["result"]["nodes"]
    return (node["num_clients"], node["num_subs"]) == (0, 0)


@pytest.mark.parametrize("transport", ["http_stream", "sse"])
async def test_emulation_requests_reach_the_right_worker(
    redis_server: RedisServer, serve: Serve, transport: str
) -> None:
    """Each request may reach either of two workers.

    The chance that twenty rounds hit only one is one in a million.
    """
    service = await asyncio.to_thread(serve, redis_server.url, DEPLOYED, WEB_CONCURRENCY="2")
    async with script("loops.mjs", "subscribe-loop", transport, service.http, "10") as looping:
        assert (await looping.until("done"))["rounds"] == 10
        await asyncio.to_thread(service.publish, "public:loop", "end")
        assert (await looping.until("publication"))["data"] == "end"
        assert await looping.ended() == 0
