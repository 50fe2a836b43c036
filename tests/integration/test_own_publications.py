"""The header with the positions of what a request has published."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncRequestFactory, RequestFactory

from realtime import apublish, publish, publish_on_commit
from realtime.core.publication import Receipt
from realtime.errors import InvalidName
from realtime.host.middleware import HEADER, published_positions
from realtime.host.own_publications import CHANNELS_LIMIT

pytestmark = pytest.mark.django_db(transaction=True)
View = Callable[[HttpRequest], HttpResponse]


def header_of(view: Callable[[], Any]) -> str | None:
    def answer(request: HttpRequest) -> HttpResponse:
        view()
        return HttpResponse()

    return published_positions(answer)(RequestFactory().post("/")).headers.get(HEADER)  # type: ignore[no-any-return]


def said(channel: str, receipt: Receipt) -> str:
    return f"{channel} {receipt.epoch} {receipt.offset}"


def test_a_request_that_publishes_nothing_has_no_header(wired: str) -> None:
    assert header_of(lambda: None) is None


def test_the_last_publication_of_each_channel_is_named(wired: str) -> None:
    receipts: list[Receipt] = []

    def view() -> None:
        receipts.extend(publish(channel, 1) for channel in ("a", "talk#42,43", "a"))

    assert header_of(view) == f"{said('a', receipts[2])}, {said('talk#42,43', receipts[1])}"


def test_what_a_transaction_publishes_is_named_after_its_commit(wired: str) -> None:
    def view() -> None:
        with transaction.atomic():
            publish_on_commit("a", 1)
        with transaction.atomic():
            publish_on_commit("b", 1)
            transaction.set_rollback(True)

    after = publish("a", 2)
    assert header_of(view) == said("a", after._replace(offset=after.offset + 1))


def test_a_publication_that_fails_is_not_named(wired: str) -> None:
    def view() -> None:
        with pytest.raises(InvalidName):
            publish("not good", 1)

    assert header_of(view) is None


def test_requests_do_not_mix_and_code_outside_of_one_is_not_affected(wired: str) -> None:
    first = header_of(lambda: publish("a", 1))
    publish("b", 1)
    second = header_of(lambda: publish("c", 1))
    assert first is not None
    assert second is not None
    assert (first.split()[0], second.split()[0]) == ("a", "c")


def test_the_header_has_a_bound(wired: str) -> None:
    channels = [f"{'c' * 250}-{n}" for n in range(CHANNELS_LIMIT + 5)]
    header = header_of(lambda: [publish(channel, 1) for channel in channels])
    assert header is not None
    assert len(header.split(", ")) == CHANNELS_LIMIT
    assert len(header) < 3 * 1024


async def test_an_async_view_and_its_threads_are_heard(wired: str) -> None:
    receipts: list[Receipt] = []

    async def view(request: HttpRequest) -> HttpResponse:
        receipts.append(await apublish("a", 1))
        receipts.append(await sync_to_async(publish)("b", 1))
        return HttpResponse()

    response = await published_positions(view)(AsyncRequestFactory().post("/"))
    assert response.headers[HEADER] == f"{said('a', receipts[0])}, {said('b', receipts[1])}"
