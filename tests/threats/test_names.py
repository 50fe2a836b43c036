"""Names that contain more than a name: patterns, separators, commands, foreign prefixes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.brokers.commands import Commands
from realtime.core.publication import Publication
from tests.support.client import Client
from tests.support.overheard import overheard
from tests.support.redis_server import RedisServer
from tests.support.service import KEY
from tests.threats.conftest import FULL, Target

Attach = Callable[..., Awaitable[Client]]

PATTERNS = {
    "everything": "*",
    "a namespace": "public:*",
    "one character": "public:new?",
    "a class": "public:[a-z]ews",
    "no class": "public:[^x]*",
    "an escape": "public:\\*",
    "a choice": "public:{news,tea}",
    "the keyspace": "__keyspace@0__:*",
    "our own names": "rt:*",
    "the node's channel": "!node",
    "all of Centrifugo's": "public:.*",
    "a percent": "public:%",
    "an SQL": "public:' OR 1=1 --",
}


async def test_a_client_subscribes_to_a_pattern(target: Target, attach: Attach) -> None:
    client = await attach(target)
    with overheard(target.redis) as told:
        for pattern in PATTERNS.values():
            reply = await client.ask(subscribe={"channel": pattern})
            assert reply.get("error", {}).get("code") in {103, 107}, reply
        await client.subscribe("public:other")
    assert not [command for command in told if command.upper().startswith(("PSUB", "SSUB"))]
    assert not [command for command in told if command.upper().startswith(("KEYS", "SCAN"))]
    target.publish("public:news", "not for the pattern")
    target.publish("public:other", "heard")
    assert await client.data() == "heard"


CARRIERS = {
    "a command": "public:news\r\nFLUSHALL",
    "a command of RESP": "public:x\r\n*1\r\n$8\r\nFLUSHALL\r\n",
    "a line": "public:news\n",
    "a NUL": "public:\x00news",
    "an escape sequence": "public:\x1b[2Jnews",
    "a hash tag": "public:{other}",
    "a half hash tag": "public:}news{",
    "a Lua string": "public:']]..redis.call('flushall')..[['",
    "right to left": "public:\u202eswen",
    "nothing wide": "public:\u200bnews",
    "a homoglyph": "publi\u0441:news",
    "fullwidth": "\uff50ublic:news",
    "a combining mark": "public:ne\u0301ws",
    "a space": "public: news",
    "a path": "public:../../rt",
    "a percent sign": "public:%0d%0a",
    "empty": "",
    "256": "public:" + "a" * 249,
    "60000": "a" * 60_000,
}


@pytest.mark.parametrize("name", CARRIERS.values(), ids=CARRIERS)
async def test_a_channel_name_carries_commands_to_redis(
    target: Target, attach: Attach, name: str
) -> None:
    client = await attach(target)
    with overheard(target.redis) as told:
        answer = await asyncio.to_thread(target.post, "publish", {"channel": name, "data": "x"})
        assert (answer.status_code, answer.json()["error"]["reason"]) == (400, "invalid_channel")
        for ask in ({"subscribe": {"channel": name}}, {"publish": {"channel": name, "data": 1}}):
            reply = await client.ask(**ask)
            assert reply["error"]["code"] == 107, reply
    ours = ("PUBLISH", "EVALSHA", "SUBSCRIBE")
    # Canaries and the node's lease are sent automatically.
    heard = [each for each in told if each.upper().startswith(ours)]
    heard = [each for each in heard if ":!" not in each and ":nodes " not in each]
    assert not heard
    assert not [each for each in told if "FLUSHALL" in each.upper()]


RAW_NAMES = {
    "an overlong slash": b"public:\xc0\xaf",
    "a cut sequence": b"public:\xe2\x82",
    "an encoded surrogate": b"public:\xed\xa0\x80",
    "latin-1": b"public:\xfc",
    "a lone surrogate": rb"public:\ud800",
    "a NUL": b"public:\x00",
}


@pytest.mark.parametrize("name", RAW_NAMES.values(), ids=RAW_NAMES)
def test_a_channel_name_is_not_text(target: Target, name: bytes) -> None:
    given = {**KEY, "Content-Type": "application/json"}
    body = b'{"channel":"%s","data":1}' % name
    answer = httpx.post(f"{target.http}/api/publish", content=body, headers=given)
    assert (answer.status_code, answer.json()["error"]["reason"]) == (400, "invalid_json")


async def test_one_service_listens_to_another_on_a_shared_redis(
    own_redis: RedisServer, attach: Attach
) -> None:
    """There are no tenants; several services can share a Redis, each with its own prefix."""
    channels = ["public:a", "public:b", "chat:a", "public:a:b"]
    each = 2_500 if FULL else 250
    services = {
        name: await asyncio.to_thread(Target(own_redis, NOTIFIER_REDIS_PREFIX=name).start)
        for name in ("one", "one2", "On-e")
    }
    try:
        clients = {name: await attach(service) for name, service in services.items()}
        for client in clients.values():
            for channel in channels:
                await client.subscribe(channel)
        async with asyncio.TaskGroup() as work:
            for name, service in services.items():
                work.create_task(asyncio.to_thread(publish_all, service, channels, name, each))
            heard = [
                work.create_task(listen(client, each * len(channels)))
                for client in clients.values()
            ]
        for name, pushes in zip(services, heard, strict=True):
            expected = {(channel, channel, name) for channel in channels}
            assert set(pushes.result()) == expected
            for channel in channels:
                assert pushes.result().count((channel, channel, name)) == each
    finally:
        for service in services.values():
            await asyncio.to_thread(service.stop)


def publish_all(service: Target, channels: list[str], name: str, each: int) -> None:
    """Publish to each channel this many times, with the channel and the service's name as data."""
    with httpx.Client(base_url=service.http, headers=KEY) as http:
        for _ in range(each * len(channels) // 100):
            commands = [
                {"publish": {"channel": channel, "data": [channel, name]}}
                for channel in channels * (100 // len(channels))
            ]
            answer = http.post("/api/batch", json={"commands": commands}).json()
            assert all("publish" in reply for reply in answer["replies"])


async def listen(client: Client, count: int) -> list[tuple[str, ...]]:
    """Return the channel and the data of this many pushes."""
    pushes = [(await client.next(30))["push"] for _ in range(count)]
    return [(push["channel"], *push["pub"]["data"]) for push in pushes]


NAMES = st.text("abAB01:_-=@,.;#", min_size=1, max_size=12)
PREFIXES = st.text("ab:-_", min_size=1, max_size=6)


@settings(derandomize=True, deadline=None)
@given(NAMES, NAMES, PREFIXES, PREFIXES)
def test_two_names_collide_in_one_redis_key(one: str, other: str, here: str, there: str) -> None:
    """Whatever separators a name contains, no other name has the same key or channel."""

    def keys(prefix: str, channel: str) -> set[str]:
        told = Commands(prefix).publish(Publication.of(channel, 1, idempotency_key="k"))
        named = {str(part) for part in told if str(part).startswith(prefix + ":{")}
        return {name for name in named if not name.endswith("}:base")}  # of the whole service

    assert len(keys(here, one)) == 3  # position, idempotency, channel
    if (here, one) != (there, other):
        assert not keys(here, one) & keys(there, other)


def test_a_publication_imitates_a_message_of_the_node(target: Target) -> None:
    """A publication that imitates our pushes (gap, state) is delivered as data."""
    forged: dict[str, Any] = {"push": {"state": {"live": False}}}
    for data in (forged, json.dumps(forged), f"\n{json.dumps(forged)}", "{}", "\n{}\n"):
        assert target.publish("public:news", data)["offset"]


async def test_a_publication_breaks_out_of_its_line(target: Target, attach: Attach) -> None:
    client = await attach(target)
    await client.subscribe("public:lines")
    forged = '"}}}\n{"push":{"state":{"live":false}}}\n{}\r\n\u2028\u2029\x85'
    for data in (forged, {forged: forged}, [forged]):
        await asyncio.to_thread(target.publish, "public:lines", data, tags={"a": forged})
        push = await client.push("pub")
        assert (push["data"], push["tags"]) == (data, {"a": forged})
    assert client.pings == 0
