"""What more work costs: `python -m bench.scale`.

Each curve changes one amount and measures the service alone, so it shows where cost stops being
proportional. Deliveries and joins are costs of the server's process, on a processor of its own.
`workers` and `nodes` use both processors: they count CPU time of all processes, not elapsed time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace

import redis

from bench import report
from bench.__main__ import allow_many_sockets
from bench.crowd import OURS, Crowd, HttpPublishers
from bench.redis import private_redis
from bench.scenarios import Cost, batch_request, publish_request
from bench.servers import CHANNEL, OTHERS_CPU, Fleet, Ours
from realtime.core.publication import Publication

ROUNDS = 100
SUBSCRIBERS = 1000
AT_ONCE = 10_000
"""Subscriptions asked for at the same time: a node refuses for now what would take it seconds."""
CONNECTIONS = (1000, 2000, 5000, 10_000, 19_000, 50_000)
"""Those that the limit on open files allows: the server and the crowd need one for each."""
OTHER_FILES = 500
CHANNELS = (1, 10, 100, 1000, 10_000, 100_000)
SUBSCRIPTIONS = (1, 10, 100, 1000)
PAYLOADS = (100, 1024, 4096, 16_384, 65_536)
WORKERS = (1, 2, 3, 4)
NODES = (1, 2, 4, 8, 16)


LIMITS = json.dumps({"channels_per_connection": 1000, "commands_burst": 3000})


class Scaled(Ours):
    """The service, with room for what the curves need."""

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "NOTIFIER_LIMITS": LIMITS}

    def publish_bytes(self, size: int) -> None:
        """Publish this many bytes of data once."""
        self._broker.publish(Publication.of(CHANNEL, "x" * (size - 2)))


class ScaledFleet(Fleet):
    """The same with several workers."""

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "NOTIFIER_LIMITS": LIMITS}


@contextmanager
def _running(server: Ours) -> Iterator[Ours]:
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _everybody(server: Ours, count: int, subscriptions: int = 1) -> Crowd:
    """Return clients with this many subscriptions each, to channels that no other client has."""
    lines = ['{{"id":1,"connect":{{}}}}']
    for number in range(subscriptions):
        channel = CHANNEL if subscriptions == 1 else f"public:{{channel}}-{number}"
        lines.append(f'{{{{"id":{number + 2},"subscribe":{{{{"channel":"{channel}"}}}}}}}}')
    last = b'"id":%d' % (subscriptions + 1)
    dialect = replace(OURS, hello="\n".join(lines), joined=last)
    crowd = Crowd(server.port, dialect, lambda number: f"c{number}")
    while crowd.joined < count:
        crowd.invite(min(count - crowd.joined, max(1, AT_ONCE // subscriptions)))
    return crowd


def _deliver(server: Ours, crowd: Crowd, rounds: int, publish: Callable[[], None]) -> report.Row:
    """Publish to everybody, one at a time, and return the cost of a delivery."""
    count = crowd.joined
    with Cost(server) as cost:
        for _ in range(rounds):
            target = crowd.pushes + count
            publish()
            crowd.read_until(lambda: crowd.pushes >= target)  # noqa: B023
    return {
        "CPU µs/delivery": cost.cpu / rounds / count * 1e6,
        "ms until the last": cost.seconds / rounds * 1000,
    }


def connections(redis_url: str) -> Iterator[report.Row]:
    """Connections on one channel: the join, the memory, a delivery, and what pings cost."""
    with _running(Scaled(redis_url)) as server, closing(_everybody(server, 0)) as crowd:
        before = server.resident_bytes()
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OTHER_FILES
        for count in (each for each in CONNECTIONS if each <= most):
            new = count - crowd.joined
            with Cost(server) as joining:
                crowd.invite(new)
            rounds = max(10, 100_000 // count)
            delivered = _deliver(server, crowd, rounds, lambda: server.publish(1))
            memory = (server.resident_bytes() - before) / count / 1024
            with Cost(server) as idle:
                crowd.read_for(30.0)
            yield {
                "connections": count,
                "CPU µs/join": joining.cpu / new * 1e6,
                "KiB/connection": memory,
                **delivered,
                "CPU % idle": idle.cpu / idle.seconds * 100,
            }


def channels(redis_url: str) -> Iterator[report.Row]:
    """Channels that have a subscriber: the cost of a publication to one of them."""
    for count in CHANNELS:
        each = min(count, 100)
        with _running(Scaled(redis_url)) as server:
            before = server.resident_bytes()
            people = max(1, count // each)
            with closing(_everybody(server, people, each)) as crowd:
                memory = server.resident_bytes() - before
                names = [f"public:c{n % people}-{n // people % each}" for n in range(2000)]
                if each == 1:
                    names = [CHANNEL] * 2000
                with Cost(server) as cost:
                    for start in range(0, len(names), 50):
                        target = crowd.pushes + 50
                        server.publish_to(names[start : start + 50])
                        crowd.read_until(lambda: crowd.pushes >= target)  # noqa: B023
            yield {
                "channels": people * each,
                "CPU µs/delivery": cost.cpu / len(names) * 1e6,
                "KiB/channel": memory / people / each / 1024,
            }


def subscriptions(redis_url: str) -> Iterator[report.Row]:
    """Subscriptions of one connection, all in its first frame: what each costs."""
    for each in SUBSCRIPTIONS:
        people = max(20, 2000 // each)
        with _running(Scaled(redis_url)) as server:
            before = server.resident_bytes()
            with Cost(server) as cost, closing(_everybody(server, people, each)):
                memory = server.resident_bytes() - before
            total = people * each
            yield {
                "subscriptions": each,
                "CPU µs/subscription": cost.cpu / total * 1e6,
                "KiB/subscription": memory / total / 1024,
            }


def payload(redis_url: str) -> Iterator[report.Row]:
    """Bytes of data in a publication to 1,000 subscribers."""
    with _running(Scaled(redis_url)) as server, closing(_everybody(server, SUBSCRIBERS)) as crowd:
        assert isinstance(server, Scaled)
        for size in PAYLOADS:
            row = _deliver(server, crowd, ROUNDS, lambda: server.publish_bytes(size))  # noqa: B023
            yield {"bytes": size, **row, "CPU ns/byte": row["CPU µs/delivery"] / size * 1000}


def workers(redis_url: str) -> Iterator[report.Row]:
    """Workers of one launcher with 2,000 clients, on both processors: CPU time of all together.

    A delivery of one publication at a time; a publication with its deliveries, 32 at a time.
    """
    for count in WORKERS:
        server = ScaledFleet(redis_url)
        server.workers = count
        with _running(server), closing(_everybody(server, 2000)) as crowd:
            delivered = _deliver(server, crowd, ROUNDS, lambda: server.publish(1))  # noqa: B023
            publishers = HttpPublishers(crowd, server.port, publish_request(), 32)
            with Cost(server) as cost:
                publishers.post(5000)
                crowd.read_until(lambda: publishers.answered >= 5000)  # noqa: B023
            publishers.close()
        yield {"workers": count, **delivered, "CPU µs/publication": cost.cpu / 5000 * 1e6}


def nodes(redis_url: str) -> Iterator[report.Row]:
    """Nodes on one Redis, each with a subscriber: Redis' own CPU time for a publication."""
    batches, size = 50, 100
    for count in NODES:
        with ExitStack() as stack, redis.Redis.from_url(redis_url) as client:
            servers = [stack.enter_context(_running(Scaled(redis_url))) for _ in range(count)]
            crowds = [stack.enter_context(closing(_everybody(each, 1))) for each in servers]
            single = _redis_cpu(client, servers, crowds, publish_request(), 2000, 2000)
            batch = batch_request(size, {})
            many = _redis_cpu(client, servers, crowds, batch, batches, batches * size)
        yield {"nodes": count, "Redis µs/publication": single, "in batches of 100": many}


def _redis_cpu(
    client: redis.Redis,
    servers: list[Ours],
    crowds: list[Crowd],
    request: bytes,
    requests: int,
    publications: int,
) -> float:
    before = _main_thread(client)
    targets = [crowd.pushes + publications for crowd in crowds]
    publishers = HttpPublishers(crowds[0], servers[0].port, request, 8)
    publishers.post(requests)
    for crowd, target in zip(crowds, targets, strict=True):
        crowd.read_until(lambda: crowd.pushes >= target)  # noqa: B023
    publishers.close()
    return (_main_thread(client) - before) / publications * 1e6


def _main_thread(client: redis.Redis) -> float:
    info = client.info("cpu")
    return float(info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"])


CURVES: dict[str, Callable[[str], Iterator[report.Row]]] = {
    "connections": connections,
    "channels": channels,
    "subscriptions": subscriptions,
    "payload": payload,
    "workers": workers,
    "nodes": nodes,
}


def main() -> None:
    """Measure the curves, and print the median of each point."""
    described = "\n".join(f"  {name:15} {(f.__doc__ or '').strip()}" for name, f in CURVES.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale",
        description=__doc__,
        epilog=f"curves:\n{described}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("curves", nargs="*", metavar="CURVE", help="default: all; listed below")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each curve (default: 3)")
    options = parser.parse_args()
    for name in options.curves:
        if name not in CURVES:
            parser.error(f"unknown curve {name}; known: {', '.join(CURVES)}")
    os.sched_setaffinity(0, {OTHERS_CPU})
    allow_many_sockets()
    for name in options.curves or CURVES:
        runs = []
        for turn in range(options.repeat):
            report.say(f"{name} {turn + 1}/{options.repeat}")
            with private_redis() as redis_url:
                began = time.monotonic()
                runs.append(list(CURVES[name](redis_url)))
                report.say(f"took {time.monotonic() - began:.0f} s")
        rows = [_median(points) for points in zip(*runs, strict=True)]
        report.save(f"scale-{name}", [row for run in runs for row in run], [])
        print(f"\n## {name}\n\n{(CURVES[name].__doc__ or '').strip()}\n\n{report.table(rows)}")


def _median(points: tuple[report.Row, ...]) -> report.Row:
    return {key: statistics.median(point[key] for point in points) for key in points[0]}


if __name__ == "__main__":
    main()
