"""CNCF's own CloudEvents SDK posts to a running service, unmodified."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from cloudevents.core.bindings.http import HTTPMessage, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

from tests.support.client import Client
from tests.support.redis_server import RedisServer
from tests.support.service import Service

RULES = '[{"type": "shop.order.*", "channel": "public:orders-{subject}"}]'


@pytest.fixture(scope="module", params=["uvicorn", "daphne"])
def service(redis_server: RedisServer, request: pytest.FixtureRequest) -> Iterator[Service]:
    app = "tests.asgi_endpoint:application"
    running = Service(redis_server.url, request.param, app=app, TEST_CLOUDEVENTS=RULES).start()
    yield running
    assert "Traceback" not in running.log
    running.stop()


def event(number: int, data: Any, **attributes: Any) -> CloudEvent:
    given = {"type": "order.shipped", "source": "/shop", "id": str(number), "specversion": "1.0"}
    return CloudEvent(attributes=given | attributes, data=data)


async def post(service: Service, message: HTTPMessage) -> httpx.Response:
    headers = {**message.headers, "X-API-Key": "test-key"}
    url = f"{service.http}/api/events"
    async with httpx.AsyncClient() as client:
        return await client.post(url, headers=headers, content=message.body)


@pytest.mark.parametrize("convert", [to_structured_event, to_binary_event])
async def test_an_event_sent_by_the_sdk_arrives(
    service: Service, attach: Callable[..., Any], convert: Callable[[CloudEvent], HTTPMessage]
) -> None:
    channel = f"public:{convert.__name__}-{service.port}"
    client: Client = await attach(service)
    await client.subscribe(channel)
    given: dict[str, Any] = {"channel": channel, "subject": 'Gruß "7" %', "time": datetime.now(UTC)}
    answer = await post(service, convert(event(1, {"n": 1}, **given)))
    assert answer.status_code == 200, answer.text
    assert answer.json()["result"]["nodes"] == 1
    repeated = await post(service, convert(event(1, {"n": 1}, **given)))
    assert repeated.json()["result"]["repeated"] is True
    heard = (await client.next())["push"]["pub"]
    assert heard["data"] == {"n": 1}
    assert heard["tags"]["event"] == "order.shipped"
    assert heard["tags"]["ce-subject"] == 'Gruß "7" %'
    assert heard["tags"]["ce-time"][:10] == datetime.now(UTC).date().isoformat()


async def test_a_rule_names_the_channel_and_bytes_are_base64(
    service: Service, attach: Callable[..., Any]
) -> None:
    client: Client = await attach(service)
    await client.subscribe("public:orders-7")
    given = {"type": "shop.order.paid", "subject": "7", "datacontenttype": "image/png"}
    given["source"] = service.http  # both servers have one Redis
    for number, convert in enumerate((to_structured_event, to_binary_event)):
        answer = await post(service, convert(event(number, b"\0\xff", **given)))
        assert answer.status_code == 200, answer.text
        assert (await client.next())["push"]["pub"]["data"] == "AP8="


async def test_errors_name_the_attribute(service: Service) -> None:
    answer = await asyncio.to_thread(
        httpx.post,
        f"{service.http}/api/events",
        headers={"X-API-Key": "test-key", "ce-specversion": "1.0", "ce-id": "1", "ce-source": "/"},
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["attribute"] == "type"
