"""Controlling a user's connections through the HTTP API and in Python."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.test import override_settings

import realtime
from realtime import apublish, errors, wiring
from realtime.core.limits import PUBLISH_BYTES
from tests.support.eventually import eventually
from tests.support.keys import entry, secret_of
from tests.support.member import Member
from tests.support.redis_server import RedisServer
from tests.support.rims import RIMS, Rim, refused

Join = Callable[..., Awaitable[Member]]


@pytest.fixture(params=RIMS)
def rim(request: pytest.FixtureRequest, node: Any) -> Rim:
    return Rim(request.param)


@pytest.fixture
def join(join_user: Join) -> Join:
    return join_user


def client_of(member: Member) -> str:
    [answer] = [line["connect"] for line in member.lines if "connect" in line]
    client: str = answer["client"]
    return client


async def done(rim: Rim, method: str, **fields: Any) -> None:
    answer = await rim.post(method, fields)
    assert (answer.status, answer.raw) == (200, b'{"result":{}}\n')


async def test_a_user_is_disconnected(rim: Rim, join: Join) -> None:
    one, other, stranger = await join("ada"), await join("ada"), await join("ben")
    await done(rim, "disconnect", user="ada")
    await eventually(lambda: one.ended and other.ended)
    assert one.closed == (3503, "force disconnect")
    assert not stranger.ended


async def test_one_connection_is_disconnected_with_the_given_code(rim: Rim, join: Join) -> None:
    one, other = await join("ada"), await join("ada")
    code = {"code": 4001, "reason": "come back later – bitte"}
    await done(rim, "disconnect", user="ada", client=client_of(one), disconnect=code)
    await eventually(lambda: one.ended)
    assert one.closed == (4001, "come back later – bitte")
    assert not other.ended


async def test_a_user_is_subscribed_and_unsubscribed(rim: Rim, join: Join) -> None:
    member = await join("ada")
    await done(rim, "subscribe", user="ada", channel="closed")
    await eventually(lambda: len(member.pushes("subscribe")) == 2)
    await apublish("closed", "for you")
    await eventually(lambda: member.pushes("pub"))
    await done(rim, "unsubscribe", user="ada", channel="closed")
    [gone] = await eventually(lambda: member.pushes("unsubscribe"))
    assert gone["channel"] == "closed"
    assert not member.ended


async def test_a_connection_is_refreshed(rim: Rim, join: Join) -> None:
    member = await join("ada")
    await done(rim, "refresh", user="ada", expire_at=int(time.time()) + 1000)
    await done(rim, "refresh", user="ada", expire_at=None, expired=False)
    assert not member.ended
    await done(rim, "refresh", user="ada", expired=True)
    await eventually(lambda: member.ended)
    assert member.closed == (3005, "connection expired")


WRONG: dict[str, tuple[str, Any, str]] = {
    "no user": ("disconnect", {}, "invalid_data"),
    "nobody": ("disconnect", {"user": ""}, "invalid_data"),
    "a number for a user": ("disconnect", {"user": 42}, "invalid_data"),
    "a long user": ("disconnect", {"user": "u" * 1000}, "invalid_data"),
    "a number for a client": ("disconnect", {"user": "a", "client": 1}, "invalid_data"),
    "a long client": ("disconnect", {"user": "a", "client": "c" * 65}, "invalid_data"),
    "a field of Centrifugo's": ("disconnect", {"user": "a", "whitelist": []}, "invalid_data"),
    "a code for a close": ("disconnect", {"user": "a", "disconnect": 3000}, "invalid_data"),
    "no reason": ("disconnect", {"user": "a", "disconnect": {"code": 4000}}, "invalid_data"),
    "the code of a normal end": (
        "disconnect",
        {"user": "a", "disconnect": {"code": 1000, "reason": ""}},
        "invalid_data",
    ),
    "a code that no close can have": (
        "disconnect",
        {"user": "a", "disconnect": {"code": 10**30, "reason": ""}},
        "invalid_data",
    ),
    "a true code": (
        "disconnect",
        {"user": "a", "disconnect": {"code": True, "reason": ""}},
        "invalid_data",
    ),
    "a reason that no close can have": (
        "disconnect",
        {"user": "a", "disconnect": {"code": 4000, "reason": "ü" * 62}},
        "invalid_data",
    ),
    "an unknown field of a close": (
        "disconnect",
        {"user": "a", "disconnect": {"code": 4000, "reason": "", "reconnect": True}},
        "invalid_data",
    ),
    "no channel": ("subscribe", {"user": "a"}, "invalid_channel"),
    "a bad channel": ("subscribe", {"user": "a", "channel": "a b"}, "invalid_channel"),
    "a namespace that is not there": (
        "subscribe",
        {"user": "a", "channel": "nowhere:a"},
        "invalid_channel",
    ),
    "history": ("subscribe", {"user": "a", "channel": "a", "recover_since": {}}, "invalid_data"),
    "all channels": ("unsubscribe", {"user": "a", "channel": ""}, "invalid_channel"),
    "a time in words": ("refresh", {"user": "a", "expire_at": "now"}, "invalid_data"),
    "a time before 1970": ("refresh", {"user": "a", "expire_at": -1}, "invalid_data"),
    "half a second": ("refresh", {"user": "a", "expire_at": 1.5}, "invalid_data"),
    "the end of time": ("refresh", {"user": "a", "expire_at": 2**53}, "invalid_data"),
    "expired in words": ("refresh", {"user": "a", "expired": "no"}, "invalid_data"),
    "a large body": ("refresh", {"user": "a" * PUBLISH_BYTES}, "too_large"),
}


@pytest.mark.parametrize(("method", "body", "reason"), WRONG.values(), ids=WRONG)
async def test_an_invalid_command_is_sent_to_no_node(
    rim: Rim, wired: str, redis_server: RedisServer, method: str, body: Any, reason: str
) -> None:
    refused(await rim.post(method, body), reason)
    assert redis_server.client().keys(f"{wired}:*") == []


async def test_a_publishing_key_may_not_control_connections(
    rim: Rim, wired: str, redis_server: RedisServer
) -> None:
    keys = [
        entry("shop", methods=["publish"]),
        entry("host", methods=["subscribe"], channels=["orders:*"]),
    ]
    with override_settings(REALTIME_API_KEYS=keys, REALTIME_NAMESPACES={"orders": {}}):
        for method in ("disconnect", "subscribe", "unsubscribe", "refresh"):
            body = {"user": "a"} | ({"channel": "orders:1"} if "subscribe" in method else {})
            refused(await rim.post(method, body, x_api_key=secret_of("shop")), "forbidden")
        for channel in ("closed", "nowhere:a"):
            body = {"user": "a", "channel": channel}
            refused(await rim.post("subscribe", body, x_api_key=secret_of("host")), "forbidden")
        assert redis_server.client().keys(f"{wired}:*") == []
        body = {"user": "a", "channel": "orders:1"}
        assert (await rim.post("subscribe", body, x_api_key=secret_of("host"))).status == 200


async def is_disconnected(rim: Rim) -> bool:
    return (await rim.post("disconnect", {"user": "ada"})).status == 200


async def test_commands_fail_without_redis(own_redis: RedisServer, rim: Rim) -> None:
    with override_settings(REALTIME_REDIS_URL=own_redis.url, REALTIME_PUBLISH_SECONDS=0.3):
        await wiring.aclose()
        # A busy machine may need longer than 0.3 s to connect.
        await eventually(partial(is_disconnected, rim))
        own_redis.freeze()
        refused(await rim.post("disconnect", {"user": "ada"}), "outcome_unknown")
        own_redis.thaw()
        await asyncio.to_thread(own_redis.kill)
        refused(await rim.post("disconnect", {"user": "ada"}), "broker_unavailable")
        await wiring.aclose()


# --- from Python ---


@pytest.fixture(params=["async", "sync"])
def do(request: pytest.FixtureRequest) -> Callable[..., Awaitable[None]]:
    async def call(name: str, *args: Any, **options: Any) -> None:
        if request.param == "async":
            await getattr(realtime, f"a{name}")(*args, **options)
        else:
            await asyncio.to_thread(getattr(realtime, name), *args, **options)

    return call


async def test_control_commands_are_available_in_python(join: Join, do: Any) -> None:
    member, other = await join("ada"), await join("ada")
    await do("subscribe_user", "ada", "closed", client=client_of(member))
    await eventually(lambda: len(member.pushes("subscribe")) == 2)
    await do("unsubscribe_user", "ada", "closed")
    await eventually(lambda: member.pushes("unsubscribe"))
    await do("disconnect_user", "ada", client=client_of(other), code=4000, reason="because")
    await eventually(lambda: other.ended)
    assert other.closed == (4000, "because")
    assert not member.ended
    await do("disconnect_user", "ada")
    await eventually(lambda: member.ended)
    assert member.closed == (3503, "force disconnect")


async def test_invalid_control_commands_raise_in_python(node: Any, do: Any) -> None:
    for wrong in ("", "u" * 1000):
        with pytest.raises(errors.InvalidData):
            await do("disconnect_user", wrong)
    with pytest.raises(errors.InvalidData):
        await do("disconnect_user", "ada", code=1000)
    with pytest.raises(errors.InvalidName):
        await do("subscribe_user", "ada", "nowhere:a")


async def test_synchronous_calls_in_an_event_loop_are_refused(node: Any) -> None:
    with pytest.raises(SynchronousOnlyOperation, match="await"):
        realtime.disconnect_user("ada")


@pytest.mark.parametrize("name", ["disconnect_user", "subscribe_user", "unsubscribe_user"])
def test_both_variants_take_the_same_arguments(name: str) -> None:
    twins = (getattr(realtime, name), getattr(realtime, f"a{name}"))
    assert inspect.signature(twins[0]) == inspect.signature(twins[1])
