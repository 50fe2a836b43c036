"""What is sent together on one connection, and who gets which reply. Without I/O."""

from __future__ import annotations

import asyncio
from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import exceptions

from realtime.brokers.calls import RedisCall, pack_calls
from realtime.brokers.commands import Commands, unavailable, unknown
from realtime.brokers.script import Args
from realtime.core.names import CHANNEL_LIMIT, KEY_LIMIT
from realtime.core.publication import Publication
from realtime.errors import BrokerUnavailable, OutcomeUnknown


class Script:
    """Publishes as `Commands.publish` does: its reply has an item for each publication."""

    def combine(self, *publications: Publication) -> Args:
        return ("PUB", *[each.channel for each in publications])


ONE, OTHER = Script().combine, Script().combine


def of_publication(channel: str, combine: Any = ONE, deadline: float = 10.0) -> RedisCall:
    made = Publication.of(channel, 1)
    return RedisCall.of_publication(made, combine, deadline, asyncio.Future())


def of_commands(*words: str) -> RedisCall:
    return RedisCall.of_commands([("ECHO", word) for word in words], 10.0, asyncio.Future())


def commands_in(packed: bytes) -> list[list[bytes]]:
    reader = hiredis.Reader()
    reader.feed(packed)
    found = []
    while (command := reader.gets()) is not False:
        found.append(command)
    return found


KINDS = st.sampled_from(["one", "other", "commands"])


@given(st.lists(st.tuples(KINDS, st.integers(1, 3)), max_size=20))
async def test_each_call_is_answered_as_if_it_had_been_alone(given: list[tuple[str, int]]) -> None:
    calls = []
    for number, (kind, count) in enumerate(given):
        if kind == "commands":
            calls.append(of_commands(*[f"{number}:{each}" for each in range(count)]))
        else:
            calls.append(of_publication(f"c{number}", ONE if kind == "one" else OTHER))
    packed, sent = pack_calls(calls)
    commands = commands_in(packed)
    assert sum(each.count for each in sent) == len(commands)
    for each in sent:
        for _ in range(each.count):
            name, *words = commands.pop(0)
            each.replies.append(words if name == b"PUB" else words[0])
        each.answer()
    for number, ((kind, count), call) in enumerate(zip(given, calls, strict=True)):
        expected: list[Any] = [b"%d:%d" % (number, each) for each in range(count)]
        assert call.future.result() == (expected if kind == "commands" else [[b"c%d" % number]])


async def test_only_neighbours_of_one_kind_share_a_command() -> None:
    """The order of calls stays; another script, or a partition of a cluster, is another kind."""
    calls = [of_publication("a"), of_publication("b"), of_commands("x")]
    calls += [of_publication("c"), of_publication("d", OTHER), of_publication("e", OTHER)]
    packed, sent = pack_calls(calls)
    assert [command[1:] for command in commands_in(packed)] == [
        [b"a", b"b"],
        [b"x"],
        [b"c"],
        [b"d", b"e"],
    ]
    assert len(sent) == 4


async def test_a_refused_command_is_refused_to_all_who_share_it() -> None:
    calls = [of_publication("a"), of_publication("b")]
    _, [shared] = pack_calls(calls)
    error = exceptions.NoScriptError("NOSCRIPT")
    shared.replies.append(error)
    shared.answer()
    assert [call.future.result() for call in calls] == [[error], [error]]


@pytest.mark.parametrize("reply", [1, b"OK", None, [], [[b"one"]], [[b"1"], [b"2"], [b"3"]]])
async def test_a_reply_to_something_else_answers_nobody(reply: Any) -> None:
    calls = [of_publication("a"), of_publication("b")]
    _, [shared] = pack_calls(calls)
    shared.replies.append(reply)
    with pytest.raises(exceptions.ConnectionError):
        shared.answer()
    assert not shared.is_done
    shared.fail(unknown, exceptions.ConnectionError())
    raised = [call.future.exception() for call in calls]
    assert [type(error) for error in raised] == [OutcomeUnknown] * 2
    assert raised[0] is not raised[1], "tasks that raise one object add to its traceback"


async def test_each_call_of_a_shared_command_has_its_own_deadline() -> None:
    calls = [of_publication("a", deadline=1.0), of_publication("b", deadline=3.0)]
    cancelled = of_publication("c", deadline=1.0)
    cancelled.future.cancel()
    _, [shared] = pack_calls([*calls, cancelled])
    assert not shared.fail_overdue(1.0, unavailable)
    assert shared.fail_overdue(2.0, unavailable)
    assert isinstance(calls[0].future.exception(), BrokerUnavailable)
    assert not shared.is_done
    shared.replies.append([[b"1"], [b"2"], [b"3"]])
    shared.answer()
    assert shared.is_done
    assert calls[1].future.result() == [[[b"2"]]]


async def test_a_publication_that_cannot_be_packed_fails_alone() -> None:
    """All of them would wait for ever, because none is waiting or sent any more."""

    def combine(*publications: Publication) -> Args:
        if any(each.channel == "bad" for each in publications):
            raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
        return ONE(*publications)

    calls = [of_publication(name, combine) for name in ("a", "bad", "b")]
    packed, sent = pack_calls(calls)
    assert [command[1:] for command in commands_in(packed)] == [[b"a"], [b"b"]]
    assert isinstance(calls[1].future.exception(), UnicodeEncodeError)
    for each, answer in zip(sent, (b"1", b"2"), strict=True):
        each.replies.append([answer])
        each.answer()
    assert [calls[0].future.result(), calls[2].future.result()] == [[[b"1"]], [[b"2"]]]


@pytest.mark.parametrize("channel", ["c", "c" * CHANNEL_LIMIT])
@pytest.mark.parametrize("idempotency_key", [None, "k" * KEY_LIMIT])
@pytest.mark.parametrize("options", [None, {"to": "x" * 4000}])
async def test_the_size_of_a_publication_is_about_that_of_its_command(
    channel: str, idempotency_key: str | None, options: dict[str, str] | None
) -> None:
    """Sixty-four KiB are written at once: what is written to a frozen Redis is unknown."""
    made = Publication.of(
        channel,
        "x",
        idempotency_key=idempotency_key,
        scope="key:" + "n" * 64,
        fallback="email" if options else None,
        fallback_options=options,
    )
    call = RedisCall.of_publication(made, Commands("rt").publish, 1.0, asyncio.Future())
    alone, _ = pack_calls([call])
    calls = [
        RedisCall.of_publication(made, Commands("rt").publish, 1.0, asyncio.Future())
        for _ in range(2)
    ]
    combine = calls[0].combine
    calls[1].combine = combine
    both, _ = pack_calls(calls)
    assert 0.5 <= (len(both) - len(alone)) / call.size <= 1.5
