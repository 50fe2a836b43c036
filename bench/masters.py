"""What one Redis carries, and three masters of a cluster: `python -m bench.masters`.

Counted is the CPU time of Redis' main threads, by their own account (INFO cpu), because a machine
may have fewer processors than a cluster has masters. What all of them can carry is decided by the
busiest one. A node is a connection that has subscribed to all channels, and only reads.
"""

from __future__ import annotations

import argparse
import asyncio
import selectors
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import redis
from redis.connection import Connection

from bench import report
from bench.redis import private_redis
from realtime.brokers.cluster.broker import ClusterBroker
from realtime.brokers.commands import Commands
from realtime.brokers.redis import RedisBroker
from realtime.core.partitions import PARTITIONS, WHOLE, Partition, partition_of
from realtime.core.publication import Publication
from tests.support.redis_cluster import cluster_set

NODES = (1, 4, 16)
IN_EACH_PARTITION = 3
ALONE, TOGETHER = 5000, 20_000
"""Publications that are sent when the last one was answered, and in flight 256 at a time."""
IN_FLIGHT = 256
DATA = "x" * 100


def _channels() -> list[str]:
    """Return channels of all partitions alike, as many channels are on average."""
    found: dict[int, list[str]] = {each.number: [] for each in PARTITIONS}
    for name in (f"public:{number}" for number in range(2000)):
        found[partition_of(name).number].append(name)
    return [name for names in found.values() for name in names[:IN_EACH_PARTITION]]


CHANNELS = _channels()


class Target:
    """One Redis, or a cluster."""

    def __init__(
        self, url: str, masters: Sequence[str], owner_of: Callable[[Partition], str]
    ) -> None:
        """Describe it.

        Args:
            url: For a broker.
            masters: The URL of each master.
            owner_of: Returns the URL of the master of a partition.
        """
        self.url = url
        self.masters = masters
        self.owner_of = owner_of
        self.is_cluster = len(masters) > 1

    def cpu_seconds(self) -> list[float]:
        """Return the CPU time of the main thread of each master."""
        return [_main_thread(url) for url in self.masters]


@contextmanager
def one_redis() -> Iterator[Target]:
    with private_redis() as url:
        yield Target(url, [url], lambda _: url)


@contextmanager
def three_masters() -> Iterator[Target]:
    with cluster_set(3, 0) as found:
        owners = {each.number: found.owner_of(each.slot) for each in PARTITIONS}

        def owner_of(partition: Partition) -> str:
            owner = owners[partition.number]
            assert owner is not None
            return owner.url

        yield Target(found.url, [each.url for each in found.servers], owner_of)


def _main_thread(url: str) -> float:
    with redis.Redis.from_url(url) as client:
        info: Any = client.info("cpu")
    return float(info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"])


@contextmanager
def listening(target: Target, nodes: int) -> Iterator[None]:
    """Let this many nodes subscribe to all channels and read what they get."""
    kind = "SSUBSCRIBE" if target.is_cluster else "SUBSCRIBE"
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(nodes):
            here: dict[str, Connection] = {}
            for name in CHANNELS:
                partition = partition_of(name) if target.is_cluster else WHOLE
                url = target.owner_of(partition)
                if url not in here:
                    pool = redis.ConnectionPool.from_url(url, protocol=2)  # a reply, not a push
                    stack.callback(pool.disconnect)
                    connection: Any = pool.make_connection()
                    connection.connect()
                    stack.callback(connection.disconnect)
                    selector.register(connection._sock, selectors.EVENT_READ)
                    here[url] = connection
                commands = Commands("rt", partition, queue_items=1, queue_bytes=1)
                here[url].send_command(kind, *commands.redis_channels([name]))
                here[url].read_response()
        is_over = threading.Event()

        def read() -> None:
            while not is_over.is_set():
                for key, _ in selector.select(0.05):
                    key.fileobj.recv(1 << 20)  # type: ignore[union-attr]

        reading = threading.Thread(target=read)
        reading.start()
        try:
            yield
        finally:
            is_over.set()
            reading.join()


async def publish(target: Target, nodes: int, count: int, in_flight: int) -> list[float]:
    """Publish, and return the CPU µs of each master for a publication, on average over all."""
    make = ClusterBroker if target.is_cluster else RedisBroker
    broker = make(target.url, deadline_seconds=10)
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            name = CHANNELS[number % len(CHANNELS)]
            receipt = await broker.publish(Publication.of(name, DATA))
            assert receipt.nodes == nodes, receipt

    try:
        await work_on(range(len(CHANNELS)), broker)  # epochs, scripts, connections
        before = await asyncio.to_thread(target.cpu_seconds)
        await asyncio.gather(*[work() for _ in range(in_flight)])
        after = await asyncio.to_thread(target.cpu_seconds)
    finally:
        await broker.aclose()
    return [(b - a) / count * 1e6 for a, b in zip(before, after, strict=True)]


async def work_on(numbers: range, broker: RedisBroker | ClusterBroker) -> None:
    """Publish once to some channels."""
    for number in numbers:
        await broker.publish(Publication.of(CHANNELS[number], DATA))


def measure(start: Callable[[], AbstractContextManager[Target]], nodes: int) -> dict[str, float]:
    """Return the µs that the busiest master needs for a publication: alone, and with others."""
    with start() as target, listening(target, nodes):
        alone = asyncio.run(publish(target, nodes, ALONE, 1))
        together = asyncio.run(publish(target, nodes, TOGETHER, IN_FLIGHT))
    return {"alone": max(alone), "together": max(together)}


def main() -> None:
    """Measure, and print the medians."""
    parser = argparse.ArgumentParser(prog="python -m bench.masters", description=__doc__)
    parser.add_argument("--repeat", type=int, default=5, help="turns (default: 5)")
    options = parser.parse_args()
    runs: list[list[report.Row]] = []
    for turn in range(options.repeat):
        rows: list[report.Row] = []
        for nodes in NODES:
            report.say(f"{turn + 1}/{options.repeat}: {nodes} nodes")
            began = time.monotonic()
            one, three = measure(one_redis, nodes), measure(three_masters, nodes)
            row: report.Row = {"nodes": nodes}
            for how in ("alone", "together"):
                row[f"one Redis, {how}, µs"] = one[how]
                row[f"busiest of three, {how}, µs"] = three[how]
                row[f"three against one, {how}, ×"] = one[how] / three[how]
            report.say(f"took {time.monotonic() - began:.0f} s")
            rows.append(row)
        runs.append(rows)
    report.save("masters", [row for rows in runs for row in rows], [])
    medians = [
        {key: statistics.median(row[key] for row in same) for key in same[0]}
        for same in zip(*runs, strict=True)
    ]
    print(f"\n{report.table(medians)}")


if __name__ == "__main__":
    main()
