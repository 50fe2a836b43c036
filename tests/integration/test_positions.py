"""How long a counter lives in Redis, and which changes there end an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from realtime.brokers.commands import SCRIPTS, Commands
from realtime.brokers.redis_sync import SyncRedisBroker
from realtime.core.positions import Position
from realtime.core.publication import Publication
from realtime.wiring import Node
from tests.support.eventually import eventually_sync
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer

DAY_SECONDS = 86400
READ_SECONDS = 300
CLOSING_SECONDS = 300
BASE_CHANNELS = 100_000


@pytest.fixture
def direct(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client() as client:
        yield client


@pytest.fixture
def counter(wired: str) -> str:
    """The key of the counter of channel `c`."""
    return f"{wired}:{{0}}:pos:c"


async def test_a_used_counter_survives_a_one_day_clock_jump(
    node: Node, direct: redis.Redis, counter: str
) -> None:
    await node.broker.publish(Publication.of("c", 1))
    assert direct.ttl(counter) == 2 * DAY_SECONDS


async def test_reading_renews_a_used_counter(node: Node, direct: redis.Redis, counter: str) -> None:
    await node.broker.publish(Publication.of("c", 1))
    direct.expire(counter, 10)
    await node.broker.positions(["c"])
    extended = direct.ttl(counter)
    assert 305 <= extended <= 310, "by five minutes; a node with listeners reads each minute"
    direct.expire(counter, 2 * DAY_SECONDS - 10)
    await node.broker.positions(["c"])
    assert direct.ttl(counter) == 2 * DAY_SECONDS


async def test_a_stranger_keeps_counters_by_reading_them(
    node: Node, direct: redis.Redis, counter: str
) -> None:
    """One read in two days kept a counter, so those of a publishing client grew without an end."""
    await node.broker.publish(Publication.of("c", 1))
    for left in (DAY_SECONDS, 3600, 60):
        direct.expire(counter, left)
        await node.broker.positions(["c"])
        assert left < direct.ttl(counter) <= left + 300


async def test_subscribing_creates_no_key(node: Node, direct: redis.Redis, counter: str) -> None:
    """One client created 3,144 keys a second (ADR-0026)."""
    positions = await node.broker.positions(["c"] * 10)
    assert set(positions) == {Position(positions[0].epoch, 0)}
    assert not direct.exists(counter)


async def test_the_first_publication_continues_from_the_position_of_subscribers(
    node: Node, direct: redis.Redis, counter: str
) -> None:
    [before] = await node.broker.positions(["c"])
    receipt = await node.broker.publish(Publication.of("c", 1))
    assert Position(receipt.epoch, receipt.offset) == Position(before.epoch, 1)


@pytest.mark.parametrize("reads", [1, 2, 10])
async def test_reading_during_base_closure_keeps_a_counter_for_five_minutes(
    node: Node, direct: redis.Redis, counter: str, reads: int
) -> None:
    """Memory: a thousand subscribes a second keep at most 300,000 keys alive at any time."""
    [before] = await node.broker.positions(["c"])
    direct.hincrby(base_of(counter), "born", -DAY_SECONDS)
    assert await node.broker.positions(["c"] * reads) == [before] * reads
    assert direct.ttl(counter) == reads * READ_SECONDS


async def test_a_counter_without_publications_expires_like_any_other(
    node: Node, direct: redis.Redis, counter: str
) -> None:
    await node.broker.positions(["c"])
    direct.hincrby(base_of(counter), "born", -DAY_SECONDS)
    await node.broker.positions(["c"] * 1000)
    assert direct.ttl(counter) == 2 * DAY_SECONDS


async def test_subscribers_keep_their_epoch_when_the_base_is_replaced(
    node: Node, direct: redis.Redis, counter: str
) -> None:
    [before] = await node.broker.positions(["c"])
    direct.hincrby(base_of(counter), "born", -DAY_SECONDS)
    await node.broker.positions(["c"])  # as each node does once a minute
    direct.hincrby(base_of(counter), "closing", -CLOSING_SECONDS)
    [other] = await node.broker.positions(["d"])
    assert other.epoch != before.epoch
    receipt = await node.broker.publish(Publication.of("c", 1))
    assert Position(receipt.epoch, receipt.offset) == Position(before.epoch, 1)


async def test_the_base_is_replaced_when_it_remembers_too_many_channels(
    node: Node, direct: redis.Redis, counter: str
) -> None:
    await node.broker.positions(["c"])
    direct.hset(base_of(counter), mapping={f"{n:016x}": "" for n in range(BASE_CHANNELS)})
    await node.broker.positions(["c"])
    assert direct.exists(counter), "it does not close"
    direct.hincrby(base_of(counter), "closing", -CLOSING_SECONDS)
    await node.broker.positions(["d"])
    assert direct.hlen(base_of(counter)) < 10


def base_of(counter: str) -> str:
    """Return the key of the base of a counter."""
    return counter.removesuffix("pos:c") + "base"


class Pair:
    """A master and its replica, each with its own publisher."""

    def __init__(self) -> None:
        self.servers = [
            RedisServer("--repl-diskless-sync-delay", "0", port=free_port()) for _ in range(2)
        ]
        self._publishers = [SyncRedisBroker(server.start().url) for server in self.servers]

    def publish(self, at: int) -> Position:
        receipt = self._publishers[at].publish(Publication.of("c", 1))
        return Position(receipt.epoch, receipt.offset)

    def read(self, at: int) -> Position:
        """Return the position of a channel without publications."""
        with self.servers[at].client() as client:
            client.script_load(SCRIPTS.read_position.text)
            [command] = Commands("rt").read_positions(["quiet"])
            [answer] = client.execute_command(*command)
        if isinstance(answer, redis.RedisError):
            raise answer
        epoch, offset = answer.split(b" ")
        return Position(epoch, int(offset))

    def try_read(self, at: int) -> Position | None:
        try:
            return self.read(at)
        except redis.RedisError:  # it is loading
            return None

    def ask(self, at: int, *command: str) -> Any:
        with self.servers[at].client() as client:
            return client.execute_command(*command)

    def follow(self, replica: int, master: int) -> None:
        """Make one follow the other, and wait until it has caught up."""
        self.ask(replica, "REPLICAOF", "127.0.0.1", str(self.servers[master].port))
        self.ask(master, "SET", "witness", f"{replica} follows {master}")
        eventually_sync(lambda: self.has_followed(replica, master))

    def has_followed(self, replica: int, master: int) -> bool:
        try:
            return bool(self.ask(replica, "GET", "witness") == self.ask(master, "GET", "witness"))
        except redis.RedisError:  # it is loading
            return False

    def stop(self) -> None:
        for publisher in self._publishers:
            publisher.close()
        for server in self.servers:
            server.stop()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.stop()


def test_the_first_replica_ends_no_epoch(pair: Pair) -> None:
    """Redis then changes its replication id, although nothing is lost."""
    before, name = pair.publish(0), pair.ask(0, "INFO", "replication")["master_replid"]
    pair.follow(1, 0)
    assert pair.ask(0, "INFO", "replication")["master_replid"] != name
    assert pair.publish(0) == Position(before.epoch, before.offset + 1)


def test_an_hour_without_replicas_ends_no_epoch(pair: Pair) -> None:
    """Redis drops its backlog, and with it the replication id; the hour is one of its settings."""
    pair.follow(1, 0)
    before, name = pair.publish(0), pair.ask(0, "INFO", "replication")["master_replid"]
    pair.ask(0, "CONFIG", "SET", "repl-backlog-ttl", "1")
    pair.ask(1, "REPLICAOF", "NO", "ONE")
    eventually_sync(lambda: pair.ask(0, "INFO", "replication")["master_replid"] != name)
    assert pair.publish(0) == Position(before.epoch, before.offset + 1)


@pytest.mark.parametrize("forgets", [[], [["CONFIG", "RESETSTAT"]]])
def test_failover_and_failback_reuse_no_offset(pair: Pair, forgets: list[list[str]]) -> None:
    """The replica lacked the last two publications, and then became the master."""
    pair.publish(0)
    pair.follow(1, 0)
    pair.ask(1, "REPLICAOF", "127.0.0.1", "1")  # hears no more: it lags
    handed_out = [pair.publish(0), pair.publish(0)]
    pair.ask(1, "REPLICAOF", "NO", "ONE")
    pair.follow(0, 1)
    pair.ask(0, "REPLICAOF", "NO", "ONE")
    for command in forgets:
        pair.ask(0, *command)
    again = pair.publish(0)
    assert again not in handed_out
    assert again.epoch not in {position.epoch for position in handed_out}


@pytest.mark.parametrize("is_restart", [True, False])
def test_a_promotion_or_a_restart_ends_the_base_epoch(pair: Pair, is_restart: bool) -> None:
    """A listener at offset 0 without a key detects that publications may be missing."""
    before = pair.read(0)
    if is_restart:
        pair.servers[0].shut_down()  # with all that it knows on disk
        pair.servers[0].start()
    else:
        pair.follow(1, 0)
        pair.ask(1, "REPLICAOF", "NO", "ONE")
    after = eventually_sync(lambda: pair.try_read(0 if is_restart else 1))
    assert after.offset == before.offset == 0
    assert after.epoch != before.epoch


def test_a_replica_refuses_to_read_a_position(pair: Pair) -> None:
    """The replica would know its master's base, but not a publication from a moment ago."""
    pair.read(0)
    pair.follow(1, 0)
    with pytest.raises(redis.ReadOnlyError):
        pair.read(1)


def test_the_first_replica_ends_no_base_epoch(pair: Pair) -> None:
    before = pair.read(0)
    pair.follow(1, 0)
    assert pair.read(0) == before


def replication_id(pair: Pair, at: int) -> str:
    return str(pair.ask(at, "INFO", "replication")["master_replid"])


def test_resetting_statistics_does_not_hide_a_failback(pair: Pair) -> None:
    """The master returned with an older counter, and nobody had read the channel since.

    The number of bytes that it received from the other master is reset to 0, and after an hour it
    has forgotten that there was one: it looks like a master that was never anything else. When we
    tried it, (epoch, 2) was assigned twice.
    """
    pair.publish(0)
    pair.follow(1, 0)
    pair.ask(1, "REPLICAOF", "127.0.0.1", "1")  # hears no more: it lags
    handed_out = [pair.publish(0), pair.publish(0)]
    pair.ask(1, "REPLICAOF", "NO", "ONE")
    pair.follow(0, 1)
    pair.ask(0, "REPLICAOF", "NO", "ONE")
    pair.ask(0, "CONFIG", "RESETSTAT")
    promoted = replication_id(pair, 0)
    pair.ask(0, "CONFIG", "SET", "repl-backlog-ttl", "1")  # the hour
    eventually_sync(lambda: replication_id(pair, 0) != promoted)
    assert pair.publish(0).epoch not in {position.epoch for position in handed_out}
