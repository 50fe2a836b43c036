"""The link to Redis: each caller gets its own replies, or the right error."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import hiredis
import pytest

from realtime.brokers import Message, Subscribed
from realtime.brokers.bounds import UNSENT_BYTES
from realtime.brokers.commands import check_version
from realtime.brokers.redis import RedisBroker
from realtime.brokers.redis_sync import SyncRedisBroker
from realtime.core.envelope import decode_envelope
from realtime.core.positions import Position
from realtime.core.publication import Publication
from realtime.errors import BrokerUnavailable, IdempotencyConflict, OutcomeUnknown
from tests.support.eventually import eventually
from tests.support.machine import allowed, in_time
from tests.support.pubsub import published_so_far
from tests.support.redis_server import RedisServer
from tests.support.relay import Relay
from tests.support.subscription_reader import SubscriptionReader

BIG = "x" * 60_000
LATE = 2.0
"""Seconds that a deadline may be late on the reference machine; `allowed` adds to it."""


@pytest.fixture
async def relay(own_redis: RedisServer) -> AsyncIterator[Relay]:
    relay = await Relay(own_redis).open()
    yield relay
    await relay.close()


@pytest.fixture
async def make(own_redis: RedisServer) -> AsyncIterator[Callable[..., RedisBroker]]:
    """Create brokers; at the end of the test, they must have left nothing behind."""
    brokers: list[RedisBroker] = []

    def make_broker(url: str = own_redis.url, seconds: float = 5.0) -> RedisBroker:
        brokers.append(RedisBroker(url, prefix="t", deadline_seconds=seconds))
        return brokers[-1]

    yield make_broker
    for broker in brokers:
        await broker.aclose()
    await eventually(lambda: not _tasks_of_pipelines())
    await eventually(lambda: not connections(own_redis))


@pytest.fixture
async def broker(make: Callable[..., RedisBroker]) -> RedisBroker:
    return make()


@pytest.fixture
def heard(own_redis: RedisServer) -> Any:
    """Return how often each data has been published so far."""
    listener = own_redis.client().pubsub()
    listener.psubscribe("t:*")
    assert listener.get_message(timeout=60)["type"] == "psubscribe"
    count: Counter[str] = Counter()

    def so_far() -> Counter[str]:
        for message in published_so_far(listener):
            body = decode_envelope(message["data"]).body
            count[body.removeprefix('{"data":').removesuffix("}")[:5]] += 1
        return count

    yield so_far
    listener.close()


def _tasks_of_pipelines() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if "Pipeline." in task.get_coro().__qualname__]


def connections(server: RedisServer) -> list[str]:
    """Return the ids of the connections that brokers hold."""
    with server.client() as client:
        mine = str(client.client_id())
        return [
            info["id"]
            for info in client.client_list(_type="normal")
            if info["id"] != mine and info["cmd"] != "client|list"
        ]


def publication(data: Any = 0, channel: str = "a", **options: Any) -> Publication:
    return Publication.of(channel, data, **options)


def echo(broker: RedisBroker, word: str, seconds: float = 5.0) -> asyncio.Task[list[Any]]:
    """Ask Redis to echo a word; return just this word."""
    deadline = asyncio.get_running_loop().time() + seconds
    return asyncio.create_task(broker._link._execute_until([("ECHO", word)], deadline))


async def outcomes(tasks: list[asyncio.Task[Any]]) -> list[Any]:
    return await asyncio.gather(*tasks, return_exceptions=True)


def publishing(broker: RedisBroker, *publications: Publication) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(broker.publish(each)) for each in publications]


async def turns(count: int) -> None:
    """Let the loop run several iterations. This does not wait: only what is ready happens."""
    for _ in range(count):
        await asyncio.sleep(0)


# --- each caller gets its own reply ---


async def test_publications_of_one_turn_are_sent_in_one_write(make: Any, relay: Relay) -> None:
    broker = make(relay.url)
    await broker.publish(publication())
    await keep_busy(broker)
    relay.asked.clear()
    receipts = await outcomes(publishing(broker, *[publication(n) for n in range(100)]))
    assert [receipt.offset for receipt in receipts] == list(range(2, 102))
    assert len(relay.asked) == 1


async def keep_busy(broker: RedisBroker) -> None:
    """Let calls wait together, so that the next one is not expected to come alone."""
    await broker.positions(["a"])  # loads the script: each call that finds none is sent again alone
    await asyncio.gather(*[broker.positions(["a"]) for _ in range(3)])


async def test_publications_of_one_turn_share_one_step(
    broker: RedisBroker, own_redis: RedisServer
) -> None:
    """Redis then takes a third of the time for each; each publisher gets its own outcome."""
    await broker.publish(publication("taken", idempotency_key="k"))
    own_redis.client().set("t:{0}:pos:broken", "is no hash")
    await keep_busy(broker)
    own_redis.client().config_resetstat()
    tasks = publishing(
        broker,
        *[publication(n) for n in range(50)],
        publication("other", idempotency_key="k"),
        publication("x", "broken"),
        publication("never", "cancelled"),
        *[publication(n) for n in range(50)],
    )
    await turns(1)  # all of them wait to be written
    tasks.pop(52).cancel()
    answers = await outcomes(tasks)
    assert isinstance(answers.pop(50), IdempotencyConflict)
    assert isinstance(answers.pop(50), BrokerUnavailable)
    assert [answer.offset for answer in answers] == list(range(2, 102))
    stats = own_redis.client().info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] == 1
    assert stats["cmdstat_publish"]["calls"] == 100
    cancelled, broken, last = await broker.positions(["cancelled", "broken", "a"])
    assert (cancelled.offset, last.offset) == (0, 101)
    assert isinstance(broken, BrokerUnavailable), "and it does not affect those beside it"


async def test_each_caller_gets_its_own_reply(broker: RedisBroker, own_redis: RedisServer) -> None:
    """Single commands, batches, refusals, and in between a Redis that forgets the script."""
    await broker.publish(publication("taken", idempotency_key="k"))
    own_redis.client().set("t:{0}:pos:broken", "is no hash")
    tasks: list[asyncio.Task[Any]] = []
    for n in range(20):
        channel = f"c{n}"
        tasks += publishing(
            broker,
            publication(n, channel),
            publication("other", idempotency_key="k"),
            publication(n, "broken"),
            publication("taken", idempotency_key="k"),
        )
        batch = [publication(n, channel), publication(n, "broken"), publication(n, channel)]
        tasks += [asyncio.create_task(broker.publish_many(batch)), echo(broker, channel)]
        if n == 10:
            deadline = asyncio.get_running_loop().time() + 5
            flush = broker._link._execute_until([("SCRIPT", "FLUSH")], deadline)
            tasks += [asyncio.create_task(flush)]
    answers = await outcomes(tasks)
    assert answers.pop(11 * 6) == [b"OK"]
    for n in range(20):
        single, conflict, broken, again, batch, word = answers[n * 6 : n * 6 + 6]
        assert single.nodes == 0
        assert isinstance(conflict, IdempotencyConflict)
        assert isinstance(broken, BrokerUnavailable)
        assert (again.offset, again.repeated) == (1, True)
        first, refused, last = batch
        # Those that had to load the script again came after the batch that had not.
        assert sorted([single.offset, first.offset, last.offset]) == [1, 2, 3]
        assert last.offset == first.offset + 1
        assert isinstance(refused, BrokerUnavailable)
        assert word == [b"c%d" % n]


async def test_a_call_without_commands_takes_no_replies(broker: RedisBroker) -> None:
    """A call without commands used to take the replies of all later calls."""
    assert await broker.positions([]) == []
    assert await broker.publish_many([]) == []
    assert (await broker.publish(publication())).offset == 1


async def test_a_call_cancelled_before_the_write_sends_nothing(
    broker: RedisBroker, heard: Any
) -> None:
    await broker.publish(publication("first"))
    tasks = publishing(broker, *[publication(f"{n}") for n in range(5)])
    await turns(1)  # all calls have started, and at most the first is written
    tasks[3].cancel()
    *_, cancelled, last = await outcomes(tasks)
    assert isinstance(cancelled, asyncio.CancelledError)
    assert last.offset == 5
    assert heard() == Counter(['"firs', '"0"', '"1"', '"2"', '"4"'])


async def test_a_call_cancelled_after_the_write_leaves_other_replies_intact(
    make: Any, relay: Relay, heard: Any
) -> None:
    broker = make(relay.url)
    await broker.publish(publication("first"))
    relay.hold()
    relay.asked.clear()
    tasks = publishing(broker, *[publication(f"{n}", f"c{n}") for n in range(5)])
    words = [echo(broker, f"{n}") for n in range(5)]
    await eventually(lambda: relay.asked)
    tasks[3].cancel()
    words[0].cancel()
    relay.heal()
    receipts = await outcomes(tasks)
    assert isinstance(receipts.pop(3), asyncio.CancelledError)
    assert [receipt.offset for receipt in receipts] == [1] * 4
    assert (await outcomes(words))[1:] == [[b"1"], [b"2"], [b"3"], [b"4"]]
    assert heard() == Counter(['"firs', '"0"', '"1"', '"2"', '"3"', '"4"'])


# --- a slow Redis ---


async def test_a_timed_out_call_keeps_its_place_in_the_order(
    broker: RedisBroker, own_redis: RedisServer
) -> None:
    [_] = await echo(broker, "first")
    [before] = connections(own_redis)
    loop = asyncio.get_running_loop()
    own_redis.freeze()
    started = loop.time()
    late, behind = echo(broker, "late", seconds=0.3), echo(broker, "behind")
    with pytest.raises(OutcomeUnknown):
        await late
    assert 0.3 <= loop.time() - started < allowed(0.3 + LATE, started)
    after = echo(broker, "after")
    await turns(10)
    assert not behind.done()
    own_redis.thaw()
    assert (await behind, await after) == ([b"behind"], [b"after"])
    await eventually(lambda: len(connections(own_redis)) == 1)
    assert connections(own_redis) != [before]
    assert len(_tasks_of_pipelines()) == 1


async def connected(broker: RedisBroker) -> None:
    """Wait for a connection: a busy machine may need longer than a short deadline for it."""

    async def has_answered() -> bool:
        try:
            [position] = await broker.positions(["a"])
        except BrokerUnavailable:
            return False
        return isinstance(position, Position)

    await eventually(has_answered)


async def test_no_reply_by_the_deadline_is_an_unknown_outcome(
    make: Any, own_redis: RedisServer
) -> None:
    broker = make(seconds=0.3)
    await connected(broker)
    await broker.publish(publication())
    own_redis.freeze()
    started = asyncio.get_running_loop().time()
    errors = await outcomes(publishing(broker, *[publication(n) for n in range(100)]))
    assert asyncio.get_running_loop().time() - started < allowed(0.3 + LATE, started)
    assert {type(error) for error in errors} == {OutcomeUnknown}
    own_redis.thaw()

    # Redis reads a new connection in addition to the old one, of which it has received everything.
    async def all_have_come() -> bool:
        return (await broker.publish(publication())).offset > 101

    await eventually(all_have_come)


async def test_a_reply_that_arrived_in_time_counts_although_the_loop_was_busy(
    broker: RedisBroker,
) -> None:
    """Under a flood, the loop checked the deadline first, and the publisher got 503 or 504."""
    await echo(broker, "warm")
    for _ in range(5):
        late = echo(broker, "late", seconds=0.3)
        await turns(4)  # it is written, and Redis answers while nobody reads
        time.sleep(0.5)  # noqa: ASYNC251 - what keeps the loop
        assert await late == [b"late"]


async def test_a_command_that_was_never_written_is_certainly_not_published(
    make: Any, own_redis: RedisServer, heard: Any
) -> None:
    """A command that never left our memory has a certain outcome, and nobody receives it later."""
    broker = make(seconds=0.5)
    await connected(broker)
    await broker.publish(publication("first"))
    own_redis.freeze()
    texts = [f"{n:03}" + BIG for n in range(100)]
    tasks = publishing(broker, *map(publication, texts[:50]))
    await turns(5)
    tasks += publishing(broker, *map(publication, texts[50:]))
    errors = await outcomes(tasks)
    kinds = [type(error) for error in errors]
    unknown = kinds.count(OutcomeUnknown)
    assert kinds == [OutcomeUnknown] * unknown + [BrokerUnavailable] * (100 - unknown)
    assert 1 <= unknown < 20, "a socket holds some hundred KiB"
    own_redis.thaw()
    assert (await broker.publish(publication("last"))).offset <= unknown + 2
    allowed = {'"firs', '"last', *(f'"{n:03}x' for n in range(unknown))}
    assert set(heard()) <= allowed
    assert set(heard().values()) == {1}


def open_sockets() -> int:
    count = 0
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(
            OSError
        ):  # the listing includes its own descriptor, which is closed by now
            count += stat.S_ISSOCK(os.fstat(int(name)).st_mode)
    return count


async def test_a_connection_that_redis_does_not_read_is_closed_anyway(
    make: Any, own_redis: RedisServer
) -> None:
    """A graceful close waits until everything is written: forever, if Redis hangs."""
    broker = make(seconds=0.2)
    before = open_sockets()
    await connected(broker)
    await broker.publish(publication())
    own_redis.freeze()
    await outcomes(publishing(broker, *[publication(BIG) for _ in range(50)]))
    await eventually(lambda: not _tasks_of_pipelines())
    await eventually(lambda: open_sockets() <= before, seconds=1)
    own_redis.thaw()


async def test_calls_over_the_limit_are_refused_and_the_rest_answered(
    broker: RedisBroker, own_redis: RedisServer
) -> None:
    [_] = await echo(broker, "first")
    own_redis.freeze()
    loop = asyncio.get_running_loop()
    started = loop.time()
    words = [f"{n:03}" + "x" * 1_000_000 for n in range(40)]
    tasks = []
    for word in words:
        tasks.append(echo(broker, word))
        await turns(3)
    refused = [task for task in tasks if task.done()]
    assert 40 - 20 <= len(refused) <= 40 - UNSENT_BYTES // 1_000_100
    assert loop.time() - started < allowed(1, started)
    for task in refused:
        with pytest.raises(BrokerUnavailable, match="too many bytes"):
            await task
    own_redis.thaw()
    waited = [(task, word) for task, word in zip(tasks, words, strict=True) if task not in refused]
    for task, word in waited:
        assert await task == [word.encode()]
    for word in words:  # more than may wait, one after the other
        assert await echo(broker, word) == [word.encode()]


# --- the connection ends ---


@pytest.mark.parametrize("how", ["killed", "ended", "reset"])
async def test_publishing_after_a_closed_connection_has_no_unknown_outcome(
    make: Any, relay: Relay, own_redis: RedisServer, how: str
) -> None:
    """However few iterations the loop has run since then, even if it was blocked."""
    broker = make(own_redis.url if how == "killed" else relay.url)
    for n in range(10):
        await broker.publish(publication(n))
        if how == "killed":
            with own_redis.client() as client:
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        else:
            getattr(relay, how.removesuffix("ed"))()
            await turns(1)  # now it is
        await turns(n // 2)
        with contextlib.suppress(BrokerUnavailable):
            await broker.publish(publication(n))
    assert 11 <= (await broker.publish(publication())).offset <= 21


async def test_the_link_reconnects_after_a_redis_restart(
    broker: RedisBroker, own_redis: RedisServer
) -> None:
    for _ in range(3):
        assert (await broker.publish(publication())).offset == 1
        own_redis.kill()
        with contextlib.suppress(BrokerUnavailable):
            await broker.publish(publication())
        own_redis.start()


async def test_without_redis_each_call_fails_by_its_own_deadline(make: Any) -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mute = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        for url in ("unix:///nowhere/valkey.sock", mute):
            started = loop.time()
            errors = await outcomes(
                publishing(make(url, seconds=0.3), *[publication(n) for n in range(200)])
            )
            assert {type(error) for error in errors} == {BrokerUnavailable}
            assert loop.time() - started < allowed(0.3 + LATE, started)


async def test_a_call_made_while_connecting_waits_only_until_its_deadline(
    make: Any, own_redis: RedisServer
) -> None:
    own_redis.freeze()
    broker = make()
    loop = asyncio.get_running_loop()
    started = loop.time()
    patient = echo(broker, "patient")
    with pytest.raises(BrokerUnavailable):
        await echo(broker, "hasty", seconds=0.2)
    assert loop.time() - started < allowed(0.2 + LATE, started)
    own_redis.thaw()
    assert await patient == [b"patient"]


# --- invalid replies ---


async def test_a_garbage_reply_is_an_unknown_outcome(make: Any, relay: Relay) -> None:
    broker = make(relay.url)
    await broker.publish(publication())
    for garbage in (
        b"garbage\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b":12a\r\n",
        b"\xff\xfe\r\n",
    ):
        relay.change(lambda reply, garbage=garbage: garbage)
        errors = await outcomes(publishing(broker, *[publication(n) for n in range(3)]))
        assert {type(error) for error in errors} == {OutcomeUnknown}
        relay.heal()
        assert (await broker.publish(publication())).offset


async def test_a_reply_before_garbage_reaches_its_caller(make: Any, relay: Relay) -> None:
    broker = make(relay.url)
    await broker.publish(publication())
    relay.change(lambda reply: reply + b"garbage\r\n")
    assert (await broker.publish(publication())).offset == 2
    relay.heal()
    await eventually(lambda: not broker._link._pipeline.is_open)
    assert (await broker.publish(publication())).offset == 3


async def test_an_unsolicited_message_answers_no_call(make: Any, relay: Relay) -> None:
    broker = make(relay.url)
    [_] = await echo(broker, "first")
    for n in range(5):
        relay.say(b"+unasked\r\n")
        await eventually(lambda: not broker._link._pipeline.is_open)
        assert await echo(broker, f"{n}") == [b"%d" % n]


async def test_an_extra_reply_answers_no_call(make: Any, relay: Relay) -> None:
    broker = make(relay.url)
    [_] = await echo(broker, "first")
    relay.change(lambda reply: reply + b"+unasked\r\n")
    assert await echo(broker, "second") == [b"second"]
    relay.heal()
    with contextlib.suppress(BrokerUnavailable):
        assert await echo(broker, "third") == [b"third"]
    assert await echo(broker, "fourth") == [b"fourth"]


async def test_half_a_reply_is_an_unknown_outcome(make: Any, relay: Relay) -> None:
    broker = make(relay.url)
    await broker.publish(publication())
    relay.change(lambda reply: reply[: len(reply) // 2])
    relay.asked.clear()
    tasks = publishing(broker, *[publication(n) for n in range(10)])
    await eventually(lambda: any(task.done() for task in tasks))
    relay.end()
    results = await outcomes(tasks)
    answered = [getattr(result, "offset", None) for result in results]
    half = answered.index(None)
    assert answered == [*range(2, half + 2), *[None] * (10 - half)]
    assert {type(result) for result in results[half:]} == {OutcomeUnknown}
    relay.heal()
    assert (await broker.publish(publication())).offset == 12


# --- the end ---


async def test_closing_reports_the_outcome_of_every_call(
    make: Any, own_redis: RedisServer, heard: Any
) -> None:
    broker = make()
    await broker.publish(publication("first"))
    own_redis.freeze()
    texts = [f"{n:03}" + BIG for n in range(30)]
    tasks = publishing(broker, *map(publication, texts))
    await turns(5)
    await in_time(broker.aclose(), 1)
    kinds = [type(error) for error in await outcomes(tasks)]
    unknown = kinds.count(OutcomeUnknown)
    assert unknown
    assert kinds == [OutcomeUnknown] * unknown + [BrokerUnavailable] * (30 - unknown)
    own_redis.thaw()
    await eventually(lambda: not connections(own_redis))
    assert set(heard()) <= {'"firs', *(f'"{n:03}x' for n in range(unknown))}


async def test_closing_an_unstarted_pipeline_answers_its_calls(
    broker: RedisBroker, own_redis: RedisServer
) -> None:
    """A task that is cancelled before its first step never reaches its `finally`."""
    task = echo(broker, "word")
    while broker._link._pipeline is None:
        await turns(1)
    await broker.aclose()
    [outcome] = await in_time(outcomes([task]), 1)
    # The call was written at once, so its reply may have come.
    assert outcome == [b"word"] or isinstance(outcome, BrokerUnavailable | OutcomeUnknown)
    await eventually(lambda: not connections(own_redis))


async def test_the_end_of_a_connection_counts_at_once(broker: RedisBroker) -> None:
    """With TLS the transport is still open then, and what is written to it is dropped."""
    await broker.publish(publication())
    pipeline = broker._link._pipeline
    assert pipeline is not None
    pipeline.eof_received()
    assert not pipeline.is_open
    assert (await broker.publish(publication())).offset == 2


@pytest.mark.parametrize("surplus", [b"+OK\r\n", b"*1\r\n$11\r\ne 1 1 0 0 0\r\n"])
async def test_a_reply_that_nobody_asked_for_is_nobody_s(make: Any, surplus: bytes) -> None:
    """What came with the replies to redis-py was the reply to the first publication."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands = hiredis.Reader()
        while data := await reader.read(65536):
            commands.feed(data)
            while commands.gets() is not False:
                writer.write(b"+OK\r\n" + surplus)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    broker = make(f"redis://127.0.0.1:{port}/1")  # redis-py selects the database
    for _ in range(2):
        with pytest.raises((BrokerUnavailable, OutcomeUnknown)):
            await broker.publish(publication())
    await broker.aclose()
    server.close()


async def test_a_broker_that_was_closed_while_it_connected_keeps_no_connection(
    make: Any, own_redis: RedisServer
) -> None:
    broker = make()
    own_redis.freeze()
    task = echo(broker, "word")
    await eventually(lambda: broker._link._connecting.locked())
    await broker.aclose()
    own_redis.thaw()
    with pytest.raises(BrokerUnavailable):
        await in_time(task, 1)
    await eventually(lambda: not connections(own_redis))
    assert not _tasks_of_pipelines()


LOOPS = """
import asyncio, gc, sys
from realtime.brokers.redis import RedisBroker
from realtime.errors import BrokerError
from realtime.core.publication import Publication

async def main(url, warm, asked, turns):
    asyncio.get_running_loop().slow_callback_duration = 60  # a busy machine is no leak
    broker = RedisBroker(url, deadline_seconds=2)
    if warm:
        await broker.publish(Publication.of("a", 1))
    publication = Publication.of("a", "x" * 60_000)
    tasks = [asyncio.create_task(broker.publish(publication)) for _ in range(asked)]
    if warm == "frozen":
        print("freeze", flush=True)
        sys.stdin.readline()
    for _ in range(turns):
        await asyncio.sleep(0)

for turns in range(8):
    asyncio.run(main(sys.argv[1], "", 1, turns))
    asyncio.run(main(sys.argv[1], "yes", 20, turns))
    gc.collect()
asyncio.run(main(sys.argv[1], "frozen", 60, 10))
gc.collect()
asyncio.run(main(sys.argv[1], "", 5, 5))
gc.collect()
print("end", flush=True)
"""


async def test_a_loop_that_ends_leaves_no_warning(own_redis: RedisServer) -> None:
    """Nothing is left unawaited, unretrieved or unclosed, at whatever moment the loop ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-W", "error", "-c", LOOPS, own_redis.url),
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert await process.stdout.readline() == b"freeze\n"
    own_redis.freeze()
    process.stdin.write(b"\n")
    said, complaints = await in_time(process.communicate(), 20)
    own_redis.thaw()
    assert (said, complaints.decode()) == (b"end\n", "")


# --- the subscription ---


async def test_a_call_that_comes_alone_is_written_at_once(broker: RedisBroker) -> None:
    await broker.publish(Publication.of("a", 1))
    pipeline = broker._link._pipeline
    assert pipeline is not None
    alone = pipeline.send([("PING",)], asyncio.get_running_loop().time() + 5)
    assert (len(pipeline._sent), len(pipeline._waiting)) == (1, 0)
    beside = pipeline.send([("PING",)], asyncio.get_running_loop().time() + 5)
    assert (len(pipeline._sent), len(pipeline._waiting)) == (1, 1), "it waits for others"
    assert [*await alone, *await beside] == [b"PONG", b"PONG"]


async def test_the_calls_of_a_busy_node_share_one_write(broker: RedisBroker) -> None:
    """Only the first call of a burst may leave alone, and not even it in the next burst."""
    await broker.publish(Publication.of("a", 1))
    pipeline = broker._link._pipeline
    assert pipeline is not None
    for expected in (1, 0):
        deadline = asyncio.get_running_loop().time() + 5
        calls = [pipeline.send([("PING",)], deadline) for _ in range(10)]
        assert (len(pipeline._sent), len(pipeline._waiting)) == (expected, 10 - expected)
        assert await asyncio.gather(*calls) == [[b"PONG"]] * 10


NONSENSE = [
    b"*2\r\n$1\r\na\r\n$1\r\nb\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"+OK\r\n",
    b"-NOPERM no\r\n",
    b"*3\r\n$7\r\nmessage\r\n$-1\r\n$1\r\nb\r\n",
    b"*3\r\n$7\r\nmessage\r\n$10\r\nt:{0}:ch:\xff\r\n$1\r\nb\r\n",
    b"*3\r\n$7\r\nmessage\r\n$10\r\nt:{0}:ch:a\r\n:1\r\n",
    b"*3\r\n$8\r\nmessages\r\n$10\r\nt:{0}:ch:a\r\n$1\r\nb\r\n",
    b"garbage\r\n",
]


async def test_a_subscription_raises_only_our_own_errors(make: Any, relay: Relay) -> None:
    broker = make(relay.url)
    for nonsense in NONSENSE:
        subscription = await broker.subscription()
        relay.say(nonsense)
        with pytest.raises(BrokerUnavailable):
            await in_time(SubscriptionReader(subscription).read(), 1)
        await subscription.aclose()
        await eventually(lambda: not relay.clients)


async def test_messages_before_garbage_are_not_lost(make: Any, relay: Relay) -> None:
    subscription = await make(relay.url).subscription()
    try:
        relay.say(b"*3\r\n$7\r\nmessage\r\n$10\r\nt:{0}:ch:a\r\n$1\r\nb\r\ngarbage\r\n")
        reader = SubscriptionReader(subscription)
        assert await reader.read() == [Message("a", b"b")]
        with pytest.raises(BrokerUnavailable):
            await reader.read()
    finally:
        await subscription.aclose()


async def test_a_closed_subscription_does_not_reconnect(make: Any, own_redis: RedisServer) -> None:
    """redis-py's connection reopens itself when something is sent."""
    subscription = await make().subscription()
    await subscription.aclose()
    with pytest.raises(BrokerUnavailable):
        await subscription.send(["a"], [])
    with pytest.raises(BrokerUnavailable):
        await SubscriptionReader(subscription).read()
    with own_redis.client() as client:
        assert client.pubsub_channels("t:*") == []


@pytest.mark.parametrize(
    "option", ["decode_responses=True", "socket_timeout=0.000001", "protocol=3"]
)
async def test_url_options_do_not_override_ours(
    make: Any, own_redis: RedisServer, option: str
) -> None:
    url = f"{own_redis.url}?{option}"
    subscription = await make(url).subscription()
    await subscription.send(["a"], [])
    assert await SubscriptionReader(subscription).read() == [Subscribed("a")]
    receipt = await make(url).publish(Publication.of("a", 1))
    assert (receipt.offset, receipt.nodes) == (1, 1)
    sync = SyncRedisBroker(url, prefix="t")
    assert (await asyncio.to_thread(sync.publish, Publication.of("a", 2))).offset == 2
    sync.close()
    await subscription.aclose()


@pytest.mark.parametrize("version", ["7.0.0", "7.2.0-rc1", "10.1", "8.255.255-dev"])
def test_a_supported_redis_is_recognized_in_every_version_format(version: str) -> None:
    check_version(f"# Server\r\nredis_version:{version}\r\n".encode())


@pytest.mark.parametrize("version", ["6.2.14", "5", "unstable", ""])
def test_an_old_redis_is_refused(version: str) -> None:
    with pytest.raises(BrokerUnavailable, match="too old"):
        check_version(f"# Server\r\nredis_version:{version}\r\n".encode())


def test_a_reply_that_nobody_read_is_not_given_to_the_next_caller(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time limit of Celery is raised by a signal, anywhere: also between command and reply."""

    class TimeLimit(Exception):
        pass

    sync = SyncRedisBroker(own_redis.url, prefix="t")
    sync.publish(Publication.of("a", 0))

    def interrupt(*_: Any) -> None:
        raise TimeLimit

    with monkeypatch.context() as patch:
        patch.setattr("realtime.brokers.redis_sync._reply", interrupt)
        with pytest.raises(TimeLimit):
            sync.publish(Publication.of("interrupted", 1))
    assert sync.positions(["a"])[0].offset == 1
    assert sync.publish(Publication.of("a", 2)).offset == 2
    sync.close()


def test_nothing_is_sent_once_connecting_has_used_up_the_time(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was sent, waited a millisecond for its reply, and its outcome was unknown."""
    sync = SyncRedisBroker(own_redis.url, prefix="t", deadline_seconds=0.2)
    connect = sync._pool.get_connection

    def connect_slowly(*arguments: Any) -> Any:
        connection = connect(*arguments)
        time.sleep(0.25)
        return connection

    monkeypatch.setattr(sync._pool, "get_connection", connect_slowly)
    with pytest.raises(BrokerUnavailable):
        sync.publish(Publication.of("a", 1))
    monkeypatch.undo()
    sync.close()
    sync = SyncRedisBroker(own_redis.url, prefix="t", deadline_seconds=20)
    assert sync.positions(["a"])[0].offset == 0
    sync.close()
