"""The limits per client on each server: excess commands are refused, and a flood is closed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer
from tests.support.service import SERVERS, Service

Attach = Callable[..., Awaitable[Client]]
CHANNELS, COMMANDS, PUBLICATIONS = 4, 20, 3
SMALL = {
    "TEST_CHANNELS_PER_CONNECTION": str(CHANNELS),
    "TEST_COMMANDS_PER_SECOND": "1",
    "TEST_COMMANDS_BURST": str(COMMANDS),
    "TEST_PUBLICATIONS_PER_SECOND": "1",
    "TEST_PUBLICATIONS_BURST": str(PUBLICATIONS),
    "TEST_CONNECT_SECONDS": "1",
}
TOO_MANY = {"code": 111, "message": "too many requests", "temporary": True}


@pytest.fixture(scope="module", params=SERVERS)
def service(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[Service]:
    service = Service(redis_server.url, request.param, **SMALL).start()
    yield service
    log = service.log
    service.stop()
    assert "Traceback" not in log, log
    assert log.count("the limit commands_per_second was reached") <= 1, "once a minute"


def pings(count: int) -> str:
    return "\n".join(json.dumps({"id": number, "ping": {}}) for number in range(1, count + 1))


async def replies(client: Client, count: int) -> list[dict[str, Any]]:
    return [await client.next() for _ in range(count)]


async def test_a_command_over_the_limit_is_refused_and_the_connection_stays(
    service: Service, attach: Attach
) -> None:
    client = await attach(service)
    await client.send(pings(COMMANDS + 5))
    said = await replies(client, COMMANDS + 5)
    assert [reply["id"] for reply in said] == list(range(1, COMMANDS + 6))
    refused = [reply.get("error") for reply in said]
    assert refused[: COMMANDS - 1] == [None] * (COMMANDS - 1)
    assert refused[-4:] == [TOO_MANY] * 4
    await eventually(lambda: "the limit commands_per_second was reached" in service.log)
    await asyncio.sleep(1.1)  # there is no condition to wait for: one token returns per second
    assert "ping" in await client.ask(ping={})


async def test_a_flood_in_one_frame_is_closed_with_3013_without_affecting_others(
    service: Service, attach: Attach
) -> None:
    client, neighbour = await attach(service), await attach(service)
    await neighbour.subscribe("public:calm")
    await client.send(pings(1024))
    assert (await client.closed())[0] == 3013
    service.publish("public:calm", "still here")
    assert await neighbour.data() == "still here"


async def test_a_flood_of_unsolicited_pongs_is_closed_with_3013(
    service: Service, attach: Attach
) -> None:
    client = await attach(service)
    for _ in range(2 * COMMANDS):
        await client.send("{}")
    assert (await client.closed())[0] == 3013


async def test_solicited_pongs_are_free(
    serve: Any, redis_server: RedisServer, attach: Attach
) -> None:
    """With a window of 64 KiB, each 16 KiB causes a ping: more pongs than a burst has tokens."""
    service = serve(redis_server.url, **SMALL, TEST_WINDOW_BYTES="65536")
    client = await attach(service)
    await client.subscribe("public:much")
    for number in range(2 * COMMANDS):
        service.publish("public:much", "x" * 17_000 + str(number))
        assert (await client.data()).endswith(str(number))
    assert client.pings > COMMANDS + 5
    assert "ping" in await client.ask(ping={})


async def test_a_client_that_publishes_too_fast_is_refused(
    service: Service, attach: Attach
) -> None:
    client = await attach(service)
    await client.subscribe("chat:fast")
    said = [
        await client.ask(publish={"channel": "chat:fast", "data": n})
        for n in range(PUBLICATIONS + 3)
    ]
    assert [reply.get("error") for reply in said[:PUBLICATIONS]] == [None] * PUBLICATIONS
    assert said[-1]["error"] == TOO_MANY
    await eventually(lambda: "the limit publications_per_second was reached" in service.log)
    await client.close()

    async def is_refused() -> bool:
        """A connection whose budget was not left to it could publish a whole burst."""
        returned = await attach(service)
        await returned.subscribe("chat:fast")
        said = [
            await returned.ask(publish={"channel": "chat:fast", "data": n})
            for n in range(PUBLICATIONS)
        ]
        return any("error" in reply for reply in said)

    assert await is_refused()


async def test_a_channel_over_the_limit_is_refused_until_another_is_left(
    service: Service, attach: Attach
) -> None:
    client = await attach(service)
    for number in range(CHANNELS):
        await client.subscribe(f"public:room{number}")
    refused = await client.ask(subscribe={"channel": "public:another"})
    assert refused["error"] == {"code": 106, "message": "limit exceeded"}
    await client.ask(unsubscribe={"channel": "public:room0"})
    await client.subscribe("public:another")
    await eventually(lambda: "the limit channels_per_connection was reached" in service.log)


async def test_a_client_that_does_not_connect_in_time_is_stale(
    service: Service, attach: Attach
) -> None:
    client = await attach(service, connect=False)
    assert (await client.closed())[0] == 3502
    await eventually(lambda: "the limit connect_seconds was reached" in service.log)


async def test_an_sdk_reconnecting_with_all_its_channels_is_not_a_flood(
    redis_server: RedisServer, serve: Any, attach: Attach
) -> None:
    """However many channels a setting allows, the burst is at least two for each of them."""
    many = 1000
    service = serve(redis_server.url, TEST_CHANNELS_PER_CONNECTION=str(many))
    for _ in range(2):
        client = await attach(service, connect=False)
        frame = [{"id": 1, "connect": {}}]
        frame += [{"id": 2 + n, "subscribe": {"channel": f"public:c{n}"}} for n in range(many)]
        await client.send("\n".join(map(json.dumps, frame)))
        said = await replies(client, many + 2)  # and the state
        assert not [reply for reply in said if "error" in reply]
