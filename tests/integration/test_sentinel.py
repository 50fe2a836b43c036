"""Brokers and queues find the master that real sentinels name, and notice when it changes."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest

from realtime.brokers.redis import RedisBroker
from realtime.brokers.redis_sync import SyncRedisBroker
from realtime.brokers.sentinel_commands import TRUSTED_SECONDS
from realtime.core.publication import Publication, Receipt
from realtime.errors import BrokerUnavailable
from tests.support.eventually import eventually
from tests.support.machine import allowed
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.sentinels import NAME, Sentinel, SentinelSet, sentinel_set, watch
from tests.support.tls import Authority, TlsProxy

PASSWORD = "p@:/?#%s"


@pytest.fixture(scope="module")
def alone() -> Iterator[SentinelSet]:
    """A master and three sentinels, which have nothing to fail over to."""
    with sentinel_set(replicas=0) as made:
        yield made


Publish = Callable[[str], Awaitable[Receipt]]


@pytest.fixture
async def brokers() -> AsyncIterator[Callable[[str], tuple[RedisBroker, SyncRedisBroker]]]:
    """Create a broker for this event loop and one for threads."""
    made: list[tuple[RedisBroker, SyncRedisBroker]] = []

    def make(url: str) -> tuple[RedisBroker, SyncRedisBroker]:
        prefix = f"test-{secrets.token_hex(4)}"
        made.append((RedisBroker(url, prefix=prefix), SyncRedisBroker(url, prefix=prefix)))
        return made[-1]

    yield make
    for asynchronous, sync in made:
        await asynchronous.aclose()
        sync.close()


Brokers = Callable[[str], tuple[RedisBroker, SyncRedisBroker]]


def ways_to_publish(url: str, brokers: Brokers) -> list[Publish]:
    """Return functions that publish from this event loop, and from a thread."""
    asynchronous, sync = brokers(url)

    async def from_loop(channel: str) -> Receipt:
        return await asynchronous.publish(Publication.of(channel, 1))

    async def from_thread(channel: str) -> Receipt:
        return await asyncio.to_thread(sync.publish, Publication.of(channel, 1))

    return [from_loop, from_thread]


async def published_everywhere(url: str, brokers: Brokers) -> None:
    for publish in ways_to_publish(url, brokers):
        receipt = await publish("c")
        assert receipt.offset > 0


async def test_publishers_without_a_hub_follow_a_master_that_hands_over(brokers: Brokers) -> None:
    """The former master keeps their connections and accepts what they publish for ten seconds."""
    with sentinel_set() as found:
        ways = ways_to_publish(found.url, brokers)
        epochs = {(await publish("c")).epoch for publish in ways}
        async with found.switching() as switched:
            found.sentinels[0].ask("SENTINEL", "FAILOVER", NAME)
            at = await switched()
        with found.servers[0].client() as client:
            assert client.role()[0] == b"master", "the sentinels have not told it yet"

        async def have_moved() -> bool:
            return epochs.isdisjoint({(await publish("c")).epoch for publish in ways})

        await eventually(have_moved, seconds=TRUSTED_SECONDS)
        assert time.monotonic() - at < allowed(2, at)


async def test_a_frozen_sentinel_delays_nobody(alone: SentinelSet, brokers: Brokers) -> None:
    alone.sentinels[0].freeze()
    try:
        began = time.monotonic()
        await published_everywhere(alone.url, brokers)
        assert time.monotonic() - began < allowed(0.5, began)
    finally:
        alone.sentinels[0].thaw()


async def test_two_of_three_sentinels_may_be_frozen(alone: SentinelSet, brokers: Brokers) -> None:
    for each in alone.sentinels[:2]:
        each.freeze()
    try:
        await published_everywhere(alone.url, brokers)
    finally:
        for each in alone.sentinels[:2]:
            each.thaw()


@pytest.mark.parametrize("away", [Sentinel.freeze, Sentinel.kill])
async def test_without_any_sentinel_open_connections_work_and_no_others(
    away: Callable[[Sentinel], None], brokers: Brokers
) -> None:
    with sentinel_set(replicas=0) as found:
        ways = ways_to_publish(found.url, brokers)
        for publish in ways:
            await publish("c")
        for each in found.sentinels:
            away(each)
        for publish in ways:
            began = time.monotonic()
            while time.monotonic() < began + 1.2:  # longer than a connection is trusted
                await publish("c")
        for publish in ways_to_publish(found.url, brokers):
            with pytest.raises(BrokerUnavailable, match=f"no sentinel named the master '{NAME}'"):
                await publish("c")


async def test_a_subscription_outlives_all_sentinels(brokers: Brokers) -> None:
    with sentinel_set(replicas=0) as found:
        broker, _ = brokers(found.url)
        subscription = await broker.subscription()
        await subscription.send(["c"], [])
        await broker.publish(Publication.of("c", 1))
        for each in found.sentinels:
            each.kill()

        async def reaches_it() -> bool:
            return (await broker.publish(Publication.of("c", 1))).nodes == 1

        await eventually(reaches_it)
        await subscription.aclose()


async def test_a_sentinel_that_names_a_replica_misleads_nobody(brokers: Brokers) -> None:
    """As one does that was cut off during the last failover."""
    with sentinel_set() as found, ExitStack() as stack:
        liar = Sentinel(*watch(found.servers[1].port, quorum=5)).start()
        stack.callback(liar.stop)
        await eventually(liar.is_up)
        for publish in ways_to_publish(liar.url, brokers):
            with pytest.raises(BrokerUnavailable, match="is no master yet"):
                await publish("c")
        both = f"redis+sentinel://127.0.0.1:{liar.port},{found.addresses}/{NAME}"
        ways = ways_to_publish(both, brokers)
        for publish in ways:
            await publish("c")
        for each in found.sentinels:  # the liar is the only one that answers
            each.kill()
        for publish in ways:
            began = time.monotonic()
            while time.monotonic() < began + 1.2:  # longer than a connection is trusted
                await publish("c")


async def test_an_unknown_master_is_named(alone: SentinelSet, brokers: Brokers) -> None:
    url = f"redis+sentinel://{alone.addresses}/yourmaster"
    for publish in ways_to_publish(url, brokers):
        with pytest.raises(BrokerUnavailable, match="'yourmaster': No such master with that name"):
            await publish("c")


async def test_sentinels_and_master_have_passwords_of_their_own(brokers: Brokers) -> None:
    lines = ('requirepass "of sentinels"', f"sentinel auth-pass {NAME} ofmaster")
    with sentinel_set(*lines, sentinels=1, replicas=0, password="of sentinels") as found:
        with found.master.client() as client:
            client.config_set("requirepass", PASSWORD)
        user, query = f":{quote(PASSWORD, safe='')}@", "sentinel_password=of%20sentinels"
        await published_everywhere(
            f"redis+sentinel://{user}{found.addresses}/{NAME}?{query}", brokers
        )
        for wrong in (f"{found.addresses}/{NAME}?{query}", f"{user}{found.addresses}/{NAME}"):
            for publish in ways_to_publish(f"redis+sentinel://{wrong}", brokers):
                with pytest.raises(BrokerUnavailable, match=r"(?i)auth"):
                    await publish("c")


async def test_sentinels_and_master_are_reached_by_tls(tmp_path: Path, brokers: Brokers) -> None:
    ours = Authority(tmp_path, "ours")
    with ExitStack() as stack:
        redis = RedisServer(port=free_port()).start()
        stack.callback(redis.stop)
        tls = stack.enter_context(TlsProxy(redis, ours.server()))
        sentinel = Sentinel(*watch(tls.port)).start()
        stack.callback(sentinel.stop)
        await eventually(sentinel.is_up)
        front = stack.enter_context(TlsProxy(sentinel, ours.server()))
        url = f"rediss+sentinel://127.0.0.1:{front.port}/{NAME}/2?ssl_ca_certs={ours.file}"
        await published_everywhere(url, brokers)
        theirs = Authority(tmp_path, "theirs")
        for publish in ways_to_publish(url.replace(str(ours.file), str(theirs.file)), brokers):
            await eventually(partial(is_told, publish, "certificate verify failed"))


async def is_told(publish: Publish, why: str) -> bool:
    """Return whether a publish fails for this reason; on a busy machine, time may end before."""
    with pytest.raises(BrokerUnavailable) as failure:
        await publish("c")
    return why in str(failure.value)


def test_a_forked_process_publishes_while_its_parent_looks_for_the_master(
    alone: SentinelSet,
) -> None:
    """The thread that asks the sentinels holds a lock, which nobody would release in the child."""
    prefix = f"test-{secrets.token_hex(4)}"
    sync = SyncRedisBroker(alone.url, prefix=prefix, deadline_seconds=5)
    until = time.monotonic() + 1.5  # a lookup begins, and lasts for half a second

    def publish() -> None:
        while time.monotonic() < until:
            sync.publish(Publication.of("c", 1))

    sync.publish(Publication.of("c", 1))
    publishing = threading.Thread(target=publish)
    for each in alone.sentinels:
        each.freeze()
    try:
        publishing.start()
        children = []
        while time.monotonic() < until:
            children.append(forked(partial(sync.publish, Publication.of("c", 1))))
            time.sleep(0.1)  # so that one of them begins during the lookup
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(children)
    finally:
        publishing.join()
        for each in alone.sentinels:
            each.thaw()
        sync.close()


AT_EXIT = """
import atexit, sys
from realtime.brokers.redis_sync import SyncRedisBroker
from realtime.core.publication import Publication
from realtime.errors import BrokerUnavailable

def publish():
    try:
        SyncRedisBroker(sys.argv[1], prefix="t").publish(Publication.of("c", 1))
    except BrokerUnavailable as error:
        print(error)

atexit.register(publish)
"""


def test_a_process_that_shuts_down_is_told_that_nothing_was_published(alone: SentinelSet) -> None:
    """Python starts no more threads by then, and says so with a RuntimeError."""
    done = subprocess.run(
        [sys.executable, "-c", AT_EXIT, alone.url], capture_output=True, timeout=60, check=True
    )
    assert b"after interpreter shutdown" in done.stdout
    assert done.stderr == b""


def forked(call: Callable[[], object]) -> int:
    """Call this in a forked process, and return its id; its status tells whether that failed."""
    if (child := os.fork()) == 0:
        status = 1
        try:
            call()
            status = 0
        finally:
            os._exit(status)
    return child
