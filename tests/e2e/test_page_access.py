"""Faults for users of a keyboard, a screen reader, other colors, or a small window, in Chromium.

Each test is named after the fault that it looks for.
"""

from __future__ import annotations

import asyncio
import base64

import pytest
from playwright.async_api import Page

from tests.support.eventually import eventually
from tests.support.pages import PATHS, Open, becomes_true, in_browser_loop, make_job
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


LISTEN = """() => {
  window.announced = [];
  const isLive = "[role=status], [role=alert], [role=log], [aria-live]";
  new MutationObserver((records) => {
    const elements = records.map(({ target }) => (target.closest ? target : target.parentElement));
    for (const region of new Set(elements.map((element) => element.closest(isLive)))) {
      if (region && region.ariaLive !== "off") window.announced.push(region.textContent);
    }
  }).observe(document.body, { childList: true, characterData: true, subtree: true });
}"""
"""Records what a screen reader announces."""


async def test_three_hundred_events_are_three_hundred_announcements(
    page_service: Service, open_page: Open
) -> None:
    news, chat = await open_page(), await open_page("/chat/loud/")
    for page in (news, chat):
        await page.wait_for_selector("#main[data-listening]")
        await page.evaluate(LISTEN)
    for channel in ("public:news", "chat:loud"):
        data = [{"title": f"Event {n}", "text": f"Message {n}"} for n in range(300)]
        commands = [{"publish": {"channel": channel, "data": one}} for one in data]
        for start in (0, 100, 200):
            body = {"commands": commands[start : start + 100]}
            answer = await asyncio.to_thread(page_service.post, "batch", body)
            assert answer.status_code == 200
    for page, noun, latest in (
        (news, "notifications", "Info: Event 299"),
        (chat, "messages", "This site: Message 299"),
    ):
        await becomes_true(page, f"announced.at(-1)?.endsWith('{latest}')")
        announced = await page.evaluate("announced")
        assert len(announced) <= 3
        assert f"new {noun}. The latest: " in announced[-1]


async def test_a_log_is_a_list_at_the_same_time(open_page: Open) -> None:
    """The role "log" replaces that of the list, whose entries then belong to no list."""
    page = await open_page()
    for path in PATHS:
        await page.goto(path)
        assert await page.locator(":is(ol, ul)[role], li[role]").count() == 0


UNREACHABLE = """() => [...document.querySelectorAll("body *")].filter((element) => {
  const isScroller = ["auto", "scroll"].includes(getComputedStyle(element).overflowY);
  if (!isScroller || !element.checkVisibility()) return false;
  const focusable = "a[href], button, input, textarea, [tabindex='0']";
  const scrolls = element.scrollHeight > element.clientHeight;
  return scrolls && element.tabIndex < 0 && !element.querySelector(focusable);
}).map((element) => element.outerHTML.slice(0, 80))"""


async def test_the_keyboard_cannot_scroll_a_region(open_page: Open) -> None:
    """The API reference had sixty of them."""
    page = await open_page(viewport={"width": 1280, "height": 500})
    for path in PATHS:
        await page.goto(path)
        await page.evaluate(
            "for (const one of document.querySelectorAll('details')) one.open = true;"
            "for (const one of document.querySelectorAll('.code')) one.hidden = false;"
            "for (const one of document.querySelectorAll('pre')) one.append('line\\n'.repeat(99));"
        )
        assert await page.evaluate(UNREACHABLE) == []


async def test_the_headings_of_the_pages_begin_at_different_edges(open_page: Open) -> None:
    for width in (390, 768, 1440):
        page = await open_page(viewport={"width": width, "height": 900})
        edges = {}
        for path in PATHS:
            await page.goto(path)
            for selector in ("h1", ".brand .icon"):
                box = await page.locator(selector).bounding_box()
                assert box
                edges[path, selector] = box["x"]
            wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert await page.evaluate(wide) <= 0
        assert len(set(edges.values())) == 1, edges


async def test_the_account_is_misplaced_on_pages_without_a_connection(open_page: Open) -> None:
    """On /docs/ and the 404 page, phones showed it beside the menu."""
    for width in (390, 1280):
        page = await open_page(user="ada", viewport={"width": width, "height": 800})
        edges = {}
        for path in ("/", "/docs/", "/nowhere"):
            await page.goto(path)
            box = await page.locator("#account-button").bounding_box()
            assert box
            edges[path] = round(box["x"] + box["width"])
        assert len(set(edges.values())) == 1, edges
        assert width - 32 <= edges["/"] + max(0, (width - 1216) // 2) <= width


async def test_a_chat_at_400_percent_is_a_line_high(page_service: Service, open_page: Open) -> None:
    """A window of 1280 x 1024 is then one of 320 x 256, of which 32 pixels showed messages."""
    page = await open_page("/chat/small/", viewport={"width": 320, "height": 256})
    await page.wait_for_selector("#main[data-listening]")
    for number in range(9):
        data = {"text": f"Message {number}"}
        await asyncio.to_thread(page_service.publish, "chat:small", data)
    await page.locator(".message", has_text="Message 8").wait_for(timeout=60_000)
    scroll = page.locator("#scroll")
    assert await scroll.evaluate("(one) => one.clientHeight") >= 150
    assert await scroll.evaluate("(one) => one.scrollHeight - one.scrollTop - one.clientHeight") < 2
    await page.focus("#composer-text")
    for selector in ("#composer-text", "#composer-send"):
        box = await page.locator(selector).bounding_box()
        assert box
        assert 0 <= box["y"] <= 256 - box["height"]
    assert await page.evaluate("document.documentElement.scrollWidth") <= 320


DRAWN = """async (png) => {
  const bytes = Uint8Array.from(atob(png), (character) => character.charCodeAt(0));
  const image = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  const context = new OffscreenCanvas(image.width, image.height).getContext("2d");
  context.drawImage(image, 0, 0);
  const colors = new Uint32Array(context.getImageData(0, 0, image.width, image.height).data.buffer);
  const middle = Math.floor(image.height / 2) * image.width;
  const counts = Map.groupBy(colors, (color) => color);
  const most = [...counts].sort((one, other) => other[1].length - one[1].length)[0][0];
  const inside = colors.slice(middle + 2, middle + image.width - 2);
  return [most, colors[middle + Math.floor(image.width / 2)], new Set(inside).size];
}"""


async def drawn(page: Page, selector: str) -> tuple[int, int, int]:
    """Return the color of most of an element, that of its center, and how many its middle row has.

    Not the computed style: it does not tell what forced colors make of it.
    """
    png = await page.locator(selector).first.screenshot(animations="disabled")
    most, center, count = await page.evaluate(DRAWN, base64.b64encode(png).decode())
    return most, center, count


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_forced_colors_lose_a_state(
    page_service: Service, page_database: str, open_page: Open, scheme: str
) -> None:
    """Backgrounds, shadows, and borders get the colors of the user, so all choices looked alike."""
    page = await open_page(user="ada", forced_colors="active", color_scheme=scheme)
    await page.wait_for_selector("#main[data-listening]")
    for group in (".audience", ".levels"):
        chosen = await drawn(page, f"{group} .level:has(:checked)")
        assert chosen[0] != (await drawn(page, f"{group} .level:not(:has(:checked))"))[0], group
    await page.wait_for_selector("#connection[data-state=live]")
    live = await drawn(page, ".connection-dot")

    async def differs() -> bool:
        """Draw it in another state; the page may say at any time that it is live."""
        await page.evaluate("document.getElementById('connection').dataset.state = 'connecting'")
        return live[1] != (await drawn(page, ".connection-dot"))[1]

    await eventually(differs)
    line = "(link) => getComputedStyle(link).textDecorationLine"
    current = [await page.locator(".pages a[aria-current]").evaluate(line)]

    await page.goto("/chat/other/")
    await page.wait_for_selector("#main[data-listening]")
    current.append(await page.locator(".rooms a[aria-current]").evaluate(line))
    assert current == ["underline"] * 2
    assert await page.locator(".rooms a:not([aria-current])").first.evaluate(line) == "none"

    job_id = await asyncio.to_thread(make_job, page_database)
    await page.goto("/jobs/")
    await page.wait_for_selector("#main[data-listening]")
    progress = {"task": job_id, "state": "progress", "at": 1, "done": 1, "total": 2}
    await asyncio.to_thread(page_service.publish, "jobs:all", progress)
    bar = f"[data-job='{job_id}'] progress"
    await page.locator(bar).wait_for(timeout=60_000)
    assert (await drawn(page, bar))[2] >= 2


SHIFTS = """window.shifted = 0;
new PerformanceObserver((list) => {
  for (const { value, hadRecentInput } of list.getEntries()) if (!hadRecentInput) shifted += value;
}).observe({ type: "layout-shift", buffered: true });"""

GOOD_SHIFT = 0.1
"""Cumulative layout shift that web.dev calls good."""


async def test_a_page_moves_under_the_reader_while_its_scripts_start(open_page: Open) -> None:
    """Lighthouse gave 80 of 100 to `/`, whose steps appeared above the list."""
    page = await open_page("/login/", user="ada", viewport={"width": 1350, "height": 940})
    await page.add_init_script(SHIFTS)
    moved = {}
    for path in PATHS:
        await page.goto(path)
        if path in ("/", "/chat/", "/htmx/", "/monitor/", "/console/"):
            await becomes_true(page, "connection.dataset.state === 'live'")
        if path == "/monitor/":
            await becomes_true(page, "main.dataset.shown === ''")
        await page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        if (sum_of_shifts := await page.evaluate("shifted")) > GOOD_SHIFT:
            moved[path] = sum_of_shifts
    assert not moved
