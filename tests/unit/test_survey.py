"""Surveys of nodes: their questions, answers and bounded cost."""

from __future__ import annotations

from typing import Any

import pytest

from realtime.core import survey
from realtime.core.survey import (
    PATTERN_LIMIT,
    Question,
    TooManyChannels,
    channels_answer,
    channels_of,
    checked_pattern,
    decode_question,
    encode_question,
    matcher,
)
from realtime.errors import InvalidData


@pytest.mark.parametrize(
    ("pattern", "fits", "others"),
    [
        ("", ["a", "chat:b"], []),
        ("chat:*", ["chat:", "chat:a:b"], ["chat", "xchat:a"]),
        ("chat:r??m*", ["chat:room", "chat:rxxm1"], ["chat:rm"]),
        ("a.c", ["a.c"], ["abc"]),
    ],
)
def test_a_pattern_matches_channels(pattern: str, fits: list[str], others: list[str]) -> None:
    found = matcher(pattern)
    assert [name for name in fits + others if found(name)] == fits


def test_a_question_round_trips() -> None:
    asked = Question("0" * 16, "channels", "chat:*")
    assert decode_question(encode_question(asked)) == asked
    assert decode_question(b"? 00 channels ") is None


@pytest.mark.parametrize("value", ["a" * (PATTERN_LIMIT + 1), "a b", 7, "ä"])
def test_a_pattern_that_is_longer_than_a_name_is_refused(value: Any) -> None:
    with pytest.raises(InvalidData):
        checked_pattern(value)


def test_too_many_channels_to_list_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "CHANNELS_LIMIT", 2)
    two, three = {"a": 1, "b": 2}, {"a": 1, "b": 2, "c": 3}
    assert channels_of([channels_answer(two)], lambda name: True) == two
    with pytest.raises(TooManyChannels):
        channels_of([channels_answer(three)], lambda name: True)
