"""Publications between reading a page's data and its subscription, in Chromium."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from playwright.async_api import Browser, Page, Route, WebSocket

from tests.live_site import MISSED
from tests.support.pages import in_browser_loop, own_contexts
from tests.support.redis_server import RedisServer
from tests.support.service import Service


@pytest.fixture(scope="module")
def site(redis_server: RedisServer) -> Iterator[Service]:
    env = {"DJANGO_SETTINGS_MODULE": "tests.live_settings", "TEST_REDIS_PREFIX": "live-pages"}
    service = Service(redis_server.url, app="tests.live_site:application", **env).start()
    yield service
    assert "Traceback" not in service.log
    service.stop()


async def hold_script_until_first_frame(page: Page) -> None:
    """Delay the page's script until the server's first frame has arrived."""
    heard = asyncio.Event()

    def watch(socket: WebSocket) -> None:
        socket.on("framereceived", lambda _: heard.set())

    async def hold(route: Route) -> None:
        await heard.wait()
        await route.continue_()

    page.on("websocket", watch)
    await page.route("**/orders.js", hold)


@pytest.mark.browser
@in_browser_loop
@pytest.mark.parametrize("kind", ["websocket", "module", "sse", "htmx"])
async def test_what_a_page_misses_while_it_loads_is_an_exact_gap(
    site: Service, chromium: Browser, kind: str
) -> None:
    async with own_contexts(chromium) as browser:
        page = await (await browser.new_context()).new_page()
        if kind == "websocket":
            await hold_script_until_first_frame(page)
        before = int(await asyncio.to_thread(lambda: httpx.get(f"{site.http}/rows/").text))
        await page.goto(f"{site.http}/{kind}/")
        rows = page.locator("#rows", has_text=str(before + MISSED))
        await rows.wait_for(timeout=60_000)  # only the gap makes the page fetch
        assert await page.locator("#gaps").inner_text() == f"{MISSED} by reconnect;"


def test_a_page_that_is_fetched_again_is_304_until_something_is_published(site: Service) -> None:
    first = httpx.get(f"{site.http}/rows/")
    known = {"If-None-Match": first.headers["etag"]}
    assert httpx.get(f"{site.http}/rows/", headers=known).status_code == 304
    site.publish("public:orders", "changed")
    again = httpx.get(f"{site.http}/rows/", headers=known)
    assert (again.status_code, again.text) == (200, first.text)
