"""The transactional outbox: what is committed is published, once and in order."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.core.management import CommandError, call_command
from django.db import transaction
from django.http import HttpResponse
from django.test import RequestFactory
from django.utils import timezone

from realtime import publish, subscription_token, wiring
from realtime.contrib.outbox import missed_publications, publish_in_transaction, publish_waiting
from realtime.contrib.outbox import relay as relaying
from realtime.contrib.outbox.models import TAG, OutboxRow
from realtime.contrib.outbox.relay import Relay, oldest_first, read_state
from realtime.contrib.outbox.worker import OutboxWorker
from realtime.core.publication import Receipt
from realtime.errors import BrokerError, IdempotencyConflict, InvalidName, QueueFull, RequestError
from tests.support.eventually import eventually_sync
from tests.support.overheard_channel import Heard
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.django_db(transaction=True)
ORDERS = "public:orders"
LOG = {"mail": {"use": "log"}}


@pytest.fixture
def heard(redis_server: RedisServer, wired: str) -> Any:
    with Heard(redis_server, wired) as listening:
        yield lambda channel=ORDERS: listening.data_on(channel)


@pytest.fixture
def keeping(settings: Any) -> None:
    settings.REALTIME_OUTBOX_KEEP_SECONDS = 60


def commit(*data: Any, channel: str = ORDERS, **options: Any) -> None:
    with transaction.atomic():
        for each in data:
            publish_in_transaction(channel, each, **options)


# --- writing ---


def test_a_committed_publication_is_published_and_its_row_deleted(
    heard: Callable[..., Any],
) -> None:
    commit(1, {"n": 2})
    assert heard() == []
    assert publish_waiting() == 2
    assert heard() == [1, {"n": 2}]
    assert not OutboxRow.objects.exists()


def test_nothing_is_published_after_a_rollback(heard: Callable[..., Any]) -> None:
    with transaction.atomic():
        publish_in_transaction(ORDERS, 1)
        with transaction.atomic():
            publish_in_transaction(ORDERS, 2)
            transaction.set_rollback(True)
    assert publish_waiting() == 1
    assert heard() == [1]


def test_the_options_are_those_of_publish(wired: str, keeping: None, settings: Any) -> None:
    settings.REALTIME_FALLBACKS = LOG
    options = {"fallback": "mail", "fallback_options": {"to": "a@example.com", "subject": "s"}}
    commit(1, event="order.shipped", tags={"a": "b"}, **options)
    [row] = OutboxRow.objects.all()
    assert json.loads(row.body) == {
        "data": 1,
        "tags": {"a": "b", TAG: row.key.hex, "event": "order.shipped"},
    }
    assert publish_waiting() == 1
    assert wiring.sync_broker().queue_stats().waiting == 1


@pytest.mark.parametrize(
    ("channel", "data", "options", "error"),
    [
        ("not good", 1, {}, InvalidName),
        ("nobody:a", 1, {}, InvalidName),
        (ORDERS, object(), {}, RequestError),
        (ORDERS, 1, {"tags": []}, RequestError),
        (ORDERS, 1, {"tags": {TAG: "mine"}}, InvalidName),
        (ORDERS, 1, {"tags": {str(i): "" for i in range(16)}}, RequestError),
        (ORDERS, 1, {"fallback": "nothing"}, RequestError),
        (ORDERS, 1, {"idempotency_key": "mine"}, TypeError),
        (ORDERS, 1, {"scope": "others"}, TypeError),
    ],
)
def test_a_mistake_raises_where_it_is_made(
    wired: str, channel: str, data: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        publish_in_transaction(channel, data, **options)
    assert not OutboxRow.objects.exists()


async def test_in_an_event_loop_it_says_where_to_call_it(wired: str) -> None:
    with pytest.raises(SynchronousOnlyOperation, match=r"publish_in_transaction.*sync_to_async"):
        publish_in_transaction(ORDERS, 1)


# --- publishing ---


def test_a_row_that_is_published_again_keeps_its_position(
    heard: Callable[..., Any], keeping: None
) -> None:
    """A worker died after Redis had the row, and before the database knew."""
    commit(1)
    publish_waiting()
    [before] = OutboxRow.objects.all()
    OutboxRow.objects.update(published_at=None, epoch="", offset=None)
    publish(ORDERS, 2)
    publish_waiting()
    [after] = OutboxRow.objects.all()
    assert (after.epoch, after.offset) == (before.epoch, before.offset)
    assert heard() == [1, 2]


def test_rows_are_published_in_the_order_in_which_they_were_written(
    heard: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relaying, "ROWS", 3)
    commit(*range(10))
    assert publish_waiting() == 10
    assert heard() == list(range(10))


def test_a_round_has_a_size(
    heard: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, keeping: None
) -> None:
    monkeypatch.setattr(relaying, "ROUND_BYTES", 5_000)
    commit("a" * 9_000, "b" * 2_000, "c" * 2_000, "d" * 2_000)
    relay = Relay("default")
    assert [relay.publish_some().rows for _ in range(4)] == [1, 2, 1, 0]
    assert [each[0] for each in heard()] == ["a", "b", "c", "d"]


def test_rows_wait_while_redis_is_away(
    wired: str, settings: Any, redis_server: RedisServer
) -> None:
    settings.REALTIME_REDIS_URL = "redis://127.0.0.1:1"
    commit(1)
    with pytest.raises(BrokerError):
        publish_waiting()
    assert OutboxRow.objects.count() == 1
    settings.REALTIME_REDIS_URL = redis_server.url
    assert publish_waiting() == 1


def test_a_full_queue_delays_the_rows_of_its_channel_alone_and_keeps_their_order(
    heard: Callable[..., Any], settings: Any
) -> None:
    settings.REALTIME_FALLBACKS = LOG
    settings.REALTIME_FALLBACK_ITEMS = 1
    commit(0, channel="public:fills", fallback="mail")
    publish_waiting()
    commit(1, fallback="mail")
    commit(2)
    commit(3, channel="public:other")
    with pytest.raises(QueueFull):
        publish_waiting()
    assert heard() == []
    assert heard("public:other") == [3]
    settings.REALTIME_FALLBACK_ITEMS = 10
    assert publish_waiting() == 2
    assert heard() == [1, 2]


def test_a_channel_that_waits_does_not_keep_others_behind_it(
    heard: Callable[..., Any], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relaying, "ROWS", 2)
    monkeypatch.setattr(relaying, "HELD_SECONDS", 600)
    settings.REALTIME_FALLBACKS = LOG
    settings.REALTIME_FALLBACK_ITEMS = 1
    commit(0, channel="public:fills", fallback="mail")
    publish_waiting()
    commit(1, 2, 3, 4, fallback="mail")
    commit(5, channel="public:other")
    relay = Relay("default")
    assert relay.publish_some().error is not None
    assert relay.publish_some().published == 1
    assert heard("public:other") == [5]


def test_a_row_that_no_attempt_can_publish_is_set_aside_until_it_is_retried(
    heard: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    commit(1, 2)
    first = OutboxRow.objects.order_by("pk")[0]
    publish(ORDERS, "another", idempotency_key=str(first.key))  # a restored copy of the database
    assert publish_waiting() == 1
    assert heard() == ["another", 2]
    assert OutboxRow.objects.get().refused.startswith(IdempotencyConflict.code)
    assert f"row {first.pk}, for public:orders, cannot be published" in caplog.text
    assert read_state("default")._replace(oldest_seconds=0) == (0, 0, 0, 1)
    out = StringIO()
    call_command("outbox", "retry", stdout=out)
    assert out.getvalue() == "1 wait again\n"
    OutboxRow.objects.update(key="00000000-0000-0000-0000-000000000001")
    assert publish_waiting() == 1
    assert heard() == ["another", 2, 1]


def test_kept_rows_are_deleted_when_their_time_is_over(wired: str, keeping: None) -> None:
    commit(1, 2, 3)
    publish_waiting()
    relay, old = Relay("default"), timezone.now() - timedelta(seconds=61)
    assert relay.delete_old() == 0
    OutboxRow.objects.filter(body__contains='"data":2').update(published_at=old)
    assert relay.delete_old() == 1
    assert OutboxRow.objects.count() == 2


def test_the_state_says_how_long_the_oldest_row_has_waited(wired: str, keeping: None) -> None:
    commit(1)
    publish_waiting()
    commit(2, 3)
    OutboxRow.objects.filter(published_at=None).update(
        created_at=timezone.now() - timedelta(seconds=90)
    )
    out = StringIO()
    call_command("outbox", "stats", stdout=out)
    state = json.loads(out.getvalue())
    assert 90 <= state.pop("oldest_seconds") < 600
    assert state == {"waiting": 2, "kept": 1, "refused": 0}


def test_the_worker_survives_an_outage_of_redis(
    heard: Callable[..., Any], settings: Any, redis_server: RedisServer,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level("INFO")
    settings.REALTIME_REDIS_URL = "redis://127.0.0.1:1"
    commit(1)
    worker = OutboxWorker("default", poll_seconds=0.01)

    def watch() -> None:
        try:
            eventually_sync(lambda: "Redis failed, so rows wait" in caplog.text)
            settings.REALTIME_REDIS_URL = redis_server.url
            eventually_sync(lambda: heard() == [1])
        finally:
            worker.stop()

    watching = threading.Thread(target=watch)
    watching.start()
    worker.run()
    watching.join()
    assert not OutboxRow.objects.exists()
    assert heard() == [1]


def test_once_publishes_what_waits(heard: Callable[..., Any]) -> None:
    commit(1, 2)
    out = StringIO()
    call_command("runoutbox", "--once", stdout=out)
    assert (out.getvalue(), heard()) == ("2 published\n", [1, 2])


def test_once_says_that_rows_wait(wired: str, settings: Any) -> None:
    settings.REALTIME_REDIS_URL = "redis://127.0.0.1:1"
    commit(1)
    with pytest.raises(CommandError, match="rows still wait"):
        call_command("runoutbox", "--once")


@pytest.mark.parametrize(
    "wrong", [["--poll", "0"], ["--poll", "soon"], ["--database", "elsewhere"]]
)
def test_a_wrong_option_is_named(wired: str, wrong: list[str]) -> None:
    with pytest.raises(CommandError, match=wrong[0]):
        call_command("runoutbox", *wrong)


def test_no_query_reads_rows_that_it_does_not_return(wired: str) -> None:
    """With many rows kept and many waiting, PostgreSQL read all of the former first."""
    from realtime.contrib.outbox.views import newest_first

    worker = oldest_first("default")[:100].explain()
    view = newest_first(ORDERS, "default")[:1].explain()
    assert "USING INDEX realtime_outbox_waiting (published_at=?)" in worker
    assert "INDEX realtime_outbox_position (channel=? AND epoch=?)" in view
    assert "TEMP B-TREE" not in worker + view, "the order is that of the index"


# --- what a page has missed ---


def ask(
    channel: str = ORDERS, *, user: Any = None, token: str = "", solely: bool = False, **query: Any
) -> HttpResponse:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = RequestFactory().get("/missed/", {"channel": channel, **query}, headers=headers)
    if user is not None:
        request.user = SimpleNamespace(pk=user, is_authenticated=True)
    return missed_publications(request, is_only_publisher=solely)


def answer(*args: Any, **query: Any) -> dict[str, Any]:
    response = ask(*args, **query)
    assert response.status_code == 200, response.content
    assert "no-store" in response.headers["Cache-Control"]
    return json.loads(response.content)  # type: ignore[no-any-return]


def publish_rows(*data: Any, channel: str = ORDERS) -> Receipt:
    """Publish rows, then one more publication that is no row; return its receipt."""
    commit(*data, channel=channel)
    publish_waiting()
    return publish(channel, "direct")


def test_the_rows_of_a_gap_are_returned_in_their_order(wired: str, keeping: None) -> None:
    last = publish_rows("a", "b", {"é": None})
    rows = {row.offset: row.key.hex for row in OutboxRow.objects.all()}
    found = answer(epoch=last.epoch, **{"from": 2, "to": 4})
    assert found == {
        "publications": [
            {"offset": 2, "data": "b", "tags": {TAG: rows[2]}},
            {"offset": 3, "data": {"é": None}, "tags": {TAG: rows[3]}},
        ],
        "more": False,
        "complete": False,
        "waiting": None,
    }
    other = answer(epoch="0000", **{"from": 1})
    assert other["publications"] == []


def test_a_long_gap_is_returned_in_pages(
    wired: str, keeping: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from realtime.contrib.outbox import views

    monkeypatch.setattr(views, "ROWS", 2)
    monkeypatch.setattr(views, "ANSWER_BYTES", 5_000)
    epoch = publish_rows(1, 2, 3, "x" * 9_000, 5).epoch
    pages, first = [], 1
    while True:
        found = answer(epoch=epoch, **{"from": first})
        pages.append([each["offset"] for each in found["publications"]])
        if not found["more"]:
            break
        first = pages[-1][-1] + 1
    assert pages == [[1, 2], [3], [4], [5]]


def test_rows_that_wait_are_told_until_those_of_the_first_question_are_recorded(
    wired: str, keeping: None
) -> None:
    epoch = publish_rows(1).epoch
    commit(2)
    commit(3, channel="public:other")
    found = answer(epoch=epoch, solely=True, age=1, **{"from": 2})
    waiting = OutboxRow.objects.get(channel=ORDERS, published_at=None).pk
    assert (found["waiting"], found["complete"]) == (waiting, False)
    publish_waiting()
    commit(4)
    found = answer(epoch=epoch, solely=True, age=1, waiting=waiting, **{"from": 2})
    assert (found["waiting"], found["complete"]) == (None, True)


def test_only_an_only_publisher_knows_the_end_of_an_epoch(wired: str, keeping: None) -> None:
    epoch = publish_rows(1).epoch
    assert answer(epoch=epoch, solely=True, age=1, **{"from": 1})["complete"] is True
    assert answer(epoch=epoch, age=1, **{"from": 1})["complete"] is False


def test_no_gap_is_complete_whose_rows_may_have_been_deleted(wired: str, keeping: None) -> None:
    """A page that slept for longer than rows are kept would have lost some without a word."""
    epoch = publish_rows(1, 2).epoch
    for query in ({"age": 56}, {"age": 3_600}, {}):
        found = answer(epoch=epoch, solely=True, **query, **{"from": 2})
        assert found["complete"] is False


def test_a_worker_looks_again_soon_if_rows_were_passed_over(
    heard: Callable[..., Any], settings: Any
) -> None:
    settings.REALTIME_FALLBACKS = LOG
    settings.REALTIME_FALLBACK_ITEMS = 1
    commit(0, channel="public:fills", fallback="mail")
    publish_waiting()
    commit(1, fallback="mail")
    worker = OutboxWorker("default", poll_seconds=3_600)
    pauses = [worker._take_turn() for _ in range(2)]
    worker._waker.close()
    assert max(pauses) < 1, "the channel is held for a second, and not for an hour"


@pytest.mark.parametrize(
    ("channel", "user", "status"),
    [
        (ORDERS, None, 200),
        ("members:a", None, 403),
        ("members:a", 7, 200),
        ("closed", 7, 403),
        ("user:#7", 7, 200),
        ("user:#7", 8, 403),
        ("user:#7", None, 403),
        ("nobody:a", 7, 403),
    ],
)
def test_a_client_reads_what_it_may_subscribe_to(
    wired: str, keeping: None, channel: str, user: int | None, status: int
) -> None:
    assert ask(channel, user=user, epoch="abc", **{"from": 1}).status_code == status


def test_a_subscription_token_counts_for_its_user_and_its_channel(
    wired: str, keeping: None
) -> None:
    token = subscription_token("7", "closed")
    query: dict[str, Any] = {"epoch": "abc", "from": 1, "token": token}
    assert ask("closed", user=7, **query).status_code == 200
    assert ask("closed", user=8, **query).status_code == 403
    assert ask("other", user=7, **query).status_code == 403
    assert ask("closed", **query).status_code == 403
    for wrong in (subscription_token("7", "closed", seconds=-60), "nonsense", token[:-2]):
        refused = ask("closed", user=7, **query | {"token": wrong})
        assert refused.status_code == 401
        assert b"invalid or has expired" in refused.content


async def allow_7(identity: Any, channel: str, action: str) -> bool:
    if identity.user == "13":
        raise RuntimeError("broken")
    if identity.user == "14":
        await asyncio.sleep(60)
    return bool(identity.user == "7" and action == "subscribe")


@pytest.mark.parametrize(
    ("channel", "user", "status"),
    [("closed", 7, 200), ("closed", 8, 403), ("closed", 13, 503), ("closed", 14, 503),
     ("nobody:a", 7, 403)],
)  # fmt: skip
def test_the_authorizer_decides_where_no_rule_does(
    wired: str, keeping: None, settings: Any, monkeypatch: pytest.MonkeyPatch,
    channel: str, user: int, status: int,
) -> None:  # fmt: skip
    from realtime.contrib.outbox import views

    monkeypatch.setattr(views, "AUTHORIZE_SECONDS", 0.01)
    settings.REALTIME_AUTHORIZER = f"{__name__}.allow_7"
    assert ask(channel, user=user, epoch="abc", **{"from": 1}).status_code == status


@pytest.mark.parametrize(
    "wrong",
    [
        {"channel": "not good"},
        {"channel": ""},
        {"epoch": ""},
        {"epoch": "é"},
        {"epoch": "a" * 65},
        {"from": ""},
        {"from": "-1"},
        {"from": "1" * 5_000},
        {"from": str(2**63)},
        {"to": "x"},
        {"to": "1.5"},
        {"waiting": "٣"},
        {"age": "old"},
    ],
    ids=str,
)
def test_a_question_that_makes_no_sense_is_refused(
    wired: str, keeping: None, wrong: dict[str, str]
) -> None:
    query: dict[str, Any] = {"channel": ORDERS, "epoch": "abc", "from": "1"} | wrong
    response = ask(**query)
    assert response.status_code == 400
    assert next(iter(wrong)) in json.loads(response.content)["error"]["message"]


def test_the_view_says_that_rows_must_be_kept(wired: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="REALTIME_OUTBOX_KEEP_SECONDS"):
        ask(epoch="abc", **{"from": 1})
