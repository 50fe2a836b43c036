"""The size of one key of each family in Redis: docs/security.md states upper bounds.

Measured with `MEMORY USAGE` of the Valkey that the suite starts, with the longest possible names,
written by the service's own commands. The size of the same key varies by some bytes (the allocator,
the random height of nodes in a sorted set, a table that is being resized).
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import cast

import msgspec
import pytest
import redis

from notifier import login_limit
from notifier.login_limit import ADDRESS, IPV6_SITE
from realtime.brokers.commands import SCRIPTS, Commands
from realtime.brokers.presence_commands import SCRIPTS as PRESENCE_SCRIPTS
from realtime.brokers.presence_commands import PresenceCommands
from realtime.brokers.queue_commands import SCRIPTS as QUEUE_SCRIPTS
from realtime.brokers.redis_blocks import BlockCommands
from realtime.brokers.redis_sync import SyncRedisBroker
from realtime.contrib.records import Records
from realtime.core.identity import USER_LIMIT
from realtime.core.json_text import DATA_LIMIT
from realtime.core.members import Member, MemberUpdate
from realtime.core.names import CHANNEL_LIMIT, KEY_LIMIT
from realtime.core.node_commands import DisconnectUser, SendToUser, encode_command
from realtime.core.publication import Publication
from tests.support.redis_server import RedisServer

NAMES = 500
"""Channels and members: enough for Redis to leave its compact encodings."""
INFO_BYTES = 4096
REASON_CHARACTERS = 32
OWL = "\U0001f989"  # four bytes of UTF-8
SCRIPTS = (
    SCRIPTS.publish,
    SCRIPTS.read_position,
    SCRIPTS.service,
    SCRIPTS.take_from_rate,
    SCRIPTS.send_node_command,
    PRESENCE_SCRIPTS.change,
    PRESENCE_SCRIPTS.lease,
    QUEUE_SCRIPTS.renew_leases,
)


@pytest.fixture(params=["valkey", pytest.param("redis", marks=pytest.mark.redis)])
def redis_server(request: pytest.FixtureRequest, redis_server: RedisServer) -> RedisServer:
    """Both, because they need different amounts of memory for the same."""
    if request.param == "valkey":
        return redis_server
    return cast("RedisServer", request.getfixturevalue("system_redis"))


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client() as made:
        for script in SCRIPTS:
            made.execute_command(*script.load)
        yield made


@pytest.fixture
def commands(wired: str) -> Commands:
    return Commands(wired)


@pytest.fixture
def size(client: redis.Redis, wired: str) -> Callable[[str], int]:
    """Return the bytes of all keys of a family."""

    def measure(family: str) -> int:
        keys = list(client.scan_iter(f"{wired}:*{family}*", count=1000))
        assert keys, f"nothing is in {family}"
        return sum(client.memory_usage(key, samples=0) for key in keys)

    return measure


def long_name(number: int, length: int = CHANNEL_LIMIT) -> str:
    return f"{number:x}".rjust(length, "x")


def test_a_position_and_the_base(client, commands, size) -> None:
    client.execute_command(*commands.read_positions(["first"])[0])
    base = size("}:base")
    for number in range(NAMES):
        channel = long_name(number)
        client.execute_command(*commands.publish(Publication.of(channel, 1)))
    assert size("}:pos:") / NAMES <= 520
    assert base <= 240
    assert (size("}:base") - base) / NAMES <= 44


def test_an_idempotency_key(client, commands, size) -> None:
    made = Publication.of(long_name(1), 1, idempotency_key="k" * KEY_LIMIT, scope="key:" + "n" * 64)
    client.execute_command(*commands.publish(made))
    assert size("}:once:") <= 600


def test_a_rate_and_a_service(client, commands, size) -> None:
    client.execute_command(*commands.take_from_rate("n" * 64, 1.0, 1))
    client.execute_command(*commands.announce())
    assert size("}:rate:") <= 184
    assert size("}:service") <= 104


def test_node_commands(client, commands, size) -> None:
    """A command whose fields are all as long as possible, in the longest UTF-8."""
    told = DisconnectUser(
        OWL * USER_LIMIT, str(uuid.uuid4()), OWL * 64, 4999, OWL * REASON_CHARACTERS
    )
    raw = msgspec.json.encode(encode_command(told))
    for _ in range(NAMES):
        client.execute_command(*commands.send_node_command(raw))
    assert size("}:told") / NAMES <= 2048


def test_a_blocked_user(client, commands, wired, size) -> None:
    blocking = BlockCommands(wired, commands)
    client.execute_command(*blocking.script.load)
    for number in range(NAMES):
        user = f"{number:x}".rjust(USER_LIMIT, OWL)
        client.execute_command(*blocking.change(user, 4_102_444_800 + number, b"{}"))
    assert size("}:blocked") / NAMES <= 680


def test_a_site_fills_redis_with_messages_to_users(client, wired, size, monkeypatch) -> None:
    """A message may have 64 KiB of data: ten thousand stored messages would take 640 MB."""
    monkeypatch.setattr("realtime.brokers.commands.NODE_COMMANDS_LIMIT", 100)
    raw = msgspec.json.encode(encode_command(SendToUser("1", "x" * DATA_LIMIT)))
    for _ in range(10):
        client.execute_command(*Commands(wired).send_node_command(raw))
    most = 100 * 2048 + 2 * len(raw)  # and what Redis has not trimmed yet
    assert len(raw) < size("}:told") <= most
    small = msgspec.json.encode(encode_command(SendToUser("1", "x")))
    client.execute_command(*Commands(wired).send_node_command(small))
    *_, told = client.xrange(f"{wired}:{{0}}:told")
    assert told[1] == {b"told": small}, "short values have no overhead"


@pytest.mark.parametrize(
    ("user", "infos", "most"),
    [
        (OWL * USER_LIMIT, {"conn_info": "i" * INFO_BYTES, "chan_info": "i" * INFO_BYTES}, 11_000),
        ("", {}, 260),
    ],
    ids=["the largest", "anonymous"],
)
def test_a_member(client, wired, size, user: str, infos: dict[str, str], most: int) -> None:
    presence, channel, node = PresenceCommands(wired), long_name(1), secrets.token_hex(8)
    for start in range(0, NAMES, 50):
        come = {}
        for number in range(start, start + 50):
            name = str(uuid.uuid4())
            who = user and f"{user[4:]}{number:04}"  # a different one each time
            info = msgspec.json.encode({"user": who, "client": name, **infos}).decode()
            come[name] = Member(name, who, info)
        update = MemberUpdate(channel, come, is_announced=False, has_members=True)
        client.execute_command(*presence.change(node, update))
    assert (size("}:here:") + size("}:users:")) / NAMES <= most


def test_a_channel_of_a_node_and_a_node(client, wired, size) -> None:
    presence, node = PresenceCommands(wired), secrets.token_hex(8)
    for number in range(NAMES):
        come = {"c": Member("c", "", "{}")}
        client.execute_command(
            *presence.change(
                node, MemberUpdate(long_name(number), come, is_announced=False, has_members=True)
            )
        )
        client.execute_command(*presence.lease(secrets.token_hex(8), is_new=True))
    assert size("}:at:") / NAMES <= 360
    assert size("}:nodes") / NAMES <= 125


def test_a_worker_hand(client, commands, size) -> None:
    hands = tuple(secrets.token_hex(16) for _ in range(NAMES))
    client.execute_command(*commands.queue.renew_leases(hands, 60.0))
    assert size("}:fallback:hands") / NAMES <= 140


def test_a_job(redis_server, wired, client, size) -> None:
    with closing(SyncRedisBroker(redis_server.url, prefix=wired)) as broker:
        jobs = Records(broker)
        for _ in range(NAMES):
            jobs.add(str(uuid.uuid4()), {"state": "waiting", "percent": 1}, "c" * 500)
    assert (size("}:job:") + size("}:jobs:")) / NAMES <= 1200


def test_login_attempts(size) -> None:
    """Attempts from one address, each with a different name."""
    for number in range(2 * ADDRESS):
        login_limit.seconds_to_wait("192.0.2.1", f"name {number}")
    assert size("login:") <= 15_000


def test_login_attempts_from_a_48(size) -> None:
    for number in range(2 * IPV6_SITE):
        login_limit.seconds_to_wait(f"2001:db8:ffff:{0xFFFF - number:x}::1", f"name {number}")
    assert size("login:") <= 180_000
