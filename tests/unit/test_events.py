"""An event stream, as any parser of WHATWG HTML §9.2.6 reads it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.codes import BAD_REQUEST
from realtime.events import Places, event_of, missed, name_on_stream, places_of
from realtime.gaps import Gap, Position
from realtime.membership import Headcount
from realtime.protocols import centrifugo
from realtime.publication import Publication
from tests.support.event_stream import Event, parsed
from tests.unit.strategies import json_values


def push(data: object, offset: int = 1, *, channel: str = "c", **options: object) -> str:
    publication = Publication.of(channel, data, **options)
    return centrifugo.publication(
        channel, Position("e", offset), publication.body.decode(), first_of_epoch=offset == 1
    )


def stream(*lines: str) -> tuple[list[Event], Places]:
    places = Places()
    written = [places.written(event) for line in lines if (event := event_of(line))]
    return parsed("".join(written)), places


def test_a_publication_is_an_event_of_its_name():
    [event], _ = stream(push({"n": 1}, event="order.shipped"))
    assert event == ("order.shipped", '{"n":1}', "e/1/c")
    [event], _ = stream(push([1, 2]))
    assert event == ("message", "[1,2]", "e/1/c")


def test_a_string_comes_as_it_is():
    [event], _ = stream(push("<li>\n  one\r\n</li>"))
    assert event.data == "<li>\n  one\n</li>"


@pytest.mark.parametrize("name", ["open", "error", "realtime.gap", "realtime.disconnect"])
def test_a_publication_never_takes_the_name_of_what_is_not_a_publication(name):
    """Issue 15, C19: `event="error"` called the handler by which a page notices a lost stream."""
    [event], _ = stream(push({"n": 1}, event=name))
    assert event == (f"publication.{name}", '{"n":1}', "e/1/c")


@pytest.mark.parametrize("name", ["message", "Error", "errors", "opened", "realtime", "order"])
def test_any_other_name_is_delivered_as_it_is(name):
    [event], _ = stream(push(1, event=name))
    assert event.name == name


@given(json_values(), st.from_regex(r"\A[A-Za-z0-9_\-.:]{1,20}\Z"))
def test_whatever_is_published_is_one_event_and_forges_no_other(data, name):
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


def test_the_id_says_where_all_channels_stand():
    events, places = stream(
        push(1, 1, channel="a"), push(2, 2, channel="b:x"), push(3, 2, channel="a")
    )
    assert [event.id for event in events] == ["e/1/a", "e/1/a&/2/b:x", "e/2/a&/2/b:x"]
    places.begin("b:x", Position("f", 7))
    assert places_of(places.id) == {"a": Position("e", 2), "b:x": Position("f", 7)}


def test_a_gap_says_what_is_missing_and_moves_the_place():
    places = Places()
    places.begin("c", Position("e", 3))
    gap = event_of(centrifugo.gap("c", Gap("e", 4, 6), "slow"))
    assert gap is not None
    [event] = parsed(places.written(gap))
    assert event.name == "realtime.gap"
    assert json.loads(event.data) == {
        "channel": "c", "epoch": "e", "from": 4, "to": 6, "reason": "slow",
    }  # fmt: skip
    assert event.id == "e/6/c"
    open_end = event_of(centrifugo.gap("c", Gap("e", 7, None), "broker"))
    assert open_end is not None
    assert parsed(places.written(open_end))[0].id == "e/6/c"


def test_what_a_client_missed_between_two_streams():
    had = {"a": Position("e", 3), "b": Position("e", 5), "c": Position("e", 1)}
    now = {
        "a": Position("e", 5),
        "b": Position("e", 5),
        "c": Position("f", 2),
        "d": Position("e", 9),
    }
    gaps = [json.loads(parsed(Places().written(gap))[0].data) for gap in missed(had, now)]
    assert [(gap["channel"], gap["epoch"], gap["from"], gap["to"]) for gap in gaps] == [
        ("a", "e", 4, 5),
        ("c", "e", 2, None),
        ("c", "f", 1, 2),
    ]


def test_what_is_no_push_is_no_event():
    assert event_of('{"id":1,"connect":{}}') is None
    assert event_of("{}") is None
    state = event_of(centrifugo.state(live=False, reason="broker"))
    assert state is not None
    assert state.text == 'event: realtime.state\ndata: {"live":false,"reason":"broker"}'


@given(st.text(max_size=300))
def test_any_id_is_read_or_left_out(text):
    for channel, position in places_of(text).items():
        assert f"{position.epoch}/" in text
        assert f"/{channel}" in text


@pytest.mark.parametrize(
    "last_id", ["", "&", "e/x/c", "E/1/c", "e/1/", "e/1/a b", "e/-1/c", "/1/c"]
)
def test_what_is_no_place_is_left_out(last_id):
    assert places_of(last_id) == {}


@pytest.mark.parametrize(
    ("line", "name", "data"),
    [
        (centrifugo.joined("c", '{"user":"7"}'), "join", {"channel": "c", "info": {"user": "7"}}),
        (centrifugo.left("c", '{"user":"7"}'), "leave", {"channel": "c", "info": {"user": "7"}}),
        (
            centrifugo.headcount("c", Headcount(3, 2), 5),
            "presence",
            {"channel": "c", "num_clients": 3, "num_users": 2, "untold": 5},
        ),
        (centrifugo.message('{"n":1}'), "message", {"data": {"n": 1}}),
        (centrifugo.prolonged(60), "refresh", {"expires": True, "ttl": 60}),
        (
            centrifugo.state(live=False, reason="broker"),
            "state",
            {"live": False, "reason": "broker"},
        ),
        (
            centrifugo.disconnected(BAD_REQUEST),
            "disconnect",
            {"code": 3501, "reason": "bad request"},
        ),
    ],
)
def test_other_pushes_are_events_of_ours(line, name, data):
    [event], _ = stream(line)
    assert (event.name, json.loads(event.data)) == (f"realtime.{name}", data)
