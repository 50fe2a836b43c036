"""What the pages of a deployment offer to visitors who may not do everything, in Chromium.

Each test is named after the fault that it looks for.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from tests.support.chat import CHAT
from tests.support.pages import SERVICE, Open, Pages, in_browser_loop, own_contexts
from tests.support.redis_server import RedisServer
from tests.support.service import Service

pytestmark = [pytest.mark.browser, in_browser_loop]

FOR_USERS = {**CHAT, "allow_publish_for_anonymous": False}
PRODUCTION = {**SERVICE, "DEBUG": "0", "NOTIFIER_DEMO_KEY": "0", "ALLOWED_HOSTS": "127.0.0.1"}


@pytest.fixture(scope="module")
def page_service(redis: RedisServer, page_database: str) -> Iterator[Service]:
    """A deployment in which guests may read the chat, and users may post there."""
    chat = json.dumps({"chat": FOR_USERS})
    env = {**PRODUCTION, "DATABASE_URL": page_database, "NOTIFIER_NAMESPACES": chat}
    service = Service(redis.url, **env).start()
    yield service
    service.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(page_service: Service, chromium: Browser) -> AsyncIterator[Open]:
    async with own_contexts(chromium) as browser:
        yield Pages(browser, page_service).open


async def log_in_from(page: Page, part: str) -> str:
    """Follow the link in a part of the page, and return the reason on the page it leads to."""
    await page.locator(f"{part} a", has_text="Log in").click()
    await page.wait_for_selector("#username")
    return await page.locator("main > p").first.inner_text()


async def test_a_guest_is_offered_to_post_in_a_room_for_users(open_page: Open) -> None:
    page = await open_page("/chat/")
    await page.wait_for_selector("#main[data-listening]")
    assert not await page.is_visible("#composer")
    assert "under your own name" in await log_in_from(page, "#read-only")
    page = await open_page("/chat/", user="ada")
    await page.wait_for_selector("#composer:visible")
    assert not await page.is_visible("#read-only")


async def test_a_message_that_is_refused_can_be_sent_again_for_ever(open_page: Open) -> None:
    """Here, the page does not know that the server will refuse the message."""
    page = await open_page("/chat/")
    await page.wait_for_selector("#main[data-listening]")
    await page.evaluate(
        "document.getElementById('composer').hidden = false;"
        "document.getElementById('read-only').hidden = true;"
    )
    await page.fill("#composer-text", "Let me in")
    await page.press("#composer-text", "Enter")
    await page.wait_for_selector(".message[data-status=failed]")
    assert await page.locator(".message button").count() == 0
    await page.wait_for_selector("#read-only:visible")
    assert not await page.is_visible("#composer")
    assert await page.evaluate("document.activeElement.id") == "scroll"


async def test_a_guest_is_offered_a_form_for_orders_that_is_refused(open_page: Open) -> None:
    page = await open_page("/htmx/")
    await page.wait_for_selector("#main[data-listening]")
    assert await page.locator("#order-form").count() == 0
    await log_in_from(page, ".orders-new")
    page = await open_page("/htmx/", user="ada")
    await page.wait_for_selector("#order-form:visible")


async def test_the_login_for_jobs_says_that_no_account_is_needed(open_page: Open) -> None:
    page = await open_page("/jobs/")
    assert "Background jobs require an account" in await page.inner_text("main")
    assert "need no account" not in await page.inner_text("main")
    await page.goto("/login/")
    assert "need no account" in await page.inner_text("main")
