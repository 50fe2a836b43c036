"""Faults that the pages have had, in Chromium. Each test is named after the fault it looks for.

All visitors share one service and its database.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from playwright.async_api import Page

from tests.support.eventually import eventually
from tests.support.losing import publish_while_cut
from tests.support.pages import HEBREW_NAME, PATHS, PHONE, Open, in_browser_loop, make_job
from tests.support.redis_server import RedisServer
from tests.support.service import Service

pytestmark = [pytest.mark.browser, in_browser_loop]

CONTROLS = {"button", "checkbox", "combobox", "link", "radio", "textbox"}


async def controls_without_a_name(page: Page) -> list[str]:
    """Return the roles of the controls for which a screen reader has no name."""
    session = await page.context.new_cdp_session(page)
    nodes: list[dict[str, Any]] = (await session.send("Accessibility.getFullAXTree"))["nodes"]
    found = [node for node in nodes if not node["ignored"] and node["role"]["value"] in CONTROLS]
    assert len(found) > 2, "the page has controls"
    return [node["role"]["value"] for node in found if not node["name"]["value"].strip()]


@pytest.mark.parametrize("context", [PHONE, {}], ids=["phone", "desktop"])
@pytest.mark.parametrize("user", ["", "ada"], ids=["guest", "user"])
async def test_a_control_that_is_shown_as_an_icon_has_no_name(
    open_page: Open, user: str, context: dict[str, Any]
) -> None:
    """Phones hid the words "Notifier" and "Log in" from screen readers, too (`display: none`)."""
    page = await open_page(user=user, **context)
    found = {}
    for path in PATHS:
        await page.goto(path)
        found[path] = await controls_without_a_name(page)
    assert found == {path: [] for path in PATHS}


HEBREW = "שלום, עולם (1042)!"
LEFT_TO_RIGHT = r"""() => {
  const found = [];
  const others = "pre, script, [aria-hidden], #news";
  const check = (text, element) => {
    if (!/[\u0590-\u05ff]/.test(text) || element.closest(others)) return;
    const name = element.id || element.className || element.tagName;
    found.push(`${name} ${getComputedStyle(element).direction}`);
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) check(texts.currentNode.data, texts.currentNode.parentElement);
  for (const field of document.querySelectorAll("input, textarea")) check(field.value, field);
  return found;
}"""
"""Returns each element with Hebrew text, and its direction."""


async def test_right_to_left_text_is_scrambled(
    page_service: Service, page_database: str, open_page: Open
) -> None:
    """In a line of another direction, the browser reorders punctuation and numbers."""
    page = await open_page(user=HEBREW_NAME)

    async def directions(ready: str, *fields: str) -> set[str]:
        for field in fields:
            await page.fill(field, HEBREW)
        await page.locator(ready).first.wait_for(timeout=60_000)
        found: list[str] = await page.evaluate(LEFT_TO_RIGHT)
        assert len(found) > len(fields), "the fields and the name of the user"
        return {one for one in found if not one.endswith(" rtl")}

    await page.wait_for_selector("#main[data-listening]")
    await asyncio.to_thread(page_service.publish, "public:news", {"title": HEBREW, "text": HEBREW})
    wrong = await directions(".toast", "#post-title", "#post-text")

    await page.goto("/chat/hebrew/")
    await page.wait_for_selector("#main[data-listening]")
    await page.fill("#composer-text", HEBREW)
    await page.press("#composer-text", "Enter")
    wrong |= await directions(".message[data-status=sent]", "#composer-text")

    job_id = await asyncio.to_thread(make_job, page_database)
    await page.goto("/jobs/")
    await page.wait_for_selector("#main[data-listening]")
    progress = {"task": job_id, "state": "progress", "at": 1, "message": HEBREW}
    await asyncio.to_thread(page_service.publish, "jobs:all", progress)
    wrong |= await directions(".job[data-state=progress]")

    await page.goto("/htmx/")
    await page.wait_for_selector("#main[data-listening]")
    await page.fill("#what", HEBREW)
    await page.press("#what", "Enter")
    wrong |= await directions(".happened", "#what")

    await page.goto("/login/")
    wrong |= await directions("#username", "#username")
    assert wrong == set()


async def test_two_gaps_do_not_say_of_which_channel(redis: RedisServer, open_page: Open) -> None:
    page = await open_page(user="ada")
    await page.wait_for_selector("#main[data-listening]")
    own = await page.get_attribute("#main", "data-own-channel")
    assert own
    for channel, missed in (("public:news", 2), (own, 3)):
        await asyncio.to_thread(publish_while_cut, redis, channel, missed)
        gap = page.locator(".gap").filter(has_text=f"{missed} missed while Redis was unreachable")
        await gap.filter(has_text=f"on {channel}").wait_for(timeout=60_000)


INVISIBLE = ("", " \n ", "\u200b\u2060")


async def test_a_title_has_no_bounds(page_service: Service, open_page: Open) -> None:
    page = await open_page(**PHONE)
    await page.wait_for_selector("#main[data-listening]")
    for title in ("word " * 2_000, "line\n" * 500):
        await asyncio.to_thread(page_service.publish, "public:news", {"title": title})
    entry = page.locator("#notifications .notification")
    await entry.nth(1).wait_for(timeout=60_000)
    heights = "(entries) => entries.map((entry) => entry.offsetHeight)"
    assert max(await entry.evaluate_all(heights)) < 250
    await entry.first.get_by_role("button", name="Show whole title").click()
    assert max(await entry.evaluate_all(heights)) > 1_000
    await entry.first.get_by_role("button", name="Show less").click()
    assert max(await entry.evaluate_all(heights)) < 250


async def test_an_empty_title_is_a_blank_card(page_service: Service, open_page: Open) -> None:
    page = await open_page()
    await page.wait_for_selector("#main[data-listening]")
    for number, title in enumerate(INVISIBLE):
        data = {"title": title, "text": f"Text {number}"}
        await asyncio.to_thread(page_service.publish, "public:news", data)
    await asyncio.to_thread(
        page_service.publish, "public:news", {"title": ""}, event="order.shipped"
    )
    titles = page.locator("#notifications .notification-title")
    await titles.nth(len(INVISIBLE)).wait_for(timeout=60_000)
    assert await titles.all_inner_texts() == ["order.shipped", *["Untitled"] * len(INVISIBLE)]


async def test_an_empty_message_is_a_blank_bubble(page_service: Service, open_page: Open) -> None:
    page = await open_page("/chat/empty/")
    await page.wait_for_selector("#main[data-listening]")
    for text in INVISIBLE:
        await asyncio.to_thread(page_service.publish, "chat:empty", {"text": text})
    messages = page.locator(".message-text")
    await messages.nth(len(INVISIBLE) - 1).wait_for(timeout=60_000)
    assert all('"text":' in text for text in await messages.all_inner_texts())


async def test_the_message_of_a_job_has_no_bounds(
    page_service: Service, page_database: str, open_page: Open
) -> None:
    job_id = await asyncio.to_thread(make_job, page_database)
    page = await open_page("/jobs/", **PHONE)
    await page.wait_for_selector("#main[data-listening]")
    failed = {"task": job_id, "state": "failed", "at": 1, "message": "word " * 2_000}
    await asyncio.to_thread(page_service.publish, "jobs:all", failed)
    job = page.locator(".job[data-state=failed]")
    await job.get_by_role("button", name="Show all").wait_for(timeout=60_000)
    assert await job.evaluate("(job) => job.offsetHeight") < 400


async def test_the_name_of_a_room_is_cut_after_it_was_typed(open_page: Open) -> None:
    """The field accepted 64 characters and opened the room of the first 32."""
    page = await open_page("/chat/")
    for typed in ("team--blue-" * 4, "Team Blue"):
        await page.wait_for_selector("#main[data-listening]")
        await page.locator("#room-input").fill("")
        await page.locator("#room-input").press_sequentially(typed)
        shown = await page.input_value("#room-input")
        await page.press("#room-input", "Enter")
        room = shown.lower().replace(" ", "-").strip("-")
        await page.wait_for_url(f"**/chat/{room}/")
        assert await page.inner_text("#room-heading") == room


async def test_a_mistyped_address_shows_the_debug_page_of_django(open_page: Open) -> None:
    """With DEBUG, as under `make run`, visitors got a list of URL patterns."""
    page = await open_page()
    for path in ("/nowhere", "/chat/LOBBY/", "/htmx/7/", "/static/nowhere.css"):
        answer = await page.goto(path)
        assert answer
        assert answer.status == 404
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert await page.inner_text("h1") == "Page not found"
        assert "URLconf" not in await page.content()
    answer = await page.goto("/chat")
    assert answer
    assert (answer.status, answer.url.rpartition("/chat")[2]) == (200, "/")


async def test_there_is_no_favicon(open_page: Open) -> None:
    """Browsers ask for it beside documents without a link to an icon, such as JSON."""
    page = await open_page()
    answer = await page.request.get("/favicon.ico")
    assert (answer.status, (await answer.body())[:4]) == (200, b"\x00\x00\x01\x00")
    sizes = """Promise.all([...document.querySelectorAll("link[rel=icon]")].map(({ href }) => {
      const image = new Image();
      image.src = href;
      return image.decode().then(() => image.naturalWidth);
    }))"""
    assert all(size > 0 for size in await page.evaluate(sizes))


WAITING = """() => [
  ...document.querySelectorAll("main button, main input, main textarea, #connection"),
  ...[...document.querySelectorAll("main p, main h3")].filter(({ innerText: words }) =>
    /Listening|No messages|Nothing yet|second window|try each/.test(words)),
].filter((element) => element.checkVisibility()).map((element) => element.outerHTML.slice(0, 80))"""


async def test_without_javascript_a_page_connects_for_ever(open_page: Open) -> None:
    """It said "Connecting…" and "Listening", above forms whose buttons never became active."""
    page = await open_page(java_script_enabled=False)
    for path in PATHS[:5]:
        await page.goto(path)
        assert await page.evaluate(WAITING) == []
        assert await page.locator("h1").is_visible()
        says = await page.locator("noscript p").is_visible()
        assert says or path == "/docs/", path


async def test_the_limit_of_jobs_is_shown_after_a_job_has_ended(
    page_service: Service, open_page: Open
) -> None:
    """No worker runs, so the jobs wait until the test says that one has ended."""
    page = await open_page("/jobs/")
    await page.wait_for_selector("#main[data-listening]")
    jobs = page.locator("#jobs > li[data-state=waiting]")
    for count in range(3):
        await page.click("#start")
        await jobs.nth(count).wait_for(timeout=60_000)
    await page.click("#start")
    error = page.locator("#start-error")
    await error.filter(has_text="You already have 3 unfinished jobs").wait_for(timeout=60_000)
    job = await jobs.first.get_attribute("data-job")
    ended = {"task": job, "state": "succeeded", "at": 2**33, "message": "10,000 rows imported"}
    await asyncio.to_thread(page_service.publish, "jobs:all", ended)
    await page.wait_for_selector(f"[data-job='{job}'][data-state=succeeded]")
    assert await error.inner_text() == ""


KEEP_TOASTS = """() => {
  window.toasts = [];
  new MutationObserver((changes) => {
    for (const { addedNodes } of changes)
      for (const node of addedNodes)
        if (node.matches(".toast"))
          toasts.push(node.querySelector(".notification-title").textContent);
  }).observe(document.getElementById("toasts"), { childList: true });
}"""


async def test_the_toast_of_a_burst_is_the_oldest(page_service: Service, open_page: Open) -> None:
    """Of an error among twenty routine events, the page showed "and 20 more in the list"."""
    page = await open_page()
    await page.wait_for_selector("#main[data-listening]")
    toasts = page.locator(".toast .notification-title")
    await page.evaluate(KEEP_TOASTS)

    async def publish(*notices: tuple[str, str]) -> None:
        commands = [
            {"publish": {"channel": "public:news", "data": {"title": title, "level": level}}}
            for title, level in notices
        ]
        reply = await asyncio.to_thread(page_service.post, "batch", {"commands": commands})
        assert reply.status_code == 200, reply.text

    for number in range(4):
        await publish((f"Routine {number}", "info"))
    await toasts.filter(has_text="Routine 3").wait_for(timeout=60_000)
    # All at once: on a busy machine one frame of the page may bring the whole burst.
    await publish(("Failure", "error"), *((f"Routine {number}", "info") for number in range(4, 8)))
    await eventually(lambda: page.evaluate("toasts.includes('Routine 7')"), 30)
    shown = await page.evaluate("toasts")
    assert shown[shown.index("Routine 3") :] == ["Routine 3", "Failure", "Routine 7"]
    await page.locator(".toast-more").wait_for(timeout=60_000)


async def test_times_have_several_zones_and_formats(
    page_service: Service, redis: RedisServer, open_page: Open
) -> None:
    """The board of orders was in UTC, and other times in the format of the browser's language."""
    zone = {"timezone_id": "Asia/Kolkata", "locale": "en-US"}  # five and a half hours from UTC
    page = await open_page(**zone)
    await page.wait_for_selector("#main[data-listening]")
    await asyncio.to_thread(page_service.publish, "public:news", {"title": "When?"})
    await page.locator(".notification").wait_for(timeout=60_000)
    times = await page.evaluate(TIMES)

    await page.goto("/chat/times/")
    await page.wait_for_selector("#main[data-listening]")
    await asyncio.to_thread(page_service.publish, "chat:times", {"text": "When?"})
    await page.locator(".message").wait_for(timeout=60_000)
    times += await page.evaluate(TIMES)

    await page.goto("/htmx/")
    await page.wait_for_selector("#main[data-listening]")
    await page.fill("#what", "A clock")
    await page.press("#what", "Enter")
    await page.locator(".happened", has_text="A clock").wait_for(timeout=60_000)
    await asyncio.to_thread(publish_while_cut, redis, "public:orders", 2)
    await page.locator("#happened .gap").first.wait_for(timeout=60_000)
    times += await page.evaluate(TIMES)

    assert len(times) >= 4
    for words, title, moment in times:
        local = datetime.fromisoformat(moment).astimezone(ZoneInfo("Asia/Kolkata"))
        assert title == f"{local:%Y-%m-%d %H:%M:%S}"
        assert words in ("just now", "10 s ago", f"{local:%H:%M:%S}")


TIMES = """[...document.querySelectorAll("time")].map(
  (time) => [time.innerText, time.title, time.dateTime.replace("Z", "+00:00")])"""
