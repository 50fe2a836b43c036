"""Benchmark the service side by side with other servers in common use: `make bench`."""

from __future__ import annotations

import argparse
import os
import resource
import time
from pathlib import Path
from typing import Any

from bench import report
from bench.redis import private_redis
from bench.rivals import RIVALS
from bench.scenarios import LONG, SCENARIOS
from bench.servers import OTHERS_CPU, OWN, Fleet, Ours, Server
from bench.variants import VARIANTS, variant

SERVERS: dict[str, type[Server]] = {**OWN, **RIVALS, **VARIANTS}
ONLY_BY_NAME = {"notifier-2", "centrifugo-2", "tutorial-daphne"}
"""What `make bench` leaves out: two cores, and a server that takes a quarter of the time."""
MOVABLE: dict[str, type[Ours]] = {"notifier": Ours, "notifier-2": Fleet}
"""What `NAME@PATH` may name, see `bench.variants`."""


def main() -> None:
    """Run the scenarios with alternating servers, and print the medians."""
    options = _options()
    os.sched_setaffinity(0, {OTHERS_CPU})  # inherited by children other than the servers
    allow_many_sockets()
    missing = [sentence for name in options.servers if (sentence := SERVERS[name].missing())]
    for sentence in missing:
        report.say(f"skipped, not installed: {sentence}")
    failed: list[str] = []
    with private_redis() as redis_url:
        for scenario in options.scenarios:
            began = time.monotonic()
            rows = _rows(scenario, redis_url, options, failed)
            if not rows:
                continue
            report.say(f"{scenario} took {time.monotonic() - began:.0f} s")
            path = report.save(scenario, rows, [*missing, *failed])
            print(f"\n## {scenario}\n\n{_explained(scenario)}\n", flush=True)
            print(report.table(report.medians(rows)))
            if ratios := report.ratios(rows):
                print(f"\n{report.table(ratios)}")
            for sentence in missing:
                print(f"\nSkipped, not installed: {sentence}")
            print(f"\nAll runs: {path}", flush=True)
    if failed:
        print("\nFailed:", *failed, sep="\n  ", flush=True)
        raise SystemExit(1)


def _explained(scenario: str) -> str:
    return (SCENARIOS[scenario].__doc__ or "").strip()


def _options() -> argparse.Namespace:
    scenarios = "\n".join(f"  {name:15} {_explained(name)}" for name in SCENARIOS)
    servers = "\n".join(
        f"  {name:17} {(kind.__doc__ or '').strip()}" for name, kind in SERVERS.items()
    )
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        epilog=f"scenarios:\n{scenarios}\n\nservers:\n{servers}\n\n"
        "`python -m bench.peers.setup` builds the peers and installs their dependencies.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "scenarios",
        nargs="*",
        metavar="SCENARIO",
        help="names of scenarios (default: all); listed below",
    )
    parser.add_argument(
        "--servers",
        default=",".join(name for name in [*OWN, *RIVALS] if name not in ONLY_BY_NAME),
        help="comma-separated names (default: all on one core, without tutorial-daphne); listed "
        "below. notifier@PATH is the service of another interpreter or checkout, for comparison",
    )
    parser.add_argument(
        "--repeat",
        type=int,
        default=3,
        help="runs per server (default: 3); long scenarios run a third as often",
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor for the number of clients (default: 1)"
    )
    options = parser.parse_args()
    options.scenarios = options.scenarios or list(SCENARIOS)
    options.servers = options.servers.split(",")
    for name in options.scenarios:
        if name not in SCENARIOS:
            parser.error(f"unknown scenario {name}; known: {', '.join(SCENARIOS)}")
    for name in options.servers:
        kind, at, path = name.partition("@")
        if at and kind in MOVABLE and Path(path).exists():
            SERVERS[name] = variant(MOVABLE[kind], Path(path).absolute())
        if name not in SERVERS:
            parser.error(f"unknown server {name}; known: {', '.join(SERVERS)}")
    return options


def allow_many_sockets() -> None:
    """Raise the limit on open files as far as this user may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # inherited by the servers


def _rows(
    scenario: str, redis_url: str, options: argparse.Namespace, failed: list[str]
) -> list[dict[str, Any]]:
    """Alternate the servers, so that drift in the machine's speed affects all of them equally.

    A server that fails has no row for that turn, and one more line in ``failed``.
    """
    rows = []
    kinds = [SERVERS[name] for name in options.servers]
    kinds = [kind for kind in kinds if scenario in kind.scenarios and not kind.missing()]
    turns = -(-options.repeat // 3) if scenario in LONG else options.repeat
    for turn in range(turns):
        for kind in kinds:
            server = kind(redis_url)
            report.say(f"{scenario} {turn + 1}/{turns}: {server.name}")
            server.start()
            try:
                measured = SCENARIOS[scenario](server, options.scale)
            except (TimeoutError, OSError) as error:
                failed.append(f"{scenario} {turn + 1}/{turns}: {server.name}: {error}")
                report.say(f"failed: {failed[-1]}")
                continue
            finally:
                server.stop()
            points = measured if isinstance(measured, list) else [measured]
            rows += [{"server": server.name, "turn": turn, **point} for point in points]
    return rows


if __name__ == "__main__":
    main()
