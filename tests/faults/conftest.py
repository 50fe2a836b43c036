"""Prints what the ledgers of the fault tests say: the table of docs/semantics.md."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.ledger import Summary

COLUMNS = "| fault | runs | clients | published | received | announced | open gaps | violations |"
_rows: list[str] = []


@pytest.fixture
def account(request: pytest.FixtureRequest) -> Callable[[int, Summary], None]:
    """Write a line of the table."""

    def write(runs: int, summary: Summary) -> None:
        name = request.node.callspec.id if hasattr(request.node, "callspec") else request.node.name
        figures = (runs, summary.clients, summary.published, summary.received, summary.announced)
        cells = [f"{figure:,}" for figure in (*figures, summary.open_gaps, summary.violations)]
        _rows.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")

    return write


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _rows:
        terminalreporter.section("ledgers")
        for line in (COLUMNS, "|---" * COLUMNS.count(" |") + "|", *_rows):
            terminalreporter.write_line(line)
