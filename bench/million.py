"""A plan for a million connections, calculated and simulated: `python -m bench.million`.

What one worker and one Redis can do was measured (docs/scaling.md). This adds it up for a service
in several zones: what each worker and each master carries, while all zones are up and while one is
away, and what happens when a zone is lost and all its clients come back to the others.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from bench import report
from realtime.core.partitions import PARTITIONS, partition_of


@dataclass(frozen=True)
class Measured:
    """What was measured on one core (docs/scaling.md, docs/performance.md)."""

    kib_per_connection: float = 12.0
    """With its subscriptions."""
    worker_mib: float = 80.0
    """A worker with few connections."""
    ping_us_per_second: float = 1.3
    """CPU time for the pings of a connection, each second."""
    join_us: float = 330.0
    """A join with a token and a personal channel."""
    subscription_us: float = 55.0
    """Each further subscription of it."""
    publication_us: float = 20.0
    """What a worker takes for a publication, besides the deliveries: as with 100,000 channels."""
    delivery_us: float = 7.0
    redis_us: float = 11.0
    """What Redis takes for a publication from one of eight publishers, without subscribed nodes."""
    redis_us_per_node: float = 1.1
    """… for each node that is subscribed to its channel."""


@dataclass(frozen=True)
class Plan:
    """The service, and what its clients do."""

    connections: int = 1_000_000
    zones: int = 3
    workers: int = 90
    """In all zones together, each on a core."""
    masters: int = 3
    topics: int = 10_000
    topics_of_each: int = 3
    """How many topics a connection subscribes to, drawn at random; and its personal channel."""
    topic_publications: float = 5000.0
    """Publications a second on topics, all alike."""
    seconds_between_personal: float = 600.0
    """How often each user gets a publication on the personal channel."""
    payload_bytes: int = 300
    retry_first_seconds: float = 0.5
    """Of `client.js`: attempt n waits for random(0, min(most, first · 2ⁿ))."""
    retry_most_seconds: float = 20.0
    answer_seconds: float = 10.0
    """After so long without an answer, a client gives up an attempt."""


def load_of_worker(plan: Plan, measured: Measured, up: int) -> report.Row:
    """Return what each worker carries if this many workers are up."""
    connections = plan.connections / up
    audience = plan.connections * plan.topics_of_each / plan.topics
    personal = plan.connections / plan.seconds_between_personal
    # A topic with more subscribers than there are workers has some nearly everywhere.
    reached = up * (1 - (1 - 1 / up) ** audience)
    publications = plan.topic_publications * reached / up + personal / up
    deliveries = (plan.topic_publications * audience + personal) / up
    busy = (
        connections * measured.ping_us_per_second
        + publications * measured.publication_us
        + deliveries * measured.delivery_us
    ) / 1e6
    return {
        "workers": up,
        "connections": connections,
        "MiB": measured.worker_mib + connections * measured.kib_per_connection / 1024,
        "publications/s": publications,
        "deliveries/s": deliveries,
        "% of a core": busy * 100,
        "Mbit/s": (deliveries + publications) * (plan.payload_bytes + 60) * 8 / 1e6,
    }


def load_of_master(plan: Plan, measured: Measured, up: int) -> report.Row:
    """Return what the busiest master carries if this many workers are up."""
    shares = [0] * plan.masters
    for number in range(plan.topics):
        partition = partition_of(f"topic:{number}").number
        shares[partition * plan.masters // len(PARTITIONS)] += 1
    share = max(shares) / plan.topics
    audience = plan.connections * plan.topics_of_each / plan.topics
    reached = up * (1 - (1 - 1 / up) ** audience)
    personal = plan.connections / plan.seconds_between_personal / plan.masters
    topics = plan.topic_publications * share
    messages = topics * reached + personal
    busy = (topics + personal) * measured.redis_us + messages * measured.redis_us_per_node
    channels = plan.connections / plan.masters + plan.topics * share
    return {
        "masters": plan.masters,
        "publications/s": topics + personal,
        "messages to nodes/s": messages,
        "% of a core": busy / 1e6 * 100,
        "channels": channels,
        "MiB of counters": channels * 200 / 2**20,
        "Mbit/s": (messages + topics + personal) * (plan.payload_bytes + 100) * 8 / 1e6,
    }


class Worker:
    """A worker that takes on clients one after the other, as fast as it can."""

    def __init__(self, seconds_each: float) -> None:
        self._seconds_each = seconds_each
        self._free_at = 0.0
        self.longest_wait = 0.0

    def join(self, now: float, patience: float) -> float | None:
        """Return when a client that comes now has joined; None if it gives up before."""
        start = max(now, self._free_at)
        self.longest_wait = max(self.longest_wait, start - now)
        if start + self._seconds_each - now > patience:
            return None
        self._free_at = start + self._seconds_each
        return self._free_at


def lose_a_zone(plan: Plan, measured: Measured, seed: int = 1) -> report.Row:
    """Simulate the loss of a zone: each of its clients reconnects as `client.js` does.

    The other workers go on with their own load, and join clients with what is left of their core,
    one after the other. A client that gets no answer in time tries again, after a longer pause.
    """
    chance = random.Random(seed)
    up = plan.workers - plan.workers // plan.zones
    spent = load_of_worker(plan, measured, plan.workers)["% of a core"] / 100
    join_us = measured.join_us + plan.topics_of_each * measured.subscription_us
    each = join_us / 1e6 / max(0.05, 1 - spent)
    workers = [Worker(each) for _ in range(up)]

    def pause(attempt: int) -> float:
        most = min(plan.retry_most_seconds, plan.retry_first_seconds * 2**attempt)
        return chance.uniform(0, most)

    lost = plan.connections // plan.zones
    coming = [(pause(1), 1) for _ in range(lost)]
    heapq.heapify(coming)
    joined: list[float] = []
    gave_up = 0
    while coming:
        now, attempt = heapq.heappop(coming)
        done = chance.choice(workers).join(now, plan.answer_seconds)
        if done is not None:
            joined.append(done)
            continue
        gave_up += 1
        heapq.heappush(coming, (now + plan.answer_seconds + pause(attempt + 1), attempt + 1))
    joined.sort()
    return {
        "clients": lost,
        "workers left": up,
        "joins/s of each": 1 / each,
        "half are back after s": joined[len(joined) // 2],
        "99 %": joined[len(joined) * 99 // 100],
        "all": joined[-1],
        "longest wait s": max(worker.longest_wait for worker in workers),
        "attempts given up": gave_up,
    }


def tables(plan: Plan, measured: Measured) -> Iterator[str]:
    """Yield the tables of a plan."""
    up = [plan.workers, plan.workers - plan.workers // plan.zones]
    yield "Each worker, with all zones up, and with one away"
    yield report.table([load_of_worker(plan, measured, each) for each in up])
    yield "The busiest master"
    yield report.table([load_of_master(plan, measured, each) for each in up])
    yield "A zone is lost"
    yield report.table([lose_a_zone(plan, measured)])


def main() -> None:
    """Print the plan that the options describe."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.million",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for each in fields(Plan):
        option = "--" + each.name.replace("_", "-")
        parser.add_argument(option, type=type(each.default), default=each.default)
    plan = replace(Plan(), **vars(parser.parse_args()))
    for text in tables(plan, Measured()):
        print(f"\n{text}")


if __name__ == "__main__":
    main()
