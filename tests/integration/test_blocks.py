"""A blocked user is disconnected everywhere, and stays away until the block ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import override_settings

import realtime
from realtime import errors
from realtime.brokers import redis_blocks
from realtime.core.blocked_users import BlockedUsers
from realtime.core.identity import Identity
from realtime.core.node_commands import BlockUser
from realtime.delivery.hub import Hub
from realtime.delivery.user_blocks import UserBlocks
from realtime.wiring import Node, send_node_command
from tests.integration.test_users import lose, settled
from tests.support.eventually import eventually
from tests.support.keys import entry, secret_of
from tests.support.member import Member
from tests.support.redis_server import RedisServer
from tests.support.rims import RIMS, Rim, refused
from tests.support.tokens import token

Join = Callable[..., Awaitable[Member]]
BLOCKED = (3503, "force disconnect")
HOUR = 3600


@pytest.fixture(params=RIMS)
def rim(request: pytest.FixtureRequest, hub: Hub) -> Rim:
    return Rim(request.param)


@pytest.fixture
def endpoint(hub: Hub) -> Rim:
    return Rim("endpoint")


@pytest.fixture
def join(join_user: Join) -> Join:
    return join_user


@pytest.fixture
async def start() -> AsyncIterator[Callable[[], Awaitable[Hub]]]:
    """Start further nodes of the same service."""
    nodes: list[Node] = []

    async def start_node() -> Hub:
        nodes.append(Node())
        nodes[-1].hub.start()
        await eventually(lambda: nodes[-1].hub.live)
        return nodes[-1].hub

    yield start_node
    for node in nodes:
        await node.aclose()


async def try_to_connect(hub: Hub, user: str = "ada", identity: Identity | None = None) -> Any:
    """Return the close code and reason, or None if the client was accepted."""
    member = Member(hub, identity)
    await eventually(lambda: member.conversation)
    member.say({"id": 1, "connect": {} if identity else {"token": token(user)}})
    try:
        await eventually(lambda: member.ended or any("connect" in line for line in member.lines))
        return member.closed
    finally:
        await member.leave()


async def has_read(hub: Hub) -> None:
    """Wait until the node has read the blocks, and is about to read no more by itself."""
    users, blocks = hub.users, hub.users.blocks
    await eventually(
        lambda: (
            not (users._due.is_set() or blocks._is_outdated) and blocks._blocked._changes is None
        )
    )


async def do(rim: Rim, method: str, **fields: Any) -> None:
    answer = await rim.post(method, fields)
    assert (answer.status, answer.raw) == (200, b'{"result":{}}\n')


async def test_a_blocked_user_is_disconnected_and_refused(rim: Rim, join: Join, hub: Hub) -> None:
    one, other, ben = await join("ada"), await join("ada"), await join("ben")
    await do(rim, "block_user", user="ada", seconds=HOUR)
    await eventually(lambda: one.ended and other.ended)
    assert (one.closed, other.closed) == (BLOCKED, BLOCKED)
    assert await try_to_connect(hub) == BLOCKED
    assert await try_to_connect(hub, identity=Identity("ada", session="s")) == BLOCKED
    assert not ben.ended
    assert await try_to_connect(hub, "ben") is None
    assert await try_to_connect(hub, identity=Identity("")) is None
    await do(rim, "unblock_user", user="ada")
    await settled(hub)
    assert await try_to_connect(hub) is None


async def test_a_block_ends(endpoint: Rim, hub: Hub) -> None:
    now = time.time()
    await do(endpoint, "block_user", user="ada", until=int(now) + 100)
    await settled(hub)
    assert await try_to_connect(hub) == BLOCKED
    hub.users.blocks._wall_seconds = lambda: now + 101
    assert await try_to_connect(hub) is None


async def test_a_node_that_starts_later_knows_the_blocks(endpoint: Rim, start: Any) -> None:
    await do(endpoint, "block_user", user="ada", seconds=HOUR)
    await do(endpoint, "block_user", user="ben", seconds=HOUR)
    await do(endpoint, "unblock_user", user="ben")
    hub = await start()
    await eventually(lambda: hub.users.blocks.is_blocked("ada"))
    assert await try_to_connect(hub) == BLOCKED
    assert await try_to_connect(hub, "ben") is None


async def test_a_user_who_was_unblocked_stays_when_a_node_starts(
    endpoint: Rim, start: Any, wired: str
) -> None:
    """The node reads the commands of the last hour, and an early one must not act again."""
    await do(endpoint, "block_user", user="ada", seconds=HOUR)
    await do(endpoint, "unblock_user", user="ada")
    node = Node()
    member = Member(node.hub)
    await eventually(lambda: member.conversation)
    member.say({"id": 1, "connect": {"token": token("ada")}})
    node.hub.start()
    await eventually(lambda: node.hub.users._until is not None)
    assert not member.ended
    await member.leave()
    await node.aclose()


async def test_blocks_are_known_after_an_outage(
    join: Join, hub: Hub, redis_server: RedisServer, wired: str
) -> None:
    """After a long one, the commands that the node missed are no longer kept."""
    ada, ben = await join("ada"), await join("ben")
    await do(Rim("endpoint"), "block_user", user="eve", seconds=HOUR)
    await has_read(hub)
    await lose(hub, BlockUser("ada", int(time.time()) + HOUR))
    await lose(hub, BlockUser("eve", 0))
    with redis_server.client() as client:
        assert client.delete(f"{wired}:{{0}}:told")
    assert not ada.ended
    redis_server.cut_subscribers()
    await eventually(lambda: ada.ended)
    assert ada.closed == BLOCKED
    assert not ben.ended
    assert not hub.users.blocks.is_blocked("eve")


async def test_a_node_says_that_redis_has_lost_blocks(
    hub: Hub, redis_server: RedisServer, wired: str, caplog: pytest.LogCaptureFixture
) -> None:
    for user in ("ada", "ben"):
        await do(Rim("endpoint"), "block_user", user=user, seconds=HOUR)
    await settled(hub)
    with redis_server.client() as client:
        assert client.delete(f"{wired}:{{0}}:blocked")
    hub.users.look_again()
    await eventually(lambda: not hub.users.blocks.is_blocked("ada"))
    said = [each.getMessage() for each in caplog.records if "no longer blocked" in each.message]
    assert [each.partition(":")[0] for each in said] == ["2 users are no longer blocked"]


async def test_a_lost_block_is_found_by_the_periodic_check(
    join: Join, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = await join("ada")
    await has_read(hub)
    await lose(hub, BlockUser("ada", int(time.time()) + HOUR))
    hub.users._due.set()
    hub.users._suspects = None  # as when the interval is over
    await eventually(lambda: member.ended)
    assert member.closed == BLOCKED


# --- a node's copy, which only one task reads; so not that of a running hub ---


async def test_a_change_during_a_read_is_newer_than_what_is_read(node: Node) -> None:
    blocks = UserBlocks(node.broker.blocks, time.time)
    later = int(time.time()) + HOUR
    await send_node_command(BlockUser("ada", later))
    read = blocks._store.read

    async def read_slowly() -> dict[str, int]:
        found = await read()
        blocks.apply(BlockUser("ada", 0))
        blocks.apply(BlockUser("ben", later))
        return found

    blocks._store.read = read_slowly  # type: ignore[method-assign]
    assert await blocks.refresh()
    assert not blocks.is_blocked("ada")
    assert blocks.is_blocked("ben")
    assert not await blocks.refresh(), "nothing can have been missed since then"


async def test_a_node_whose_clock_is_behind_reads_the_blocks_instead(node: Node) -> None:
    """It still counts blocks that have ended, so it has no room for a new one."""
    blocks = UserBlocks(node.broker.blocks, time.time)
    assert await blocks.refresh()
    blocks._blocked = BlockedUsers(limit=1)
    for user in ("ada", "ben"):
        command = BlockUser(user, int(time.time()) + HOUR)
        await send_node_command(command)
        blocks.apply(command)
    assert not blocks.is_blocked("ben")
    assert await blocks.refresh()
    assert blocks.is_blocked("ben")


async def test_blocks_are_read_again_once_redis_is_back(own_redis: RedisServer) -> None:
    with override_settings(REALTIME_REDIS_URL=own_redis.url, REALTIME_REDIS_PREFIX="blocks"):
        node = Node()
        blocks = UserBlocks(node.broker.blocks, time.time)
        await node.broker.blocks.change("ada", int(time.time()) + HOUR, b"{}")
        own_redis.freeze()
        assert not await blocks.refresh()
        assert not blocks.is_blocked("ada")
        own_redis.thaw()
        await eventually(blocks.refresh)
        assert blocks.is_blocked("ada")
        await node.aclose()


# --- limits, keys and invalid requests ---


async def test_the_number_of_blocks_is_limited(
    rim: Rim, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_blocks, "BLOCKS_LIMIT", 2)
    for user in ("ada", "ben", "ada"):
        await do(rim, "block_user", user=user, seconds=HOUR)
    refused(await rim.post("block_user", {"user": "eve", "seconds": HOUR}), "too_many_blocks")
    await do(rim, "unblock_user", user="ben")
    await do(rim, "block_user", user="eve", seconds=HOUR)
    await settled(hub)
    assert [hub.users.blocks.is_blocked(user) for user in ("ada", "ben", "eve")] == [
        *(True, False, True)
    ]


WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "no end": ("block_user", {"user": "a"}),
    "two ends": ("block_user", {"user": "a", "until": 4102444800, "seconds": 1}),
    "the past": ("block_user", {"user": "a", "until": 1_700_000_000}),
    "the end of time": ("block_user", {"user": "a", "until": 2**53}),
    "half a second": ("block_user", {"user": "a", "seconds": 0.5}),
    "no second": ("block_user", {"user": "a", "seconds": 0}),
    "a century": ("block_user", {"user": "a", "seconds": 10**9 + 1}),
    "true": ("block_user", {"user": "a", "seconds": True}),
    "an anonymous user": ("block_user", {"user": "", "seconds": 1}),
    "a field of disconnect": ("block_user", {"user": "a", "seconds": 1, "client": "c"}),
    "nobody": ("unblock_user", {}),
    "an end of the end": ("unblock_user", {"user": "a", "until": 4102444800}),
}


@pytest.mark.parametrize(("method", "body"), WRONG.values(), ids=WRONG)
async def test_invalid_blocks_are_refused(endpoint: Rim, method: str, body: Any) -> None:
    refused(await endpoint.post(method, body), "invalid_data")


async def test_a_key_that_may_disconnect_may_not_block(endpoint: Rim) -> None:
    with override_settings(REALTIME_API_KEYS=[entry("shop", methods=["disconnect"])]):
        for method in ("block_user", "unblock_user"):
            body = {"user": "ada", **({"seconds": 1} if method == "block_user" else {})}
            answer = await endpoint.post(method, body, x_api_key=secret_of("shop"))
            refused(answer, "forbidden")


# --- from Python ---


@pytest.mark.parametrize("variant", ["async", "sync"])
async def test_users_are_blocked_from_python(join: Join, hub: Hub, variant: str) -> None:
    async def call(name: str, *args: Any) -> None:
        if variant == "async":
            await getattr(realtime, f"a{name}")(*args)
        else:
            await asyncio.to_thread(getattr(realtime, name), *args)

    member = await join("ada")
    await call("block_user", "ada", datetime.now(UTC) + timedelta(hours=1))
    await eventually(lambda: member.ended)
    assert member.closed == BLOCKED
    await call("unblock_user", "ada")
    await call("block_user", "ben", int(time.time()) + HOUR)
    await settled(hub)
    assert await try_to_connect(hub) is None
    assert await try_to_connect(hub, "ben") == BLOCKED
    for wrong in (datetime.now(), datetime.now(UTC) - timedelta(hours=1), 7):
        with pytest.raises(errors.InvalidData):
            await call("block_user", "ada", wrong)
