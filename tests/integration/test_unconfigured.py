"""What clients get from a node that lacks a setting, and how often its log says so."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from channels.testing import WebsocketCommunicator

from realtime import wiring
from realtime.api.answers import NOT_CONFIGURED
from realtime.core.tally import Tally
from realtime.endpoint import HttpEndpoint
from realtime.transports import handshake
from realtime.transports.websocket import RealtimeConsumer


@pytest.fixture
async def _without_redis(settings: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    monkeypatch.setattr(handshake, "_failures", Tally())
    settings.REALTIME_REDIS_URL = ""
    await wiring.aclose()
    yield
    await wiring.aclose()


async def _django(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("the request is not Django's")


@pytest.mark.usefixtures("_without_redis")
async def test_clients_are_refused_and_the_log_says_why_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each handshake raised: 500, and a traceback of forty lines."""
    caplog.set_level(logging.ERROR)
    transport = httpx.ASGITransport(HttpEndpoint(_django))
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        for _ in range(2):
            answer = await client.get("/connection/sse?channel=public:news")
            assert answer.status_code == 503
            assert answer.json()["error"]["reason"] == "configuration"
            assert answer.json()["error"]["message"] == NOT_CONFIGURED
            socket = WebsocketCommunicator(RealtimeConsumer.as_asgi(), "/connection/websocket")
            assert await socket.connect(timeout=60) == (False, 1000)
    [record] = caplog.records
    assert record.getMessage().startswith("cannot serve clients: REALTIME_REDIS_URL: is not set.")
    assert "memory://" in record.getMessage()
    assert record.exc_info is None
