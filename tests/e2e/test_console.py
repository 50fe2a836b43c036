"""The console of the staff in Chromium: what it shows of a connection, and to whom."""

from __future__ import annotations

import asyncio
import json

import pytest
from playwright.async_api import Page

from tests.support.eventually import eventually
from tests.support.losing import publish_while_cut
from tests.support.pages import HEBREW_NAME, Open, becomes_true, in_browser_loop
from tests.support.redis_server import RedisServer
from tests.support.service import Service

pytestmark = [pytest.mark.browser, in_browser_loop]

SCROLL = """() => {
  const log = document.getElementById("log");
  log.scrollTop = log.scrollHeight;
  return document.querySelectorAll(".frame").length;
}"""
"""Scrolls to the end of the list, which draws more rows; returns their number."""
CHANNEL = ".channel[data-channel='{}'][data-state={}]"
PUBLICATION = ".frame[data-kind=publication][data-channel='{}']"


async def open_console(open_page: Open, *channels: str) -> Page:
    """Open the page as a member of the staff, and subscribe to channels."""
    page: Page = await open_page("/console/", user="ada")
    await page.wait_for_selector("#main[data-listening]")
    for channel in channels:
        await subscribe(page, channel)
        await page.wait_for_selector(CHANNEL.format(channel, "subscribed"))
    return page


async def subscribe(page: Page, channel: str) -> None:
    await page.fill("#channel-name", channel)
    await page.press("#channel-name", "Enter")


async def test_only_the_staff_gets_the_page(open_page: Open) -> None:
    page = await open_page("/console/")
    assert page.url.endswith("/login/?next=/console/")
    assert await page.locator(".pages a", has_text="Console").count() == 0
    page = await open_page("/", user=HEBREW_NAME)
    assert await page.locator(".pages a", has_text="Console").count() == 0
    answer = await page.goto("/console/")
    assert answer
    assert (answer.status, await page.inner_text("h1")) == (403, "Not permitted")
    page = await open_page("/", user="ada")
    await page.click(".pages a >> text=Console")
    await page.wait_for_selector("#main[data-listening]")
    assert await page.inner_text("h1") == "Console"


async def test_frames_of_both_directions_have_size_and_offset(
    page_service: Service, open_page: Open
) -> None:
    page = await open_console(open_page, "public:sizes")
    said = await asyncio.to_thread(page_service.publish, "public:sizes", {"text": "Zoë"})
    row = page.locator(PUBLICATION.format("public:sizes"))
    await row.wait_for(timeout=60_000)
    words = await row.inner_text()
    text = await row.locator(".frame-text").inner_text()
    assert "In" in words
    assert f"offset {said['offset']}" in words
    assert f"{len(text.encode())} B" in words
    command = page.locator(".frame[data-direction=out][data-channel='public:sizes']").first
    assert "subscribe" in await command.inner_text()
    assert "Out" in await command.inner_text()
    await row.locator("summary").click()
    assert '"text": "Zoë"' in await row.locator(".frame-json").inner_text()


async def test_what_the_staff_may_not_hear_is_refused_and_not_shown(
    page_service: Service, open_page: Open
) -> None:
    """No namespace `secret` exists, and the channel of another user is closed to the staff, too."""
    page = await open_console(open_page, "public:open")
    for channel in ("user:#service.999", "secret:plans"):
        await subscribe(page, channel)
        refused = page.locator(CHANNEL.format(channel, "refused"))
        await refused.wait_for(timeout=60_000)
        assert "Refused: permission denied (103)" in await refused.inner_text()
    await asyncio.to_thread(page_service.publish, "user:#service.999", "for one user only")
    await asyncio.to_thread(page_service.publish, "public:open", "for all")
    await page.wait_for_selector(PUBLICATION.format("public:open"))
    assert "for one user only" not in await page.inner_text("#main")


async def test_a_gap_is_shown_exactly(
    page_service: Service, redis: RedisServer, open_page: Open
) -> None:
    page = await open_console(open_page, "public:lossy")
    await asyncio.to_thread(page_service.publish, "public:lossy", "the first")
    await page.wait_for_selector(PUBLICATION.format("public:lossy"))
    await asyncio.to_thread(publish_while_cut, redis, "public:lossy", 3)
    gap = page.locator(".frame-gap[data-from='2'][data-to='4'][data-missed='3']")
    await gap.wait_for(timeout=60_000)
    words = await gap.inner_text()
    for part in ("Gap", "public:lossy", "offsets 2 to 4", "3 missed while Redis", "reason broker"):
        assert part in words
    assert await page.locator(".frame-gap[data-channel='public:lossy']").count() == 1


async def test_a_channel_that_was_left_is_silent(page_service: Service, open_page: Open) -> None:
    page = await open_console(open_page, "public:left", "public:kept")
    await page.get_by_role("button", name="Leave public:left").click()
    assert await page.locator(CHANNEL.format("public:left", "subscribed")).count() == 0

    async def is_left() -> bool:
        return (await asyncio.to_thread(page_service.publish, "public:left", 1))["nodes"] == 0

    await eventually(is_left)
    await page.click("#clear")
    await asyncio.to_thread(page_service.publish, "public:left", 1)
    await asyncio.to_thread(page_service.publish, "public:kept", 1)
    await page.wait_for_selector(PUBLICATION.format("public:kept"))
    assert await page.locator(PUBLICATION.format("public:left")).count() == 0


async def test_a_paused_list_says_how_many_wait(page_service: Service, open_page: Open) -> None:
    page = await open_console(open_page, "public:pausing")
    await page.select_option("#filter-kind", "publications")
    await page.click("#pause")
    for number in range(3):
        await asyncio.to_thread(page_service.publish, "public:pausing", number)
    await page.locator("#frames-count", has_text="3 waiting").wait_for(timeout=60_000)
    assert await page.locator(".frame").count() == 0
    await page.click("#pause")
    await page.wait_for_selector(PUBLICATION.format("public:pausing"))
    assert await page.locator(".frame").count() == 3


async def test_the_list_is_filtered_by_text_kind_and_channel(
    page_service: Service, open_page: Open
) -> None:
    page = await open_console(open_page, "public:one", "public:two")
    for channel in ("public:one", "public:two"):
        for text in ("apple", "Pear"):
            await asyncio.to_thread(page_service.publish, channel, text)
    await page.locator(PUBLICATION.format("public:two"), has_text="Pear").wait_for(timeout=60_000)
    await page.select_option("#filter-channel", "public:one")
    await page.select_option("#filter-kind", "publications")
    assert await page.locator(".frame").count() == 2
    await page.fill("#filter-text", "pear")
    assert await page.locator(".frame").count() == 1
    await page.fill("#filter-text", "melon")
    assert await page.is_visible("#empty")


async def test_the_list_keeps_a_thousand_frames_and_says_so(
    page_service: Service, open_page: Open
) -> None:
    page = await open_console(open_page, "public:many")
    await page.select_option("#filter-kind", "publications")
    for start in range(0, 1_100, 100):
        commands = [
            {"publish": {"channel": "public:many", "data": number}}
            for number in range(start, start + 100)
        ]
        answer = await asyncio.to_thread(page_service.post, "batch", {"commands": commands})
        assert answer.status_code == 200
    await page.locator(".frame-text", has_text='"data":1099').wait_for(timeout=60_000)
    assert "older ones were dropped" in await page.inner_text("#frames-count")
    # More would slow down a busy channel; frames that come in one go are drawn, and then trimmed.
    await becomes_true(page, "document.querySelectorAll('.frame').length <= 120")
    await becomes_true(page, f"({SCROLL})() > 900")
    assert await page.locator(".frame").count() <= 1_000
    texts = await page.locator(".frame-text").all_text_contents()
    offsets = [json.loads(text)["push"]["pub"]["offset"] for text in texts]
    assert offsets == list(range(1_100, 1_100 - len(offsets), -1)), "in order, without a hole"
    await page.evaluate("document.getElementById('log').scrollTop = 0")
    await asyncio.to_thread(page_service.publish, "public:many", "one more")
    await becomes_true(page, "document.querySelectorAll('.frame').length === 100")
