"""An event stream, as any parser of WHATWG HTML §9.2.6 reads it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.core.codes import BAD_REQUEST, SubscriptionEnd
from realtime.core.members import Headcount
from realtime.core.positions import Gap, Position
from realtime.core.publication import Publication
from realtime.protocols import centrifugo
from realtime.transports.sse_format import (
    LAST_ID_LIMIT,
    PLACE_CHARACTERS,
    PLACES_LIMIT,
    UNKNOWN_POSITION,
    Places,
    event_of,
    name_on_stream,
    place_of,
    place_text,
    places_of,
)
from tests.support.event_stream import Event, parsed
from tests.unit.strategies import json_values


def push(data: object, offset: int = 1, *, channel: str = "c", **options: object) -> str:
    publication = Publication.of(channel, data, **options)
    return centrifugo.encode_publication(
        channel, Position("e", offset), publication.body.decode(), first_of_epoch=offset == 1
    )


def stream(*lines: str, last_id: str = "") -> tuple[list[Event], Places]:
    places = Places(places_of(last_id))
    written = [places.encode(event) for line in lines if (event := event_of(line))]
    return parsed("".join(written)), places


def test_a_publication_is_an_event_with_its_name():
    [event], _ = stream(push({"n": 1}, event="order.shipped"))
    assert event == ("order.shipped", '{"n":1}', "e/1/c")
    [event], _ = stream(push([1, 2]))
    assert event == ("message", "[1,2]", "e/1/c")


def test_a_string_is_sent_unquoted():
    [event], _ = stream(push("<li>\n  one\r\n</li>"))
    assert event.data == "<li>\n  one\n</li>"


@pytest.mark.parametrize("name", ["open", "error", "realtime.gap", "realtime.disconnect"])
def test_a_publication_never_uses_a_reserved_event_name(name):
    """Issue 15, C19: `event="error"` called the handler with which a page detects a lost stream.

    HTML §9.2.6: the name becomes the type of the event;
    sourcegraph/sourcegraph-public-snapshot#15620 had to rename its `error`.
    """
    [event], _ = stream(push({"n": 1}, event=name))
    assert event == (f"publication.{name}", '{"n":1}', "e/1/c")


@pytest.mark.parametrize("name", ["message", "Error", "errors", "opened", "realtime", "order"])
def test_any_other_event_name_is_unchanged(name):
    [event], _ = stream(push(1, event=name))
    assert event.name == name


@given(json_values(), st.from_regex(r"\A[A-Za-z0-9_\-.:]{1,20}\Z"))
def test_any_publication_is_one_event_and_forges_no_other(data, name):
    events, _ = stream(push(data, event=name), push("next", 2))
    assert [event.name for event in events] == [name_on_stream(name), "message"]
    if isinstance(data, str):
        assert events[0].data == data.replace("\r\n", "\n").replace("\r", "\n")
    else:
        assert json.loads(events[0].data) == data


@given(st.text())
def test_no_string_forges_a_field(text):
    events, places = stream(push(f"{text}\nid: forged\n\nevent: forged\r\rdata: forged"))
    assert len(events) == 1
    assert events[0].name == "message"
    assert events[0].id == places.id == "e/1/c"


def test_the_id_has_the_positions_of_all_channels():
    events, places = stream(
        push(1, 1, channel="a"), push(2, 2, channel="b:x"), push(3, 2, channel="a")
    )
    assert [event.id for event in events] == ["e/1/a", "e/1/a&/2/b:x", "e/2/a&/2/b:x"]
    places.open({"b:x": Position("f", 7)})
    assert places_of(places.id) == {"a": Position("e", 2), "b:x": Position("f", 7)}


def test_a_gap_event_advances_the_position():
    places = Places()
    places.open({"c": Position("e", 3)})
    gap = event_of(centrifugo.encode_gap("c", Gap("e", 4, 6), "slow"))
    assert gap is not None
    [event] = parsed(places.encode(gap))
    assert event.name == "realtime.gap"
    assert json.loads(event.data) == {
        "channel": "c", "epoch": "e", "from": 4, "to": 6, "reason": "slow",
    }  # fmt: skip
    assert event.id == "e/6/c"
    open_end = event_of(centrifugo.encode_gap("c", Gap("e", 7, None), "broker"))
    assert open_end is not None
    assert parsed(places.encode(open_end))[0].id == "e/6/c"


def test_a_gap_between_two_streams_is_reported():
    had = {"a": Position("e", 3), "b": Position("e", 5), "c": Position("e", 1)}
    now = {
        "a": Position("e", 5),
        "b": Position("e", 5),
        "c": Position("f", 2),
        "d": Position("e", 9),
    }
    events = parsed(Places(had).open(now))
    assert [gap_of(event) for event in events] == [
        ("a", "e", 4, 5),
        ("c", "e", 2, None),
        ("c", "f", 1, 2),
    ]
    before = {**had, "d": now["d"]}
    assert [places_of(event.id) for event in events] == [before, before, now]


def gap_of(event: Event) -> tuple[str, str, int, int | None]:
    gap = json.loads(event.data)
    assert (event.name, gap["reason"]) == ("realtime.gap", "reconnect")
    return gap["channel"], gap["epoch"], gap["from"], gap["to"]


def served(channel: str, offset: int, epoch: str = "e") -> str:
    return centrifugo.encode_subscribe_push(channel, Position(epoch, offset))


def test_the_gap_of_a_served_channel_precedes_its_first_event():
    (gap, subscribed, publication), _ = stream(
        served("user:#1", 5), push("x", 6, channel="user:#1"), last_id="e/2/user:#1"
    )
    assert gap_of(gap) == ("user:#1", "e", 3, 5)
    assert [gap.id, subscribed.id, publication.id] == ["", "e/5/user:#1", "e/6/user:#1"]
    assert subscribed.name == "realtime.subscribed"
    (ended, new, _), _ = stream(served("user:#1", 1, "f"), last_id="e/2/user:#1")
    assert (gap_of(ended)[1:], gap_of(new)[1:]) == (("e", 3, None), ("f", 1, 1))


def test_the_gap_of_a_served_channel_is_reported_once():
    events, _ = stream(served("c", 5), served("c", 9), last_id="e/2/c")
    assert [event.name for event in events] == [
        "realtime.gap", "realtime.subscribed", "realtime.subscribed",
    ]  # fmt: skip
    events, _ = stream(served("c", 2), served("d", 7), last_id="e/2/c")
    assert [event.name for event in events] == ["realtime.subscribed"] * 2


def test_ids_keep_the_position_of_a_channel_that_is_not_yet_served():
    """However often a stream ends before that, the next one knows the client's position."""
    last_id = "e/2/user:#1"
    for offset in (1, 2, 3):
        places = Places(places_of(last_id))
        places.open({"a": Position("e", offset)})
        last_id = places.id
        assert places_of(last_id) == {"a": Position("e", offset), "user:#1": Position("e", 2)}


def test_a_served_channel_that_ends_before_it_begins_loses_its_position():
    _, places = stream(
        centrifugo.encode_unsubscribe_push("c", SubscriptionEnd(2000, "server unsubscribe")),
        last_id="e/2/c",
    )
    assert places.id == ""


def test_an_id_always_fits_into_last_event_id():
    """A client claims as many positions as fit, and starts other channels as well."""
    claimed = {f"old:{n:04}": Position("e" * 16, 10**18 + n) for n in range(2000)}
    last_id = "&".join(f"{p.epoch}/{p.offset}/{c}" for c, p in claimed.items())[:LAST_ID_LIMIT]
    places = Places(places_of(last_id, 2000))
    kept = places_of(places.id, 2000)
    assert len(places.id) <= LAST_ID_LIMIT < len(places.id) + PLACE_CHARACTERS + 10
    assert list(kept) == list(claimed)[: len(kept)]
    for n in range(200):
        channel = f"new:{n:04}"
        places.open({channel: Position("f" * 16, 10**18)})
        assert len(places.id) <= LAST_ID_LIMIT
    now = places_of(places.id, 2000)
    assert list(now)[:200] == [f"new:{n:04}" for n in range(200)]
    assert list(now)[200:] == list(claimed)[: len(now) - 200], "the last ones were dropped first"


def test_a_client_claims_thousands_of_positions():
    """A stream keeps them as long as it lives, and each event had an id of 24 KiB."""
    last_id = "&".join(f"/0/{n:x}" for n in range(5000))
    assert list(places_of(last_id)) == [f"{n:x}" for n in range(PLACES_LIMIT)]


@given(st.data())
def test_every_loss_between_streams_is_reported_as_a_gap(data):
    """Each of many streams may end after any event, and each starts its channels in any order."""
    channels = ["a", "b", "user:#1"]
    known: dict[str, int] = {}  # what the client has received, or was told it missed
    last_id, offset = "", 0
    for _ in range(data.draw(st.integers(2, 6))):
        offset += data.draw(st.integers(0, 3))
        asked = data.draw(st.lists(st.sampled_from(channels), unique=True))
        later = data.draw(st.lists(st.sampled_from(sorted({*channels} - {*asked})), unique=True)
                          if len(asked) < len(channels) else st.just([]))  # fmt: skip
        places = Places(places_of(last_id))
        text = places.open({channel: Position("e", offset) for channel in asked})
        begins = [event for c in later if (event := event_of(served(c, offset)))]
        text += "".join(map(places.encode, begins))
        blocks = text.split("\n\n")[:-1]
        heard = data.draw(st.integers(1, len(blocks)))
        for channel in asked:
            known.setdefault(channel, offset)  # the first id has the starting position
        for block in blocks[:heard]:
            for line in block.split("\n"):
                if line.startswith("id: "):
                    last_id = line[4:]
            for event in parsed(block + "\n\n"):
                channel = json.loads(event.data)["channel"]
                if event.name == "realtime.subscribed":
                    assert known.setdefault(channel, offset) == offset
                else:
                    _, _, first, to = gap_of(event)
                    assert first <= known[channel] + 1
                    known[channel] = to
        if heard == len(blocks):
            assert {known[channel] for channel in [*asked, *later]} <= {offset}
        for channel, position in places_of(last_id).items():
            assert position.offset <= known[channel]
        assert {*known} == {*places_of(last_id)}


def test_only_pushes_become_events():
    assert event_of('{"id":1,"connect":{}}') is None
    assert event_of("{}") is None
    state = event_of(centrifugo.encode_state("", live=False, reason="broker"))
    assert state is not None
    assert state.text == 'event: realtime.state\ndata: {"live":false,"reason":"broker"}'


@given(st.text(max_size=300))
def test_any_id_is_read_or_ignored(text):
    for channel, position in places_of(text).items():
        assert f"{position.epoch}/" in text
        assert f"/{channel}" in text


@given(
    st.from_regex(r"[0-9a-f]{1,64}", fullmatch=True),
    st.integers(0, 10**19 - 1),
    st.from_regex(r"[A-Za-z0-9_\-=@,.;:#]{1,255}", fullmatch=True),
)
def test_a_written_position_is_read_again(epoch, offset, channel):
    position = Position(epoch, offset)
    assert place_of(place_text(channel, position)) == (channel, position)
    assert places_of(place_text(channel, position)) == {channel: position}


def test_an_unknown_position_is_an_open_gap_and_told_once():
    text = place_text("c", UNKNOWN_POSITION)
    assert place_of(text) == ("c", UNKNOWN_POSITION)
    places = Places(dict([place_of(text)]))
    [event] = parsed(places.open({"c": Position("e", 5)}))
    assert json.loads(event.data) == {
        "channel": "c", "epoch": "e", "from": 1, "to": None, "reason": "broker",
    }  # fmt: skip
    assert places_of(places.id) == {"c": Position("e", 5)}


def test_an_unknown_position_of_a_channel_that_is_not_served_yet_stays_unknown():
    places = Places({"user:#1": UNKNOWN_POSITION})
    places.open({"a": Position("e", 1)})
    assert places_of(places.id) == {"a": Position("e", 1), "user:#1": UNKNOWN_POSITION}


@pytest.mark.parametrize(
    "last_id", ["", "&", "e/x/c", "E/1/c", "e/1/", "e/1/a b", "e/-1/c", "/1/c"]
)
def test_invalid_positions_are_ignored(last_id):
    assert places_of(last_id) == {}


@pytest.mark.parametrize(
    ("line", "name", "data"),
    [
        (
            centrifugo.encode_join("c", '{"user":"7"}'),
            "join",
            {"channel": "c", "info": {"user": "7"}},
        ),
        (
            centrifugo.encode_leave("c", '{"user":"7"}'),
            "leave",
            {"channel": "c", "info": {"user": "7"}},
        ),
        (
            centrifugo.encode_headcount("c", Headcount(3, 2), 5),
            "presence",
            {"channel": "c", "num_clients": 3, "num_users": 2, "untold": 5},
        ),
        (centrifugo.encode_message('{"n":1}'), "message", {"data": {"n": 1}}),
        (centrifugo.encode_refresh_push(60), "refresh", {"expires": True, "ttl": 60}),
        (
            centrifugo.encode_state("", live=False, reason="broker"),
            "state",
            {"live": False, "reason": "broker"},
        ),
        (
            centrifugo.encode_disconnect_push(BAD_REQUEST),
            "disconnect",
            {"code": 3501, "reason": "bad request"},
        ),
    ],
)
def test_other_pushes_are_named_events(line, name, data):
    [event], _ = stream(line)
    assert (event.name, json.loads(event.data)) == (f"realtime.{name}", data)
