"""The restrictions that the service sends to browsers, over real HTTP behind a TLS proxy."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.e2e.test_accounts import MAKE_USER, PASSWORD
from tests.support.database import manage
from tests.support.pages import SERVICE, Visitor, in_browser_loop, own_contexts
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, KEY, Service

BY_TLS = {"X-Forwarded-Proto": "https"}
DATA = {
    "content-type": "application/json",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
}
PAGE = {
    "strict-transport-security": "max-age=3600; includeSubDomains; preload",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
FORBIDDEN = {
    "default-src": "'none'",
    "script-src": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
    "form-action": "'self'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "service-worker",
}


@pytest.fixture(scope="module")
def service(redis_server: RedisServer) -> Iterator[Service]:
    service = Service(redis_server.url, DEPLOYED).start()
    yield service
    service.stop()


def lacks(response: httpx.Response, wanted: dict[str, str]) -> dict[str, str | None]:
    return {
        name: response.headers.get(name)
        for name, value in wanted.items()
        if response.headers.get(name) != value
    }


@pytest.mark.parametrize(
    ("path", "status"), [("/", 200), ("/chat/", 200), ("/none", 404), ("/static/none.js", 404)]
)
def test_a_page_has_a_restrictive_policy(service: Service, path: str, status: int) -> None:
    response = httpx.get(service.http + path, headers=BY_TLS)
    assert response.status_code == status
    assert lacks(response, PAGE) == {}
    told = response.headers["content-security-policy"].split("; ")
    policy = dict(directive.split(" ", 1) for directive in told)
    assert {name: policy.get(name) for name in FORBIDDEN} == FORBIDDEN
    assert "unsafe" not in response.headers["content-security-policy"]
    assert "server" not in response.headers


def test_a_script_has_its_type_and_the_same_headers_as_a_page(service: Service) -> None:
    response = httpx.get(f"{service.http}/static/realtime/client.js", headers=BY_TLS)
    assert response.headers["content-type"].startswith("text/javascript")
    assert lacks(response, PAGE).keys() <= {"x-frame-options"}  # frame-ancestors says it
    assert "frame-ancestors 'none'" in response.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/livez", 200),
        ("GET", "/readyz", 200),
        ("POST", "/api/publish", 401),
        ("GET", "/api/publish", 405),
        ("POST", "/api/none", 404),
    ],
)
def test_a_data_response_cannot_act_as_a_page(
    service: Service, method: str, path: str, status: int
) -> None:
    """Not redirected to HTTPS either: the proxy makes sure that keys are not sent in clear text."""
    response = httpx.request(method, service.http + path)
    assert response.status_code == status
    assert lacks(response, DATA) == {}
    assert "server" not in response.headers


def test_a_publish_response_has_the_same_headers(service: Service) -> None:
    body = {"channel": "public:news", "data": 1}
    response = httpx.post(f"{service.http}/api/publish", json=body, headers=KEY)
    assert response.status_code == 200
    assert lacks(response, DATA) == {}


def test_a_page_requested_over_http_redirects_to_https(service: Service) -> None:
    response = httpx.get(service.http + "/")
    assert response.status_code == 301
    assert response.headers["location"].startswith("https://")


# --- in a browser ---


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(redis_server: RedisServer, chromium: Browser) -> AsyncIterator[Visitor]:
    service = Service(redis_server.url, **SERVICE)
    await asyncio.to_thread(service.start)
    try:
        async with own_contexts(chromium) as browser:
            yield await Visitor.open(browser, service)
    finally:
        await asyncio.to_thread(service.stop)


@pytest.mark.browser
@in_browser_loop
async def test_trusted_types_stop_text_from_becoming_markup(visitor: Visitor) -> None:
    for mistake in (
        "document.body.innerHTML = '<b>x</b>'",
        "document.body.insertAdjacentHTML('beforeend', '<b>x</b>')",
        "document.createElement('script').src = '/static/realtime/client.js'",
        "trustedTypes.createPolicy('mine', {createHTML: text => text})",
    ):
        tried = f"try {{ {mistake}; return 'done'; }} catch (error) {{ return error.name; }}"
        assert await visitor.page.evaluate(f"(() => {{ {tried} }})()") == "TypeError", mistake
    assert visitor.complaints, "each is a line on the console, by which the other tests would fail"


# --- cookies ---


def test_cookies_are_host_only_and_hidden_from_scripts(
    redis_server: RedisServer, serve: Callable[..., Service], tmp_path: Path
) -> None:
    database = f"sqlite:///{tmp_path / 'users.sqlite3'}"
    manage(database, "shell", "--no-imports", "--command", MAKE_USER)
    service = serve(redis_server.url, DEPLOYED, DATABASE_URL=database)
    origin = {"Origin": service.http.replace("http:", "https:")}
    with httpx.Client(base_url=service.http, headers=BY_TLS | origin) as browser:
        form = browser.get("/login/")
        [token] = re.findall('name="csrfmiddlewaretoken" value="([^"]+)"', form.text)
        # A browser sends a secure cookie to the proxy's HTTPS address; this client does not send it
        # over HTTP.
        csrf = form.headers["set-cookie"].partition(";")[0]
        fields = {"csrfmiddlewaretoken": token, "username": "ada", "password": PASSWORD}
        entered = browser.post("/login/", data=fields, headers={"Cookie": csrf})
    assert entered.status_code == 302
    cookies = [*form.headers.get_list("set-cookie"), *entered.headers.get_list("set-cookie")]
    assert {cookie.partition("=")[0] for cookie in cookies} == {
        "__Host-csrftoken",
        "__Host-sessionid",
    }
    for cookie in cookies:
        attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
        assert {"secure", "httponly", "path=/", "samesite=lax"} <= attributes
        assert not any(part.startswith("domain") for part in attributes)
