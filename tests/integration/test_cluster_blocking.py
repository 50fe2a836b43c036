"""The broker for threads on real clusters, whose slots move and whose masters die."""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any

import pytest

from notifier import login_limit
from realtime import wiring
from realtime.brokers import ALL_NODES
from realtime.brokers.cluster.blocking import SyncClusterBroker
from realtime.brokers.cluster.blocking_links import CONNECTIONS
from realtime.core.partitions import PARTITIONS, Partition, partition_of
from realtime.core.publication import Publication, Receipt
from realtime.core.survey import Question
from realtime.errors import (
    BrokerUnavailable,
    ConfigurationError,
    IdempotencyConflict,
    OutcomeUnknown,
    QueueFull,
)
from tests.support.eventually import eventually_sync
from tests.support.machine import allowed
from tests.support.ports import free_port
from tests.support.redis_cluster import PATIENT_SECONDS, ClusterNode, ClusterSet, cluster_set
from tests.support.redis_server import DEBIAN, USUAL, RedisServer

HASTY_SECONDS = 0.5
"""A deadline for what must be missed."""
CONTROL = partition_of(ALL_NODES)
Make = Callable[..., SyncClusterBroker]


@pytest.fixture(scope="module", params=["usual", pytest.param("system", marks=pytest.mark.redis)])
def cluster(request: pytest.FixtureRequest) -> Iterator[ClusterSet]:
    """A cluster whose slots may be moved, and whose masters may be frozen for a second."""
    program = USUAL if request.param == "usual" else DEBIAN or "redis-server"
    with cluster_set(3, program=program, node_timeout_ms=15_000) as made:
        yield made


@pytest.fixture
def make() -> Iterator[Make]:
    """Create brokers with a prefix of this test."""
    prefix = f"test-{secrets.token_hex(4)}"
    made: list[SyncClusterBroker] = []

    def create(url: str, seconds: float = PATIENT_SECONDS, **options: Any) -> SyncClusterBroker:
        made.append(SyncClusterBroker(url, prefix=prefix, deadline_seconds=seconds, **options))
        return made[-1]

    yield create
    for each in made:
        each.close()


@pytest.fixture
def broker(cluster: ClusterSet, make: Make) -> SyncClusterBroker:
    return make(cluster.url)


def channel_in(partition: Partition, number: int = 0) -> str:
    """Return a channel of a partition: the first one, or a later one."""
    names = (f"c{each}" for each in count())
    found = (name for name in names if partition_of(name) is partition)
    return next(name for at, name in enumerate(found) if at == number)


ONE_OF_EACH = [channel_in(each) for each in PARTITIONS]
"""A channel of each partition."""


def owner_of(cluster: ClusterSet, channel: str) -> ClusterNode:
    owner = cluster.owner_of(partition_of(channel).slot)
    assert owner is not None
    return owner


def other_master(cluster: ClusterSet, owner: ClusterNode) -> ClusterNode:
    return next(each for each in cluster.masters() if each is not owner)


@contextmanager
def frozen(*nodes: ClusterNode) -> Iterator[None]:
    for each in nodes:
        each.freeze()
    try:
        yield
    finally:
        for each in nodes:
            each.thaw()


# ------------------------------------------------------- what is in which partition


def test_each_item_of_a_batch_has_its_own_receipt(broker: SyncClusterBroker) -> None:
    channels = [*ONE_OF_EACH, *reversed(ONE_OF_EACH), *ONE_OF_EACH]
    receipts = broker.publish_many([Publication.of(each, 1) for each in channels])
    assert [each.offset for each in receipts] == [1] * 64 + [2] * 64 + [3] * 64
    epochs = {channel: each.epoch for channel, each in zip(channels, receipts, strict=True)}
    assert [each.epoch for each in receipts] == [epochs[channel] for channel in channels]
    positions = broker.positions([*channels, "unused"])
    assert [(each.epoch, each.offset) for each in positions[:-1]] == [
        (epochs[channel], 3) for channel in channels
    ]
    assert positions[-1].offset == 0
    assert broker.publish(Publication.of(channels[0], 1)).offset == 4


def test_nothing_is_published_in_an_empty_batch(broker: SyncClusterBroker) -> None:
    assert broker.publish_many([]) == []
    assert broker.positions([]) == []


def test_a_node_at_the_master_receives_what_is_published(
    cluster: ClusterSet, broker: SyncClusterBroker
) -> None:
    [position] = broker.positions(["c"])
    prefix = broker.beside("", "").partition(":")[0]
    name = f"{prefix}:{{{partition_of('c').tag}}}:ch:c"
    with owner_of(cluster, "c").client() as client, client.pubsub() as pubsub:
        pubsub.ssubscribe(name)
        eventually_sync(lambda: pubsub.get_sharded_message(ignore_subscribe_messages=False))
        receipt = broker.publish(Publication.of("c", {"n": 1}))
        assert (receipt.epoch, receipt.offset, receipt.nodes) == (position.epoch, 1, 1)
        message = eventually_sync(lambda: pubsub.get_sharded_message(timeout=0.1))
        assert b'{"n":1}' in message["data"]
        assert pubsub.get_sharded_message(timeout=0.1) is None


def test_what_one_item_is_refused_for_does_not_concern_the_others(
    broker: SyncClusterBroker,
) -> None:
    one, other = ONE_OF_EACH[:2]
    broker.publish(Publication.of(one, 1, idempotency_key="k"))
    items = [
        Publication.of(one, 2, idempotency_key="k"),
        Publication.of(one, 1, idempotency_key="k"),
        Publication.of(other, 2, idempotency_key="k"),
    ]
    conflict, repeated, first = broker.publish_many(items)
    assert isinstance(conflict, IdempotencyConflict)
    assert isinstance(repeated, Receipt)
    assert repeated.repeated
    assert isinstance(first, Receipt)
    assert not first.repeated


def test_the_parts_of_the_queue_are_shown_as_one(cluster: ClusterSet, make: Make) -> None:
    broker = make(cluster.url, queue_items=200)  # 3 in each partition
    channels = [channel for channel in ONE_OF_EACH for _ in range(3)]
    queued = broker.publish_many([Publication.of(each, 1, fallback="f") for each in channels])
    assert all(isinstance(each, Receipt) and each.queued for each in queued)
    with pytest.raises(QueueFull):
        broker.publish(Publication.of(channels[0], 1, fallback="f"))
    stats = broker.queue_stats()
    assert (stats.waiting, stats.hands, stats.dead) == (len(channels), 0, 0)
    assert stats.oldest_seconds > 0

    entries = broker.queue_page("waiting", 0, 1000)
    assert len(set(entries)) == len(channels)
    assert stats.bytes == sum(map(len, entries))
    for start, number in [(0, 4), (2, 1), (4, 100), (190, 10), (192, 10), (500, 10)]:
        assert broker.queue_page("waiting", start, number) == entries[start : start + number]
    assert broker.queue_page("later", 0, 10) == broker.queue_page("dead", 0, 10) == []

    assert broker.move_entry("waiting", entries[5])
    assert not broker.move_entry("waiting", entries[5])
    assert broker.move_entry("waiting", entries[0], entries[0])
    assert broker.queue_stats().waiting == len(channels) - 1


def test_an_entry_that_names_no_channel_is_found(
    cluster: ClusterSet, broker: SyncClusterBroker
) -> None:
    prefix = broker.beside("", "").partition(":")[0]
    partition = PARTITIONS[40]
    owner = cluster.owner_of(partition.slot)
    assert owner is not None
    owner.ask("RPUSH", f"{prefix}:{{{partition.tag}}}:fallback:dead", b"junk")
    assert broker.queue_page("dead", 0, 10) == [b"junk"]
    assert broker.move_entry("dead", b"junk")
    assert not broker.move_entry("dead", b"junk")


def test_what_concerns_all_nodes_is_in_one_partition(broker: SyncClusterBroker) -> None:
    assert f"{{{CONTROL.tag}}}" in broker.beside("job:", "1")
    key = broker.beside("job:", "1")
    assert broker.ask([("SET", key, 1), ("INCRBY", key, 2), ("GET", key)]) == [b"OK", 3, b"3"]
    with pytest.raises(BrokerUnavailable, match="WRONGTYPE"):
        broker.ask([("LPUSH", key, 1)])
    broker.send_node_command(b"{}")
    answers = broker.survey(Question("0123456789abcdef", "nodes"))
    assert answers == ([], 0)
    assert broker.take_from_rate("k", 1.0, 1) == 0.0
    assert broker.take_from_rate("k", 1.0, 1) > 0.0
    assert broker.members("c") == {}
    assert broker.headcount("c") == (0, 0)


# ------------------------------------------------------- slots that move


class Publishers:
    """Threads that publish on some channels, alone and in batches, until they are stopped."""

    def __init__(self, broker: SyncClusterBroker, channels: list[str], threads: int = 4) -> None:
        self.offsets: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        """Of all receipts, by channel and epoch."""
        self.errors: list[Exception] = []
        self._broker = broker
        self._channels = channels
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._publish) for _ in range(threads)]

    def __enter__(self) -> Publishers:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        for each in self._threads:
            each.join()

    def _publish(self) -> None:
        while not self._is_over.is_set():
            items = [Publication.of(each, 1) for each in self._channels]
            try:
                receipts: list[Any] = [self._broker.publish(items[0])]
                receipts += self._broker.publish_many(items)
            except Exception as error:  # noqa: BLE001 - the test looks at it
                self.errors.append(error)
                return
            for channel, receipt in zip([items[0].channel, *self._channels], receipts, strict=True):
                if isinstance(receipt, Receipt):
                    self.offsets[channel, receipt.epoch].append(receipt.offset)
                else:
                    self.errors.append(receipt)

    def check(self, broker: SyncClusterBroker) -> None:
        """Check that each publication was executed once, and that each caller knows it."""
        assert self.errors == []
        for offsets in self.offsets.values():
            # One that was executed and not reported would leave out an offset.
            assert sorted(offsets) == list(range(1, len(offsets) + 1))
        positions = broker.positions(self._channels)
        for channel, position in zip(self._channels, positions, strict=True):
            assert position.offset == len(self.offsets[channel, position.epoch])


def test_slots_move_while_threads_publish(cluster: ClusterSet, broker: SyncClusterBroker) -> None:
    """Nothing is lost, nothing is published twice, and nobody notices."""
    channels = [f"c{number}" for number in range(200)]
    owner = owner_of(cluster, channels[0])
    target = other_master(cluster, owner)
    slots = {partition_of(each).slot for each in channels} & set(cluster.slots_of(owner))
    with Publishers(broker, channels) as publishers:
        eventually_sync(lambda: len(publishers.offsets) >= len(channels))
        cluster.move_slots(sorted(slots), owner, target)
        cluster.move_slots(sorted(slots), target, owner)
    publishers.check(broker)
    assert len(publishers.offsets) > len(channels), "no slot has moved"


def test_only_what_was_refused_is_sent_to_the_importing_master(
    cluster: ClusterSet, broker: SyncClusterBroker
) -> None:
    """It would create the key that the other master still has, and count from 1 again."""
    old, new = broker.beside("test:", "old"), broker.beside("test:", "new")
    owner = owner_of(cluster, ALL_NODES)
    target = other_master(cluster, owner)
    assert broker.ask([("INCRBY", old, 1)]) == [1]
    with cluster.moving(owner, target) as move:
        move.begin(CONTROL.slot)
        replies = broker.ask([("INCRBY", old, 1), ("INCRBY", new, 1), ("INCRBY", old, 1)])
        assert replies == [2, 1, 3]
        # Also where the script is missing.
        target.ask("SCRIPT", "FLUSH")
        broker.send_node_command(b"{}")
        move.migrate_keys(CONTROL.slot)
        assert broker.ask([("INCRBY", old, 1), ("INCRBY", new, 1)]) == [4, 2]
        move.end(CONTROL.slot)
    cluster.wait_until_ready()
    assert broker.ask([("GET", old), ("GET", new)]) == [b"4", b"2"]
    cluster.move_slots([CONTROL.slot], target, owner)
    assert broker.ask([("GET", old), ("GET", new)]) == [b"4", b"2"]


def test_a_script_whose_keys_are_at_two_masters_waits_for_the_end(
    cluster: ClusterSet, broker: SyncClusterBroker
) -> None:
    """A new idempotency key exists nowhere, and the channel's position does: TRYAGAIN."""
    slot = partition_of("c").slot
    owner = owner_of(cluster, "c")
    target = other_master(cluster, owner)
    broker.publish(Publication.of("c", 1))
    with ThreadPoolExecutor(2) as threads, cluster.moving(owner, target) as move:
        move.begin(slot)
        with_key = threads.submit(broker.publish, Publication.of("c", 1, idempotency_key="k"))
        elsewhere = channel_in(partition_of("c"), 1)
        many = threads.submit(broker.publish_many, [Publication.of(elsewhere, 1)])
        time.sleep(0.2)
        assert not with_key.done()
        assert not many.done()
        move.migrate_keys(slot)
        move.end(slot)
        assert with_key.result().offset == 1  # of a new epoch
        assert [each.offset for each in many.result()] == [1]
    cluster.wait_until_ready()
    cluster.move_slots([slot], target, owner)


def test_a_slot_that_does_not_come_to_rest_is_refused_at_the_deadline(
    cluster: ClusterSet, make: Make
) -> None:
    broker = make(cluster.url, HASTY_SECONDS)
    slot = partition_of("c").slot
    owner = owner_of(cluster, "c")
    target = other_master(cluster, owner)
    healthy = next(each for each in ONE_OF_EACH if partition_of(each).slot != slot)
    broker.positions(["c"])
    broker.publish(Publication.of(healthy, 1))
    with cluster.moving(owner, target) as move:
        move.begin(slot)
        with pytest.raises(BrokerUnavailable):
            broker.publish(Publication.of("c", 1))
        refused, published = broker.publish_many(
            [Publication.of("c", 1), Publication.of(healthy, 1)]
        )
        assert isinstance(refused, BrokerUnavailable)
        assert published.offset == 2
        move.migrate_keys(slot)
        move.end(slot)
    cluster.wait_until_ready()
    assert broker.positions(["c"])[0].offset == 0
    cluster.move_slots([slot], target, owner)


# ------------------------------------------------------- masters that do not answer


def test_a_frozen_master_leaves_the_outcome_of_its_items_unknown(
    cluster: ClusterSet, make: Make
) -> None:
    broker = make(cluster.url, HASTY_SECONDS)
    items = [Publication.of(each, 1) for each in ONE_OF_EACH]
    broker.publish_many(items)
    owner = owner_of(cluster, ONE_OF_EACH[0])
    theirs = {each for each in ONE_OF_EACH if owner_of(cluster, each) is owner}
    with frozen(owner):
        began = time.monotonic()
        found = broker.publish_many(items)
        assert time.monotonic() - began < allowed(2 * HASTY_SECONDS, began)
        for channel, outcome in zip(ONE_OF_EACH, found, strict=True):
            assert isinstance(outcome, OutcomeUnknown if channel in theirs else Receipt)
        # It accepts new connections, but answers to nobody, so nothing is sent on them.
        with pytest.raises(BrokerUnavailable):
            broker.publish_many([each for each in items if each.channel in theirs])
        with pytest.raises(BrokerUnavailable):
            broker.publish(items[0])
        with pytest.raises(BrokerUnavailable):
            broker.queue_stats()
        positions = broker.positions(ONE_OF_EACH)
        for channel, position in zip(ONE_OF_EACH, positions, strict=True):
            assert isinstance(position, BrokerUnavailable) is (channel in theirs)
    # It carries out what it has received.
    eventually_sync(lambda: broker.positions(ONE_OF_EACH[:1])[0].offset == 2)


def test_a_master_and_its_replica_change_roles_while_threads_publish(make: Make) -> None:
    with cluster_set(3, 3) as cluster:
        broker = make(cluster.url)
        owner = owner_of(cluster, ONE_OF_EACH[0])
        with Publishers(broker, ONE_OF_EACH) as publishers:
            eventually_sync(lambda: len(publishers.offsets) >= len(ONE_OF_EACH))
            cluster.failover(cluster.replica_of(owner))
            eventually_sync(lambda: len(publishers.offsets) > len(ONE_OF_EACH))
        publishers.check(broker)
        assert owner_of(cluster, ONE_OF_EACH[0]) is not owner


def test_one_master_is_killed_and_replaced(make: Make) -> None:
    """What is sent to nobody is certainly not published, and others go on."""
    with cluster_set(3, 3, node_timeout_ms=1000, requires_full_coverage=False) as cluster:
        broker = make(cluster.url, HASTY_SECONDS)
        patient = make(cluster.url, 30.0)
        items = [Publication.of(each, 1) for each in ONE_OF_EACH]
        broker.publish_many(items)
        owner = owner_of(cluster, ONE_OF_EACH[0])
        theirs = {each for each in ONE_OF_EACH if owner_of(cluster, each) is owner}
        healthy = [each for each in items if each.channel not in theirs]
        owner.kill()
        with pytest.raises(BrokerUnavailable, match="onnect"):
            broker.publish(items[0])
        found = broker.publish_many(items)
        for channel, outcome in zip(ONE_OF_EACH, found, strict=True):
            assert isinstance(outcome, BrokerUnavailable if channel in theirs else Receipt)
        assert [each.offset for each in broker.publish_many(healthy)] == [3] * len(healthy)
        # A patient one finds the replica that takes over.
        assert patient.publish(items[0]).offset == 1
        cluster.wait_until_ready()
        found = patient.publish_many(items)
        assert Counter(each.offset for each in found) == {4: len(healthy), 1: len(theirs) - 1, 2: 1}
        # The hasty one asks again where the slots are, which may take longer than it has.
        assert eventually_sync(lambda: broker.publish(items[0])).offset == 3


def test_a_connection_that_ends_between_command_and_reply_leaves_it_unknown(make: Make) -> None:
    with cluster_set(3) as cluster:
        broker = make(cluster.url)
        broker.publish(Publication.of("c", 1))
        owner = owner_of(cluster, "c")
        with ThreadPoolExecutor(1) as threads, frozen(owner):
            publishing = threads.submit(broker.publish, Publication.of("c", 1))
            time.sleep(0.3)
            assert not publishing.done()
            owner.kill()
            with pytest.raises(OutcomeUnknown):
                publishing.result()


def test_without_any_node_nothing_is_published(make: Make) -> None:
    broker = make("redis+cluster://127.0.0.1:1,127.0.0.1:2", HASTY_SECONDS)
    with pytest.raises(BrokerUnavailable, match=r"no node of the cluster answered.*REDIS_URL"):
        broker.publish(Publication.of("c", 1))
    with pytest.raises(BrokerUnavailable):
        broker.publish_many([Publication.of(each, 1) for each in ONE_OF_EACH])
    with pytest.raises(BrokerUnavailable):
        broker.positions(ONE_OF_EACH)


def test_a_server_without_cluster_support_is_refused_by_name(make: Make) -> None:
    server = RedisServer(port=free_port()).start()
    try:
        broker = make(f"redis+cluster://127.0.0.1:{server.port}", HASTY_SECONDS)
        with pytest.raises(BrokerUnavailable, match="cluster support disabled"):
            broker.publish(Publication.of("c", 1))
    finally:
        server.stop()


def test_each_node_gets_the_password(make: Make) -> None:
    with cluster_set(2, password="p@:/?#%s") as cluster:
        broker = make(cluster.url)
        found = broker.publish_many([Publication.of(each, 1) for each in ONE_OF_EACH])
        assert [each.offset for each in found] == [1] * len(ONE_OF_EACH)
        without = make(f"redis+cluster://{cluster.servers[0].address}", HASTY_SECONDS)
        with pytest.raises(BrokerUnavailable, match=r"[Aa]uthentication required"):
            without.publish(Publication.of("c", 1))


# ------------------------------------------------------- threads and processes


def test_many_threads_publish_at_the_same_time(broker: SyncClusterBroker) -> None:
    """More threads than connections to a master: some wait for others."""
    channels = ONE_OF_EACH[:20]
    rounds = 10

    def publish(_: int) -> list[Receipt]:
        found: list[Any] = []
        for _ in range(rounds):
            found += broker.publish_many([Publication.of(each, 1) for each in channels])
            found.append(broker.publish(Publication.of(channels[0], 1)))
        return found

    threads = 2 * CONNECTIONS
    with ThreadPoolExecutor(threads) as pool:
        receipts = [each for found in pool.map(publish, range(threads)) for each in found]
    assert len(receipts) == threads * rounds * (len(channels) + 1)
    offsets = [each.offset for each in broker.positions(channels)]
    assert offsets == [2 * threads * rounds, *[threads * rounds] * (len(channels) - 1)]


def test_threads_do_not_open_more_connections_than_they_may(
    cluster: ClusterSet, broker: SyncClusterBroker
) -> None:
    owner = owner_of(cluster, "c")

    def connections() -> int:
        return len(owner.ask("CLIENT", "LIST", "TYPE", "NORMAL").splitlines())

    def publish(_: int) -> None:
        broker.publish(Publication.of("c", 1))

    publish(0)
    before = connections()
    with ThreadPoolExecutor(2 * CONNECTIONS) as pool:
        list(pool.map(publish, range(10 * CONNECTIONS)))
    assert connections() - before < CONNECTIONS // len(cluster.masters())
    broker.close()
    eventually_sync(lambda: connections() < before)
    publish(0)  # after all


# An interrupted attempt to connect leaves its socket to the collector, which closes it.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_an_interrupted_thread_leaves_no_reply_to_the_next(
    cluster: ClusterSet, broker: SyncClusterBroker
) -> None:
    """A time limit of Celery is raised by a signal, anywhere: also between command and reply."""

    class TimeLimit(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise TimeLimit

    def read_until_interrupted() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        broker.positions(ONE_OF_EACH)

    owner, key = owner_of(cluster, ALL_NODES), broker.beside("test:", "key")
    broker.ask([("SET", key, "witness")])
    broker.publish_many([Publication.of(each, 1) for each in ONE_OF_EACH])
    broker.positions(ONE_OF_EACH)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with frozen(owner), ThreadPoolExecutor(1) as threads:
            for _ in range(CONNECTIONS + 1):  # none of the connections is lost, either
                with pytest.raises(TimeLimit):
                    read_until_interrupted()
            next_one = threads.submit(broker.ask, [("GET", key)])
            time.sleep(0.1)
            owner.thaw()
            assert next_one.result() == [b"witness"]
    finally:
        signal.signal(signal.SIGALRM, before)
    receipts = broker.publish_many([Publication.of(each, 2) for each in ONE_OF_EACH])
    assert [each.offset for each in receipts] == [2] * len(ONE_OF_EACH)


def test_a_forked_process_publishes_on_connections_of_its_own(
    broker: SyncClusterBroker,
) -> None:
    channels = ONE_OF_EACH[:10]
    number = broker.ask([("CLIENT", "ID")])

    def compare() -> None:
        assert broker.ask([("CLIENT", "ID")]) != number

    assert os.waitpid(forked(compare), 0)[1] == 0
    with Publishers(broker, channels) as publishers:
        eventually_sync(lambda: len(publishers.offsets) >= len(channels))
        children = [
            forked(partial(broker.publish_many, [Publication.of("of-children", 1)] * 10))
            for _ in range(5)
        ]
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(children)
    publishers.check(broker)
    assert broker.positions(["of-children"])[0].offset == 50


def test_a_forked_process_publishes_while_its_parent_looks_for_the_masters(
    cluster: ClusterSet, broker: SyncClusterBroker
) -> None:
    """The thread that asks the nodes holds a lock, which nobody would release in the child."""
    with ThreadPoolExecutor(1) as threads:
        with frozen(*cluster.masters()):
            parent = threads.submit(broker.publish, Publication.of("c", 1))
            time.sleep(0.2)  # its question takes half a second
            child = forked(partial(broker.publish, Publication.of("c", 1)))
            time.sleep(0.1)
        began = time.monotonic()
        assert os.waitpid(child, 0)[1] == 0
        assert time.monotonic() - began < allowed(PATIENT_SECONDS / 2, began)
        parent.result()
    assert broker.positions(["c"])[0].offset == 2


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


# ------------------------------------------------------- the app


@pytest.fixture
def wired_cluster(cluster: ClusterSet, settings: Any) -> str:
    """Point the app to the cluster, under a separate prefix; return the prefix."""
    settings.REALTIME_REDIS_URL = cluster.url
    settings.REALTIME_REDIS_PREFIX = f"test-{secrets.token_hex(4)}"
    return str(settings.REALTIME_REDIS_PREFIX)


@pytest.mark.usefixtures("wired_cluster")
def test_the_app_publishes_to_the_cluster() -> None:
    assert isinstance(wiring.sync_broker(), SyncClusterBroker)
    assert wiring.sync_broker() is wiring.redis_broker()
    assert wiring.sync_broker().publish(Publication.of("c", 1)).offset == 1


@pytest.mark.usefixtures("wired_cluster")
def test_attempts_to_log_in_are_counted_in_the_cluster() -> None:
    def attempt() -> int:
        return login_limit.seconds_to_wait("2001:db8::1", "ada", lambda: "7")

    assert [attempt() for _ in range(5)] == [0] * 5
    login_limit.forget("2001:db8::1", "ada", "7")
    assert [attempt() for _ in range(5)] == [0] * 5
    assert attempt() > 0


def test_a_test_run_is_refused_a_prefix_of_others(wired_cluster: str, settings: Any) -> None:
    settings.REALTIME_REDIS_PREFIX = f"site-{secrets.token_hex(4)}"
    broker = wiring.redis_broker()
    broker.ask([("SET", broker.beside("service", ""), "x")])
    with pytest.raises(ConfigurationError, match="a service or a fallback worker"):
        wiring.sync_broker()
