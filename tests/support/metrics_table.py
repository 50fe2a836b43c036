"""The tables of docs/metrics.md, generated from the declarations of the metrics.

`python -m tests.support.metrics_table` writes them; tests/test_docs.py compares.
"""

from __future__ import annotations

import re
from pathlib import Path

from realtime.core.metrics import METRICS, PROBE_METRICS, Metric, MetricKind

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
_TABLE = re.compile(r"^\| metric \|.*\n\|[-|]+\|\n(?:\|.*\n)*", re.MULTILINE)
_HEAD = "| metric | type | labels | workers | |\n|---|---|---|---|---|\n"


def with_tables(text: str) -> str:
    """Return the page with its tables of metrics; the second one is that of the probe."""
    tables = iter([METRICS, PROBE_METRICS])
    text, count = _TABLE.subn(lambda _: _HEAD + "".join(map(_row, next(tables))), text)
    assert count == 2, f"{PAGE} has {count} tables of metrics, not two"
    return text


def _row(metric: Metric) -> str:
    name = f"{metric.name}_total" if metric.kind is MetricKind.COUNTER else metric.name
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{name}` | {metric.kind} | {labels} | {metric.across} | {metric.help} |\n"


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
