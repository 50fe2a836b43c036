"""The format of queue entries: written once, and read by Lua, workers and people."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.core.fallback_entry import (
    FIRST_SECONDS,
    LONGEST_SECONDS,
    REASON_LIMIT,
    decode_entry,
    entry_fields,
    excerpt_of,
    retry_seconds,
)
from realtime.core.publication import Publication, client_info
from realtime.errors import EnvelopeError
from tests.unit.strategies import json_values

NUMBER = 12345678901234567890  # which Lua's cjson would round


def queued(publication: Publication, *, failures: int = 0, at: int = 1_700_000_000_123) -> bytes:
    """An entry as `publish.lua` writes it."""
    head = b'{"epoch":"00ff","offset":7,"at":%d,' % at + entry_fields(publication) + b","
    return b"%d " % failures + head + publication.body[1:]


def test_a_handler_receives_the_publication():
    publication = Publication.of(
        "user:#42",
        {"n": NUMBER},
        event="order.shipped",
        tags={"shop": "7"},
        info=client_info("42", "c-1", '{"name":"Ada"}'),
        fallback="email",
        fallback_options={"to": "ada@example.com"},
    )
    given_to = decode_entry(queued(publication)).queued
    assert given_to.id == "00ff-7"
    assert (given_to.fallback, given_to.channel) == ("email", "user:#42")
    assert given_to.data == {"n": NUMBER}
    assert given_to.event == "order.shipped"
    assert given_to.tags == {"shop": "7", "event": "order.shipped"}
    assert given_to.options == {"to": "ada@example.com"}
    assert given_to.info == {"user": "42", "client": "c-1", "conn_info": {"name": "Ada"}}
    assert given_to.published_at == 1_700_000_000.123
    assert given_to.attempt == 1


def test_an_entry_has_the_trace_of_its_publisher_and_keeps_it():
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    publication = Publication.of("c", 1, fallback="f", fallback_options={}).stamp(1, trace)
    entry = decode_entry(queued(publication))
    assert entry.queued.trace == trace
    again = decode_entry(entry.encode_failed("down", 1_700_000_001.0))
    assert (again.queued.trace, again.queued.attempt) == (trace, 2)
    junk = queued(publication).replace(b'-01"', b'-01\\n"')
    assert decode_entry(junk).queued.trace == ""


def test_absent_fields_are_empty():
    given_to = decode_entry(queued(Publication.of("c", None, fallback="f"))).queued
    assert given_to.trace == ""
    assert (given_to.data, given_to.event, given_to.info) == (None, None, None)
    assert (given_to.tags, given_to.options) == ({}, {})


@given(data=json_values(), failures=st.integers(0, 30), reason=st.text(max_size=2000))
def test_a_failed_entry_differs_only_in_its_failures(data, failures, reason):
    raw = queued(Publication.of("c", data, fallback="f", tags={"a": "b"}), failures=failures)
    first = decode_entry(raw)
    second = decode_entry(first.encode_failed(reason, 1_700_000_001.5))
    assert second.failures == failures + 1
    assert second.failed_at == 1_700_000_001.5
    assert second.queued.attempt == failures + 2
    assert second.queued.data == first.queued.data == json.loads(json.dumps(data))
    assert second.id == first.id
    assert len(second.reason) <= 6 * REASON_LIMIT + 1
    assert second.reason.isprintable()
    assert b"\n" not in second.encode_failed("again", 2)
    assert decode_entry(second.encode_reset()) == decode_entry(
        queued(Publication.of("c", data, fallback="f", tags={"a": "b"}))
    )


def test_the_last_of_two_reasons_counts():
    """As when `queue_tend.lua` adds a reason to an entry that has one."""
    raw = decode_entry(queued(Publication.of("c", 1, fallback="f"))).encode_failed("first", 1)
    entry = decode_entry(raw[:-1] + b',"reason":"second","failed_at":2000}')
    assert (entry.reason, entry.failed_at) == ("second", 2.0)


DEEP = b"[" * 90_000 + b"]" * 90_000


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"0",
        b"0 ",
        b"{}",
        b"0 {}",
        b"-1 {}",
        b"0 []",
        b"0 null",
        b"1e3 {}",
        b"0 " + b"[" * 100_000,
        b"\xff {}",
        b'9999999999 {"epoch":"e","offset":1,"at":1,"channel":"c","fallback":"f","data":1}',
        b'0 {"epoch":"e","offset":"1","at":1,"channel":"c","fallback":"f","data":1}',
        b'0 {"epoch":"e","offset":1,"at":1,"channel":"c","fallback":"f"}',
        b'0 {"epoch":"e","offset":1,"at":1,"channel":"c","fallback":"f","data":"\xff"}',
        b'0 {"epoch":"e","offset":1,"at":1,"channel":"c","fallback":"f","data":"\\ud800"}',
        b'0 {"epoch":"e","offset":1,"at":1,"channel":"c","fallback":"f","data":1,"options":[]}',
        b'0 {"epoch":"e","offset":1,"at":1,"channel":"c","fallback":"f","data":1,"info":7}',
        b'0 {"epoch":"e","offset":1,"at":%d,"channel":"c","fallback":"f","data":1}' % 10**400,
        b'0 {"epoch":"e","offset":1,"at":1,"channel":"c","fallback":"f","data":%b}' % DEEP,
        b'0 {"epoch":"e","offset":1,"at":1,"channel":"c","fallback":"\xff","data":1}',
        b'0 {"epoch":"e","offset":1,"at":1,"channel":"c","fallback":"f","data":1} {}',
    ],
)
def test_an_invalid_entry_is_refused(raw):
    with pytest.raises(EnvelopeError):
        decode_entry(raw)
    assert excerpt_of(raw).isprintable()
    assert len(excerpt_of(raw)) < 300


@given(st.binary(max_size=200))
def test_any_input_is_an_entry_or_refused(raw):
    with suppress(EnvelopeError):
        decode_entry(raw)


@given(failures=st.integers(1, 10_000), chance=st.floats(0, 1))
def test_the_back_off_doubles_with_jitter(failures, chance):
    whole = min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** (min(failures, 64) - 1))
    assert whole / 2 <= retry_seconds(failures, chance) <= whole


def test_fifteen_attempts_take_hours():
    hours = sum(retry_seconds(failures, 1.0) for failures in range(1, 15)) / 3600
    assert 3 < hours < 8
