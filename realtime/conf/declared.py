"""Declares settings: each once, with its default, type, bounds, unit and documentation.

A settings class is a frozen dataclass; `number`, `text` and `value` create its fields. The checks,
the tables of docs/settings.md and the environment of the service follow from the declarations.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

KIB, MIB, GIB = 1024, 1024**2, 1024**3
_DECLARATION = "declaration"  # the key in the metadata of a dataclass field


class UnusableValue(ValueError):
    """An invalid value for a setting. The text is the predicate: "must be a string"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """The declaration of one setting."""

    default: Any
    check: Callable[[Any], Any]
    """Returns the value as the app uses it; raises `UnusableValue` or `ConfigurationError`."""
    kind: str
    """The type, as the documentation names it."""
    unit: str
    """Includes the bounds, if there are any."""
    doc: str
    """Markdown; links are relative to docs/."""

    @property
    def is_whole_number(self) -> bool:
        """Whether the value is an integer with bounds."""
        return self.kind == "integer"

    def row(self, setting: str) -> str:
        """Return the setting's row in the documentation's table."""
        unit = f" {self.unit} " if self.unit else " "
        return f"| `{setting}` | {self.kind} | `{_literal(self.default)}` |{unit}| {self.doc} |"


def number(
    default: float,
    *,
    at_least: float,
    at_most: float,
    unit: str,
    doc: str,
    precedent: str = "",
) -> Any:
    """Declare a number; an integer if the default is one.

    Args:
        default: In the unit, like the bounds.
        at_least: The smallest valid value.
        at_most: The largest.
        unit: ``bytes`` are documented as KiB, MiB and GiB.
        doc: See `Declaration`.
        precedent: The values of other software, with its name.
    """
    types = int if isinstance(default, int) else (int, float)

    def check(given: Any) -> Any:
        if not isinstance(given, types) or isinstance(given, bool):
            is_usable = False
        else:
            is_usable = at_least <= given <= at_most
        if not is_usable:
            raise UnusableValue(f"must be a number from {at_least} to {at_most}, not {given!r}")
        return given

    return _field(
        Declaration(
            default=default,
            check=check,
            kind="integer" if isinstance(default, int) else "number",
            unit=f"{unit}, {_format_amount(at_least, unit)}–{_format_amount(at_most, unit)}",
            doc=f"{doc} {precedent}" if precedent else doc,
        )
    )


def text(
    default: str,
    rule: Callable[[str], Any],
    problem: str,
    *,
    doc: str,
    unit: str = "",
    kind: str = "string",
) -> Any:
    """Declare a string.

    Args:
        default: It satisfies the rule.
        rule: Returns something true for a valid string.
        problem: What is wrong with an invalid one. It never quotes the string, which may be a
            secret.
        doc: See `Declaration`; likewise below.
        unit: Or another remark about valid content.
        kind: A more specific type than "string".
    """

    def check(given: Any) -> str:
        checked = string(given)
        if not rule(checked):
            raise UnusableValue(problem)
        return checked

    return _field(Declaration(default=default, check=check, kind=kind, unit=unit, doc=doc))


def value(default: Any, check: Callable[[Any], Any], *, kind: str, doc: str, unit: str = "") -> Any:
    """Declare a setting with a parser of its own; the arguments are those of `Declaration`."""
    return _field(Declaration(default=default, check=check, kind=kind, unit=unit, doc=doc))


def string(given: Any) -> str:
    """Return a value after checking that it is a string.

    Raises:
        UnusableValue: It is not.
    """
    if not isinstance(given, str):
        raise UnusableValue(f"must be a string, not {type(given).__name__}")
    return given


def declarations(settings: type) -> dict[str, Declaration]:
    """Return the declarations of a settings class, by field name."""
    return {each.name: each.metadata[_DECLARATION] for each in fields(settings)}


def table(declared: Mapping[str, Declaration], prefix: str) -> str:
    """Return the documentation's table of settings, as Markdown."""
    head = ["| setting | type | default | unit | |", "|---|---|---|---|---|"]
    rows = [each.row(prefix + name.upper()) for name, each in declared.items()]
    return "\n".join([*head, *rows])


def _field(declaration: Declaration) -> Any:
    metadata = {_DECLARATION: declaration}
    if isinstance(declaration.default, dict):  # dataclasses reject a shared mutable default
        return field(default_factory=declaration.default.copy, metadata=metadata)
    return field(default=declaration.default, metadata=metadata)


def _literal(default: Any) -> str:
    return json.dumps(default) if isinstance(default, str) else repr(default)


def _format_amount(amount: float, unit: str) -> str:
    """Format an amount for people."""
    if unit == "bytes":
        for size, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
            if amount >= size:
                return f"{amount // size:,} {name}"
    return f"{amount:,}"
