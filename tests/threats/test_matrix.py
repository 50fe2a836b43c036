"""The matrix of docs/security.md is complete: every threat has tests, and vice versa."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.test_docs import page, rows, section

ROOT = Path(__file__).resolve().parents[2]
THREATS = 37
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
MATRIX = rows(section(page("security.md"), "## The matrix"))


def defined(file: str) -> set[str]:
    """Return the tests of a file."""
    path = ROOT / file
    source = path.read_text() if path.exists() else ""
    return set(re.findall(r"^(?:async )?def (test_\w+)\(", source, re.M))


def test_the_numbers_are_consecutive() -> None:
    assert [row[0] for row in MATRIX] == [str(number) for number in range(1, THREATS + 1)]


@pytest.mark.parametrize("row", MATRIX, ids=lambda row: row[0])
def test_every_threat_names_an_existing_test(row: list[str]) -> None:
    number, threat, answer, tests = row
    assert threat, number
    assert answer, number
    named = NAMED.findall(tests)
    assert named, f"nobody attacks {number}: {threat}"
    assert not [name for file, name in named if name not in defined(file)]


def test_every_attack_test_belongs_to_a_threat() -> None:
    """A test that the page does not list is not found by readers who ask what is covered."""
    told = {name for _, name in NAMED.findall(page("security.md"))}
    here = {
        f"{path.name}::{name}"
        for path in Path(__file__).parent.glob("test_*.py")
        if path.name != Path(__file__).name
        for name in defined(str(path.relative_to(ROOT)))
    }
    controls = {"test_allowed_pages_connect", "test_the_search_for_markup_finds_it"}
    assert not {name for name in here if name.partition("::")[2] not in told | controls}
