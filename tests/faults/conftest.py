"""Prints the results of the fault tests and of the tutorial, as tables of docs/semantics.md."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.ledger import Summary
from tests.support.tables import add_row, show_table
from tests.support.tutorial import Tally

LEDGERS = "| fault | runs | clients | published | received | announced | open gaps | violations |"
TUTORIAL = (
    "| fault | runs | clients | published | failed | received | lost in silence | disconnected "
    "| deaf |"
)


@pytest.fixture
def account(request: pytest.FixtureRequest) -> Callable[[int, Summary], None]:
    """Add a row to the table of ledgers."""

    def write(runs: int, summary: Summary) -> None:
        figures = (runs, summary.clients, summary.published, summary.received, summary.announced)
        _write(LEDGERS, request.node, *figures, summary.open_gaps, summary.violations)

    return write


@pytest.fixture
def compare(request: pytest.FixtureRequest) -> Callable[[list[Tally]], None]:
    """Add a row to the table of the tutorial: sums over all runs, except for the clients."""

    def write(tallies: list[Tally]) -> None:
        [clients] = {tally.clients for tally in tallies}
        names = ("published", "failed", "received", "lost", "disconnected", "deaf")
        sums = [sum(getattr(tally, name) for tally in tallies) for name in names]
        _write(TUTORIAL, request.node, len(tallies), clients, *sums)

    return write


def _write(table: str, node: pytest.Item, *figures: int) -> None:
    name = node.callspec.id if hasattr(node, "callspec") else node.name
    cells = [f"{figure:,}" for figure in figures]
    add_row(node, table, f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for title, columns in (("ledgers", LEDGERS), ("the same load on the tutorial", TUTORIAL)):
        show_table(terminalreporter, title, columns, columns)
