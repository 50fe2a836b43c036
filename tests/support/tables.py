"""Tables of what tests have measured, which pytest prints at its end."""

from __future__ import annotations

import pytest


def add_row(test: pytest.Item, table: str, row: str) -> None:
    """Keep a row with the report of the test, which reaches the process that prints (xdist)."""
    test.user_properties.append((table, row))


def show_table(reporter: pytest.TerminalReporter, title: str, table: str, columns: str) -> None:
    """Print the rows of all tests in the order of their ends, if there are any."""
    reports = [each for reports in reporter.stats.values() for each in reports]
    rows = [
        row
        for each in reports
        if isinstance(each, pytest.TestReport) and each.when == "call"
        for name, row in each.user_properties
        if name == table
    ]
    if rows:
        reporter.section(title)
        for line in (columns, "|---" * (columns.count("|") - 1) + "|", *rows):
            reporter.write_line(str(line))
