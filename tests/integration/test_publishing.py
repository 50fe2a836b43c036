"""`publish`, `apublish` and `publish_on_commit` in a host project, against a real Valkey."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import decimal
import enum
import gc
import json
import math
import os
import subprocess
import sys
import time
import types
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connection, transaction
from django.db.models import TextChoices
from django.test import override_settings
from django.utils import translation
from django.utils.safestring import mark_safe
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy

from realtime import apublish, publish, publish_on_commit, wiring
from realtime.core.envelope import decode_envelope
from realtime.errors import (
    BrokerUnavailable,
    ConfigurationError,
    IdempotencyConflict,
    InvalidData,
    InvalidName,
    OutcomeUnknown,
    RequestError,
    TooLarge,
)
from tests.support.eventually import eventually
from tests.support.machine import allowed
from tests.support.pubsub import published_so_far
from tests.support.redis_server import RedisServer
from tests.support.reply_proxy import ReplyProxy

Heard = Callable[[], list[Any]]


@pytest.fixture
def heard(redis_server: RedisServer, wired: str) -> Iterator[Heard]:
    """Return the data of everything published so far under this test's prefix."""
    listener = redis_server.client().pubsub()
    listener.psubscribe(f"{wired}:*")
    assert listener.get_message(timeout=60)["type"] == "psubscribe"

    def messages() -> list[Any]:
        raws = [message["data"] for message in published_so_far(listener)]
        return [json.loads(decode_envelope(raw).body)["data"] for raw in raws]

    yield messages
    listener.close()


@pytest.fixture(params=["publish", "apublish"])
def publishing(request: pytest.FixtureRequest, node: Any) -> Callable[..., Any]:
    """Return both variants of a function as coroutine functions."""

    async def sync_twin(*args: Any, **options: Any) -> Any:
        return await asyncio.to_thread(publish, *args, **options)

    return apublish if request.param == "apublish" else sync_twin


# --- the twins ---


async def test_both_variants_return_the_position(publishing: Any, heard: Heard) -> None:
    first = await publishing("public:news", {"n": 1})
    second = await publishing("public:news", {"n": 2}, event="e", tags={"a": "b"})
    assert (first.offset, second.offset) == (1, 2)
    assert first.epoch == second.epoch
    assert (first.nodes, first.repeated) == (0, False)
    assert heard() == [{"n": 1}, {"n": 2}]


async def test_both_variants_recognize_a_retry(publishing: Any, heard: Heard) -> None:
    first = await publishing("a", 1, idempotency_key="k")
    assert await publishing("a", 1, idempotency_key="k") == first._replace(repeated=True)
    with pytest.raises(IdempotencyConflict):
        await publishing("a", 2, idempotency_key="k")
    assert heard() == [1]


@pytest.mark.parametrize(
    ("channel", "data", "options", "error"),
    [
        ("not good", 1, {}, InvalidName),
        ("nobody:a", 1, {}, InvalidName),
        ("a", math.nan, {}, InvalidData),
        ("a", "x" * 65_535, {}, TooLarge),
        ("a", 1, {"event": "a b"}, InvalidName),
        ("a", 1, {"tags": {"a": 1}}, RequestError),
        ("a", 1, {"idempotency_key": ""}, InvalidName),
    ],
)
async def test_an_invalid_call_raises_and_publishes_nothing(
    publishing: Any, heard: Heard, channel: str, data: Any, options: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await publishing(channel, data, **options)
    assert heard() == []


@pytest.mark.parametrize("option", ["evnt", "scope", "sizes", "info", "self"])
async def test_an_unknown_option_is_named(wired: str, heard: Heard, option: str) -> None:
    """Nor can the caller choose the scope of idempotency keys, or the size limit of data."""
    message = rf"{{}}\(\) got an unexpected keyword argument '{option}'"
    with pytest.raises(TypeError, match=message.format("apublish")):
        await apublish("c", 1, **{option: "x"})
    with pytest.raises(TypeError, match=message.format("publish_on_commit")):
        await asyncio.to_thread(publish_on_commit, "c", 1, **{option: "x"})
    with pytest.raises(TypeError, match=message.format("publish")):
        await asyncio.to_thread(publish, "c", 1, **{option: "x"})


async def test_without_redis_url_the_setting_is_named(publishing: Any) -> None:
    with (
        override_settings(REALTIME_REDIS_URL=""),
        pytest.raises(ConfigurationError, match="REALTIME_REDIS_URL"),
    ):
        await publishing("a", 1)


async def test_publish_in_an_event_loop_points_to_apublish(wired: str, heard: Heard) -> None:
    """It would block every other request of the process for up to a second."""
    with pytest.raises(SynchronousOnlyOperation, match="apublish"):
        publish("a", 1)
    assert heard() == []


async def test_publish_works_in_a_thread_beside_an_event_loop(wired: str, heard: Heard) -> None:
    await sync_to_async(publish)("a", 1)
    assert heard() == [1]


def test_each_of_many_concurrent_threads_gets_its_answer(wired: str) -> None:
    """With more threads than connections, the others wait their turn; the 65th used to get 503."""
    with override_settings(REALTIME_PUBLISH_SECONDS=10), ThreadPoolExecutor(100) as threads:
        receipts = list(threads.map(lambda n: publish("a", n), range(500)))
    assert sorted(receipt.offset for receipt in receipts) == list(range(1, 501))


async def test_each_of_many_concurrent_tasks_gets_its_answer(node: Any) -> None:
    with override_settings(REALTIME_PUBLISH_SECONDS=10):
        receipts = await asyncio.gather(*[apublish("a", n) for n in range(500)])
    assert sorted(receipt.offset for receipt in receipts) == list(range(1, 501))


def test_each_event_loop_has_its_own_publisher(wired: str) -> None:
    async def both() -> list[int]:
        try:
            return [(await apublish("a", n)).offset for n in range(50)]
        finally:
            await wiring.aclose()

    with ThreadPoolExecutor(4) as threads:
        offsets = [offset for part in threads.map(lambda _: asyncio.run(both()), range(4))
                   for offset in part]  # fmt: skip
    assert sorted(offsets) == list(range(1, 201))


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_closed_event_loops_leave_no_connections_behind(
    wired: str, redis_server: RedisServer
) -> None:
    """Under WSGI, `async_to_sync(apublish)` creates a loop for each call.

    The node of a closed loop referred to the loop, and the loop to the node, so a connection to
    Redis stayed open forever.
    """
    for n in range(20):
        async_to_sync(apublish)("a", n)

    async def the_last() -> None:
        await apublish("a", "last")
        await wiring.aclose()

    asyncio.run(the_last())
    gc.collect()
    clients = redis_server.client().client_list()
    names = [client for client in clients if "evalsha" in client["cmd"]]
    assert len(names) < 5


FORK = """
import os, sys, django
django.setup()
from realtime import publish
parent = [publish("a", "before").offset]
children = []
for n in range(4):
    if (child := os.fork()) == 0:
        receipts = [publish("a", [n, m]).offset for m in range(50)]
        os.write(1, f"{receipts}\\n".encode())
        os._exit(0)
    children.append(child)
parent += [publish("a", "meanwhile").offset for _ in range(50)]
for child in children:
    assert os.waitpid(child, 0)[1] == 0
os.write(1, f"{parent}\\n".encode())
"""


def test_after_a_fork_parent_and_children_get_their_own_answers(redis_server: RedisServer) -> None:
    """Gunicorn and Celery fork after loading; a shared socket would mix up the replies."""
    redis_server.client().flushall()
    env = os.environ | {
        "DJANGO_SETTINGS_MODULE": "tests.settings", "TEST_REDIS_URL": redis_server.url,
    }  # fmt: skip
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", FORK], cwd=root, env=env, capture_output=True, timeout=60, check=True
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(offset for line in lines for offset in line) == list(range(1, 252))
    assert all(line == sorted(line) for line in lines)


# --- valid data ---


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Order:
    number: int
    total: Any


class Money(float):
    pass


class Count(int):
    pass


class Size(TextChoices):
    SMALL = "s", gettext_lazy("Small")


GOOD: dict[str, tuple[Any, Any]] = {
    "None": (None, None),
    "a tuple": ((1, (2,)), [1, [2]]),
    "a set": ({1}, [1]),
    "a Decimal": (decimal.Decimal("1.50"), "1.50"),
    "a UUID": (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "a datetime": (
        datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
        "2026-01-02T03:04:05Z",
    ),
    "a date": (datetime.date(2026, 1, 2), "2026-01-02"),
    "an enum": ([Colour.RED, Level.HIGH], ["red", 3]),
    "a dataclass": (Order(1, decimal.Decimal(2)), {"number": 1, "total": "2"}),
    "int keys": ({1: "a"}, {"1": "a"}),
    "UUID keys": ({uuid.UUID(int=1): 1}, {"00000000-0000-0000-0000-000000000001": 1}),
    "a safe string": ([mark_safe("<b>")], ["<b>"]),
    "a lazy string": ({"a": gettext_lazy("Yes")}, {"a": "Yes"}),
    "a lazy format": (format_lazy("{}!", gettext_lazy("Yes")), "Yes!"),
    "a lazy string beside null": ([None, gettext_lazy("Yes")], [None, "Yes"]),
    "a choice of a model": ([Size.SMALL, Size.SMALL.label], ["s", "Small"]),
    "a time": (datetime.time(3, 4, 5), "03:04:05"),
    "a timedelta": (datetime.timedelta(hours=1), "PT3600S"),
    "a datetime without a zone": (datetime.datetime(2026, 1, 2, 3, 4), "2026-01-02T03:04:00"),
    "an int of a class": ([Count(5), True], [5, True]),
    "a float of a class": (Money(1.5), 1.5),
    "a read-only dict": (types.MappingProxyType({"a": 1}), {"a": 1}),
    "a big int": (2**70, 2**70),
    "no bytes": (b"", ""),
    "null beside a number": ({"a": None, "b": 1.5}, {"a": None, "b": 1.5}),
}


@pytest.mark.parametrize(("data", "expected"), GOOD.values(), ids=GOOD)
def test_python_values_are_encoded_as_json(heard: Heard, data: Any, expected: Any) -> None:
    publish("a", data)
    assert heard() == [expected]


def test_a_lazy_string_is_rendered_in_the_active_language(heard: Heard) -> None:
    """Issue 15, C19: `gettext_lazy` in the data could not be encoded as JSON.

    elbuo8/sendgrid-django#66: an object of type '__proxy__' is not JSON serializable.
    """
    with translation.override("de"):
        publish("a", gettext_lazy("Yes"), tags={"label": gettext_lazy("No")})
    publish("a", gettext_lazy("Yes"))
    assert heard() == ["Ja", "Yes"]


def circle() -> list[Any]:
    data: list[Any] = []
    data.append(data)
    return data


def deep(levels: int) -> Any:
    data: Any = 1
    for _ in range(levels):
        data = [data]
    return data


BAD: dict[str, Any] = {
    "NaN": math.nan,
    "infinity": [{"a": (math.inf,)}],
    "NaN in a set": {math.nan},
    "NaN in a dataclass": Order(1, math.nan),
    "NaN in a dataclass in a list": [Order(1, [math.nan])],
    "NaN of a class": Money("nan"),
    "a lone surrogate": "\ud800",
    "a lone surrogate as a key": {"\ud800": 1},
    "tuple keys": {(1, 2): 1},
    "None as a key": {None: 1},
    "an object": object(),
    "a function": print,
    "a complex number": 1j,
    "an int of 5000 digits": 10**5000,
    "a circle": circle(),
    "33 levels": deep(33),
    "33 levels with a dataclass": deep(32)[:-1] or [Order(1, deep(32))],
    "100000 levels": deep(100_000),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_data_that_cannot_be_json_is_refused(heard: Heard, data: Any) -> None:
    with pytest.raises(InvalidData):
        publish("a", data)
    assert heard() == []


# --- transactions ---


@pytest.mark.django_db(transaction=True)
def test_on_commit_publishes_at_the_commit(heard: Heard) -> None:
    with transaction.atomic():
        publish_on_commit("a", 1)
        publish_on_commit("a", 2)
        assert heard() == []
    assert heard() == [1, 2]


@pytest.mark.django_db(transaction=True)
def test_on_commit_publishes_nothing_after_a_rollback(heard: Heard) -> None:
    with transaction.atomic():
        publish_on_commit("a", 1)
        transaction.set_rollback(True)
    assert heard() == []


@pytest.mark.django_db(transaction=True)
def test_on_commit_forgets_only_the_savepoint_that_rolled_back(heard: Heard) -> None:
    with transaction.atomic():
        publish_on_commit("a", 1)
        with transaction.atomic():
            publish_on_commit("a", 2)
            transaction.set_rollback(True)
    assert heard() == [1]


@pytest.mark.django_db(transaction=True)
def test_on_commit_publishes_at_once_outside_a_transaction(heard: Heard) -> None:
    publish_on_commit("a", 1)
    assert heard() == [1]


@pytest.mark.django_db(transaction=True)
def test_on_commit_captures_the_data_when_called(heard: Heard) -> None:
    data = {"n": 1}
    with transaction.atomic():
        publish_on_commit("a", data)
        data["n"] = 2
    assert heard() == [{"n": 1}]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("channel", "data"), [("not good", 1), ("nobody:a", 1), ("a", math.nan)])
def test_on_commit_reports_an_invalid_call_before_the_commit(
    heard: Heard, channel: str, data: Any
) -> None:
    with transaction.atomic(), pytest.raises(RequestError):
        publish_on_commit(channel, data)
    assert heard() == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("url", ["unix:///nowhere/valkey.sock", "redis://127.0.0.1:1", ""])
def test_on_commit_without_redis_raises_nothing(
    wired: str, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The data is saved: a failed notification must not affect the request or later callbacks."""
    after = []
    with override_settings(REALTIME_REDIS_URL=url), transaction.atomic():
        publish_on_commit("a", 1)
        transaction.on_commit(lambda: after.append("ran"))
    assert after == ["ran"]
    assert "publish_on_commit" in caplog.text


@pytest.mark.django_db(transaction=True)
async def test_on_commit_in_the_thread_of_an_async_view(heard: Heard) -> None:
    def save() -> None:
        with transaction.atomic():
            publish_on_commit("a", 1)
            assert heard() == []
        connection.close()

    await sync_to_async(save)()
    assert heard() == [1]


async def test_on_commit_in_an_event_loop_says_where_to_call_it(wired: str) -> None:
    with pytest.raises(SynchronousOnlyOperation, match=r"publish_on_commit.*sync_to_async"):
        publish_on_commit("a", 1)


# --- three outcomes ---


@pytest.fixture
def proxy(redis_server: RedisServer, wired: str) -> Iterator[ReplyProxy]:
    proxy = ReplyProxy(redis_server)
    with override_settings(REALTIME_REDIS_URL=proxy.url):
        yield proxy
        wiring.sync_broker().close()
    proxy.close()


@pytest.fixture
def through(proxy: ReplyProxy, publishing: Any) -> Any:
    return publishing


async def test_a_lost_reply_is_an_unknown_outcome_and_one_publication(
    proxy: ReplyProxy, through: Any, heard: Heard
) -> None:
    """By default, redis-py retries ten times: one lost reply caused eleven copies (ADR-0007)."""
    await through("a", "warm")
    proxy.cut()
    with pytest.raises(OutcomeUnknown):
        await through("a", "once")
    proxy.heal()
    assert heard() == ["warm", "once"]
    assert (await through("a", "next")).offset == 3
    assert heard() == ["next"]


async def test_an_idempotency_key_makes_the_retry_safe(
    proxy: ReplyProxy, through: Any, heard: Heard
) -> None:
    await through("a", "warm")
    proxy.cut()
    with pytest.raises(OutcomeUnknown):
        await through("a", "once", idempotency_key="k")
    proxy.heal()
    receipt = await through("a", "once", idempotency_key="k")
    assert (receipt.offset, receipt.repeated) == (2, True)
    assert heard() == ["warm", "once"]


async def test_no_reply_within_a_second_is_an_unknown_outcome(
    proxy: ReplyProxy, through: Any, heard: Heard
) -> None:
    """A late reply is never taken for the reply to the next command."""
    await through("a", "warm")
    proxy.hold()
    started = time.monotonic()
    with pytest.raises(OutcomeUnknown):
        await through("a", "late")
    assert 0.9 < time.monotonic() - started < allowed(1.9, started)
    proxy.heal()
    assert (await through("b", "other")).offset == 1
    assert (await through("a", "next")).offset == 3
    assert heard() == ["warm", "late", "other", "next"]


async def test_a_cancelled_publish_leaves_no_answer_behind(
    proxy: ReplyProxy, node: Any, heard: Heard
) -> None:
    """Otherwise the next publish on its pooled connection would read the reply to this one."""
    await apublish("a", "warm")
    proxy.hold()
    publishing = asyncio.create_task(apublish("a", "cancelled"))
    await eventually(lambda: proxy.lost == 1)
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    proxy.heal()
    for n in range(1, 4):
        assert (await apublish("b", n)).offset == n
    assert heard() == ["warm", "cancelled", 1, 2, 3]


async def test_without_redis_the_error_says_that_nothing_was_published(publishing: Any) -> None:
    started = time.monotonic()
    with (
        override_settings(REALTIME_REDIS_URL="unix:///nowhere/valkey.sock"),
        pytest.raises(BrokerUnavailable),
    ):
        await publishing("a", 1)
    assert time.monotonic() - started < allowed(1.9, started)


async def test_publishing_works_at_once_after_a_redis_restart(
    own_redis: RedisServer, publishing: Any
) -> None:
    """A pooled connection that was closed while idle must not make a publish fail."""
    with override_settings(REALTIME_REDIS_URL=own_redis.url):
        before = await publishing("a", 1)
        await asyncio.to_thread(own_redis.kill)
        await asyncio.to_thread(own_redis.start)
        after = await publishing("a", 2)
    assert after.offset == 1
    assert after.epoch != before.epoch


async def test_a_script_that_redis_forgot_is_loaded_again(
    own_redis: RedisServer, publishing: Any
) -> None:
    with override_settings(REALTIME_REDIS_URL=own_redis.url):
        await publishing("a", 1)
        own_redis.client().script_flush()
        assert (await publishing("a", 2)).offset == 2
