"""The app needs no database: a host project without one publishes, listens and shows pages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest

from tests.support.client import Client
from tests.support.redis_server import RedisServer
from tests.support.service import SERVERS, Service


@pytest.mark.parametrize("server", SERVERS[1:])
async def test_a_host_without_a_database_has_everything_but_users(
    redis_server: RedisServer,
    serve: Callable[..., Service],
    attach: Callable[..., Awaitable[Client]],
    server: str,
) -> None:
    env = {"DJANGO_SETTINGS_MODULE": "tests.no_database_settings"}
    service = await asyncio.to_thread(lambda: serve(redis_server.url, server, **env))
    # A session cookie, although there is no database in which to look up the session.
    page = {"origin": service.http, "additional_headers": {"Cookie": "sessionid=abc"}}
    client = await attach(service, **page)
    await client.subscribe("public:news")
    await asyncio.to_thread(service.publish, "public:news", "heard")
    assert await client.data() == "heard"
    async with httpx.AsyncClient(base_url=service.http) as http:
        assert (await http.get("/readyz")).status_code == 200
        assert (await http.get("/connection/token")).status_code == 403
    assert "Traceback" not in service.log
