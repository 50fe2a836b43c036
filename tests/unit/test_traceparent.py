"""Only what is exactly a traceparent is used: any stranger may send the header."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.core.traceparent import TRACEPARENT_CHARACTERS, read_traceparent

GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize("text", [GOOD, GOOD[:-2] + "00", GOOD[:-2] + "ff"])
def test_a_traceparent_is_used_as_it_is(text):
    assert read_traceparent(text) == text


INVALID = {
    "nothing": "",
    "spaces around it": f" {GOOD} ",
    "a line break": f"{GOOD[:-1]}\n",
    "a line break after it": f"{GOOD}\n",
    "capitals": GOOD.upper(),
    "other digits": GOOD.replace("0af", "٠af"),
    "a newer version": f"01{GOOD[2:]}",
    "the forbidden version": f"ff{GOOD[2:]}",
    "more than version 00 has": f"{GOOD}-more",
    "no trace id": f"00-{'0' * 32}{GOOD[35:]}",
    "no span id": f"{GOOD[:36]}{'0' * 16}-01",
    "two headers": f"{GOOD},{GOOD}",
    "a megabyte": "0" * 1024 * 1024,
}


@pytest.mark.parametrize("text", INVALID.values(), ids=INVALID)
def test_anything_else_is_none(text):
    assert read_traceparent(text) == ""


@given(st.integers(0, len(GOOD) - 1), st.characters())
def test_a_changed_character_leaves_a_valid_one_or_none(place, character):
    changed = GOOD[:place] + character + GOOD[place + 1 :]
    found = read_traceparent(changed)
    assert found in (changed, "")
    assert not found or (len(found) == TRACEPARENT_CHARACTERS and found.isascii())
