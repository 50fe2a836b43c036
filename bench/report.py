"""The results, with the machine they were measured on, as a table and as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

Row = dict[str, Any]
POINT = ("server", "subscribers", "publications/s", "publishers", "identity")
"""The columns that identify a row; all others were measured."""
COMPARED = (
    *("deliveries/s", "CPU µs/delivery"),
    *("requests/s", "CPU µs/request", "in batches/s", "CPU µs/publication"),
    *("joins/s", "CPU µs/join", "KiB/connection"),
)
RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "uvicorn",
    "websockets",
    "daphne",
    "channels",
    "channels-redis",
    "redis",
    "msgspec",
    "httptools",
)


def machine() -> dict[str, Any]:
    """Return the facts that the numbers depend on."""
    return {
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": _git("rev-parse", "--short", "HEAD")
        + ("+" if _git("status", "--porcelain") else ""),
        "versions": {name: version(name) for name in PACKAGES},
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _git(*command: str) -> str:
    done = subprocess.run(["git", *command], capture_output=True, encoding="utf-8", check=False)
    return done.stdout.strip()


def save(name: str, rows: Sequence[Row], missing: Sequence[str]) -> Path:
    """Write the rows, with the machine and what was not installed, to a file of their own."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    result = {"scenario": name, "machine": machine(), "missing": missing, "rows": rows}
    path.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return path


def medians(rows: Sequence[Row]) -> list[Row]:
    """Return one row per server and point, with the median of each figure over the rounds."""
    grouped: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        grouped.setdefault(tuple(row.get(key) for key in POINT), []).append(row)
    return [
        {
            key: value if key in POINT or isinstance(value, str) else _median(runs, key)
            for key, value in runs[0].items()
            if key != "turn"
        }
        for runs in grouped.values()
    ]


def ratios(rows: Sequence[Row]) -> list[Row]:
    """Return the results of the first server as multiples of each other one's.

    For each figure in `COMPARED`, the median of the ratios per round, with their minimum and
    maximum in brackets. A rate of 2 is twice as fast, a cost of 2 twice as expensive.
    """
    servers = list(dict.fromkeys(row["server"] for row in rows))
    table: dict[tuple[Any, ...], Row] = {}
    for other in servers[1:]:
        for figure in COMPARED:
            for point, values in _ratios(rows, figure, servers[0], other).items():
                row = table.setdefault((other, point), {f"{servers[0]} / …": other, **dict(point)})
                middle = statistics.median(values)
                row[figure] = f"{middle:.3g} ({min(values):.3g}–{max(values):.3g})"
    return list(table.values())


def _ratios(
    rows: Sequence[Row], figure: str, ours: str, other: str
) -> dict[tuple[tuple[str, Any], ...], list[float]]:
    found: dict[tuple[tuple[str, Any], ...], list[float]] = {}
    theirs = {_place(row): row for row in rows if row["server"] == other}
    for row in rows:
        peer = theirs.get(_place(row))
        if row["server"] == ours and peer is not None and figure in row and peer.get(figure):
            point = tuple((key, row[key]) for key in POINT[1:] if key in row)
            found.setdefault(point, []).append(row[figure] / peer[figure])
    return found


def _place(row: Row) -> tuple[Any, ...]:
    return (row["turn"], *(row.get(key) for key in POINT[1:]))


def _median(runs: Sequence[Row], key: str) -> float:
    return float(statistics.median(run[key] for run in runs))


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table, with the columns of the first row."""
    if not rows:
        return ""
    names = list(rows[0])
    cells = [[_cell(row.get(name, "")) for name in names] for row in rows]
    widths = [max(len(name), *(len(row[at]) for row in cells)) for at, name in enumerate(names)]
    lines = [names, ["-" * width for width in widths], *cells]
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def say(text: str) -> None:
    """Show progress, separately from the results."""
    print(text, file=sys.stderr, flush=True)
