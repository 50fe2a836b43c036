"""What the forms of the pages say after an error, in Chromium, until when, and what one can do.

Each test is named after the fault that it looks for.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.async_api import Page, Route

from tests.support.client import Client
from tests.support.eventually import eventually
from tests.support.pages import Open, in_browser_loop
from tests.support.service import Service

pytestmark = [pytest.mark.browser, in_browser_loop]


async def shows(page: Page, selector: str, text: str) -> None:
    """Wait until an element contains a text, which may be empty."""

    async def has_text() -> bool:
        words = await page.locator(selector).inner_text()
        return text in words if text else words == ""

    await eventually(has_text, seconds=60)


async def answer_with(page: Page, *statuses: int) -> list[dict[str, Any]]:
    """Let publishing fail with each status in turn, then reach the service; return the bodies.

    0 is no answer; 504 reaches the service, but its answer is lost.
    """
    waiting = list(statuses)
    posted: list[dict[str, Any]] = []

    async def handle(route: Route) -> None:
        posted.append(json.loads(route.request.post_data or ""))
        status = waiting.pop(0) if waiting else 200
        if status == 504:
            await route.fetch()
        if status == 200:
            await route.continue_()
        elif status:
            await route.fulfill(status=status, json={})
        else:
            await route.abort()

    await page.route("**/api/publish", handle)
    return posted


async def test_an_unknown_outcome_cannot_be_retried_safely(open_page: Open) -> None:
    """The page advised to look for the event before it is posted again."""
    page = await open_page()
    await page.wait_for_selector("#main[data-listening]")
    posted = await answer_with(page, 504, 0, 503)
    await page.fill("#post-title", "Once")
    await page.click("#post-submit")
    await shows(page, "#post-error", "Redis did not respond")
    await page.fill("#post-title", "Edited meanwhile")
    await page.click("#post-again")
    await shows(page, "#post-error", "The server did not respond")
    await page.click("#post-again")
    await shows(page, "#post-error", "still unknown")
    await page.focus("#post-again")
    await page.keyboard.press("Enter")
    await shows(page, "#post-result", "Published by the earlier attempt")
    assert await page.evaluate("document.activeElement.id") == "post-submit"
    assert not await page.is_visible("#post-again")
    assert len({body["idempotency_key"] for body in posted}) == 1
    assert {body["data"]["title"] for body in posted} == {"Once"}
    assert await page.locator("#notifications .notification").count() == 1
    await page.click("#post-submit")
    await shows(page, "#post-result", "Received here")
    assert posted[-1]["idempotency_key"] != posted[0]["idempotency_key"]


async def test_an_error_stays_when_it_no_longer_holds(open_page: Open) -> None:
    page = await open_page()
    await page.wait_for_selector("#main[data-listening]")
    await answer_with(page, 403)
    await page.click("#post-submit")
    await shows(page, "#post-error", "does not have permission")
    await page.fill("#post-title", "Another")
    await shows(page, "#post-error", "")

    await page.goto("/chat/long/")
    await page.wait_for_selector("#main[data-listening]")
    await page.fill("#composer-text", "x" * 60_001)
    await page.press("#composer-text", "Enter")
    await shows(page, "#composer-error", "too long")
    await page.fill("#composer-text", "x")
    await shows(page, "#composer-error", "")

    await page.goto("/htmx/")
    await page.wait_for_selector("#main[data-listening]")
    await page.fill("#what", "  ")
    await page.press("#what", "Enter")
    await shows(page, "#order-problem", "Enter an item")
    await page.fill("#what", "A bell")
    assert await page.locator("#order-problem").count() == 0


async def test_a_message_that_is_sent_again_is_shown_twice(
    page_service: Service, open_page: Open
) -> None:
    """After an unknown outcome, "Send again" may publish a message for the second time."""
    page = await open_page("/chat/again/")
    await page.wait_for_selector("#main[data-listening]")
    author = await Client.open(page_service.ws)
    await author.subscribe("chat:again")
    for said in ("first", "first", "second"):
        data = {"text": said, "id": said}
        assert "publish" in await author.ask(publish={"channel": "chat:again", "data": data})
    await author.close()
    await page.locator(".message-text", has_text="second").wait_for(timeout=60_000)
    assert await page.locator(".message-text").all_inner_texts() == ["first", "second"]
