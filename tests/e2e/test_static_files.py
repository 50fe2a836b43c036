"""The static files of a deployment: small, named by their content, and kept by browsers."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest
from playwright.async_api import Browser, Request

from tests.support.pages import in_browser_loop, own_contexts
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, Service

FOR_EVER = "max-age=315360000, public, immutable"
FOR_A_MINUTE = "max-age=60, public"
PLAIN = "/static/realtime/client.js"


@pytest.fixture(scope="module")
def service(redis: RedisServer) -> Iterator[Service]:
    service = Service(redis.url, DEPLOYED, HTTPS="0").start()
    yield service
    service.stop()


def fetch(service: Service, path: str) -> httpx.Response:
    return httpx.get(f"{service.http}{path}", headers={"Accept-Encoding": "gzip"}, timeout=60)


def test_all_files_of_a_page_are_compressed_and_kept_for_ever(service: Service) -> None:
    page = fetch(service, "/").text
    waiting = set(re.findall(r'="(/static/[^"]+\.(?:js|css))"', page))
    seen: set[str] = set()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        answer = fetch(service, path).raise_for_status()
        assert answer.headers["Cache-Control"] == FOR_EVER, path
        assert answer.headers["Content-Encoding"] == "gzip", path
        assert answer.headers["Vary"] == "Accept-Encoding", path
        if path.endswith(".js"):
            found = re.findall(r'^import .* from "([^"]+)"', answer.text, re.M)
            # Loaded when it is needed.
            found += re.findall(r'await import\("([^"]+)"\)', answer.text)
            waiting |= {str(httpx.URL(f"http://x{path}").join(name).path) for name in found} - seen
    assert [path for path in seen if "/shared." in path]
    assert [path for path in seen if "/fill." in path]
    [client] = [path for path in seen if "/client." in path]
    whole = int(fetch(service, client).headers["Content-Length"])
    raw = httpx.get(f"{service.http}{client}", headers={"Accept-Encoding": "identity"}, timeout=60)
    assert whole < len(raw.content) / 2


def test_pages_of_others_import_the_client_by_its_plain_name(service: Service) -> None:
    answer = fetch(service, PLAIN).raise_for_status()
    assert answer.headers["Cache-Control"] == FOR_A_MINUTE
    assert answer.headers["Content-Encoding"] == "gzip"


def test_a_page_of_another_version_gets_the_file_of_this_one(service: Service) -> None:
    """During an upgrade, a page and its files may come from different nodes."""
    other = fetch(service, PLAIN.replace(".js", ".0123456789ab.js")).raise_for_status()
    assert other.headers["Cache-Control"] == FOR_A_MINUTE
    assert other.text == fetch(service, PLAIN).text
    assert fetch(service, "/static/realtime/none.0123456789ab.js").status_code == 404


def test_browsers_find_the_icon(service: Service) -> None:
    answer = fetch(service, "/favicon.ico")
    assert answer.status_code == 302
    assert fetch(service, answer.headers["Location"]).headers["Cache-Control"] == FOR_EVER


WIRE_BYTES = 90 * 1024
"""What a first visit of a page may cost, with heads, icons and everything."""


@pytest.mark.browser
@in_browser_loop
@pytest.mark.parametrize("path", ["/", "/chat/", "/docs/"])
async def test_a_first_visit_costs_less_than_ninety_kilobytes(
    service: Service, chromium: Browser, path: str
) -> None:
    finished: list[Request] = []
    async with own_contexts(chromium) as browser:
        page = await browser.new_page()
        page.on("requestfinished", lambda request: finished.append(request))
        await page.goto(service.http + path, wait_until="networkidle")
        sizes = [await request.sizes() for request in finished]
    cost = sum(size["responseBodySize"] + size["responseHeadersSize"] for size in sizes)
    assert len(finished) > 8
    assert cost <= WIRE_BYTES, cost
