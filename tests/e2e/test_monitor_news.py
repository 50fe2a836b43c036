"""The page /monitor/ gets its numbers over its own connection, and nobody else gets them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from tests.support.database import manage, migrate
from tests.support.eventually import eventually
from tests.support.pages import (
    HEBREW_NAME,
    PATIENCE,
    USERS,
    Pages,
    becomes_true,
    in_browser_loop,
    own_contexts,
)
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, Service

pytestmark = [pytest.mark.browser, in_browser_loop]

FIRE_ADA = """
from django.contrib.auth.models import User
User.objects.filter(username="ada").update(is_staff=False)
"""
LISTEN = """
async (channel) => {
  const { connect } = await import("/static/realtime/client.js");
  const live = connect();
  window.messages = [];
  live.addEventListener("message", ({ detail }) => window.messages.push(detail.data));
  const subscription = live.subscribe(channel);
  return new Promise((resolve) => {
    subscription.addEventListener("subscribed", () => resolve("subscribed"));
    subscription.addEventListener("error", ({ detail }) => resolve(detail.code));
  });
}
"""


class Watching:
    """A page /monitor/, the news that came over its WebSocket, and its requests for the state."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.news = 0
        self.asked = 0
        page.on("websocket", lambda socket: socket.on("framereceived", self._note_frame))
        page.on("request", lambda request: self._note_request(request.url))

    def _note_frame(self, frame: Any) -> None:
        self.news += '"message":{"data":{"monitor":{' in str(frame)

    def _note_request(self, url: str) -> None:
        self.asked += "/monitor/state" in url

    async def gets_news(self, count: int = 3) -> None:
        wanted = self.news + count
        await eventually(lambda: self.news >= wanted, PATIENCE * 10)


class Site:
    """A service with a Redis and a database of its own, and pages of its users."""

    def __init__(self, service: Service, redis: RedisServer, pages: Pages, database: str) -> None:
        self.service, self.redis, self.pages, self.database = service, redis, pages, database

    async def watch(self) -> Watching:
        page = await self.pages.open("/docs/", user="ada")
        watching = Watching(page)
        await page.goto("/monitor/")
        await page.wait_for_selector("#main[data-listening]")
        return watching


@pytest_asyncio.fixture(loop_scope="session")
async def site(
    own_redis: RedisServer, tmp_path: Path, serve: Callable[..., Service], chromium: Browser
) -> AsyncIterator[Site]:
    url = migrate(f"sqlite:///{tmp_path}/db.sqlite3", then=USERS)
    env = {"DATABASE_URL": url, "HTTPS": "0", "WEB_CONCURRENCY": "2"}
    service = await asyncio.to_thread(serve, own_redis.url, DEPLOYED, **env)
    async with own_contexts(chromium) as browser:
        yield Site(service, own_redis, Pages(browser, service), url)
    assert "Traceback" not in service.log


async def test_the_numbers_come_over_the_connection_also_while_redis_is_away(site: Site) -> None:
    watching = await site.watch()
    await watching.gets_news()
    asked = watching.asked
    await watching.gets_news(5)
    # It asks only after a silence of six seconds, which a loaded machine may make once.
    assert watching.asked - asked <= 1
    shown = "document.querySelector('#nodes').innerText.includes('Event loop late by')"
    await becomes_true(watching.page, shown)
    # Only what others publish is counted.
    await becomes_true(watching.page, "!document.querySelector('#empty').hidden")
    await asyncio.to_thread(site.redis.kill)
    await becomes_true(watching.page, "problems.innerText.includes('Redis does not answer')")
    await watching.gets_news()
    await asyncio.to_thread(site.redis.start)
    await becomes_true(
        watching.page, "problems.innerText.includes('All nodes are live')", seconds=20
    )
    await watching.gets_news()


async def test_a_user_who_is_not_staff_is_sent_nothing(site: Site) -> None:
    """Everybody may listen on a channel of their own."""
    page = await site.pages.open("/docs/", user=HEBREW_NAME)
    assert await page.evaluate(LISTEN, "monitor:#service.2") == "subscribed"
    others = {}
    for channel in ("monitor:#service.1", "monitor:nodes", "monitor:#service.1,service.2"):
        other = await site.pages.open("/docs/", user=HEBREW_NAME)
        others[channel] = await other.evaluate(LISTEN, channel)
    guest = await site.pages.open("/docs/")
    others["guest"] = await guest.evaluate(LISTEN, "monitor:#service.1")
    assert others == {
        "monitor:#service.1": 103,
        "monitor:nodes": 103,
        "monitor:#service.1,service.2": "subscribed",
        "guest": 103,
    }
    await (await site.watch()).gets_news()
    for each in page.context.browser.contexts if page.context.browser else ():
        for opened in each.pages:
            if "/docs/" in opened.url:
                assert await opened.evaluate("window.messages") == []


async def test_who_is_no_longer_staff_gets_no_news(site: Site) -> None:
    watching = await site.watch()
    await watching.gets_news()
    await asyncio.to_thread(manage, site.database, "shell", "--no-imports", "--command", FIRE_ADA)
    # The page asks, since no news comes, and is refused.
    refused = "problems.innerText.includes('Only members of the staff may see this')"
    await becomes_true(watching.page, refused, seconds=20)
    news, asked = watching.news, watching.asked
    await eventually(lambda: watching.asked > asked + 1, PATIENCE * 20)
    assert watching.news == news
