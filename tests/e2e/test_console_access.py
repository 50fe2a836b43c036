"""The console for users of a keyboard, other colors or small windows, and with hostile content."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from playwright.async_api import Page

from tests.e2e.test_console import CHANNEL, PUBLICATION, open_console
from tests.e2e.test_page_access import UNREACHABLE, drawn
from tests.e2e.test_page_faults import HEBREW, controls_without_a_name
from tests.support.losing import publish_while_cut
from tests.support.pages import Open, becomes_true, in_browser_loop
from tests.support.redis_server import RedisServer
from tests.support.service import Service
from tests.threats.test_pages import ACTING, PAYLOADS

pytestmark = [pytest.mark.browser, in_browser_loop]

FOCUS = "document.activeElement.id"
LONG = "x" * 10_000
BURST = 300


async def fill(page: Page, service: Service, redis: RedisServer, channel: str) -> None:
    """Show publications, a gap, a refused channel, and who is on one."""
    await page.fill("#channel-name", "secret:" + "x" * 200)
    await page.press("#channel-name", "Enter")
    await page.wait_for_selector(".channel[data-state=refused]")
    await page.get_by_role("button", name="Who is here: chat:crowd").click()
    await page.wait_for_selector(".person-row")
    await asyncio.to_thread(service.publish, channel, {"title": LONG})
    await page.wait_for_selector(PUBLICATION.format(channel))
    await asyncio.to_thread(publish_while_cut, redis, channel, 2)
    await page.wait_for_selector(".frame-gap")


@pytest.mark.parametrize("width", [320, 390, 768, 1440])
async def test_the_console_fits_every_screen(
    page_service: Service, redis: RedisServer, open_page: Open, width: int
) -> None:
    page = await open_console(open_page, "public:wide", "chat:crowd")
    await page.set_viewport_size({"width": width, "height": 800})
    await fill(page, page_service, redis, "public:wide")
    if width < 960:
        await page.click("#publish-fold")
    await page.fill("#publish-body", f'{{"channel": "public:wide", "data": "{LONG}"}}')
    await page.click(".console-copy summary")
    await page.locator(PUBLICATION.format("public:wide")).first.locator("summary").click()
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert await page.evaluate(wide) <= 0
    assert await page.evaluate(UNREACHABLE) == []
    assert await controls_without_a_name(page) == []


async def test_the_form_is_folded_on_a_phone(open_page: Open) -> None:
    page = await open_console(open_page)
    assert await page.is_visible("#publish-body")
    await page.set_viewport_size({"width": 390, "height": 844})
    assert not await page.is_visible("#publish-body")
    await page.click("#publish-fold")
    assert await page.is_visible("#publish-body")
    assert await page.get_attribute("#publish-fold", "aria-expanded") == "true"


async def test_the_console_works_with_the_keyboard(page_service: Service, open_page: Open) -> None:
    page = await open_console(open_page)
    await page.focus("#channel-name")
    await page.keyboard.press("ControlOrMeta+a")
    await page.keyboard.type("public:keys")
    await page.keyboard.press("Enter")
    await page.wait_for_selector(CHANNEL.format("public:keys", "subscribed"))
    await asyncio.to_thread(page_service.publish, "public:keys", "typed")
    row = page.locator(PUBLICATION.format("public:keys"))
    await row.wait_for(timeout=60_000)
    await page.focus("#log")
    await page.keyboard.press("Tab")
    assert await row.evaluate("(row) => row.contains(document.activeElement)")
    await page.keyboard.press("Enter")
    await row.locator(".frame-json").wait_for(timeout=60_000)
    await page.get_by_role("button", name="Leave public:keys").focus()
    await page.keyboard.press("Enter")
    await becomes_true(page, f"{FOCUS} === 'channel-name'")
    await page.focus("#user-id")
    await page.keyboard.type("nobody")
    await page.focus("#user-disconnect")
    await page.keyboard.press("Enter")
    await page.keyboard.press("Escape")
    await becomes_true(page, f"{FOCUS} === 'user-disconnect'")


async def test_forced_colors_keep_what_the_console_shows(
    page_service: Service, redis: RedisServer, open_page: Open
) -> None:
    """A direction and an outcome have a shape of their own, and a gap has a border."""
    page = await open_page("/console/", user="ada", forced_colors="active")
    await page.wait_for_selector("#main[data-listening]")
    await page.wait_for_selector(".frame[data-direction=in]")
    for way, shape in (("in", "↓In"), ("out", "↑Out")):
        words = page.locator(f".frame[data-direction={way}] .frame-way").first
        assert (await words.inner_text()).replace("\n", "") == shape
    await page.click("#publish-go")
    await page.wait_for_selector("#publish-outcome[data-outcome=published]")
    assert (await drawn(page, "#publish-outcome .icon"))[2] >= 2
    await page.fill("#channel-name", "public:forced")
    await page.press("#channel-name", "Enter")
    await page.wait_for_selector(CHANNEL.format("public:forced", "subscribed"))
    await asyncio.to_thread(publish_while_cut, redis, "public:forced", 2)
    await page.wait_for_selector(".frame-gap")
    border = "(chip) => getComputedStyle(chip).borderTopWidth"
    assert await page.locator(".frame-chip").first.evaluate(border) == "1px"


ISOLATED = """() => [...document.querySelectorAll("#main *")].filter((element) =>
  [...element.childNodes].some((node) => node.nodeType === 3 && /[\\u0590-\\u05ff]/.test(node.data))
  && !element.closest("bdi, [dir], pre")).map((element) => element.outerHTML.slice(0, 80))"""


async def test_right_to_left_text_does_not_reorder_the_console(
    page_service: Service, open_page: Open
) -> None:
    page = await open_console(open_page, "public:hebrew")
    await asyncio.to_thread(page_service.publish, "public:hebrew", {"title": HEBREW})
    row = page.locator(PUBLICATION.format("public:hebrew"))
    await row.wait_for(timeout=60_000)
    await row.locator("summary").click()
    await page.fill("#publish-body", f'{{"channel": "public:hebrew", "data": "{HEBREW}"}}')
    await page.click(".console-copy summary")
    assert await page.evaluate(ISOLATED) == []


async def test_a_frame_never_becomes_markup(page_service: Service, open_page: Open) -> None:
    page = await open_console(open_page, "public:evil")
    complaints: list[Any] = []
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    forms = await page.locator("form").count()
    for text in [*PAYLOADS, *ACTING]:
        data = {"title": text, text: text}
        await asyncio.to_thread(page_service.publish, "public:evil", data, tags={"tag": text[:256]})
    rows = page.locator(PUBLICATION.format("public:evil"))
    await rows.nth(len(PAYLOADS) + len(ACTING) - 1).wait_for(timeout=60_000)
    for number in range(len(PAYLOADS) + len(ACTING)):
        await rows.nth(number).locator("summary").evaluate("(summary) => summary.click()")
    await becomes_true(page, "document.querySelectorAll('.frame-json').length > 30")
    assert (
        await page.locator("main :is(script, iframe, img, style, base, math), .evil").count() == 0
    )
    assert await page.locator("form").count() == forms
    assert complaints == []


async def test_a_burst_is_one_announcement(page_service: Service, open_page: Open) -> None:
    page = await open_console(open_page, "public:burst")
    commands = [{"publish": {"channel": "public:burst", "data": n}} for n in range(100)]
    for _ in range(BURST // 100):
        await asyncio.to_thread(page_service.post, "batch", {"commands": commands})
    last = page.locator(PUBLICATION.format("public:burst"), has_text=f"offset {BURST}")
    await last.wait_for(timeout=60_000)
    await becomes_true(
        page, "/new frames. The latest/.test(document.getElementById('news').textContent)"
    )
    assert await page.locator("#main [role=status] .frame, [aria-live=polite] .frame").count() == 0
