"""Draw the latest results: latency and cost beside other servers, and what more work costs.

make plots
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
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
        command = scenario.replace("scale-", ".scale ") if "scale-" in scenario else f" {scenario}"
        raise SystemExit(f"no results for {scenario}: run python -m bench{command} first")
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


def latency() -> Path:
    """The latency of each server against its load."""
    rate = ("publications/s", "publications a second, each to 1,000 subscribers")
    return draw(
        "latency", "Latency against load, 99th percentile", rate,
        ("p99 ms", "ms from publish to the subscriber"), report.medians(last("load")["rows"]),
    )  # fmt: skip


def cost() -> Path:
    """The processor time of each server against the subscribers of a channel."""
    size = ("subscribers", "subscribers of the channel")
    return draw(
        "cost", "Processor time of the server against subscribers", size,
        ("CPU µs/delivery", "µs for each delivery"), report.medians(last("crowds")["rows"]),
    )  # fmt: skip


# Of each curve of bench.scale: what grows, and the figures that are drawn.
CURVES = {
    "connections": ("connections", ("CPU µs/join", "CPU µs/delivery", "KiB/connection")),
    "channels": ("channels", ("CPU µs/delivery", "KiB/channel")),
    "subscriptions": ("subscriptions", ("CPU µs/subscription", "KiB/subscription")),
    "payload": ("bytes", ("CPU µs/delivery",)),
    "workers": ("workers", ("CPU µs/delivery", "CPU µs/publication")),
    "nodes": ("nodes", ("Redis µs/publication", "in batches of 100")),
}


def scale() -> Path:
    """What each piece of work costs when there is more of it: a multiple of the first point."""
    figure, axes = pyplot.subplots(2, 3, figsize=(11, 6.5), layout="constrained")
    for panel, (name, (amount, figures)) in zip(axes.flat, CURVES.items(), strict=True):
        points = scale_points(name)
        x = [point[amount] for point in points]
        for column, colour in zip(figures, COLOURS, strict=False):
            y = [point[column] / points[0][column] for point in points]
            panel.plot(x, y, "o-", color=colour, label=column)
        panel.set(xscale="log", xlabel=amount, title=name, ylim=(0, None))
        panel.set_xticks(
            x, [f"{value:,}" if value < 10_000 else f"{value // 1000}k" for value in x]
        )
        panel.yaxis.set_major_formatter("{x:g} ×")
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    path = FOLDER / "scale.svg"
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path


def scale_points(name: str) -> list[report.Row]:
    """Return the medians of a curve of bench.scale, in the order of what grows."""
    amount = CURVES[name][0]
    grouped: dict[int, list[report.Row]] = {}
    for row in last(f"scale-{name}")["rows"]:
        grouped.setdefault(row[amount], []).append(row)
    return [
        {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        for _, rows in sorted(grouped.items())
    ]


PLOTS: dict[str, Callable[[], Path]] = {"latency": latency, "cost": cost, "scale": scale}


def main() -> None:
    """Draw the plots that were asked for."""
    described = "\n".join(
        f"  {name:8} {(plot.__doc__ or '').strip()}" for name, plot in PLOTS.items()
    )
    parser = argparse.ArgumentParser(
        prog="python -m bench.plots",
        description=__doc__,
        epilog=f"plots:\n{described}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "plots", nargs="*", choices=[*PLOTS, []], metavar="PLOT", help="default: all; listed below"
    )
    FOLDER.mkdir(exist_ok=True)
    matplotlib.rcParams["svg.hashsalt"] = "bench"
    matplotlib.rcParams["svg.fonttype"] = "none"
    for name in parser.parse_args().plots or PLOTS:
        print(PLOTS[name]())


if __name__ == "__main__":
    main()
