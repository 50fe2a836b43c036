"""An encoded envelope decodes again; anything that is not exactly ours does not."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.core.envelope import ENVELOPE_LIMIT, decode_envelope, encode_envelope
from realtime.core.json_text import DATA_LIMIT
from realtime.core.positions import Position
from realtime.core.publication import TAG_VALUE_LIMIT, TAGS_LIMIT, Publication
from realtime.errors import EnvelopeError
from realtime.protocols import centrifugo
from tests.unit.strategies import json_values, positions, text

HEAD = b"1 0123456789abcdef 42 "
POSITION = Position("0123456789abcdef", 42)
GOOD = HEAD + b'{"data":{"n":1},"tags":{"event":"order.shipped"}}'


def test_an_envelope_looks_like_this():
    publication = Publication.of("c", {"n": 1}, event="order.shipped")
    assert encode_envelope(POSITION, publication.body) == GOOD


def test_an_envelope_decodes_to_position_and_body():
    position, body, sent_ms, trace = decode_envelope(GOOD)
    assert (position, sent_ms, trace) == (POSITION, 0, "")
    assert body == '{"data":{"n":1},"tags":{"event":"order.shipped"}}'


@given(positions(), json_values(), st.none() | st.dictionaries(st.sampled_from("abc"), text()))
def test_an_envelope_round_trips(position, data, tags):
    envelope = decode_envelope(encode_envelope(position, Publication.of("c", data, tags=tags).body))
    assert envelope.position == position
    assert json.loads(envelope.body) == {"data": data} | ({"tags": tags} if tags else {})


TIME = 1_790_000_000_000
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def with_fields(fields: str) -> bytes:
    """The envelope with these fields before the body."""
    return GOOD.replace(b" 42 ", f" 42 {fields}".encode())


def test_an_envelope_with_fields_looks_like_this():
    publication = Publication.of("c", {"n": 1}, event="order.shipped")
    timed = encode_envelope(POSITION, publication.stamp(TIME).tail)
    assert timed == with_fields("t=1790000000000 ")
    traced = encode_envelope(POSITION, publication.stamp(TIME, TRACE).tail)
    assert traced == with_fields(f"t=1790000000000 p={TRACE} ")


def traceparents():
    """Valid traceparents, and the empty text of none."""
    digits = partial(st.text, "0123456789abcdef")
    ids = digits(min_size=32, max_size=32), digits(min_size=16, max_size=16)
    made = st.builds("00-{}-{}-{}".format, *ids, digits(min_size=2, max_size=2))
    return st.just("") | made.filter(lambda text: "-000000000000" not in text)


@given(positions(), st.integers(0, 10**15 - 1), traceparents())
def test_time_and_trace_round_trip(position, sent_ms, trace):
    publication = Publication.of("c", 1).stamp(sent_ms, trace)
    envelope = decode_envelope(encode_envelope(position, publication.tail))
    assert envelope == (position, '{"data":1}', sent_ms, trace)


def values():
    """What a value may consist of, also what ends a field, an envelope's head, or a line."""
    printable = st.characters(min_codepoint=33, max_codepoint=126)
    return st.text(st.sampled_from('{}=" t1') | printable, max_size=80).map(
        lambda text: text.replace(" ", "") or "{"
    )


@given(st.lists(st.tuples(st.sampled_from("abcoqsuz"), values()), max_size=6), st.data())
def test_unknown_fields_are_ignored_wherever_they_are(unknown, data):
    fields = [f"{key}={value} " for key, value in unknown]
    for known in (f"t={TIME} ", f"p={TRACE} "):
        fields.insert(data.draw(st.integers(0, len(fields))), known)
    assert decode_envelope(with_fields("".join(fields))) == (
        *decode_envelope(GOOD)[:2],
        TIME,
        TRACE,
    )


@given(values(), values())
def test_a_valid_envelope_with_any_values_is_delivered(time, trace):
    envelope = decode_envelope(with_fields(f"t={time} p={trace} "))
    assert envelope[:2] == decode_envelope(GOOD)[:2]
    assert str(envelope.sent_ms) == (time.lstrip("0") or "0") or not envelope.sent_ms
    assert envelope.trace in (trace, "")


INVALID = {
    "no number": "t=x ",
    "a negative time": "t=-1 ",
    "a fraction": "t=1.5 ",
    "an exponent": "t=1e3 ",
    "a time with a sign": "t=+1 ",
    "a time with an underscore": "t=1_0 ",
    "a time beyond any clock": "t=1000000000000000 ",
    "a number that takes long to read": f"t={'9' * 80} ",
    "no traceparent": "p=x ",
    "a newer version": f"p=01{TRACE[2:]} ",
    "no trace": f"p=00-{'0' * 32}{TRACE[35:]} ",
    "no span": f"p={TRACE[:36]}{'0' * 16}-01 ",
    "capitals": f"p={TRACE.upper()} ",
    "a longer traceparent": f"p={TRACE}-x ",
    "a shorter traceparent": f"p={TRACE[:-1]} ",
}


@pytest.mark.parametrize("fields", INVALID.values(), ids=INVALID)
def test_an_invalid_value_is_ignored_and_the_publication_is_not(fields):
    assert decode_envelope(with_fields(fields)) == (*decode_envelope(GOOD)[:2], 0, "")


def test_of_two_equal_fields_the_last_one_counts():
    assert decode_envelope(with_fields("t=1 t=2 ")).sent_ms == 2


def test_fields_are_not_part_of_the_content_that_a_key_protects():
    publication = Publication.of("c", 1, idempotency_key="k", fallback="f")
    stamped = publication.stamp(TIME, TRACE)
    assert stamped.fingerprint == publication.fingerprint
    assert stamped.body == publication.body
    assert publication.sent_ms == 0
    assert stamped.on("d").trace == TRACE


def test_the_largest_publication_fits_into_an_envelope():
    tags = {f"{n:064}": "\x01" * TAG_VALUE_LIMIT for n in range(TAGS_LIMIT)}
    publication = Publication.of("c", "x" * (DATA_LIMIT - 2), tags=tags, event="e" * 64)
    publication = publication.stamp(TIME, TRACE)
    envelope = encode_envelope(Position("f" * 16, 10**16 - 1), publication.tail)
    assert len(envelope) <= ENVELOPE_LIMIT
    assert json.loads(decode_envelope(envelope).body)["tags"] == {**tags, "event": "e" * 64}


REFUSED = {
    "nothing": b"",
    "only a head": HEAD,
    "another version": b"2" + GOOD[1:],
    "a long epoch": GOOD.replace(b"abcdef", b"abcdef0"),
    "a short epoch": GOOD.replace(b"abcdef", b"abcde"),
    "an epoch in capitals": GOOD.replace(b"abcdef", b"ABCDEF"),
    "offset 0": GOOD.replace(b" 42 ", b" 0 "),
    "an offset with a zero before": GOOD.replace(b" 42 ", b" 042 "),
    "a negative offset": GOOD.replace(b" 42 ", b" -42 "),
    "an offset in exponents": GOOD.replace(b" 42 ", b" 1e+20 "),
    "an offset beyond any counter": GOOD.replace(b" 42 ", b" 12345678901234567 "),
    "an offset in other digits": GOOD.replace(b" 42 ", " ٤٢ ".encode()),
    "something before": b" " + GOOD,
    "something before the body": HEAD + b' {"data":1}',
    "nine fields": with_fields("a=1 " * 9),
    "a field without a value": with_fields("a= "),
    "a field without a key": with_fields("=1 "),
    "a field in capitals": with_fields("T=1 "),
    "a long key": with_fields("tt=1 "),
    "a long value": with_fields("a=" + "1" * 81 + " "),
    "a value of two lines": with_fields("a=1\n2 "),
    "a control character": with_fields("a=\x01 "),
    "a letter beyond ASCII": with_fields("a=é "),
    "two spaces": with_fields("a=1  "),
    "no space after a field": with_fields("a=1"),
    "a field before the offset": GOOD.replace(b" 42 ", b" t=1 42 "),
    "only fields": with_fields("t=1 ").partition(b"{")[0],
    "something behind": GOOD + b"x",
    "a second body": GOOD + b"{}",
    "a newline at the end": GOOD + b"\n",
    "a newline in the body": HEAD + b'{"data":\n1}',
    "no data": HEAD + b'{"tags":{}}',
    "an unknown field": HEAD + b'{"data":1,"more":2}',
    "an array": HEAD + b"[1]",
    "tags that are no texts": HEAD + b'{"data":1,"tags":{"a":1}}',
    "half of it": GOOD[:-1],
    "NaN": HEAD + b'{"data":NaN}',
    "a nesting bomb": HEAD + b'{"data":' + b"[" * 40_000 + b"]" * 40_000 + b"}",
    "too many bytes": HEAD + b'{"data":"' + b"x" * ENVELOPE_LIMIT + b'"}',
    "a broken escape": HEAD + b'{"data":"\\ud800"}',
    "bad UTF-8 in a tag": HEAD + b'{"data":1,"tags":{"a":"\xff"}}',
    "bad UTF-8 in the data": HEAD + b'{"data":"\xff"}',
    "a surrogate in UTF-8": HEAD + b'{"data":"\xed\xa0\x80"}',
}


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED)
def test_malformed_envelopes_are_not_decoded(raw):
    """Invalid UTF-8 in the data used to be decoded, and then broke the push.

    One PUBLISH by anyone on that Redis took the hub down for as long as it was repeated.
    """
    with pytest.raises(EnvelopeError):
        decode_envelope(raw)


@given(st.data())
def test_every_decoded_envelope_can_be_pushed(data):
    """With some bytes changed, it either cannot be decoded, or makes a push of one line."""
    raw = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        position, body, _, _ = decode_envelope(bytes(raw))
    except EnvelopeError:
        return
    push = centrifugo.encode_publication("c", position, body, first_of_epoch=True)
    assert "\n" not in push
    assert json.loads(push)["push"]["pub"]["offset"] == position.offset


@given(st.binary(max_size=60))
def test_decoding_raises_only_envelope_errors(junk):
    for raw in (junk, HEAD + junk, HEAD + b'{"data":' + junk + b"}"):
        with suppress(EnvelopeError):
            assert decode_envelope(raw).position.offset >= 1
