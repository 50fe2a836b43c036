"""Measure presence: 1,000 members that join at once, one by one, and ghosts of a killed node.

`python -m bench.presence`: the kinds of channels take turns, so that ratios compare one run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import urllib.request
from contextlib import closing
from dataclasses import replace
from typing import Any

from bench import report
from bench.crowd import OURS, Crowd
from bench.redis import private_redis
from bench.scenarios import Cost
from bench.servers import API_KEY, OTHERS_CPU, Ours, Server

KINDS = {
    # The channel, and the information about a member besides its name.
    "no presence": ("public:crowd", ""),
    "presence": ("chat:crowd", ""),
    "presence, joins and leaves": ("chat:crowd", ',"join_leave":true'),
}
GHOSTS = 100
A_SECOND = 100


def main() -> None:
    """Measure, and print the medians."""
    parser = argparse.ArgumentParser(prog="python -m bench.presence", description=__doc__)
    parser.add_argument("--repeat", type=int, default=5, help="number of runs (5)")
    parser.add_argument(
        "--members", type=int, default=1000, help="number of members of the channel (1000)"
    )
    options = parser.parse_args()
    os.sched_setaffinity(0, {OTHERS_CPU})
    rows: list[dict[str, Any]] = []
    with private_redis() as redis_url:
        for turn in range(options.repeat):
            for kind in KINDS:
                report.say(f"turn {turn + 1} of {options.repeat}: {kind}")
                row = crowd(redis_url, kind, options.members)
                rows.append({"server": kind, "turn": turn, **row})
        print(f"\n## {options.members} members that join at once\n")
        print(report.table(report.medians(rows)))
        print(f"\n{report.table(report.ratios(rows))}\n")
        with_names = [row for row in rows if row["server"] == list(KINDS)[-1]]
        print(report.table(report.medians(with_names)))
        report.say("joining one by one")
        slowly = [trickle(redis_url, options.members) for _ in range(options.repeat)]
        print(f"\n## {A_SECOND} joins a second\n")
        print(report.table(report.medians([{"server": "notifier", **row} for row in slowly])))
        report.say("ghosts")
        seconds = [ghosts(redis_url) for _ in range(2 * options.repeat)]
    print(f"\n## {GHOSTS} ghosts of a node killed with -9\n")
    names = ("gone after s, median", "least", "most", "runs")
    middle = (statistics.median(seconds), min(seconds), max(seconds))
    figures = [*(f"{value:.2f}" for value in middle), len(seconds)]
    print(report.table([dict(zip(names, figures, strict=True))]))


def crowd(redis_url: str, kind: str, count: int) -> dict[str, Any]:
    """Let a crowd join a channel, then one more, then disconnect all of them."""
    channel, wish = KINDS[kind]
    hello = OURS.hello.replace('"{channel}"', '"{channel}"' + wish)
    dialect = replace(OURS, hello=hello, marker=b'{"push":{"channel":"%b","' % channel.encode())
    server = Ours(redis_url)
    server.start()
    try:
        before = server.resident_bytes()
        with closing(Crowd(server.port, dialect, lambda _: channel)) as members:
            began = time.perf_counter()
            with Cost(server) as cost:
                members.invite(count)
            row = {"joins/s": count / cost.seconds, "CPU µs/join": cost.cpu / count * 1e6}
            if kind == "no presence":
                members.read_for(3.0)
                return row | {"KiB/connection": _kib(server, before, count)}
            while stats(server, channel) != count:
                members.read_for(0.01)
            row["all counted after s"] = time.perf_counter() - began
            members.read_for(3.0)
            row["KiB/connection"] = _kib(server, before, count)
            row["pushes to each"] = members.pushes / count
            row |= _asked(server, channel)
            if wish:
                row["the next one told to all, ms"] = _one_more(members, count)
        left = time.perf_counter()
        while stats(server, channel) != 0:
            time.sleep(0.01)
        row["all gone after s"] = time.perf_counter() - left
        return row
    finally:
        server.stop()


def _kib(server: Server, before: int, count: int) -> float:
    return (server.resident_bytes() - before) / count / 1024


def _one_more(members: Crowd, count: int) -> float:
    """Return the milliseconds until everyone has received the join of one more member."""
    heard, began = members.pushes, time.perf_counter()
    members.invite(1)
    members.read_until(lambda: members.pushes >= heard + count)
    return (time.perf_counter() - began) * 1000


def _asked(server: Server, channel: str) -> dict[str, float]:
    began = time.perf_counter()
    answer = post(server, "presence", channel)
    took = (time.perf_counter() - began) * 1000
    return {"presence, ms": took, "presence, KiB": len(answer) / 1024}


def trickle(redis_url: str, count: int) -> dict[str, Any]:
    """Let a crowd join one by one, a hundred a second, each receiving every join."""
    channel, wish = KINDS["presence, joins and leaves"]
    hello = OURS.hello.replace('"{channel}"', '"{channel}"' + wish)
    dialect = replace(OURS, hello=hello, marker=b'{"push":{"channel":"%b","' % channel.encode())
    server = Ours(redis_url)
    server.start()
    try:
        with closing(Crowd(server.port, dialect, lambda _: channel)) as members:
            began = time.monotonic()
            for number in range(count):
                members.invite_later(number, began + number / A_SECOND)
            with Cost(server) as cost:
                members.read_until(lambda: members.joined == count)
            members.read_for(2.0)
            return {
                "members": count,
                "CPU % of a core": cost.cpu / cost.seconds * 100,
                "pushes to each": members.pushes / count,
                "one of each to each": (count + 1) / 2,
            }
    finally:
        server.stop()


def ghosts(redis_url: str) -> float:
    """Kill a node with -9; return the seconds until its members are no longer on the channel."""
    killed, other = Ours(redis_url), Ours(redis_url)
    killed.start()
    other.start()
    try:
        members = Crowd(killed.port, OURS, lambda _: "chat:ghosts")
        members.invite(GHOSTS)
        while stats(other, "chat:ghosts") != GHOSTS:
            members.read_for(0.05)
        killed.stop()  # kill -9
        began = time.perf_counter()
        while stats(other, "chat:ghosts"):
            time.sleep(0.02)
        took = time.perf_counter() - began
        members.close()
        return took
    finally:
        killed.stop()
        other.stop()


def stats(server: Server, channel: str) -> int:
    """Return how many clients are on a channel."""
    return int(json.loads(post(server, "presence_stats", channel))["result"]["num_clients"])


def post(server: Server, method: str, channel: str) -> bytes:
    """Return the response of the HTTP API."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/api/{method}",
        json.dumps({"channel": channel}).encode(),
        {"X-API-Key": API_KEY, "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return bytes(answer.read())


if __name__ == "__main__":
    main()
