"""Measure the service and what people use today, in one run: `make bench`."""

from __future__ import annotations

import argparse
import os
import statistics
from typing import Any

from bench import report
from bench.redis import private_redis
from bench.scenarios import SCENARIOS
from bench.servers import OTHERS_CPU, SERVERS


def main() -> None:
    """Run the scenarios, servers in turn, and print the medians."""
    options = _options()
    os.sched_setaffinity(0, {OTHERS_CPU})  # children but the servers inherit it
    with private_redis() as redis_url:
        for scenario in options.scenarios:
            rows = _rows(scenario, redis_url, options)
            path = report.save(scenario, rows)
            print(f"\n## {scenario}\n\n{report.table(_medians(rows))}\n\nAll runs: {path}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("scenarios", nargs="*", default=list(SCENARIOS), help=", ".join(SCENARIOS))
    parser.add_argument("--servers", default="notifier,floor,tutorial", help=", ".join(SERVERS))
    parser.add_argument("--subscribers", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=200, help="publications in one run")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each server, in turn")
    options = parser.parse_args()
    options.servers = options.servers.split(",")
    for name in [*options.scenarios, *options.servers]:
        if name not in SCENARIOS and name not in SERVERS:
            parser.error(f"unknown: {name}")
    return options


def _rows(scenario: str, redis_url: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Let the servers alternate, so that a machine that changes its mind does so to all of them."""
    rows = []
    for turn in range(options.repeat):
        for name in options.servers:
            report.say(f"{scenario} {turn + 1}/{options.repeat}: {name}")
            server = SERVERS[name](redis_url)
            server.start()
            try:
                measured = SCENARIOS[scenario](
                    server, subscribers=options.subscribers, rounds=options.rounds
                )
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
            key: statistics.median(run[key] for run in runs) for key in runs[0] if key != "server"
        }
        medians.append({"server": name, **figures})
    return medians


if __name__ == "__main__":
    main()
