"""RPC calls and channel positions over real servers, with plain frames."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, Service
from tests.support.tokens import token

Attach = Callable[..., Any]


@pytest.fixture(params=["uvicorn", "daphne"])
def service(
    redis_server: RedisServer, serve: Callable[..., Service], request: pytest.FixtureRequest
) -> Service:
    return serve(redis_server.url, request.param)


async def test_the_host_answers_calls(service: Service, attach: Attach) -> None:
    client = await attach(service, connect=False)
    await client.ask(connect={"token": token("42")})
    reply = await client.ask(rpc={"method": "who", "data": {"a": [1, "ü\n"]}})
    assert reply["rpc"] == {"data": {"user": "42", "data": {"a": [1, "ü\n"]}}}
    assert (await client.ask(rpc={"method": "nothing"}))["rpc"] == {"data": None}


@pytest.mark.parametrize(
    ("method", "code", "message"),
    [
        ("forbid", 103, "permission denied"),
        ("wrong", 107, "data: that is not how it goes"),
        ("raise", 100, "internal error"),
        ("no-json", 100, "internal error"),
    ],
)
async def test_an_unanswered_call_is_an_error(
    service: Service, attach: Attach, method: str, code: int, message: str
) -> None:
    client = await attach(service)
    error = (await client.ask(rpc={"method": method, "data": 1}))["error"]
    assert (error["code"], error["message"]) == (code, message)
    assert (await client.ask(rpc={"method": "who"}))["rpc"]["data"]["user"] == ""


async def test_a_message_without_an_id_reaches_the_host_and_gets_no_reply(
    service: Service, attach: Attach
) -> None:
    client = await attach(service)
    await client.send(json.dumps({"send": {"data": {"n": 1}}}))
    assert {"n": 1} in (await client.ask(rpc={"method": "said"}))["rpc"]["data"]


async def test_answers_keep_their_order_and_do_not_block_other_clients(
    service: Service, attach: Attach
) -> None:
    client, other = await attach(service), await attach(service)
    commands = [
        {"id": 91, "rpc": {"method": "hold"}},
        {"id": 92, "rpc": {"method": "who"}},
        {"id": 93, "ping": {}},
    ]
    await client.send("\n".join(map(json.dumps, commands)))
    assert "rpc" in await other.ask(rpc={"method": "release"}), "it waits for what it ends"
    ids: list[int] = []
    while len(ids) < 3:
        message = await client.next()
        if "id" in message:
            ids.append(message["id"])
    assert ids == [91, 92, 93]


async def test_a_client_that_leaves_during_a_call_leaves_nothing_behind(
    service: Service, attach: Attach
) -> None:
    client = await attach(service)
    await client.send(json.dumps({"id": 9, "rpc": {"method": "hold"}}))
    await client.close()
    other = await attach(service)
    assert "rpc" in await other.ask(rpc={"method": "release"})
    assert "Traceback" not in service.log


async def test_without_a_handler_calls_are_not_available(
    redis_server: RedisServer, serve: Callable[..., Service], attach: Attach
) -> None:
    """centrifugal/centrifuge, client.go, handleRPC; centrifuge-js expects 108, too."""
    service = await asyncio.to_thread(serve, redis_server.url, DEPLOYED)
    client = await attach(service)
    await client.send(json.dumps({"send": {"data": 1}}))
    assert (await client.ask(rpc={"method": "who"}))["error"]["code"] == 108


async def test_only_subscribers_may_request_the_position_of_a_channel(
    service: Service, attach: Attach
) -> None:
    client = await attach(service)
    assert (await client.ask(history={"channel": "public:h"}))["error"]["code"] == 103
    await client.subscribe("public:h")
    receipt = await asyncio.to_thread(service.publish, "public:h", 1)
    assert await client.data() == 1
    reply = await client.ask(history={"channel": "public:h", "limit": 0})
    assert reply["history"] == {"offset": receipt["offset"], "epoch": receipt["epoch"]}
    assert (await client.ask(history={"channel": "public:h", "limit": 1}))["error"]["code"] == 108
