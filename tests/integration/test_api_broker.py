"""The responses of the HTTP API when Redis fails: in time, and definite about the outcome."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from django.test import override_settings

from realtime import wiring
from realtime.api import answers
from tests.support.eventually import eventually
from tests.support.machine import allowed
from tests.support.pubsub import published_so_far
from tests.support.redis_server import RedisServer
from tests.support.reply_proxy import ReplyProxy
from tests.support.rims import RIMS, Answer, Rim, checked_error, refused

pytestmark = pytest.mark.usefixtures("wired_to_own")

BODIES: dict[str, Any] = {
    "publish": {"channel": "a", "data": 1},
    "broadcast": {"channels": ["a", "b"], "data": 1},
    "batch": {"commands": [{"publish": {"channel": "a", "data": 1}}] * 2},
}
each_method = pytest.mark.parametrize("method", BODIES)


@pytest.fixture
async def wired_to_own(own_redis: RedisServer) -> AsyncIterator[None]:
    with override_settings(REALTIME_REDIS_URL=own_redis.url, REALTIME_REDIS_PREFIX="own"):
        yield
        await wiring.aclose()


@pytest.fixture(params=RIMS)
def rim(request: pytest.FixtureRequest) -> Rim:
    return Rim(request.param)


async def in_time(rim: Rim, method: str) -> Answer:
    started = time.monotonic()
    answer = await rim.post(method, BODIES[method])
    assert time.monotonic() - started < allowed(1.9, started)
    return answer


def retryable(answer: Answer, reason: str) -> None:
    refused(answer, reason)
    assert answer.headers["retry-after"] == "1"


@each_method
async def test_redis_is_away(rim: Rim, own_redis: RedisServer, method: str) -> None:
    await asyncio.to_thread(own_redis.kill)
    retryable(await in_time(rim, method), "broker_unavailable")


@each_method
async def test_redis_dies_and_comes_back(rim: Rim, own_redis: RedisServer, method: str) -> None:
    assert (await in_time(rim, method)).status == 200
    await asyncio.to_thread(own_redis.kill)
    retryable(await in_time(rim, method), "broker_unavailable")
    await asyncio.to_thread(own_redis.start)
    assert (await in_time(rim, method)).status == 200


@each_method
async def test_redis_is_frozen_under_a_connection(
    rim: Rim, own_redis: RedisServer, method: str
) -> None:
    assert (await in_time(rim, method)).status == 200
    own_redis.freeze()
    retryable(await in_time(rim, method), "outcome_unknown")
    own_redis.thaw()
    assert (await in_time(rim, method)).status == 200


async def test_redis_is_frozen_before_a_connection(rim: Rim, own_redis: RedisServer) -> None:
    """On a connection that was never ready, nothing can have been published."""
    own_redis.freeze()
    retryable(await in_time(rim, "publish"), "broker_unavailable")
    own_redis.thaw()


async def test_a_lost_reply_is_answered_once_and_published_once(
    rim: Rim, own_redis: RedisServer, proxy: ReplyProxy
) -> None:
    await in_time(rim, "publish")
    proxy.cut()
    retryable(await in_time(rim, "publish"), "outcome_unknown")
    proxy.heal()
    assert (await in_time(rim, "publish")).result["offset"] == 3


@pytest.fixture
def proxy(own_redis: RedisServer) -> Iterator[ReplyProxy]:
    proxy = ReplyProxy(own_redis)
    with override_settings(REALTIME_REDIS_URL=proxy.url):
        yield proxy
        wiring.sync_broker().close()
    proxy.close()


@each_method
async def test_redis_is_full(rim: Rim, own_redis: RedisServer, method: str) -> None:
    """The script writes before its PUBLISH: if Redis refuses the write, nothing is delivered."""
    heard = own_redis.client().pubsub()
    heard.psubscribe("own:*")
    assert heard.get_message(timeout=60)
    assert (await in_time(rim, method)).status == 200
    assert list(published_so_far(heard))
    own_redis.client().config_set("maxmemory", "1")
    retryable(await in_time(rim, method), "broker_unavailable")
    assert not list(published_so_far(heard))
    own_redis.client().config_set("maxmemory", "0")
    assert (await in_time(rim, method)).status == 200
    heard.close()


@each_method
async def test_redis_became_a_replica(rim: Rim, own_redis: RedisServer, method: str) -> None:
    assert (await in_time(rim, method)).status == 200
    own_redis.client().replicaof("127.0.0.1", "1")
    retryable(await in_time(rim, method), "broker_unavailable")
    own_redis.client().replicaof("NO", "ONE")
    assert (await in_time(rim, method)).status == 200


async def test_redis_requires_a_password(rim: Rim, own_redis: RedisServer) -> None:
    own_redis.client().config_set("requirepass", "secret")
    answer = await in_time(rim, "publish")
    retryable(answer, "broker_unavailable")


async def test_redis_refuses_more_connections(rim: Rim, own_redis: RedisServer) -> None:
    with own_redis.client() as client:
        client.config_set("maxclients", "1")
        retryable(await in_time(rim, "publish"), "broker_unavailable")
        client.config_set("maxclients", "1000")


async def test_redis_errors_are_not_exposed_to_the_caller(
    rim: Rim, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Hosts, ports and paths are only in the log, under the id that the caller has received."""
    caplog.set_level(logging.DEBUG, "realtime.api.answers")  # a warning only if it is the first
    await asyncio.to_thread(own_redis.kill)
    answer = await in_time(rim, "publish")
    assert "valkey" not in answer.raw.decode()
    assert str(own_redis.folder) not in answer.raw.decode()
    [line] = [record for record in caplog.records if record.name == "realtime.api.answers"]
    assert answer.json["request_id"] in line.getMessage()
    assert str(own_redis.socket) in line.getMessage()


async def test_an_outage_logs_two_lines_regardless_of_its_requests(
    rim: Rim, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    answers._outages.clear()
    caplog.set_level(logging.INFO, "realtime.api.answers")
    await asyncio.to_thread(own_redis.kill)
    for _ in range(3):
        retryable(await in_time(rim, "publish"), "broker_unavailable")
    await asyncio.to_thread(own_redis.start)

    async def is_over() -> bool:
        assert (await rim.post("publish", {"channel": "a", "data": 1})).status == 200
        return "recovered from" in caplog.text

    await eventually(is_over)
    lines = [
        record.getMessage() for record in caplog.records if record.name == "realtime.api.answers"
    ]
    assert [line.split(" ")[0] for line in lines] == ["request", "recovered"]
    assert "recovered from broker_unavailable: 3 requests failed within" in lines[1]


async def test_a_failed_item_is_not_hidden_by_a_later_success(
    rim: Rim, own_redis: RedisServer
) -> None:
    answer = await rim.post("broadcast", {"channels": ["a", "not good"], "data": 1})
    good, bad = answer.result["responses"]
    assert good["result"]["offset"] == 1
    checked_error(bad, "invalid_channel")
