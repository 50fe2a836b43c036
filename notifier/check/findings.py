"""What a check finds, and how it is printed."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from itertools import groupby
from typing import NamedTuple


class Level(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    WARNING = "warning"
    """It works, but may not be intended, or breaks under load."""
    WRONG = "wrong"
    """It does not work, or lets an attacker in."""


class Finding(NamedTuple):
    """One line of the result."""

    area: str
    """``configuration``, ``redis``, ``database`` or ``machine``."""
    level: Level
    text: str
    """What is there, or what is wrong; never a secret."""
    advice: str = ""
    """What to do about it."""


INDENT = " " * 11


def is_anything_wrong(findings: Sequence[Finding]) -> bool:
    """Return whether the deployment does not work, or is not safe."""
    return any(finding.level == Level.WRONG for finding in findings)


def write_findings(findings: Sequence[Finding]) -> str:
    """Return the findings as text, in groups, with a line that counts them."""
    lines = []
    for area, group in groupby(findings, lambda finding: finding.area):
        lines.append(area)
        for finding in group:
            lines.append(f"  {finding.level:<9}{finding.text}")
            if finding.advice:
                lines.append(f"{INDENT}{finding.advice}")
        lines.append("")
    wrong = sum(finding.level == Level.WRONG for finding in findings)
    warnings = sum(finding.level == Level.WARNING for finding in findings)
    lines.append(f"{wrong or 'Nothing is'} wrong, {count_warnings(warnings)}.")
    return "\n".join(lines)


def count_warnings(number: int) -> str:
    """Return a number of warnings in words."""
    return {0: "no warnings", 1: "1 warning"}.get(number, f"{number} warnings")
