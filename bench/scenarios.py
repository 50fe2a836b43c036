"""The scenarios: what is done to a server, and what is measured meanwhile."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.crowd import Crowd
from bench.servers import Server

WARM_UP = 5
LONGEST_SECONDS = 120.0


@dataclass
class Cost:
    """Processor time of the server between two moments."""

    server: Server

    def __enter__(self) -> Cost:
        self._before = self.server.cpu_seconds()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.perf_counter() - self._start
        after = self.server.cpu_seconds()
        self.user, self.system = (b - a for a, b in zip(self._before, after, strict=True))

    def row(self, deliveries: int) -> dict[str, Any]:
        """Return what it cost per delivery."""
        return {
            "deliveries/s": deliveries / self.seconds,
            "CPU µs/delivery": (self.user + self.system) / deliveries * 1e6,
            "user": self.user / deliveries * 1e6,
            "system": self.system / deliveries * 1e6,
        }


def everybody_on(server: Server, count: int) -> Crowd:
    """Let so many clients listen to the one channel, and warm the server up."""
    crowd = Crowd(server.port, server.dialect, count, lambda number: server.channel)
    for _ in range(WARM_UP):
        before = crowd.pushes
        server.publish(1)
        crowd.read_until(before + count)
    return crowd


def closed_loop(server: Server, *, subscribers: int, rounds: int) -> dict[str, Any]:
    """One publication at a time: the next one when the last byte of the last one is here."""
    crowd = everybody_on(server, subscribers)
    latencies = []
    with Cost(server) as cost:
        for _ in range(rounds):
            before, start = crowd.pushes, time.perf_counter()
            server.publish(1)
            crowd.read_until(before + subscribers)
            latencies.append(time.perf_counter() - start)
    crowd.close()
    return {**cost.row(subscribers * rounds), **percentiles(latencies)}


def pipelined(
    server: Server, *, subscribers: int, rounds: int, in_flight: int = 32
) -> dict[str, Any]:
    """So many publications on their way at any time."""
    crowd = everybody_on(server, subscribers)
    begun = crowd.pushes
    published = 0
    with Cost(server) as cost:
        deadline = time.monotonic() + LONGEST_SECONDS
        while (arrived := (crowd.pushes - begun) // subscribers) < rounds:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{arrived} of {rounds} publications")
            room = min(in_flight - (published - arrived), rounds - published)
            if room > 0:
                server.publish(room)
                published += room
            crowd.read(1.0)
    crowd.close()
    return cost.row(subscribers * rounds)


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Return the median and the 99th percentile, in milliseconds."""
    ordered = sorted(seconds)
    return {
        "p50 ms": statistics.median(ordered) * 1000,
        "p99 ms": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000,
    }


SCENARIOS: dict[str, Callable[..., dict[str, Any]]] = {
    "closed": closed_loop,
    "pipelined": pipelined,
}
