"""A host keeps its own paths: the app serves only what the host has mounted (ADR-0033)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.own_api import MARK
from tests.support.client import Client
from tests.support.redis_server import RedisServer
from tests.support.service import KEY, Service

STREAM = {"channel": "public:news"}
HOST = {"app": "tests.own_api:application", "DJANGO_SETTINGS_MODULE": "tests.own_api_settings"}


def started(redis: RedisServer, prefix: str, **env: str) -> Iterator[Service]:
    service = Service(redis.url, **HOST, TEST_REDIS_PREFIX=prefix, **env).start(live=False)
    yield service
    log = service.log
    service.stop()
    assert "Traceback" not in log


@pytest.fixture(scope="module")
def streams(redis_server: RedisServer) -> Iterator[Service]:
    """`HttpEndpoint(django)`."""
    yield from started(redis_server, "host-paths-a")


@pytest.fixture(scope="module")
def fast(redis_server: RedisServer) -> Iterator[Service]:
    """`HttpEndpoint(django, api="/live/api/")`, and the streams under `/live/`."""
    env = {"TEST_API_PREFIX": "/live/api/", "TEST_PATH_PREFIX": "/live/"}
    yield from started(redis_server, "host-paths-b", **env)


PREFLIGHT = {
    "Origin": "https://other.example",
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "content-type",
}
OWN = [
    ("GET", "/api/v3/status/", 0),
    ("OPTIONS", "/api/v3/status/", 0),
    ("POST", "/api/v3/upload/", 200 * 1024),
    ("POST", "/api/publish", 2 * 1024 * 1024),
    ("GET", "/api/openapi.json", 0),
    ("GET", "/api/docs", 0),
    ("GET", "/livez", 0),
    ("GET", "/readyz", 0),
]


@pytest.mark.parametrize(("method", "path", "size"), OWN)
def test_the_api_of_the_host_is_the_host_s(
    streams: Service, fast: Service, method: str, path: str, size: int
) -> None:
    for service in (streams, fast):
        body = b"x" * size
        headers = PREFLIGHT if method == "OPTIONS" else {}
        answer = httpx.request(
            method, service.http + path, content=body, headers=headers, timeout=30
        )
        assert answer.headers[MARK] == "yes"
        assert (answer.status_code, answer.json()) == (200, {"method": method, "bytes": size})


def test_the_headers_of_the_host_are_the_host_s(streams: Service) -> None:
    """With a duplicate header, and with more headers than the app allows."""
    headers = [("Authorization", "a"), ("Authorization", "b"), *[("X-More", "x")] * 120]
    answer = httpx.get(f"{streams.http}/api/v3/status/", headers=headers)
    assert (answer.status_code, answer.headers[MARK]) == (200, "yes")
    refused = httpx.get(f"{streams.http}/connection/sse", headers=headers, params=STREAM)
    assert refused.status_code == 431


def test_a_host_has_event_streams_without_the_api(streams: Service) -> None:
    with httpx.stream("GET", f"{streams.http}/connection/sse", params=STREAM) as answer:
        assert (answer.status_code, MARK in answer.headers) == (200, False)
    posted = httpx.post(
        f"{streams.http}/live/api/publish", json={"channel": "public:news", "data": 1}, headers=KEY
    )
    assert posted.headers[MARK] == "yes", "Django's view serves the API"
    assert posted.json()["result"]["offset"] == 1


async def test_each_part_is_below_the_prefix_that_the_host_gave(
    fast: Service, attach: Callable[..., Client]
) -> None:
    fast.ws = f"ws://127.0.0.1:{fast.port}/live/connection/websocket"
    client = await attach(fast)
    await client.subscribe("public:news")
    async with httpx.AsyncClient(base_url=fast.http) as http:
        wanted = {"channel": "public:news", "data": "heard"}
        posted = await http.post("/live/api/publish", json=wanted, headers=KEY)
        assert (posted.status_code, MARK in posted.headers) == (200, False)
        assert await client.data() == "heard"

        described = await http.get("/live/api/openapi.json")
        assert (described.json()["servers"], MARK in described.headers) == (
            [{"url": "/live"}],
            False,
        )
        async with http.stream("GET", "/live/connection/sse", params=STREAM) as stream:
            assert stream.status_code == 200
        beside = {"session": "x" * 64, "node": "0" * 16, "data": "{}"}
        said = await http.post("/live/emulation", json=beside)
        assert said.json()["error"]["reason"] == "session_not_found"
        own = await http.post("/emulation", content=json.dumps(beside))
        assert own.headers[MARK] == "yes"
        assert (await http.get("/connection/sse", params=STREAM)).headers[MARK] == "yes"


@pytest.mark.parametrize(("path", "status"), [("v3/status/", 200), ("none", 404), ("a/b", 404)])
async def test_what_is_not_the_app_s_below_the_prefix_is_passed_on(
    fast: Service, path: str, status: int
) -> None:
    url = f"{fast.http}/live/api/{path}"
    for method in ("GET", "OPTIONS", "POST"):
        answer = await asyncio.to_thread(lambda method=method: httpx.request(method, url))
        assert (answer.status_code, answer.headers[MARK]) == (status, "yes")
