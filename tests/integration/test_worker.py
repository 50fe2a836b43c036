"""The worker on a real Redis handles entries at least once, whichever part is interrupted."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis

from realtime.brokers.queue_commands import QueueKeys
from realtime.brokers.redis import RedisBroker
from realtime.brokers.redis_queue import RedisQueue
from realtime.core.fallback_entry import Queued, decode_entry
from realtime.core.publication import Publication
from realtime.errors import BrokerUnavailable, GiveUp, PartlyDone
from realtime.fallbacks import worker as worker_module
from realtime.fallbacks.threads import Threads
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer
from tests.support.working import Got, working

Publish = Callable[..., Any]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten pauses in which a test would only wait."""
    monkeypatch.setattr(worker_module, "TEND_SECONDS", 0.05)
    monkeypatch.setattr(worker_module, "TAKE_SECONDS", 0.1)
    monkeypatch.setattr(worker_module, "CANCEL_SECONDS", 0.1)
    monkeypatch.setattr("realtime.core.fallback_entry.FIRST_SECONDS", 0.1)


@pytest.fixture
def keys(wired: str) -> QueueKeys:
    return QueueKeys(*[f"{wired}:{{0}}:fallback:{name}" for name in QueueKeys._fields])


@pytest.fixture
def client(redis_server: RedisServer) -> AsyncIterator[redis.Redis]:
    with redis_server.client() as made:
        yield made


@pytest.fixture
async def queue(redis_server: RedisServer, wired: str) -> AsyncIterator[RedisQueue]:
    made = RedisQueue(redis_server.url, prefix=wired)
    yield made
    await made.aclose()


@pytest.fixture
async def publish(redis_server: RedisServer, wired: str) -> AsyncIterator[Publish]:
    broker = RedisBroker(redis_server.url, prefix=wired)

    async def publish_one(data: Any, fallback: str = "f", **options: Any) -> str:
        receipt = await broker.publish(Publication.of("c", data, fallback=fallback, **options))
        assert receipt.queued
        return f"{receipt.epoch}-{receipt.offset}"

    yield publish_one
    await broker.aclose()


async def taken_by(queue: RedisQueue, name: str) -> bytes:
    """Take the next entry as a worker in another process does."""
    hand = queue.hand(name)
    raw = await hand.take(1)
    assert raw is not None
    await hand.aclose()
    return raw


async def is_empty(queue: RedisQueue) -> bool:
    stats = await queue.stats()
    return not any((stats.waiting, stats.in_hand, stats.later))


async def test_an_undelivered_publication_is_handled_once(queue, publish) -> None:
    ids = [await publish({"n": n}) for n in range(20)]
    got = Got()
    async with working(queue, {"f": got}):
        await eventually(lambda: len(got) == 20)
        ids.append(await publish({"n": 20}))  # while it waits
        await eventually(lambda: len(got) == 21)
        await eventually(lambda: is_empty(queue))
    assert [queued.id for queued in sorted(got, key=lambda q: q.data["n"])] == ids
    stats = await queue.stats()
    assert (stats.handled, stats.retried, stats.given_up) == (21, 0, 0)
    assert stats.hands == 0, "a worker that has exited is still counted"


async def test_a_script_that_redis_forgot_is_loaded_again(queue, publish, client) -> None:
    got = Got()
    async with working(queue, {"f": got}):
        await publish(1)
        await eventually(lambda: got.data == [1])
        client.script_flush()
        await publish(2)
        await eventually(lambda: got.data == [1, 2])


async def test_a_slow_handler_is_named_once_a_minute(
    queue, publish, caplog: pytest.LogCaptureFixture
) -> None:
    got = Got()
    for number in range(3):
        await publish(number, fallback="f")
    async with working(queue, {"f": got}, slow_seconds=-1.0, hands=1) as worker:
        await eventually(lambda: is_empty(queue))
        assert worker._log._slow._counts == {"f": 3}
    said = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert [each for each in said if "slow" in each] == [
        "the fallback f is slow: an attempt took 0.0 s (1 slow ones so far)"
    ]


async def test_a_handler_in_time_is_not_named(
    queue, publish, caplog: pytest.LogCaptureFixture
) -> None:
    await publish(1)
    async with working(queue, {"f": Got()}):
        await eventually(lambda: is_empty(queue))
    assert "slow" not in caplog.text


async def test_a_failed_item_is_retried_with_the_same_id(queue, publish) -> None:
    seen: list[Queued] = []

    async def fails_twice(queued: Queued) -> None:
        seen.append(queued)
        if queued.attempt < 3:
            raise ValueError("not now")

    ours = await publish({"a": 1})
    async with working(queue, {"f": fails_twice}):
        await eventually(lambda: len(seen) == 3)
        await eventually(lambda: is_empty(queue))
    assert [queued.attempt for queued in seen] == [1, 2, 3]
    assert {queued.id for queued in seen} == {ours}
    stats = await queue.stats()
    assert (stats.handled, stats.retried, stats.dead) == (1, 2, 0)


async def test_an_item_that_always_fails_is_dead_lettered_with_its_reason(queue, publish) -> None:
    got = Got()

    async def poison(queued: Queued) -> None:
        raise ValueError("a line\nand another")

    for n in range(5):
        await publish(n, "poison")
        await publish(n)
    async with working(queue, {"f": got, "poison": poison}, attempts=2):
        await eventually(lambda: len(got) == 5)
        await eventually(lambda: _has_dead(queue, 5))
    dead = [decode_entry(raw) async for raw in queue.entries("dead")]
    assert {entry.reason for entry in dead} == {"ValueError: a line and another"}
    assert {entry.failures for entry in dead} == {2}


@pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit])
@pytest.mark.parametrize("is_sync", [False, True])
async def test_a_handler_that_is_cancelled_or_exits_counts_as_failed(
    queue, publish, is_sync: bool, error: type[BaseException]
) -> None:
    """A handler without async runs in a thread, as `realtime.fallbacks.registry` arranges it."""
    got, threads = Got(), Threads()

    def raise_it(queued: Queued) -> None:
        raise error

    async def broken(queued: Queued) -> None:
        await (threads.run(raise_it, queued) if is_sync else asyncio.sleep(0))
        raise_it(queued)

    await publish(1, "broken")
    await publish(2)
    async with working(queue, {"f": got, "broken": broken}, attempts=1, threads=threads):
        await eventually(lambda: got.data == [2])
        await eventually(lambda: _has_dead(queue, 1))
    [raw] = [raw async for raw in queue.entries("dead")]
    assert decode_entry(raw).reason.startswith("RuntimeError: ")
    assert threads.left == 0


async def _has_dead(queue: RedisQueue, count: int) -> bool:
    return (await queue.stats()).dead == count


@pytest.mark.parametrize("is_final", [False, True])
async def test_the_rest_of_an_item_is_tried_with_other_options(queue, publish, is_final) -> None:
    got: list[Any] = []

    async def handler(item: Queued) -> None:
        got.append(item.options)
        if len(got) == 1:
            raise PartlyDone("ben is left", {"to": ["ben"]}, is_final=is_final)

    await publish(1, fallback_options={"to": ["ada", "ben"], "subject": "s"})
    async with working(queue, {"f": handler}):
        await eventually(lambda: _has_dead(queue, 1) if is_final else is_empty_after(queue, got))
    assert got == [{"to": ["ada", "ben"], "subject": "s"}, {"to": ["ben"]}][: 1 if is_final else 2]
    for raw in [raw async for raw in queue.entries("dead")]:
        entry = decode_entry(raw)
        assert (entry.reason, entry.queued.options) == ("ben is left", {"to": ["ben"]})
    stats = await queue.stats()
    assert (stats.dead, stats.bytes > 0) == (int(is_final), is_final)


@pytest.mark.parametrize(
    "options",
    [{"to": object()}, ["ben"], None, {"to": "x" * 9000}],
    ids=["an object", "a list", "nothing", "too long"],
)
async def test_options_that_cannot_be_stored_fail_one_attempt(queue, publish, options) -> None:
    """The worker ended, and so did the next ones, which tried the same entry without counting."""
    got: list[Any] = []

    async def handler(item: Queued) -> None:
        got.append(item.options)
        if len(got) == 1:
            raise PartlyDone("a part is left", options)

    await publish(1, fallback_options={"to": "ada"})
    async with working(queue, {"f": handler}):
        await eventually(lambda: is_empty_after(queue, got))
    assert got == [{"to": "ada"}] * 2
    assert (await queue.stats()).retried == 1


async def is_empty_after(queue: RedisQueue, got: list[Any]) -> bool:
    return len(got) == 2 and await is_empty(queue)


async def test_giving_up_is_final(queue, publish) -> None:
    async def refuse(queued: Queued) -> None:
        raise GiveUp("no such mailbox")

    await publish(1)
    async with working(queue, {"f": refuse}, attempts=100):
        await eventually(lambda: _has_dead(queue, 1))
    [raw] = [raw async for raw in queue.entries("dead")]
    assert (decode_entry(raw).reason, decode_entry(raw).failures) == ("no such mailbox", 1)


async def test_an_item_for_an_unknown_fallback_is_retried(queue, publish) -> None:
    handlers: dict[str, Any] = {}
    await publish(1, "of-the-next-release")
    async with working(queue, handlers, attempts=100):
        await eventually(lambda: _has_retried(queue))
        handlers["of-the-next-release"] = got = Got()
        await eventually(lambda: got.data == [1])


async def _has_retried(queue: RedisQueue) -> bool:
    return (await queue.stats()).retried > 0


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"garbage", b"0 {}", b"\xff\xfe", b"0 " + b"[" * 70_000),
        b'0 {"epoch":"e","offset":1,"at":1,"channel":"c","fallback":"f","data":"\xff"}',
    ],
)
async def test_an_unreadable_item_is_dead_lettered(queue, publish, client, keys, raw) -> None:
    client.rpush(keys.waiting, raw)
    await publish(1)
    got = Got()
    async with working(queue, {"f": got}):
        await eventually(lambda: got.data == [1])
        await eventually(lambda: _has_dead(queue, 1))
    assert client.lrange(keys.dead, 0, -1) == [raw]


async def test_a_hanging_handler_is_cancelled(queue, publish) -> None:
    was_cancelled = asyncio.Event()

    async def hang(queued: Queued) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            was_cancelled.set()

    await publish(1)
    async with working(queue, {"f": hang}, handler_seconds=0.1, attempts=1):
        await eventually(lambda: _has_dead(queue, 1))
    assert was_cancelled.is_set()
    [raw] = [raw async for raw in queue.entries("dead")]
    assert decode_entry(raw).reason == "the handler took longer than 0.1 s"


async def test_a_worker_ends_when_all_its_threads_hang(queue, publish, caplog) -> None:
    let_go = threading.Event()
    threads = Threads()
    others = Got()

    async def hang(queued: Queued) -> None:
        await threads.run(let_go.wait)

    await publish(1, "hang")
    await publish(2)
    try:
        async with working(
            queue, {"hang": hang, "f": others}, threads=threads, handler_seconds=0.1
        ) as worker:
            await eventually(lambda: worker.hung_handlers == 1)
            await publish(3)
            await eventually(lambda: sorted(others.data) == [2, 3])
            await publish(4, "hang")
            await eventually(lambda: "all handlers of this worker are hung" in caplog.text)
    finally:
        let_go.set()
    await eventually(lambda: threads.left == 0)
    assert (await queue.stats()).later >= 1


async def test_a_stopping_worker_finishes_its_current_items(queue, publish) -> None:
    began, go_on, ended = asyncio.Event(), asyncio.Event(), []

    async def slow(queued: Queued) -> None:
        began.set()
        await go_on.wait()
        ended.append(queued.data)

    await publish(1)
    await publish(2)
    async with working(queue, {"f": slow}, hands=1) as worker:
        await began.wait()
        worker.stop()
        go_on.set()
    assert ended == [1]
    stats = await queue.stats()
    assert (stats.waiting, stats.in_hand, stats.handled) == (1, 0, 1)


async def test_a_worker_stopped_at_once_requeues_its_current_items(queue, publish) -> None:
    began = asyncio.Event()

    async def hang(queued: Queued) -> None:
        began.set()
        await asyncio.Event().wait()

    await publish(1)
    async with working(queue, {"f": hang}) as worker:
        await began.wait()
        worker.stop()
        worker.stop()
    [raw] = [raw async for raw in queue.entries("waiting")]
    assert decode_entry(raw).failures == 0


async def test_the_items_of_a_dead_worker_are_taken_over_when_its_lease_expires(
    queue, publish, client, keys, caplog
) -> None:
    ours = await publish(1)
    await queue.renew_leases(["ghost"], 0.3)
    await taken_by(queue, "ghost")
    got = Got()
    async with working(queue, {"f": got}):
        await eventually(lambda: got)
    assert [(queued.id, queued.attempt) for queued in got] == [(ours, 2)]
    assert "took over 1 entries from lost workers" in caplog.text
    assert (await queue.stats()).taken_over == 1


async def test_nothing_is_taken_over_while_its_lease_lasts(queue, publish) -> None:
    began = asyncio.Event()
    finished = []

    async def slow(queued: Queued) -> None:
        began.set()
        await asyncio.sleep(3.0)  # longer than its lease, which is renewed
        finished.append(queued.id)

    ours = await publish(1)
    # A loaded machine stops a process for most of a second; a lease must outlast that.
    async with working(queue, {"f": slow}, lease_seconds=2):
        await began.wait()
        async with working(queue, {"f": slow}, lease_seconds=2):
            await eventually(lambda: finished)
    assert finished == [ours]
    assert (await queue.stats()).taken_over == 0


async def test_an_item_that_kills_its_workers_is_finally_dead_lettered(
    queue, publish, client, keys
) -> None:
    ours = await publish({"n": 12345678901234567890})
    for n in range(3):
        await queue.renew_leases([f"ghost-{n}"], 0.001)
        await taken_by(queue, f"ghost-{n}")

        async def is_over() -> bool:
            return (await queue.tend(3, "it kills")).taken_over == 1

        await eventually(is_over)
    [raw] = [raw async for raw in queue.entries("dead")]
    entry = decode_entry(raw)
    assert (entry.id, entry.failures, entry.reason) == (ours, 3, "it kills")
    assert entry.queued.data == {"n": 12345678901234567890}
    assert entry.failed_at > entry.published_at - 1


async def test_an_item_that_arrives_after_the_lease_expired_is_recovered(queue, publish) -> None:
    """Redis may execute a command late, when the worker that sent it is gone."""
    await queue.renew_leases(["ghost"], 0.001)
    got = Got()
    async with working(queue, {"f": got}):
        await publish(1)
        await eventually(lambda: got.data == [1])  # the orphaned hand was checked, and is empty
    await publish(2)
    await taken_by(queue, "ghost")
    async with working(queue, {"f": got}):
        await eventually(lambda: got.data == [1, 2])


async def _is_tended(queue: RedisQueue) -> bool:
    return (await queue.stats()).hands > 0


async def test_finishing_an_item_that_was_taken_over_does_no_harm(queue, publish) -> None:
    await publish(1)
    hand = queue.hand("frozen")
    await queue.renew_leases(["frozen"], 0.001)
    raw = await hand.take(1)
    assert raw is not None

    async def is_over() -> bool:
        return (await queue.tend(3, "gone")).taken_over == 1

    await eventually(is_over)
    for settled in (
        await hand.acknowledge(raw),
        await hand.retry(raw, raw, 1),
        await hand.bury(raw, raw),
    ):
        assert settled == (False, None)
    stats = await queue.stats()
    assert (stats.waiting, stats.later, stats.dead, stats.handled) == (1, 0, 0, 0)
    await hand.aclose()


async def test_an_item_whose_reply_was_lost_is_recovered(queue, publish, client, wired) -> None:
    """BLMOVE moved an entry there, but its reply was lost; now the hand may hold two entries."""
    got = Got()
    async with working(queue, {"f": got}, hands=1):
        await eventually(lambda: _is_tended(queue))
        [name] = client.zrange(f"{wired}:{{0}}:fallback:hands", 0, -1)
        other = queue.hand(name.decode())
        await publish(1)
        await other.take(0.5)
        await eventually(lambda: got.data == [1])
        await other.aclose()
        await eventually(lambda: is_empty(queue))


async def test_work_resumes_when_redis_is_back(own_redis: RedisServer, wired: str, caplog) -> None:
    caplog.set_level(logging.INFO)
    queue = RedisQueue(own_redis.url, prefix=wired, seconds=0.5)
    broker = RedisBroker(own_redis.url, prefix=wired)
    got = Got()
    async with working(queue, {"f": got}):
        await broker.publish(Publication.of("c", 1, fallback="f"))
        await eventually(lambda: got.data == [1])
        own_redis.kill()
        await eventually(lambda: "cannot read the fallback queue" in caplog.text)
        own_redis.start()
        await broker.publish(Publication.of("c", 2, fallback="f"))
        await eventually(lambda: got.data == [1, 2])
        await eventually(lambda: "reading the fallback queue works again" in caplog.text)
    assert caplog.text.count("cannot read the fallback queue") == 1
    assert "Redis has no append-only file" in caplog.text
    await queue.aclose()
    await broker.aclose()


async def test_a_full_redis_is_emptied(own_redis: RedisServer, wired: str, keys) -> None:
    """The queue may fill Redis, which then refused BLMOVE and leases, so nothing was handled."""
    client = own_redis.client()
    queue = RedisQueue(own_redis.url, prefix=wired)
    broker = RedisBroker(own_redis.url, prefix=wired)
    for data in range(5):
        await broker.publish(Publication.of("c", data, fallback="f" if data < 4 else "absent"))
    await taken_by(queue, "lost")  # by a worker that died
    client.zadd(keys.hands, {"lost": 1})
    got = Got()
    client.config_set("maxmemory", "1")
    with pytest.raises(BrokerUnavailable):
        await broker.publish(Publication.of("c", 5, fallback="f"))
    async with working(queue, {"f": got}, attempts=2):
        await eventually(lambda: sorted(got.data) == [0, 1, 2, 3])
        await eventually(lambda: is_empty(queue))
        [dead] = [raw async for raw in queue.entries("dead")]
        assert await queue.move("dead", dead, decode_entry(dead).encode_reset())
        await eventually(lambda: _has_dead(queue, 1))
        client.config_set("maxmemory", "0")
        await broker.publish(Publication.of("c", 6, fallback="f"))
        await eventually(lambda: 6 in got.data)
    await broker.aclose()
    await queue.aclose()


async def test_several_workers_share_the_work(queue, publish) -> None:
    got = [Got(), Got(), Got()]
    for n in range(60):
        await publish(n)

    def slowly(one: Got) -> Any:
        async def handle(queued: Queued) -> None:
            await asyncio.sleep(0.005)
            await one(queued)

        return handle

    async with (
        working(queue, {"f": slowly(got[0])}),
        working(queue, {"f": slowly(got[1])}),
        working(queue, {"f": slowly(got[2])}),
    ):
        await eventually(lambda: sum(map(len, got)) == 60)
    assert sorted(data for one in got for data in one.data) == list(range(60))
    assert all(got), "one of them was idle"


async def test_the_failure_and_recovery_of_a_fallback_are_each_logged_once(
    queue, publish, caplog
) -> None:
    caplog.set_level(logging.INFO)
    fails = True

    async def handle(queued: Queued) -> None:
        if fails:
            raise ConnectionRefusedError("the mail server is away")

    for n in range(10):
        await publish(n)
    async with working(queue, {"f": handle}, attempts=1000):
        await eventually(lambda: _has_retried(queue))
        await eventually(lambda: "the fallback f failed" in caplog.text)
        fails = False
        await eventually(lambda: is_empty(queue))

        # Successes and failures may alternate for a moment; the end is logged when that is over.
        async def is_told() -> bool:
            await publish("more")
            return "the fallback f works again" in caplog.text

        await eventually(is_told)
    assert caplog.text.count("the fallback f failed") == 1
    assert "the mail server is away" in caplog.text
