"""A channel is named if many clients fall behind on it in the same second, once a minute."""

from __future__ import annotations

from realtime.core.congestion import (
    CHANNELS_NAMED,
    CONNECTIONS_LEAST,
    CongestedChannel,
    CongestedChannels,
)

MANY = CONNECTIONS_LEAST


def behind(first: int, count: int, channel: str = "news") -> dict[int, str]:
    return dict.fromkeys(range(first, first + count), channel)


def test_a_channel_is_named_when_many_fall_behind_at_once() -> None:
    congested = CongestedChannels()
    assert congested.observe({}, 0.0) == []
    assert congested.observe(behind(0, MANY - 1), 1.0) == []
    some = behind(0, MANY) | behind(100, MANY + 1, "sport") | behind(200, 1, "art")
    assert congested.observe({}, 2.0) == []
    assert congested.observe(some, 3.0) == [
        CongestedChannel("sport", MANY + 1, MANY + 1),
        CongestedChannel("news", MANY, MANY),
    ]


def test_clients_that_stay_behind_are_counted_once() -> None:
    congested = CongestedChannels()
    now, slow = 0.0, dict[int, str]()
    for number in range(MANY):
        slow |= behind(number, 1)
        assert congested.observe(slow, now) == []
        now += 1.0


def test_replies_that_wait_name_no_channel() -> None:
    assert CongestedChannels().observe(behind(0, MANY, channel=""), 0.0) == []


def test_a_channel_is_named_once_a_minute_with_a_count() -> None:
    congested = CongestedChannels()
    named = []
    for second in range(0, 120, 2):
        named += congested.observe(behind(0, MANY), float(second))
        congested.observe({}, second + 1.0)
    assert named == [
        CongestedChannel("news", MANY, MANY),
        CongestedChannel("news", MANY, 31 * MANY),
    ]
    congested.observe({}, 200.0)
    assert not congested._named, "a quiet minute starts a new count"
    assert congested.observe(behind(0, MANY), 300.0) == [CongestedChannel("news", MANY, MANY)]


def test_a_flood_names_the_worst_channels_only() -> None:
    congested = CongestedChannels()
    slow: dict[int, str] = {}
    for number in range(3 * CHANNELS_NAMED):
        slow |= behind(1000 * number, MANY + number, f"c{number}")
    news = congested.observe(slow, 0.0)
    worst = [f"c{number}" for number in range(3 * CHANNELS_NAMED - 1, 0, -1)]
    assert [each.channel for each in news] == worst[:CHANNELS_NAMED]
