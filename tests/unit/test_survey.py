"""What nodes are asked and answer; a question costs a node no more than its slices."""

from __future__ import annotations

from typing import Any

import pytest

from realtime import survey
from realtime.errors import InvalidData
from realtime.survey import (
    PATTERN_LIMIT,
    Question,
    TooManyChannels,
    channels_answer,
    channels_of,
    checked_pattern,
    matcher,
    opened,
    sealed,
)


@pytest.mark.parametrize(
    ("pattern", "fits", "others"),
    [
        ("", ["a", "chat:b"], []),
        ("chat:*", ["chat:", "chat:a:b"], ["chat", "xchat:a"]),
        ("chat:r??m*", ["chat:room", "chat:rxxm1"], ["chat:rm"]),
        ("a.c", ["a.c"], ["abc"]),
    ],
)
def test_a_pattern_is_for_channels(pattern: str, fits: list[str], others: list[str]) -> None:
    found = matcher(pattern)
    assert [name for name in fits + others if found(name)] == fits


def test_a_question_comes_out_as_it_went_in() -> None:
    asked = Question("0" * 16, "channels", "chat:*")
    assert opened(sealed(asked)) == asked
    assert opened(b"? 00 channels ") is None


@pytest.mark.parametrize("value", ["a" * (PATTERN_LIMIT + 1), "a b", 7, "ä"])
def test_a_pattern_that_is_longer_than_a_name_is_refused(value: Any) -> None:
    with pytest.raises(InvalidData):
        checked_pattern(value)


def test_what_is_more_than_may_be_listed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "CHANNELS_LIMIT", 2)
    two, three = {"a": 1, "b": 2}, {"a": 1, "b": 2, "c": 3}
    assert channels_of([channels_answer(two)], lambda name: True) == two
    with pytest.raises(TooManyChannels):
        channels_of([channels_answer(three)], lambda name: True)
