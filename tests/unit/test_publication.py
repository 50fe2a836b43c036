"""A publication that exists is valid: any input is either made valid and readable, or refused."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.core.envelope import decode_envelope, encode_envelope
from realtime.core.json_text import (
    DATA_LIMIT,
    DEPTH_LIMIT,
    decode_json,
    is_deeper,
)
from realtime.core.names import checked_channel
from realtime.core.positions import Position
from realtime.core.publication import (
    OPTIONS_LIMIT,
    TAG_VALUE_LIMIT,
    TAGS_LIMIT,
    Publication,
    Receipt,
    Sizes,
    client_info,
)
from realtime.errors import InvalidData, InvalidName, RequestError, TooLarge
from tests.unit.strategies import anything_in_python, json_values


@dataclass
class Measured:
    value: float


class Text(str):
    """Like Django's SafeString."""


class Number(int):
    pass


class Fraction(float):
    pass


def body(data: object, **more: object) -> dict[str, object]:
    return json.loads(Publication.of("c", data, **more).body)


def nested(levels: int) -> object:
    value: object = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


@given(json_values())
def test_data_arrives_unchanged(data):
    assert body(data) == {"data": data}


@given(anything_in_python())
def test_any_value_becomes_one_line_of_json_or_a_request_error(data):
    try:
        publication = Publication.of("c", data)
    except RequestError:
        return
    assert b"\n" not in publication.body
    assert "data" in json.loads(publication.body.decode(), parse_constant=pytest.fail)


def test_the_body_is_compact():
    assert Publication.of("c", {"a": [1, "b c"]}, event="e").body == (
        b'{"data":{"a":[1,"b c"]},"tags":{"event":"e"}}'
    )


def test_newlines_in_text_are_escaped():
    assert Publication.of("c", "a\nb", tags={"t": "a\nb"}).body.count(b"\n") == 0


@pytest.mark.parametrize(
    ("data", "written"),
    [
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Decimal("1.50"), "1.50"),
        (datetime(2030, 1, 2, tzinfo=UTC), "2030-01-02T00:00:00Z"),
    ],
    ids=["UUID", "Decimal", "date"],
)
def test_types_without_json_form_are_encoded_as_strings(data, written):
    assert body([data]) == {"data": [written]}


@pytest.mark.parametrize(
    ("data", "written"),
    [
        (Text("a"), "a"),
        (Number(7), 7),
        (Fraction(1.5), 1.5),
        (MappingProxyType({"a": 1}), {"a": 1}),
    ],
    ids=["str", "int", "float", "mapping"],
)
def test_a_subclass_is_encoded_like_its_base_class(data, written):
    assert body([None, data]) == {"data": [None, written]}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "around",
    [
        lambda n: n,
        lambda n: [n],
        lambda n: (n,),
        lambda n: {n},
        lambda n: frozenset([n]),
        lambda n: {"a": {"b": n}},
        lambda n: Measured(n),
        lambda n: Fraction(n),
        lambda n: MappingProxyType({"a": n}),
    ],
    ids=["bare", "list", "tuple", "set", "frozenset", "dict", "dataclass", "subclass", "mapping"],
)
def test_nan_and_infinity_are_refused_and_never_become_null(number, around):
    with pytest.raises(InvalidData, match="NaN"):
        Publication.of("c", around(number))


@pytest.mark.parametrize("data", [None, [None], {"null": 1}, "null"])
def test_null_is_valid_data(data):
    assert body(data) == {"data": data}


@pytest.mark.parametrize("text", ["\ud800", {"\udfff": 1}, [["\ud800a"]]])
def test_a_lone_surrogate_is_refused(text):
    with pytest.raises(InvalidData, match="lone surrogate"):
        Publication.of("c", text)


@pytest.mark.parametrize(
    "data",
    [object(), {(1, 2): 3}, 10**5000, (n for n in [1]), 1j],
    ids=["object", "pair as key", "huge number", "generator", "complex"],
)
def test_values_without_json_form_are_refused(data):
    with pytest.raises(InvalidData) as caught:
        Publication.of("c", data)
    assert caught.value.field == "data"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (object(), "data: object is not JSON"),
        ({"items": [1, 2, 3, {"price": 1j}]}, "data.items[3].price: complex is not JSON"),
        ({"a b": {"c": object()}}, "data['a b'].c: object is not JSON"),
        ({"x" * 50: [object()]}, f"data['{'x' * 39}][0]: object is not JSON"),
        ([1, (2, {"n": math.nan})], "data[1][1].n: NaN and infinity are not JSON"),
        ({"text": ["fine", "\ud800"]}, "data.text[1]: a string contains a lone surrogate"),
        ({"raw": msgspec.Raw(b"junk")}, "data.raw: "),
        ({"a": {(1, 2): 3}}, "data.a: "),
        (MappingProxyType({"a": [object()]}), "data.a[0]: object is not JSON"),
        (nested(DEPTH_LIMIT + 1), "data: nested deeper"),
        ([object(), nested(5000)], "data[0]: object is not JSON"),
    ],
)
def test_the_error_names_the_place_of_what_is_not_json(data, said):
    with pytest.raises(InvalidData) as caught:
        Publication.of("c", data)
    assert str(caught.value).startswith(said)


def test_the_place_is_found_in_options_too():
    with pytest.raises(InvalidData, match=r"^fallback_options\.to\[0\]: object is not JSON"):
        Publication.of("c", 1, fallback="mail", fallback_options={"to": [object()]})


@pytest.mark.parametrize("raw", [b"[\n]", b"junk", b'"\xff"', b"1 2"])
@pytest.mark.parametrize("around", [lambda raw: raw, lambda raw: [raw]], ids=["bare", "list"])
def test_nothing_is_passed_through_raw(raw, around):
    """`msgspec.Raw` is copied unread, so a newline in it would have split a frame.

    Nodes would have dropped invalid JSON in it, although the receipt said that it was published.
    """
    with pytest.raises(InvalidData):
        Publication.of("c", around(msgspec.Raw(raw)))


def test_data_may_have_exactly_the_limit_in_encoded_bytes():
    fits = "é" * ((DATA_LIMIT - 2) // 2)
    assert Publication.of("c", fits)
    with pytest.raises(TooLarge) as caught:
        Publication.of("c", fits + "x")
    assert (caught.value.what, caught.value.size) == ("data", DATA_LIMIT + 1)


def test_data_may_be_nested_exactly_to_the_limit():
    assert Publication.of("c", nested(DEPTH_LIMIT))
    with pytest.raises(InvalidData, match=f"deeper than {DEPTH_LIMIT} levels"):
        Publication.of("c", nested(DEPTH_LIMIT + 1))


def test_the_number_of_brackets_is_not_the_depth():
    assert Publication.of("c", [[[1]]] * 100 + ["[" * 100])


@given(json_values(), st.integers(0, 4))
def test_the_depth_is_that_of_the_value(value, levels):
    assert is_deeper(json.dumps(value).encode(), levels) is (depth(value) > levels)


@given(st.lists(st.text('"\\\\[]{}a'), max_size=9), st.integers(1, 3))
def test_brackets_in_strings_do_not_count_as_depth(texts, levels):
    value = [[text, [], {text: text}] for text in texts]
    assert is_deeper(msgspec.json.encode(value), levels) is (depth(value) > levels)


def depth(value):
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(depth, value.values() if isinstance(value, dict) else value), default=0)


@pytest.mark.parametrize("levels", [500, 5000, 50_000])
def test_a_nesting_bomb_is_refused(levels):
    with pytest.raises(InvalidData, match="deeper"):
        Publication.of("c", nested(levels))


def test_self_referential_data_is_refused():
    data: list[object] = []
    data.append(data)
    with pytest.raises(InvalidData, match="deeper"):
        Publication.of("c", data)


def test_the_event_is_the_tag_event():
    assert body(1, event="order.shipped") == {"data": 1, "tags": {"event": "order.shipped"}}


def test_an_event_tag_must_equal_the_event():
    assert body(1, event="a", tags={"event": "a"})["tags"] == {"event": "a"}
    with pytest.raises(InvalidName) as caught:
        Publication.of("c", 1, event="a", tags={"event": "b"})
    assert caught.value.code == "invalid_tags"


def test_the_tags_of_the_caller_are_not_modified():
    tags = {"a": "b"}
    Publication.of("c", 1, event="e", tags=tags)
    assert tags == {"a": "b"}


def test_empty_tags_are_omitted():
    assert body(1, tags={}) == {"data": 1}


@pytest.mark.parametrize("tags", [[], "a", 1, True, [("a", "b")]])
def test_tags_must_be_an_object(tags):
    with pytest.raises(InvalidName) as caught:
        Publication.of("c", 1, tags=tags)
    assert caught.value.code == "invalid_tags"


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, 1, None, "é"])
def test_tag_names_follow_the_rule_for_events(name):
    with pytest.raises(InvalidName) as caught:
        Publication.of("c", 1, tags={name: "v"})
    assert caught.value.code == "invalid_tags"


@pytest.mark.parametrize("value", [1, None, ["a"], "x" * (TAG_VALUE_LIMIT + 1), "\ud800"])
def test_tag_values_must_be_short_text(value):
    with pytest.raises(InvalidName) as caught:
        Publication.of("c", 1, tags={"t": value})
    assert caught.value.code == "invalid_tags"


def test_the_number_of_tags_is_limited():
    most = {f"t{n}": "x" * TAG_VALUE_LIMIT for n in range(TAGS_LIMIT)}
    assert Publication.of("c", 1, tags=most, event="e")
    with pytest.raises(TooLarge, match="17 entries, the limit is 16"):
        Publication.of("c", 1, tags={**most, "more": ""})


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"channel": "a b"}, "invalid_channel"),
        ({"channel": None}, "invalid_channel"),
        ({"event": ""}, "invalid_event"),
        ({"event": 1}, "invalid_event"),
        ({"idempotency_key": ""}, "invalid_idempotency_key"),
        ({"idempotency_key": "a b"}, "invalid_idempotency_key"),
    ],
)
def test_an_invalid_name_is_refused_with_its_field(wrong, code):
    with pytest.raises(InvalidName) as caught:
        Publication.of(**{"channel": "c", "data": 1, **wrong})
    assert caught.value.code == code


def test_the_fingerprint_covers_exactly_the_delivered_content():
    first = Publication.of("c", {"a": 1}, event="e", idempotency_key="k").fingerprint
    assert first == Publication.of("d", {"a": 1}, event="e", idempotency_key="l").fingerprint
    others = [({"a": 2}, "e"), ({"a": 1}, "f"), ({"a": 1}, None)]
    assert first not in {Publication.of("c", data, event=e).fingerprint for data, e in others}
    assert len(first) == 64


def test_the_same_data_for_many_channels_is_encoded_once():
    first = Publication.of("c", {"a": 1}, event="e", idempotency_key="k", fallback="log")
    second = first.on(checked_channel("d"))
    assert second == Publication.of("d", {"a": 1}, event="e", idempotency_key="k", fallback="log")
    assert second.body is first.body
    assert second.fingerprint == first.fingerprint


def shuffled(value, how):
    """Return an equal value whose members are in another order."""
    if isinstance(value, dict):
        members = [(name, shuffled(inner, how)) for name, inner in value.items()]
        how.shuffle(members)
        return dict(members)
    return [shuffled(inner, how) for inner in value] if isinstance(value, list) else value


@given(json_values(), st.randoms(use_true_random=False))
def test_the_order_of_members_does_not_change_the_publication(value, how):
    """A retry whose program rebuilt its JSON was a conflict (RFC 8259 §4: unordered)."""
    one, again = ({"fallback": "email", "fallback_options": {"a": 1, "o": v}} for v in (value, 0))
    again["fallback_options"] = shuffled(one["fallback_options"], how)
    first = Publication.of("c", value, tags={"a": "1", "b": "2"}, **one)
    second = Publication.of("c", shuffled(value, how), tags={"b": "2", "a": "1"}, **again)
    assert first.fingerprint == second.fingerprint


@given(json_values(), json_values())
def test_equal_fingerprints_are_equal_values(one, other):
    same = Publication.of("c", one).fingerprint == Publication.of("c", other).fingerprint
    assert same is (plain(one) == plain(other))


def plain(value):
    """Return a value in which true differs from 1, unlike in Python, and 1.0 does not."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    return list(map(plain, value)) if isinstance(value, list) else (type(value) is bool, value)


@pytest.mark.parametrize(
    ("one", "other"), [(1, 1.0), (100, 1e2), (0, -0.0), ([2**53 - 1], [2.0**53 - 1])]
)
def test_a_number_is_the_same_however_it_is_written(one, other):
    assert Publication.of("c", one).fingerprint == Publication.of("c", other).fingerprint


@pytest.mark.parametrize(
    ("one", "other"), [(2**64, 2**64 + 1), (10**30, 10**30 + 1), (True, 1), ("1", 1), (None, 0)]
)
def test_different_values_are_different_publications(one, other):
    assert Publication.of("c", one).fingerprint != Publication.of("c", other).fingerprint


def test_a_number_outside_double_range_is_compared_as_text():
    raw = Publication.of("c", msgspec.Raw(b"[1e400]"))
    assert raw.fingerprint == Publication.of("c", msgspec.Raw(b"[1e400]")).fingerprint
    assert raw.fingerprint != Publication.of("c", msgspec.Raw(b"[1e401]")).fingerprint


def test_the_fallback_is_part_of_the_fingerprint():
    ways = [
        {},
        {"fallback": "email"},
        {"fallback": "sms"},
        {"fallback": "email", "fallback_when": "always"},
        {"fallback": "email", "fallback_options": {"to": "ada@example.com"}},
        {"fallback_options": {"to": "ada@example.com"}},
    ]
    assert len({Publication.of("c", 1, **way).fingerprint for way in ways}) == len(ways)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"fallback": ""}, "invalid_fallback"),
        ({"fallback": "a b"}, "invalid_fallback"),
        ({"fallback": "a" * 65}, "invalid_fallback"),
        ({"fallback": 1}, "invalid_fallback"),
        ({"fallback": ["email"]}, "invalid_fallback"),
        ({"fallback_when": "sometimes"}, "invalid_fallback"),
        ({"fallback_when": ["always"]}, "invalid_fallback"),
        ({"fallback_options": []}, "invalid_data"),
        ({"fallback_options": {"a": math.nan}}, "invalid_data"),
        ({"fallback_options": {"a": "b" * OPTIONS_LIMIT}}, "too_large"),
    ],
)
def test_an_invalid_fallback_is_refused(wrong, code):
    with pytest.raises(RequestError) as caught:
        Publication.of("c", 1, **wrong)
    assert caught.value.code == code


def test_a_receipt_is_new_unless_it_says_otherwise():
    assert Receipt("e", 1, 2) == ("e", 1, 2, False, False)


@given(json_values())
def test_decoding_reads_encoded_json(value):
    assert decode_json(json.dumps(value).encode()) == value


@given(st.binary(max_size=40) | st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000, b"1e999"]))
def test_decoding_raises_only_invalid_data(raw):
    with suppress(InvalidData):
        decode_json(raw)


@pytest.mark.parametrize(
    "raw", [b"", b"NaN", b"'a'", b'"\\ud800"', b'"\xff"', b"1 2", b"\xef\xbb\xbf1"]
)
def test_json_that_browsers_cannot_parse_is_refused(raw):
    with pytest.raises(InvalidData):
        decode_json(raw)


def test_the_author_is_published_beside_the_data() -> None:
    info = client_info("42", "c1", '{"name":"Ada"}')
    body = Publication.of("c", 1, info=info).body
    assert body == b'{"data":1,"info":{"user":"42","client":"c1","conn_info":{"name":"Ada"}}}'
    assert decode_envelope(encode_envelope(Position("f" * 16, 1), body)).body == body.decode()


def test_channel_info_is_published_beside_connection_info() -> None:
    info = client_info("42", "c1", "1", '"guest"')
    assert info == b'{"user":"42","client":"c1","conn_info":1,"chan_info":"guest"}'


def test_an_anonymous_author_has_no_info() -> None:
    assert client_info("", "c1", "") == b'{"user":"","client":"c1"}'


SMALL = Sizes(data_bytes=10, depth=2, tags=1)


@pytest.mark.parametrize(
    ("data", "tags"),
    [("x" * 8, None), ([[1]], None), ("null", None), (1, {"a": "b"})],
)
def test_data_within_a_lower_site_limit_is_published(data, tags):
    assert Publication.of("c", data, tags=tags, sizes=SMALL) == Publication.of("c", data, tags=tags)


@pytest.mark.parametrize(
    ("data", "tags", "error"),
    [
        ("x" * 9, None, TooLarge),
        ([[[1]]], None, InvalidData),
        (1, {"a": "b", "c": "d"}, TooLarge),
    ],
)
def test_data_over_a_lower_site_limit_is_refused(data, tags, error):
    with pytest.raises(error, match=r"the limit is|deeper than 2 levels"):
        Publication.of("c", data, tags=tags, sizes=SMALL)
