"""The scenarios: what load a server gets, and what is measured.

Each takes a running server and returns one row of figures. ``scale`` shrinks the crowds.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.crowd import Crowd, HttpPublishers
from bench.servers import API_KEY, CHANNEL, DATA, Server

WARM_UP = 5
LONGEST_SECONDS = 120.0
ENOUGH_SECONDS = 4.0
"""After this long, a slow server gets no more rounds than the fewest."""
FEWEST_ROUNDS = 20
SMALL_BYTES = 150  # of data, unless a scenario says otherwise
HOPELESS_MS = 1000.0
Row = dict[str, Any]


@dataclass
class Cost:
    """CPU time of the server between two moments."""

    server: Server

    def __enter__(self) -> Cost:
        self._before = self.server.cpu_seconds()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.perf_counter() - self._start
        after = self.server.cpu_seconds()
        self.user, self.system = (b - a for a, b in zip(self._before, after, strict=True))

    @property
    def cpu(self) -> float:
        """Seconds in user mode plus seconds in the kernel."""
        return self.user + self.system

    def row(self, deliveries: int) -> Row:
        """Return the cost per delivery."""
        return {
            "deliveries/s": deliveries / self.seconds,
            "CPU µs/delivery": self.cpu / deliveries * 1e6,
            "user": self.user / deliveries * 1e6,
            "system": self.system / deliveries * 1e6,
        }


def everybody_on(server: Server, count: int) -> Crowd:
    """Subscribe this many clients to the channel, and warm the server up."""
    crowd = Crowd(server.port, server.dialect, lambda number: server.channel)
    crowd.invite(count)
    for _ in range(WARM_UP):
        _one_round(server, crowd, count)
    return crowd


def closed(server: Server, scale: float) -> Row:
    """One publication at a time to 1,000 subscribers, each when the last one has arrived."""
    subscribers, rounds = int(1000 * scale), 200
    crowd = everybody_on(server, subscribers)
    with Cost(server) as cost:
        latencies = _rounds(server, crowd, subscribers, rounds)
    crowd.close()
    return {**cost.row(subscribers * len(latencies)), **milliseconds(latencies)}


def closed_http(server: Server, scale: float) -> Row:
    """The same, but each publication is an HTTP request to the node."""
    subscribers, rounds = int(1000 * scale), 200
    crowd = everybody_on(server, subscribers)
    publisher = HttpPublishers(crowd, server.port, publish_request(), 1)
    latencies = []
    with Cost(server) as cost:
        for _ in range(rounds):
            start, target = time.perf_counter(), crowd.pushes + subscribers
            publisher.post(1)
            crowd.read_until(lambda: crowd.pushes >= target)  # noqa: B023
            latencies.append(time.perf_counter() - start)
    publisher.close()
    crowd.close()
    return {**cost.row(subscribers * rounds), **milliseconds(latencies)}


def pipelined(server: Server, scale: float) -> Row:
    """A publisher process keeps 32 publications to 1,000 subscribers in flight."""
    subscribers, rounds, in_flight = int(1000 * scale), server.pipelined_rounds, 32
    crowd = everybody_on(server, subscribers)
    begun, published = crowd.pushes, 0
    start = time.monotonic()
    with Cost(server) as cost:
        while (arrived := (crowd.pushes - begun) // subscribers) < rounds:
            if time.monotonic() - start > LONGEST_SECONDS:
                raise TimeoutError(f"{arrived} of {rounds} publications")
            if time.monotonic() - start > ENOUGH_SECONDS:
                rounds = max(published, FEWEST_ROUNDS)
            room = min(in_flight - (published - arrived), rounds - published)
            if room > 0:
                server.publish(room)
                published += room
            crowd.read(1.0)
    crowd.close()
    return cost.row(subscribers * rounds)


def pipelined_http(server: Server, scale: float) -> Row:
    """The same over 32 HTTP connections to the node that delivers."""
    subscribers, rounds = int(1000 * scale), 3000
    crowd = everybody_on(server, subscribers)
    publishers = HttpPublishers(crowd, server.port, publish_request(), 32)
    target = crowd.pushes + subscribers * rounds
    with Cost(server) as cost:
        publishers.post(rounds)
        crowd.read_until(lambda: crowd.pushes >= target, LONGEST_SECONDS)
    publishers.close()
    crowd.close()
    return cost.row(subscribers * rounds)


def crowds(server: Server, scale: float) -> list[Row]:
    """The closed loop with 100, 1,000 and 10,000 subscribers: the cost per subscriber."""
    rows = []
    crowd = Crowd(server.port, server.dialect, lambda number: server.channel)
    for subscribers in (100, 1000, 10_000):
        count = int(subscribers * scale)
        crowd.invite(count - crowd.joined)
        for _ in range(WARM_UP):
            _one_round(server, crowd, count)
        rounds = max(10, 100_000 // subscribers)
        with Cost(server) as cost:
            latencies = _rounds(server, crowd, count, rounds)
        figures = {**cost.row(count * len(latencies)), **milliseconds(latencies)}
        rows.append({"subscribers": count, **figures})
    crowd.close()
    return rows


def _rounds(server: Server, crowd: Crowd, subscribers: int, most: int) -> list[float]:
    """Publish one at a time, until there is enough to say something; return the seconds of each."""
    start, latencies = time.perf_counter(), list[float]()
    while len(latencies) < most:
        latencies.append(_one_round(server, crowd, subscribers))
        if time.perf_counter() - start > ENOUGH_SECONDS and len(latencies) >= FEWEST_ROUNDS:
            break
    return latencies


def _one_round(server: Server, crowd: Crowd, subscribers: int) -> float:
    """Publish once and wait for the last byte; return the seconds."""
    start, target = time.perf_counter(), crowd.pushes + subscribers
    server.publish(1)
    crowd.read_until(lambda: crowd.pushes >= target)
    return time.perf_counter() - start


def load(server: Server, scale: float) -> list[Row]:
    """The latency with 1,000 subscribers at fixed, rising rates of publications."""
    subscribers, seconds = int(1000 * scale), 4.0
    crowd = everybody_on(server, subscribers)
    members = list(crowd.members.values())
    for member in members[:: max(1, len(members) // 50)]:
        member.timed = True
    rows = []
    for rate in (10, 25, 50, 100, 200, 400, 800, 1600):
        with Cost(server) as cost:
            seen = _others_see(server, crowd, members, rate, seconds, SMALL_BYTES)
        row = {"publications/s": rate, **seen, "CPU %": cost.cpu / cost.seconds * 100}
        rows.append({**row, "published/s": int(rate * seconds) / cost.seconds})
        if seen["p50 ms"] > HOPELESS_MS:
            break  # it cannot keep up; more load would only take longer
    crowd.close()
    return rows


def storm(server: Server, scale: float) -> Row:
    """5,000 clients connect and subscribe; the server is restarted; all reconnect with back-off."""
    count = int(5000 * scale)
    crowd = Crowd(server.port, server.dialect, lambda number: server.channel)
    with Cost(server) as cost:
        crowd.invite(count)
    refused = len(crowd.lost)
    server.stop()
    crowd.read_until(lambda: crowd.joined == 0)
    server.start()
    up = time.perf_counter()
    attempts = dict.fromkeys(range(count), 0)
    while crowd.joined < count:
        for number in crowd.lost:
            crowd.back_off(number, attempts[number])
            attempts[number] += 1
        crowd.lost.clear()
        crowd.read(0.01)
        if time.perf_counter() - up > LONGEST_SECONDS:
            raise TimeoutError(f"{crowd.joined} of {count} came back")
    back = time.perf_counter() - up
    crowd.close()
    return {
        "joins/s": count / cost.seconds,
        "CPU µs/join": cost.cpu / count * 1e6,
        "refused": refused,
        "all back after s": back,
    }


def joins(server: Server, scale: float) -> list[Row]:
    """2,000 clients connect and subscribe: anonymous, with tokens, and with Django sessions."""
    count = int(2000 * scale)
    rows = []
    for identity, (dialect, secrets) in server.identities(count).items():
        crowd = Crowd(server.port, dialect, lambda number: server.channel, secrets)
        with Cost(server) as cost:
            crowd.invite(count)
        crowd.close()
        row = {"joins/s": count / cost.seconds, "CPU µs/join": cost.cpu / count * 1e6}
        rows.append({"identity": identity, **row})
    return rows


def idle(server: Server, scale: float) -> Row:
    """10,000 idle subscribed connections: memory, and the CPU time of the pings."""
    count, seconds = int(10_000 * scale), 30.0
    before = server.resident_bytes()
    crowd = Crowd(server.port, server.dialect, lambda number: server.channel)
    crowd.invite(count)
    crowd.read_for(5.0)
    memory = server.resident_bytes() - before
    with Cost(server) as cost:
        crowd.read_for(seconds)
    crowd.close()
    return {
        "connections": count,
        "KiB/connection": memory / count / 1024,
        "CPU % of a core": cost.cpu / cost.seconds * 100,
    }


def slow(server: Server, scale: float) -> Row:
    """10 % of 1,000 clients stop reading for 30 s at 200 publications of 1 KiB a second."""
    count, seconds, rate = int(1000 * scale), 30.0, 200
    crowd = everybody_on(server, count)
    members = list(crowd.members.values())
    sleepers, others = members[: count // 10], members[count // 10 :]
    for member in others[:50]:
        member.timed = True
    calm = _others_see(server, crowd, others, rate, seconds / 3, 1024)
    start = {member: member.pushes for member in sleepers}
    begun = server.resident_bytes()
    crowd.sleep(sleepers)
    busy = _others_see(server, crowd, others, rate, seconds, 1024)
    grown = server.resident_bytes() - begun
    crowd.wake(sleepers)
    published = int(rate * seconds)
    _settle(server, crowd, others)
    exact = sum(_accounts(member, start[member], published) for member in sleepers)
    crowd.close()
    return {
        "p99 ms without": calm["p99 ms"],
        "p99 ms with": busy["p99 ms"],
        "missing to others": busy["lost"],
        "memory MiB": grown / 2**20,
        "slow": len(sleepers),
        "told exactly": exact,
        "closed": len(crowd.lost),
        "why": str(dict(crowd.reasons)),
    }


def _others_see(
    server: Server, crowd: Crowd, others: list[Any], rate: int, seconds: float, size: int
) -> dict[str, float]:
    """Publish at a rate; return the latency of the timed members, and any losses."""
    crowd.latencies.clear()
    before = [member.pushes for member in others]
    begin = time.monotonic()
    for number in range(int(rate * seconds)):
        server.publish_timed(size)
        until = begin + (number + 1) / rate
        while (left := until - time.monotonic()) > 0:
            crowd.read(left)
    expected = int(rate * seconds)
    deadline = time.monotonic() + 10
    while any(m.pushes - b < expected for m, b in zip(others, before, strict=True)):
        if time.monotonic() > deadline:
            break
        crowd.read(0.1)
    lost = sum(expected - (m.pushes - b) for m, b in zip(others, before, strict=True))
    return {**milliseconds(crowd.latencies), "lost": lost}


def _settle(server: Server, crowd: Crowd, others: list[Any]) -> None:
    """Let the members that stopped reading read everything that is buffered for them."""
    quiet_since, seen = time.monotonic(), crowd.pushes
    while time.monotonic() - quiet_since < 2.0:
        crowd.read(0.1)
        if crowd.pushes != seen:
            quiet_since, seen = time.monotonic(), crowd.pushes


def _accounts(member: Any, before: int, published: int) -> bool:
    """Return whether received and missed publications add up to all of them."""
    missed = sum(last - first + 1 for first, last, _ in member.gaps)
    return bool(member.pushes - before + missed == published and missed)


def publish(server: Server, scale: float) -> Row:
    """Publishing only: single HTTP requests, batches of 100, and one POST to one browser."""
    crowd = Crowd(server.port, server.dialect, lambda number: server.channel)
    count = int(20_000 * scale)
    one = _http(server, crowd, publish_request(), count, 32)
    batches = max(1, count // 100)
    many = _http(server, crowd, batch_request(100, server.batch_options), batches, 4)
    crowd.invite(1)
    publisher = HttpPublishers(crowd, server.port, publish_request(), 1)
    latencies = []
    for _ in range(500):
        start, target = time.perf_counter(), crowd.pushes + 1
        publisher.post(1)
        crowd.read_until(lambda: crowd.pushes >= target)  # noqa: B023
        latencies.append(time.perf_counter() - start)
    publisher.close()
    crowd.close()
    return {
        "requests/s": count / one.seconds,
        "CPU µs/request": one.cpu / count * 1e6,
        "in batches/s": batches * 100 / many.seconds,
        "CPU µs/publication": many.cpu / batches / 100 * 1e6,
        "POST to browser p50 ms": milliseconds(latencies)["p50 ms"],
    }


def publishers(server: Server, scale: float) -> list[Row]:
    """Single HTTP requests over 1, 8, 32 and 128 connections, one at a time on each."""
    crowd = Crowd(server.port, server.dialect, lambda number: server.channel)
    rows = []
    for connections in (1, 8, 32, 128):
        count = int(10_000 * scale)
        cost = _http(server, crowd, publish_request(), count, connections)
        row = {"requests/s": count / cost.seconds, "CPU µs/request": cost.cpu / count * 1e6}
        rows.append({"publishers": connections, **row})
    crowd.close()
    return rows


def _http(server: Server, crowd: Crowd, request: bytes, count: int, connections: int) -> Cost:
    publishers = HttpPublishers(crowd, server.port, request, connections)
    with Cost(server) as cost:
        publishers.post(count)
        crowd.read_until(lambda: publishers.answered >= count, LONGEST_SECONDS)
    publishers.close()
    return cost


def channels(server: Server, scale: float) -> Row:
    """10,000 channels with one subscriber each, and 5,000 publications a second in total."""
    count, rate, seconds = int(10_000 * scale), 5000, 5
    crowd = Crowd(server.port, server.dialect, lambda number: f"public:c{number}")
    crowd.invite(count)
    begin, published = time.monotonic(), 0
    with Cost(server) as cost:
        while published < rate * seconds:
            names = [f"public:c{(published + n) % count}" for n in range(50)]
            server.publish_to(names)
            published += len(names)
            until = begin + published / rate
            while (left := until - time.monotonic()) > 0:
                crowd.read(left)
        crowd.read_until(lambda: crowd.pushes >= published)
    crowd.close()
    return {"channels": count, **cost.row(published)}


def publish_request() -> bytes:
    """Return one POST to /api/publish."""
    return _request("publish", {"channel": CHANNEL, "data": DATA})


def batch_request(count: int, options: Mapping[str, object]) -> bytes:
    """Return one POST to /api/batch with this many publications."""
    command = {"publish": {"channel": CHANNEL, "data": DATA}}
    return _request("batch", {"commands": [command] * count, **options})


def _request(method: str, body: dict[str, Any]) -> bytes:
    payload = json.dumps(body, separators=(",", ":"))
    return (
        f"POST /api/{method} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {API_KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n{payload}"
    ).encode()


def milliseconds(seconds: list[float]) -> dict[str, float]:
    """Return the median and the 99th percentile, in milliseconds."""
    ordered = sorted(seconds)
    return {
        "p50 ms": statistics.median(ordered) * 1000,
        "p99 ms": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000,
    }


def python(server: Server, scale: float) -> Row:
    """`publish()` and `apublish()` in Django without listeners: the cost to the caller."""
    count = int(20_000 * scale)
    command = [sys.executable, "-m", "bench.publishing", server.redis_url, str(count)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    row: Row = json.loads(done.stdout)
    return row


Scenario = Callable[[Server, float], "Row | list[Row]"]
SCENARIOS: dict[str, Scenario] = {
    "closed": closed,
    "closed-http": closed_http,
    "pipelined": pipelined,
    "pipelined-http": pipelined_http,
    "storm": storm,
    "joins": joins,
    "idle": idle,
    "slow": slow,
    "publish": publish,
    "publishers": publishers,
    "python": python,
    "channels": channels,
    "crowds": crowds,
    "load": load,
}
LONG = frozenset({"storm", "idle", "slow", "crowds", "load", "channels"})
"""Scenarios that already average over many samples, and need only a third of the repeats."""
