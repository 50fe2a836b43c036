"""Redis fails: clients stay connected, get every gap, and recover without intervention."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import redis

from tests.support.client import Client
from tests.support.eventually import eventually, eventually_sync
from tests.support.losing import publish_while_cut
from tests.support.redis_server import RedisServer
from tests.support.service import SERVERS, Service

pytestmark = pytest.mark.faults

Serve = Callable[..., Service]
Attach = Callable[..., Awaitable[Client]]


class Outside:
    """A publisher outside of the service, with its own connection to Redis."""

    def __init__(self, server: RedisServer) -> None:
        from realtime.brokers.redis_sync import SyncRedisBroker

        self._broker = SyncRedisBroker(server.url)

    def publish(self, channel: str, data: object) -> int:
        from realtime.core.publication import Publication

        return self._broker.publish(Publication.of(channel, data)).offset

    def close(self) -> None:
        self._broker.close()


@pytest.mark.parametrize("server", SERVERS)
async def test_a_cut_redis_connection_reports_the_exact_loss_and_recovers(
    own_redis: RedisServer, serve: Serve, attach: Attach, server: str
) -> None:
    service = serve(own_redis.url, server)
    client = await attach(service)
    start = await client.subscribe("public:cut")
    service.publish("public:cut", 1)
    assert await client.data() == 1
    publish_while_cut(own_redis, "public:cut", 3)
    assert await client.push("state") == {"live": False, "reason": "broker"}
    gap = await client.push("gap")
    assert gap == {"epoch": start["epoch"], "from": 2, "to": 4, "reason": "broker"}
    assert await client.push("state") == {"live": True}
    receipt = service.publish("public:cut", "after")
    pub = await client.push("pub")
    assert pub == {"data": "after", "offset": 5}
    assert receipt["epoch"] == start["epoch"]


@pytest.mark.parametrize("server", SERVERS)
async def test_a_redis_restart_leaves_the_old_epoch_open_and_counts_the_new_one(
    own_redis: RedisServer, serve: Serve, attach: Attach, server: str
) -> None:
    service = serve(own_redis.url, server)
    client = await attach(service)
    start = await client.subscribe("public:restart")
    service.publish("public:restart", 1)
    assert await client.data() == 1
    own_redis.kill()
    assert await client.push("state") == {"live": False, "reason": "broker"}
    refused = service.post("publish", {"channel": "public:restart", "data": 2})
    assert (refused.status_code, refused.json()["error"]["reason"]) == (503, "broker_unavailable")
    own_redis.start()
    outside = Outside(own_redis)
    first = outside.publish("public:restart", "perhaps lost")
    gap = await client.push("gap")
    assert gap == {"epoch": start["epoch"], "from": 2, "to": None, "reason": "broker"}
    # The node may be back before or after this was published, and receive it or report it as
    # missed.
    told: list[dict[str, Any]] = []
    while len(told) < 2:
        told.append((await client.next())["push"])
    assert {"state": {"live": True}} in told
    [other] = [push for push in told if "state" not in push]
    if "gap" in other:
        assert (other["gap"]["from"], other["gap"]["to"]) == (1, first)
    else:
        assert (other["pub"]["offset"], other["pub"]["data"]) == (first, "perhaps lost")
    last = outside.publish("public:restart", "live again")
    pub = await client.push("pub")
    assert (pub["data"], pub["offset"]) == ("live again", last)
    outside.close()


async def test_the_first_publication_of_a_new_epoch_names_it(
    own_redis: RedisServer, serve: Serve, attach: Attach
) -> None:
    service = serve(own_redis.url)
    client = await attach(service)
    start = await client.subscribe("public:epoch")
    with own_redis.client() as direct:
        direct.flushall()
    receipt = service.publish("public:epoch", 1)
    assert receipt["epoch"] != start["epoch"]
    assert await client.push("gap") == {
        "epoch": start["epoch"],
        "from": 1,
        "to": None,
        "reason": "broker",
    }
    assert await client.push("pub") == {"data": 1, "offset": 1, "epoch": receipt["epoch"]}
    service.publish("public:epoch", 2)
    assert await client.push("pub") == {"data": 2, "offset": 2}


async def test_a_frozen_redis_is_detected_without_a_broken_connection(
    own_redis: RedisServer, serve: Serve, attach: Attach
) -> None:
    service = serve(own_redis.url)
    client = await attach(service)
    await client.subscribe("public:frozen")
    own_redis.freeze()
    assert await client.push("state", seconds=4) == {"live": False, "reason": "broker"}
    assert not service.is_live()
    assert service.is_alive()
    own_redis.thaw()
    assert await client.push("state", seconds=4) == {"live": True}
    service.publish("public:frozen", "thawed")
    assert await client.data() == "thawed"


async def test_a_short_freeze_causes_neither_loss_nor_reconnect(
    own_redis: RedisServer, serve: Serve, attach: Attach
) -> None:
    service = serve(own_redis.url)
    client = await attach(service)
    await client.subscribe("public:short")
    with own_redis.client() as direct:
        direct.execute_command("CLIENT", "PAUSE", 700, "ALL")
    service.publish("public:short", "late, but here")
    assert await client.data() == "late, but here"
    assert service.is_live()


async def test_the_service_starts_without_redis_and_recovers(
    own_redis: RedisServer, serve: Serve, attach: Attach
) -> None:
    own_redis.kill()
    service = serve(own_redis.url, live=False)
    client = await attach(service, connect=False)
    await client.ask(connect={})
    assert await client.push("state") == {"live": False, "reason": "broker"}
    refused = await client.ask(subscribe={"channel": "public:early"})
    assert refused["error"]["code"] == 100
    assert refused["error"]["temporary"] is True
    own_redis.start()
    assert await client.push("state") == {"live": True}
    await client.subscribe("public:early")
    service.publish("public:early", 1)
    assert await client.data() == 1


async def test_a_publication_posted_to_one_node_is_delivered_by_both(
    redis_server: RedisServer, serve: Serve, attach: Attach
) -> None:
    one, two = serve(redis_server.url, "uvicorn"), serve(redis_server.url, "daphne")
    at_one, at_two = await attach(one), await attach(two)
    for client in (at_one, at_two):
        await client.subscribe("public:nodes")
    assert one.publish("public:nodes", "to all")["nodes"] == 2
    assert await at_one.data() == await at_two.data() == "to all"
    two.stop()
    await eventually(lambda: one.publish("public:nodes", "to one")["nodes"] == 1)


async def test_garbage_on_the_broker_is_dropped_and_does_no_harm(
    own_redis: RedisServer, serve: Serve, attach: Attach
) -> None:
    service = serve(own_redis.url)
    client = await attach(service)
    await client.subscribe("public:garbage")
    with own_redis.client() as direct:
        for raw in (b"", b"\xff\xfe", b"{}", b'1 0123456789abcdef 1 {"data":1\n}', b"1 x 1 {}"):
            direct.publish("rt:{0}:ch:public:garbage", raw)
    service.publish("public:garbage", "fine")
    assert await client.data() == "fine"
    assert "Traceback" not in service.log
    assert "dropped an invalid envelope" in service.log


def test_a_stranger_learns_from_readyz_where_redis_is(own_redis: RedisServer, serve: Serve) -> None:
    """The reason used to quote the error, with host and port (CWE-209); now only the log does."""
    service, parts = serve(own_redis.url), urlsplit(own_redis.url)
    address = str(parts.port) if parts.port else parts.path
    own_redis.kill()
    eventually_sync(lambda: not service.is_live())
    eventually_sync(lambda: address in service.log)
    answer = httpx.get(service.http + "/readyz")
    assert answer.status_code == 503
    assert answer.json()["reason"] == "this node does not receive from Redis; see its log"
    assert address not in answer.text


def test_the_redis_that_tests_break_is_at_least_version_7(redis_server: RedisServer) -> None:
    client: redis.Redis = redis_server.client()
    assert int(client.info("server")["redis_version"].split(".")[0]) >= 7
    client.close()


async def test_the_first_publication_names_an_epoch_that_began_empty(
    own_redis: RedisServer, serve: Serve, attach: Attach
) -> None:
    """After the break the position is (new epoch, 0), so no gap names the new epoch."""
    service = serve(own_redis.url)
    client = await attach(service)
    start = await client.subscribe("public:empty")
    own_redis.kill()
    assert await client.push("state") == {"live": False, "reason": "broker"}
    own_redis.start()
    assert (await client.push("gap")) == {
        "epoch": start["epoch"],
        "from": 1,
        "to": None,
        "reason": "broker",
    }
    assert await client.push("state") == {"live": True}
    receipt = service.publish("public:empty", 1)
    assert await client.push("pub") == {"data": 1, "offset": 1, "epoch": receipt["epoch"]}
