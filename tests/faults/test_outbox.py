"""Whatever is killed: each committed order reaches the page, once and in order; no other does.

NOTIFIER_FAULTS=full kills each part many times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, Page

from tests.support.eventually import eventually
from tests.support.fault_proxy import FaultProxy
from tests.support.outbox import OutboxSite
from tests.support.pages import in_browser_loop, own_contexts
from tests.support.redis_server import RedisServer
from tests.support.scene import TIMES

PAUSE_SECONDS = 0.02  # between two orders


class Orders:
    """Posts one order after the other, whatever the answers are."""

    def __init__(self, site: OutboxSite) -> None:
        self._site = site
        self.posted = 0

    async def keep_posting(self) -> None:
        async with httpx.AsyncClient(base_url=self._site.service.http, timeout=60) as client:
            while True:
                self.posted += 1
                try:
                    answer = await client.post(f"/order/{self.posted}/")
                    assert answer.status_code == 200, answer.text
                except httpx.TransportError:  # the site was killed; the database knows the outcome
                    pass
                await asyncio.sleep(PAUSE_SECONDS)

    async def some_more(self, count: int = 20) -> None:
        """Wait until some more were posted."""
        until = self.posted + count
        await eventually(lambda: self.posted >= until, seconds=120)


@pytest.fixture
def site(
    request: pytest.FixtureRequest, own_redis: RedisServer, database_url: str, tmp_path: Path
) -> Iterator[OutboxSite]:
    workers = 1 if database_url.startswith("sqlite") else 2
    made = OutboxSite(own_redis, database_url, tmp_path, workers)
    made.start()
    yield made
    made.stop()


async def shown(page: Page) -> list[int]:
    found: Any = await page.evaluate("window.orders")
    return list(found)


@pytest.mark.browser
@in_browser_loop
async def test_every_committed_order_reaches_the_page_once_and_in_order(
    site: OutboxSite, own_redis: RedisServer, chromium: Browser
) -> None:
    orders = Orders(site)
    async with (
        own_contexts(chromium) as browser,
        FaultProxy(("127.0.0.1", site.service.port)) as road,
    ):
        page = await (await browser.new_context()).new_page()
        await page.goto(f"http://127.0.0.1:{road.port}/page/")
        await page.wait_for_function("window.isSubscribed", timeout=60_000)
        posting = asyncio.create_task(orders.keep_posting())

        async def receives_more() -> None:
            before = len(await shown(page))
            await page.wait_for_function(f"window.orders.length > {before}", timeout=120_000)

        await receives_more()
        for _ in range(TIMES):
            road.behave(blackhole=True)  # the page's computer sleeps
            road.reset()
            await orders.some_more()
            await road.heal()
            road.reset()
            await receives_more()

            await asyncio.to_thread(site.kill_workers)
            await orders.some_more()
            await asyncio.to_thread(site.start_workers)
            await receives_more()

            own_redis.kill()
            await orders.some_more()
            await asyncio.to_thread(own_redis.start)
            await receives_more()

            await asyncio.to_thread(site.service.kill)
            await asyncio.to_thread(site.service.start)
            await orders.some_more()
            await receives_more()
        posting.cancel()
        await asyncio.gather(posting, return_exceptions=True)
        committed = await asyncio.to_thread(site.wait_until_published)
        assert sorted(committed.rows) == sorted(committed.orders), "each order has its row"
        assert not [n for n in committed.rows if n % 5 == 0], "none that was rolled back"
        last = committed.rows[-1]
        await page.wait_for_function(f"window.orders.at(-1) === {last}", timeout=120_000)
        assert await shown(page) == committed.rows
        assert await page.evaluate("window.gaps") == []
        assert await page.evaluate("window.filled") > 0


@pytest.mark.browser
@in_browser_loop
async def test_a_page_that_slept_shows_every_order_once_and_in_order(
    site: OutboxSite, chromium: Browser
) -> None:
    async with (
        own_contexts(chromium) as browser,
        FaultProxy(("127.0.0.1", site.service.port)) as road,
    ):
        page = await (await browser.new_context()).new_page()
        await page.goto(f"http://127.0.0.1:{road.port}/page/")
        await page.wait_for_function("window.isSubscribed", timeout=60_000)
        async with httpx.AsyncClient(base_url=site.service.http, timeout=60) as client:
            for n in range(1, 10):
                await client.post(f"/order/{n}/")
            await page.wait_for_function("window.orders.length === 8", timeout=60_000)
            await road.refuse()
            road.reset()
            for n in range(10, 250):  # more than a page of the view
                await client.post(f"/order/{n}/")
            await asyncio.to_thread(site.wait_until_published)
            await road.heal()
            await client.post("/order/251/")
        await page.wait_for_function("window.orders.at(-1) === 251", timeout=60_000)
        assert await shown(page) == [n for n in range(1, 250) if n % 5] + [251]
        assert await page.evaluate("window.gaps") == []
