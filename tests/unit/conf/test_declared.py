"""A declared setting: its bounds, its errors and its documentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from realtime.conf import DECLARED, Settings
from realtime.conf.declared import MIB, UnusableValue, declarations, number, table, text, value


@dataclass(frozen=True, slots=True, kw_only=True)
class Kitchen:
    """Settings of an imaginary program."""

    ovens: int = number(2, at_least=1, at_most=9, unit="ovens", doc="Ovens.", precedent="Inns 4.")
    heat: float = number(0.5, at_least=0.1, at_most=1, unit="of all", doc="Heat.")
    store_bytes: int = number(MIB, at_least=64, at_most=5 * MIB, unit="bytes", doc="Store.")
    cook: str = text("", str.islower, "must be in lower case", doc="Who cooks.")
    menu: Mapping[str, Any] = value({}, dict, kind="mapping", unit="dishes", doc="What there is.")


KITCHEN = declarations(Kitchen)
anything = some.none() | some.booleans() | some.integers() | some.floats() | some.text()


@given(anything)
def test_only_integers_within_their_bounds_are_accepted(given: Any) -> None:
    if type(given) is int and 1 <= given <= 9:
        assert KITCHEN["ovens"].check(given) == given
    else:
        with pytest.raises(UnusableValue, match="must be a number from 1 to 9, not "):
            KITCHEN["ovens"].check(given)


@given(anything)
def test_a_number_may_have_a_fraction_where_its_default_is_a_float(given: Any) -> None:
    if type(given) in (int, float) and 0.1 <= given <= 1:
        assert KITCHEN["heat"].check(given) == given
    else:
        with pytest.raises(UnusableValue):
            KITCHEN["heat"].check(given)


def test_a_text_that_breaks_its_rule_is_not_quoted() -> None:
    with pytest.raises(UnusableValue, match=r"^must be in lower case$"):
        KITCHEN["cook"].check("PASSWORD")
    with pytest.raises(UnusableValue, match=r"^must be a string, not bytes$"):
        KITCHEN["cook"].check(b"password")


def test_the_table_shows_defaults_and_bounds_readably() -> None:
    assert table(KITCHEN, "KITCHEN_").splitlines() == [
        "| setting | type | default | unit | |",
        "|---|---|---|---|---|",
        "| `KITCHEN_OVENS` | integer | `2` | ovens, 1–9 | Ovens. Inns 4. |",
        "| `KITCHEN_HEAT` | number | `0.5` | of all, 0.1–1 | Heat. |",
        "| `KITCHEN_STORE_BYTES` | integer | `1048576` | bytes, 64–5 MiB | Store. |",
        '| `KITCHEN_COOK` | string | `""` | | Who cooks. |',
        "| `KITCHEN_MENU` | mapping | `{}` | dishes | What there is. |",
    ]


def test_settings_objects_share_no_mutable_default() -> None:
    assert Kitchen().menu is not Kitchen().menu
    assert Settings().namespaces is not Settings().namespaces


@pytest.mark.parametrize("name", DECLARED)
def test_every_default_satisfies_its_own_rule(name: str) -> None:
    declared = DECLARED[name]
    assert declared.check(declared.default) == declared.default == getattr(Settings(), name)
