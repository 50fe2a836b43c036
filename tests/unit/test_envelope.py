"""An encoded envelope decodes again; anything that is not exactly ours does not."""

from __future__ import annotations

import json
from contextlib import suppress

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
    position, body = decode_envelope(GOOD)
    assert position == POSITION
    assert body == '{"data":{"n":1},"tags":{"event":"order.shipped"}}'


@given(positions(), json_values(), st.none() | st.dictionaries(st.sampled_from("abc"), text()))
def test_an_envelope_round_trips(position, data, tags):
    envelope = decode_envelope(encode_envelope(position, Publication.of("c", data, tags=tags).body))
    assert envelope.position == position
    assert json.loads(envelope.body) == {"data": data} | ({"tags": tags} if tags else {})


def test_the_largest_publication_fits_into_an_envelope():
    tags = {f"{n:064}": "\x01" * TAG_VALUE_LIMIT for n in range(TAGS_LIMIT)}
    publication = Publication.of("c", "x" * (DATA_LIMIT - 2), tags=tags, event="e" * 64)
    envelope = encode_envelope(Position("f" * 16, 10**16 - 1), publication.body)
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
        position, body = decode_envelope(bytes(raw))
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
