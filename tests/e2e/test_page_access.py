"""Faults for users of a keyboard, a screen reader, other colors, or a small window, in Chromium.

Each test is named after the fault that it looks for.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.support.pages import Open, becomes_true, in_browser_loop
from tests.support.service import Service

pytestmark = [pytest.mark.browser, in_browser_loop]

FOCUS = "document.activeElement.id || document.activeElement.className"


async def test_the_focus_falls_to_the_top_of_the_page_after_an_order_was_shipped(
    open_page: Open,
) -> None:
    page = await open_page("/htmx/")
    await page.wait_for_selector("#main[data-listening]")
    await page.fill("#what", "A bell")
    await page.press("#what", "Enter")
    order = page.locator(".order").filter(has_text="A bell").first
    button = order.locator("button")
    await button.focus()
    name = await order.get_attribute("id")
    for state in ("packed", "shipped"):
        await page.keyboard.press("Enter")
        await page.wait_for_selector(f"#{name}[data-state={state}]")
        inside = f"document.getElementById('{name}').contains(document.activeElement)"
        await becomes_true(page, inside)


async def test_the_focus_falls_to_the_top_of_the_page_after_a_job_was_cancelled(
    page_service: Service, open_page: Open
) -> None:
    """No worker runs: the test says that the job has been cancelled."""
    page = await open_page("/jobs/", user="ada")
    await page.wait_for_selector("#main[data-listening]")
    await page.click("#start")
    job = page.locator("#jobs > li[data-state=waiting]").first
    await job.get_by_role("button", name="Cancel").focus()
    await page.keyboard.press("Enter")
    await job.filter(has_text="Cancelling").wait_for(timeout=60_000)
    name = await job.get_attribute("data-job")
    ended = {"task": name, "state": "cancelled", "at": 2**33}
    await asyncio.to_thread(page_service.publish, "jobs:all", ended)
    await page.wait_for_selector(f"[data-job='{name}'][data-state=cancelled]")
    assert await page.evaluate("document.activeElement.dataset.job") == name


async def test_the_focus_falls_to_the_top_of_the_page_after_a_button_of_the_chat(
    page_service: Service, open_page: Open
) -> None:
    page = await open_page("/chat/focus/", viewport={"width": 800, "height": 400})
    await page.wait_for_selector("#main[data-listening]")
    for number in range(12):
        data = {"text": f"{number}\n" * 10}
        await asyncio.to_thread(page_service.publish, "chat:focus", data)
    await page.locator(".message-text", has_text="11").wait_for(timeout=60_000)
    await page.evaluate(
        """new Promise((done) => {
          const scroll = document.getElementById("scroll");
          scroll.addEventListener("scroll", done, { once: true });
          scroll.scrollTop = 0;
        }).then(() => null)"""
    )
    await asyncio.to_thread(page_service.publish, "chat:focus", {"text": "One more"})
    await page.wait_for_selector("#newer:visible")
    await page.focus("#newer")
    await page.keyboard.press("Enter")
    await page.wait_for_selector("#newer", state="hidden")
    assert await page.evaluate(FOCUS) == "scroll"
