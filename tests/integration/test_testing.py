"""`realtime.testing` in the tests of a host, and the guard that keeps tests away from others."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory, TestCase, TransactionTestCase
from django.utils.translation import gettext_lazy

from realtime import (
    adisconnect_user,
    aposition,
    apresence,
    apublish,
    fallback,
    position,
    publish,
    publish_on_commit,
    with_position,
)
from realtime.conf import ImproperSetting
from realtime.contrib.records import records
from realtime.errors import IdempotencyConflict, InvalidName
from realtime.fallbacks.registry import registered
from realtime.host.page_positions import positions_of
from realtime.testing import (
    CapturedPublication,
    ClientClosed,
    PublicationsMixin,
    RefusedCommand,
    capture_publications,
    connect,
    share_prefix,
)
from realtime.wiring import guard
from tests.support.redis_server import RedisServer

NAMESPACES = {
    "orders": {
        "allow_subscribe_for_client": True,
        "allow_subscribe_for_anonymous": True,
        "presence": True,
        "fallback": "post",
    }
}


@pytest.fixture(autouse=True)
def _memory(settings: Any) -> None:
    settings.REALTIME_REDIS_URL = "memory://"
    settings.REALTIME_REDIS_PREFIX = f"test-{secrets.token_hex(4)}"
    settings.REALTIME_NAMESPACES = NAMESPACES
    settings.REALTIME_PERSONAL_CHANNEL = "user:#"


@pytest.fixture(autouse=True)
def post() -> Iterator[list[Any]]:
    """Return the publication that the fallback of the namespace received."""
    got: list[Any] = []

    @fallback("post")
    def handle(queued: Any) -> None:
        got.append(queued.data)

    yield got
    del registered["post"]


def test_a_publication_is_captured_as_its_subscribers_get_it(post: list[Any]) -> None:
    with capture_publications() as published:
        receipt = publish(
            "orders:1",
            {"text": gettext_lazy("Yes")},
            event="order.new",
            tags={"shop": "7"},
            fallback_options={"to": "a@example.com"},
        )
    assert published == [
        CapturedPublication(
            "orders:1",
            {"text": "Yes"},
            event="order.new",
            tags={"shop": "7"},
            fallback="post",
            fallback_when="nobody",
            fallback_options={"to": "a@example.com"},
            receipt=receipt,
        )
    ]
    assert (receipt.offset, receipt.queued) == (1, True)


def test_what_is_wrong_raises_as_it_always_does() -> None:
    with capture_publications() as published:
        with pytest.raises(InvalidName):
            publish("nowhere:1", 1)
        publish("plain", 1, idempotency_key="k")
        assert publish("plain", 1, idempotency_key="k").repeated
        with pytest.raises(IdempotencyConflict):
            publish("plain", 2, idempotency_key="k")
    assert len(published) == 1


def test_tests_do_not_see_each_others_keys() -> None:
    for _ in range(2):
        with capture_publications() as published:
            publish("plain", 1, idempotency_key="k")
        assert len(published) == 1


def test_blocks_inside_each_other_both_capture() -> None:
    with capture_publications() as outer:
        publish("plain", 1)
        with capture_publications() as inner:
            publish("plain", 2)
        publish("plain", 3)
    assert [each.data for each in outer] == [1, 2, 3]
    assert [each.data for each in inner.on("plain")] == [2]
    assert [each.receipt.offset for each in outer] == [1, 2, 3]


async def test_async_code_is_captured_without_any_broker(settings: Any) -> None:
    settings.REALTIME_REDIS_URL = ""
    with capture_publications() as published:
        await apublish("plain", 1)
        await asyncio.to_thread(publish, "plain", 2)
    assert [each.data for each in published] == [1, 2]


async def test_positions_are_those_of_what_was_captured(settings: Any) -> None:
    """A green test said that it could not read positions; with a Redis, it wrote there."""
    settings.REALTIME_REDIS_URL = "redis://127.0.0.1:1"

    @with_position("orders:1")
    def page(request: HttpRequest) -> HttpResponse:
        return HttpResponse(str(positions_of(request)["orders:1"]))

    with capture_publications():
        before = (await aposition("orders:1"))["orders:1"]
        assert before.offset == 0
        await apublish("orders:1", 1)
        after = await asyncio.to_thread(position, "orders:1")
        assert after == {"orders:1": before._replace(offset=1)} == await aposition("orders:1")
        response = await asyncio.to_thread(page, RequestFactory().get("/"))
        assert response.content.decode() == str(after["orders:1"])
        with capture_publications():
            publish_in_thread = partial(publish, "orders:1", 2)
            await asyncio.to_thread(publish_in_thread)
            assert (await aposition("orders:1"))["orders:1"].offset == 2


def test_with_redis_nothing_leaves_the_process(
    settings: Any, redis_server: RedisServer, wired: str
) -> None:
    settings.REALTIME_REDIS_URL = redis_server.url
    with capture_publications() as published, redis_server.client() as client:
        publish("orders:1", 1, idempotency_key="k")
        assert len(published) == 1
        assert position("orders:1")["orders:1"].offset == 1
        assert not client.keys(f"{wired}:*")


def test_fallbacks_run_in_the_test(post: list[Any]) -> None:
    with capture_publications() as published:
        publish("orders:1", "a")
        publish("orders:1", "b", fallback_when="always")
        assert published.run_fallbacks() == 2
        assert published.run_fallbacks() == 0
    assert post == ["a", "b"]


class InATestCase(PublicationsMixin, TestCase):
    def setUp(self) -> None:
        super().setUp()
        publish("plain", "from setUp")

    def test_what_waits_for_the_commit_counts(self) -> None:
        publish_on_commit("plain", 1)
        publish("plain", 2)
        assert [each.data for each in self.published] == ["from setUp", 2, 1]
        assert [each.on_commit for each in self.published] == [False, False, True]
        assert self.published[-1].receipt is None

    def test_what_is_rolled_back_does_not(self) -> None:
        with transaction.atomic():
            publish_on_commit("plain", 1)
            assert len(self.published) == 2
            transaction.set_rollback(True)
        assert len(self.published) == 1

    def test_what_djangos_helper_executes_is_not_counted_twice(self) -> None:
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            publish_on_commit("plain", 1)
        [callback] = callbacks
        assert repr(callback) == "<publish_on_commit('plain')>"
        assert [(each.data, each.on_commit) for each in self.published[1:]] == [(1, True)]
        assert self.published[-1].receipt.offset == 2


class InATransactionTestCase(PublicationsMixin, TransactionTestCase):
    def test_what_was_committed_is_published(self) -> None:
        with transaction.atomic():
            publish_on_commit("plain", 1)
            assert self.published[0].receipt is None
        [captured] = self.published
        assert captured.on_commit
        assert captured.receipt is not None


async def test_a_client_subscribes_and_waits() -> None:
    async with connect() as client, connect("ada") as ada:
        await client.subscribe("orders:1")
        receipt = await apublish("orders:1", {"n": 1}, event="order.new", tags={"a": "b"})
        assert receipt.nodes == 1
        got = await client.next()
        assert got == ("orders:1", {"n": 1}, "order.new", {"a": "b"}, 1)
        await asyncio.to_thread(publish, "user:#ada", "for you")
        assert (await ada.next()).data == "for you"
        assert [each.user for each in await apresence("orders:1")] == [""]
        await client.unsubscribe("orders:1")
        await apublish("orders:1", 2, fallback_when="nobody")
        assert len(client.received) == 1


async def test_a_client_receives_what_is_captured() -> None:
    with capture_publications() as published:
        async with connect() as client:
            await client.subscribe("orders:1")
            await apublish("orders:1", 1)
            assert (await client.next()).data == published[0].data == 1


async def test_a_client_is_told_what_is_refused_and_that_nothing_came() -> None:
    async with connect() as client:
        with pytest.raises(RefusedCommand, match="subscribe was refused") as caught:
            await client.subscribe("nowhere:1")
        assert caught.value.code == 103
        with pytest.raises(TimeoutError, match=r"nothing within 0\.05 s"):
            await client.next(0.05)


async def test_a_client_is_told_that_it_was_disconnected() -> None:
    async with connect("ada") as client:
        await adisconnect_user("ada", code=4001, reason="bye")
        closed = await client.until_closed()
        assert (closed.code, closed.reason) == (4001, "bye")
        with pytest.raises(ClientClosed):
            await client.next()


async def test_a_loop_that_ended_leaves_no_subscriber(post: list[Any]) -> None:
    """Otherwise the next test's publication would go to nobody instead of being queued."""

    async def forget_to_close() -> None:
        from realtime import wiring

        subscription = await wiring.node().broker.subscription()
        await subscription.send(["orders:1"], [])
        assert (await apublish("orders:1", 1)).nodes == 1

    await asyncio.to_thread(asyncio.run, forget_to_close())
    receipt = await asyncio.to_thread(publish, "orders:1", 1)
    assert (receipt.nodes, receipt.queued) == (0, True)


@pytest.fixture
def own_rt(settings: Any, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> RedisServer:
    """A Redis with the usual prefix, which no other test has declared as shared."""
    monkeypatch.setattr(guard, "_shared", set())
    settings.REALTIME_REDIS_URL = own_redis.url
    settings.REALTIME_REDIS_PREFIX = "rt"
    return own_redis


@pytest.fixture
def used_redis(own_rt: RedisServer) -> RedisServer:
    """The development Redis, on which a service has run."""
    with own_rt.client() as client:
        client.set("rt:{0}:service", "0123456789abcdef")
    return own_rt


async def test_tests_are_kept_from_a_prefix_that_a_service_uses(
    used_redis: RedisServer, settings: Any
) -> None:
    """A host's tests queued five mails for real users."""
    with used_redis.client() as client:
        with pytest.raises(ImproperSetting, match=r"REALTIME_REDIS_PREFIX: is 'rt', under which"):
            await asyncio.to_thread(publish, "plain", 1, fallback="email")
        with pytest.raises(ImproperSetting):
            await apublish("plain", 1)
        with pytest.raises(ImproperSetting):
            await asyncio.to_thread(publish_on_commit, "plain", 1)
        assert client.keys() == [b"rt:{0}:service"], "something was published"
        settings.REALTIME_REDIS_PREFIX = "test-1"
        assert (await asyncio.to_thread(publish, "plain", 1)).offset == 1


@pytest.mark.parametrize(
    "command",
    [
        ("fallback", "purge", "--all", "--no-input"),
        ("fallback", "retry", "--all"),
        ("fallback", "stats"),
        ("runfallback",),
        ("publish", "plain", "1"),
    ],
    ids=" ".join,
)
def test_commands_in_tests_are_kept_from_the_queue_of_a_service(
    used_redis: RedisServer, command: tuple[str, ...]
) -> None:
    """A host's test of its own command would have purged or mailed what waits for real users."""
    with used_redis.client() as client:
        client.rpush("rt:{0}:fallback:dead", b"an entry")
        with pytest.raises(CommandError, match="under which a service"):
            call_command(*command)
        assert set(client.keys()) == {b"rt:{0}:service", b"rt:{0}:fallback:dead"}


def test_tasks_in_tests_are_kept_from_the_records_of_a_service(used_redis: RedisServer) -> None:
    with pytest.raises(ImproperSetting, match="under which a service"):
        records()


def test_tests_are_kept_from_a_prefix_that_a_worker_uses(own_rt: RedisServer) -> None:
    with own_rt.client() as client:
        client.zadd("rt:{0}:fallback:hands", {"hand": 1})
    with pytest.raises(ImproperSetting):
        publish("plain", 1)


def test_tests_that_started_the_service_say_so(used_redis: RedisServer) -> None:
    share_prefix("rt")
    assert publish("plain", 1).offset == 1


def test_a_prefix_that_nobody_uses_is_not_refused(own_rt: RedisServer) -> None:
    assert publish("plain", 1).offset == 1
    assert publish("plain", 1).offset == 2
