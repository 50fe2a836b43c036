"""Measure the service and what people use today, in one run: `make bench`."""

from __future__ import annotations

import argparse
import os
import resource
import statistics
from typing import Any

from bench import report
from bench.redis import private_redis
from bench.scenarios import PEERS, SCENARIOS
from bench.servers import OTHERS_CPU, SERVERS


def main() -> None:
    """Run the scenarios, servers in turn, and print the medians."""
    options = _options()
    os.sched_setaffinity(0, {OTHERS_CPU})  # children but the servers inherit it
    _allow_many_sockets()
    with private_redis() as redis_url:
        for scenario in options.scenarios:
            rows = _rows(scenario, redis_url, options)
            path = report.save(scenario, rows)
            explained = (SCENARIOS[scenario].__doc__ or "").strip()
            table = report.table(_medians(rows))
            print(f"\n## {scenario}\n\n{explained}\n\n{table}\n\nAll runs: {path}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("scenarios", nargs="*", help=f"{', '.join(SCENARIOS)} (default: all)")
    parser.add_argument("--servers", default="notifier,floor,tutorial", help=", ".join(SERVERS))
    parser.add_argument("--repeat", type=int, default=5, help="runs of each server, in turn")
    parser.add_argument("--scale", type=float, default=1.0, help="0.1: a tenth of the clients")
    options = parser.parse_args()
    options.scenarios = options.scenarios or list(SCENARIOS)
    options.servers = options.servers.split(",")
    for name in [*options.scenarios, *options.servers]:
        if name not in SCENARIOS and name not in SERVERS:
            parser.error(f"unknown: {name}")
    return options


def _allow_many_sockets() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # servers inherit it


def _rows(scenario: str, redis_url: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Let the servers alternate: a machine that changes its mind does so to all of them."""
    rows = []
    servers = options.servers if scenario in PEERS else options.servers[:1]
    for turn in range(options.repeat):
        for name in servers:
            report.say(f"{scenario} {turn + 1}/{options.repeat}: {name}")
            server = SERVERS[name](redis_url)
            server.start()
            try:
                measured = SCENARIOS[scenario](server, options.scale)
            finally:
                server.stop()
            rows.append({"server": server.name, **measured})
    return rows


def _medians(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each server, with the median of each figure."""
    medians = []
    for name in dict.fromkeys(row["server"] for row in rows):
        runs = [row for row in rows if row["server"] == name]
        figures = {
            key: runs[0][key]
            if isinstance(value, str)
            else statistics.median(run[key] for run in runs)
            for key, value in runs[0].items()
            if key != "server"
        }
        medians.append({"server": name, **figures})
    return medians


if __name__ == "__main__":
    main()
