"""Draw the latest results: latency against load, and cost against number of subscribers.

make plots
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

from bench import report

matplotlib.use("svg")
from matplotlib import pyplot, ticker

FOLDER = report.RESULTS.parents[1] / "docs" / "plots"
# Colours that colour-blind people can distinguish (Okabe and Ito); ours is the strong one.
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666", "#000000")


def last(scenario: str) -> dict[str, Any]:
    """Return the newest result of a scenario."""
    found = sorted(report.RESULTS.glob(f"{scenario}-2*.json"))
    if not found:
        raise SystemExit(f"no results for {scenario}: run python -m bench {scenario} first")
    result: dict[str, Any] = json.loads(found[-1].read_text(encoding="utf-8"))
    return result


def draw(
    name: str, title: str, x: tuple[str, str], y: tuple[str, str], rows: Sequence[report.Row]
) -> Path:
    """Draw one line per server; x and y are each a column and its label."""
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    servers = list(dict.fromkeys(row["server"] for row in rows))
    for server, colour in zip(servers, COLOURS, strict=False):
        points = [(row[x[0]], row[y[0]]) for row in rows if row["server"] == server]
        width = 2.5 if server == servers[0] else 1.2
        axes.plot(*zip(*points, strict=True), "o-", color=colour, label=server, linewidth=width)
    axes.set(xscale="log", yscale="log", xlabel=x[1], ylabel=y[1], title=title)
    ticks = sorted({row[x[0]] for row in rows})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    path = FOLDER / f"{name}.svg"
    # Without a date and with fixed internal names, the same figures produce the same file.
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path


def main() -> None:
    """Draw both plots."""
    FOLDER.mkdir(exist_ok=True)
    matplotlib.rcParams["svg.hashsalt"] = "bench"
    matplotlib.rcParams["svg.fonttype"] = "none"
    load, crowds = last("load"), last("crowds")
    rate = ("publications/s", "publications a second, each to 1,000 subscribers")
    size = ("subscribers", "subscribers of the channel")
    written = [
        draw(
            "latency", "Latency against load, 99th percentile", rate,
            ("p99 ms", "ms from publish to the subscriber"), report.medians(load["rows"]),
        ),
        draw(
            "cost", "Processor time of the server against subscribers", size,
            ("CPU µs/delivery", "µs for each delivery"), report.medians(crowds["rows"]),
        ),
    ]  # fmt: skip
    for path in written:
        print(path)


if __name__ == "__main__":
    main()
