"""The faults of our own tests, applied to the Channels tutorial's chat: its silent losses.

The table in docs/semantics.md claims no more than these tests assert: nobody is told of a loss,
some faults leave clients deaf, and many faults affect the tutorial as little as us.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tests.faults.test_failover import (
    REPLICATION,
    Pair,
    handed_over,
    master_demoted,
    master_killed,
    pair_of,
    shut_down_with_save,
)
from tests.faults.test_under_load import (
    connections_reset,
    flushed,
    full_of_clients,
    full_of_data,
    half_dead,
    killed_and_restarted,
    made_a_replica,
    one_byte_at_a_time,
    password_changed,
    refused,
    replies_lost,
    stopped_for_a_moment,
    stopped_for_long,
    stopped_longer_than_a_publish_waits,
    subscribers_cut,
    too_much_at_once,
    unreachable,
)
from tests.support.fault_proxy import FaultProxy
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.scene import FULL, Account, Break, Scene, Serve
from tests.support.tutorial import Tally, broken

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900 if FULL else 300)]

RUNS = 5 if FULL else 1
Fail = Callable[[Pair], Awaitable[None]]
Compare = Callable[[list[Tally]], None]


async def nothing(scene: Scene) -> None:
    """No fault: the load alone must lose nothing, or the comparison would not be fair."""
    await scene.load.run(10.0 if FULL else 1.0)


async def master_hangs(pair: Pair) -> None:
    """The master keeps its connections but stops responding, like a machine whose disk hangs."""
    pair.master.freeze()
    await pair.promote()


KEEPS: list[Break] = [
    nothing,
    stopped_for_a_moment,
    stopped_longer_than_a_publish_waits,
    stopped_for_long,
    one_byte_at_a_time,
    full_of_data,
    flushed,
    made_a_replica,
]
LOSES: list[Break] = [
    killed_and_restarted,
    shut_down_with_save,
    replies_lost,
    half_dead,
    too_much_at_once,
    full_of_clients,
    password_changed,
]
BY_LUCK: list[Break] = [subscribers_cut, connections_reset, unreachable, refused]
"""It loses what is published before it has reconnected: few messages, or none."""
FAILOVERS = [master_killed, handed_over, master_demoted, master_hangs]
LOSE_IN_FAILOVER = [master_killed, master_hangs]
LEAVE_DEAF = [master_demoted, master_hangs]
"""Its subscriptions stay on a server to which nobody publishes any more."""


@pytest.mark.parametrize(
    "break_it",
    [*KEEPS, *LOSES, *BY_LUCK] if FULL else [nothing, killed_and_restarted],
    ids=lambda fault: fault.__name__,
)
async def test_the_tutorial_loses_messages_silently(
    break_it: Break, own_redis: RedisServer, compare: Compare
) -> None:
    tallies = [await broken(own_redis, break_it) for _ in range(RUNS)]
    compare(tallies)
    lost = sum(each.lost for each in tallies)
    assert all(each.published for each in tallies)
    assert not any(each.disconnected or each.deaf for each in tallies)
    assert lost == 0 or break_it not in KEEPS
    assert lost > 0 or break_it not in LOSES


@pytest.mark.parametrize(
    "fail", FAILOVERS if FULL else [master_demoted], ids=lambda fail: fail.__name__
)
async def test_tutorial_clients_may_receive_nothing_after_a_failover(
    fail: Fail, compare: Compare
) -> None:
    tallies = [await failed_over(fail) for _ in range(RUNS)]
    compare(tallies)
    assert not any(each.disconnected for each in tallies)
    assert (sum(each.lost for each in tallies) > 0) == (fail in LOSE_IN_FAILOVER)
    assert all(each.deaf == (each.clients if fail in LEAVE_DEAF else 0) for each in tallies)


async def failed_over(fail: Fail) -> Tally:
    servers = [RedisServer(*REPLICATION, port=free_port()).start() for _ in range(2)]
    try:
        async with FaultProxy(("127.0.0.1", servers[0].port)) as link:

            async def follow_and_fail(scene: Scene) -> None:
                pair = Pair(scene, *servers, link)
                await pair.follow()
                await fail(pair)

            return await broken(servers[0], follow_and_fail)
    finally:
        for server in servers:
            server.stop()


async def test_our_clients_are_notified_when_the_master_hangs(
    serve: Serve, account: Account
) -> None:
    async with pair_of(serve, account) as pair:

        async def hangs(scene: Scene) -> None:
            async with scene.load.fault("the master hangs, the replica promoted", forgets=True):
                await master_hangs(pair)
                await scene.load.told()
                await scene.load.recovered()
            pair.replica.thaw()
            await pair.follow()

        await pair.scene.again_and_again(hangs)
