"""The list of the page `/`, in a real Chromium: pause, filters, repeats, what is new, details."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.support.axe import violations
from tests.support.losing import publish_while_cut
from tests.support.pages import PHONE, SERVICE, Visitor, becomes_true, in_browser_loop, own_contexts
from tests.support.redis_server import RedisServer
from tests.support.service import Service

pytestmark = [pytest.mark.browser, in_browser_loop]
Open = Callable[..., Any]
CHANNEL = "public:news"
IS_FULL = "document.querySelectorAll('#notifications > li').length === 500"


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    server = RedisServer().start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def service(redis: RedisServer) -> Iterator[Service]:
    service = Service(redis.url, **SERVICE).start()
    yield service
    service.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def visit(chromium: Browser, service: Service) -> AsyncIterator[Open]:
    async with own_contexts(chromium) as browser:
        visitors: list[Visitor] = []

        async def open_page(**context: Any) -> Visitor:
            visitor = await Visitor.open(browser, service, "/", **context)
            visitors.append(visitor)
            await visitor.page.wait_for_selector("#main[data-listening]")
            return visitor

        yield open_page
        assert [visitor.complaints for visitor in visitors] == [[] for _ in visitors]


async def publish(service: Service, *titles: str, **data: Any) -> None:
    for title in titles:
        await asyncio.to_thread(service.publish, CHANNEL, {"title": title, **data})


async def publish_batch(service: Service, publications: list[dict[str, Any]]) -> None:
    for start in range(0, len(publications), 100):
        commands = [
            {"publish": {"channel": CHANNEL, "data": data}}
            for data in publications[start : start + 100]
        ]
        answer = await asyncio.to_thread(service.post, "batch", {"commands": commands})
        assert answer.status_code == 200, answer.text


async def titles(visitor: Visitor) -> list[str]:
    return await visitor.page.locator(
        ".notification:not([hidden]) .notification-title"
    ).all_inner_texts()


async def shows(visitor: Visitor, *expected: str) -> None:
    wanted = str(list(expected))
    await becomes_true(
        visitor.page,
        "JSON.stringify([...document.querySelectorAll('.notification:not([hidden]) "
        f".notification-title')].map((each) => each.textContent)) === JSON.stringify({wanted})",
    )


async def test_a_paused_list_counts_what_waits_and_then_shows_all_of_it(
    visit: Open, service: Service, redis: RedisServer
) -> None:
    visitor = await visit()
    await publish(service, "before")
    await shows(visitor, "before")
    await visitor.page.click("#pause")
    await publish(service, "one", "two", "two", "before")
    await visitor.sees("#pause", "Resume: 4 waiting")
    assert await titles(visitor) == ["before"]
    assert await visitor.page.get_attribute("#pause", "aria-pressed") == "true"
    await asyncio.to_thread(publish_while_cut, redis, CHANNEL, 2)
    await visitor.sees("#pause", "Resume: 5 waiting")
    await visitor.page.click("#pause")
    await shows(visitor, "before", "two", "one", "before")
    await visitor.sees(".gap", "2 missed")
    assert await visitor.text_of("#pause") == "Pause"


async def test_what_waits_is_bounded_and_said(visit: Open, service: Service) -> None:
    visitor = await visit()
    await publish(service, "first")
    await shows(visitor, "first")
    await visitor.page.click("#pause")
    await publish_batch(service, [{"title": f"number {number}"} for number in range(520)])
    await visitor.sees("#pause", "Resume: 500 waiting")
    await visitor.page.click("#pause")
    await visitor.sees("#let-go", "21 older ones were removed")
    await becomes_true(visitor.page, IS_FULL)
    assert await titles(visitor) == [f"number {number}" for number in range(519, 19, -1)]


async def test_a_list_that_is_paused_half_drawn_is_completed(visit: Open, service: Service) -> None:
    visitor = await visit()
    await visitor.page.evaluate(
        """() => new MutationObserver((_, observer) => {
          observer.disconnect();
          document.getElementById("pause").click();
        }).observe(document.getElementById("notifications"), { childList: true })"""
    )
    await publish_batch(service, [{"title": f"number {number}"} for number in range(100)])
    listed = "document.querySelectorAll('#notifications > li').length"
    waiting = "Number(document.querySelector('#pause').textContent.replace(/[^0-9]/g, ''))"
    await becomes_true(visitor.page, f"{listed} + {waiting} === 100")
    assert await visitor.page.get_attribute("#pause", "aria-pressed") == "true"


async def test_equal_events_in_a_row_are_one_entry_with_all_their_offsets(
    visit: Open, service: Service
) -> None:
    visitor = await visit()
    await publish(service, "again", "again", "again")
    await visitor.sees(".notification .repeats", "3 times")
    assert await visitor.count(".notification") == 1
    first, last = (await visitor.text_of(".channel-name")).rsplit(" ", 1)[1].split("–")
    assert int(last) - int(first) == 2
    await publish(service, "another", "again")
    await shows(visitor, "again", "another", "again")
    # Whether it is drawn in between or not.
    for _ in range(20):
        await publish(service, "fast", "fast", "slow")
    counted = "each => Number(each.dataset.times)"
    await becomes_true(
        visitor.page,
        f"[...document.querySelectorAll('.notification')].map({counted}).join()"
        f" === '{'1,2,' * 20}1,1,3'",
    )


async def test_filters_hide_all_but_what_was_asked_for_and_never_a_gap(
    visit: Open, service: Service, redis: RedisServer
) -> None:
    visitor = await visit()
    page = visitor.page
    await publish(service, "Disk full", level="error")
    await publish(service, "Backup done", level="info", text="14 files")
    await asyncio.to_thread(service.publish, CHANNEL, {"plain": "json"}, event="raw")
    await asyncio.to_thread(publish_while_cut, redis, CHANNEL, 1)
    await visitor.sees(".gap", "1 missed")
    await shows(visitor, "raw", "Backup done", "Disk full")
    await page.click("#filter-button")
    await page.check("#feed-filter [name=level][value=error]")
    await shows(visitor, "Disk full")
    assert await visitor.text_of("#filter-shown") == "1 of 3 shown"
    assert await page.is_visible(".gap")
    await publish(service, "Hidden at once", level="info")
    await becomes_true(page, "document.querySelectorAll('.notification').length === 4")
    assert await titles(visitor) == ["Disk full"]
    await page.click(".feed-filter [type=reset]")
    await page.fill("#filter-text", "14 FILES")
    await shows(visitor, "Backup done")
    await page.fill("#filter-text", "")
    await page.select_option("#filter-event", "raw")
    await shows(visitor, "raw")
    await page.click(".feed-filter [type=reset]")
    await shows(visitor, "Hidden at once", "raw", "Backup done", "Disk full")
    assert await visitor.text_of("#filter-shown") == ""


async def test_what_came_while_the_tab_was_hidden_is_marked(visit: Open, service: Service) -> None:
    visitor = await visit()
    page = visitor.page
    await publish(service, "seen")
    await shows(visitor, "seen")
    await set_hidden(visitor, True)
    await publish(service, "while away", "later")
    await becomes_true(page, "document.querySelectorAll('.notification').length === 3")
    await set_hidden(visitor, False)
    await visitor.sees(".since", "2 new since you left")
    order = await page.locator("#notifications > li").all_inner_texts()
    assert [line.split("\n")[0] for line in order] == [
        "later", "while away", "2 new since you left", "seen",
    ]  # fmt: skip
    await set_hidden(visitor, True)
    await set_hidden(visitor, False)
    assert await visitor.count(".since") == 0


async def set_hidden(visitor: Visitor, hidden: bool) -> None:
    state = "hidden" if hidden else "visible"
    await visitor.page.evaluate(
        f"""() => {{
          const define = (name, value) =>
            Object.defineProperty(document, name, {{ value, configurable: true }});
          define("hidden", {str(hidden).lower()});
          define("visibilityState", "{state}");
          document.dispatchEvent(new Event("visibilitychange"));
        }}"""
    )


async def test_the_way_back_to_the_newest_is_one_click(visit: Open, service: Service) -> None:
    visitor = await visit(viewport={"width": 1280, "height": 600})
    page = visitor.page
    await publish_batch(service, [{"title": f"number {n}", "text": "text"} for n in range(40)])
    await visitor.sees(".notification", "number 39")
    await page.locator(".notification", has_text="number 2").last.scroll_into_view_if_needed()
    await visitor.sees("#jump")
    await publish(service, "fresh")
    await visitor.sees("#jump", "1 new")
    await page.click("#jump")
    await becomes_true(page, "document.getElementById('jump').hidden")
    box = await page.locator(".notification", has_text="fresh").bounding_box()
    assert box is not None
    assert 0 <= box["y"] < 600


async def test_the_details_can_be_posted_again(visit: Open, service: Service) -> None:
    visitor = await visit()
    page = visitor.page
    data = {"title": "Order", "amount": 12}
    await asyncio.to_thread(
        service.publish, CHANNEL, data, event="order.paid", tags={"shop": "berlin"}
    )
    await page.click(".details-button")
    shown = await page.locator("#details-json").inner_text()
    for part in ('"order.paid"', '"amount": 12', '"shop": "berlin"'):
        assert part in shown
    await page.keyboard.press("Escape")
    assert await page.evaluate("document.activeElement.className") == "details-button"
    await page.keyboard.press("Enter")
    await page.click("#details-again")
    await visitor.sees(".repeats", "2 times")
    await visitor.sees("#post-result", "Received here")


async def test_two_thousand_events_a_second_hold_up_no_frame(visit: Open, service: Service) -> None:
    """The bound is generous: it is the work of one frame, whatever the machine."""
    visitor = await visit()
    await visitor.page.evaluate(
        """() => {
          window.drawn = [];
          const list = document.getElementById("notifications");
          new MutationObserver((records) => {
            drawn.push(records.reduce((sum, { addedNodes }) => sum + addedNodes.length, 0));
          }).observe(list, { childList: true });
        }"""
    )
    await publish_batch(service, [{"title": f"number {n}", "text": "text"} for n in range(2_000)])
    await visitor.sees(".notification", "number 1999")
    await becomes_true(visitor.page, IS_FULL)
    drawn = await visitor.page.evaluate("drawn")
    assert len(drawn) < 2_000, "not one drawing for each event"
    assert max(drawn) <= 40, "`python -m bench.pages` measured half a second for 500"
    assert await titles(visitor) == [f"number {number}" for number in range(1_999, 1_499, -1)]


@pytest.mark.node
@pytest.mark.parametrize(
    "context",
    [{}, {"color_scheme": "dark"}, {"forced_colors": "active"}, PHONE],
    ids=["light", "dark", "forced colors", "phone"],
)
async def test_a_full_list_keeps_nobody_from_using_it(
    visit: Open, service: Service, context: dict[str, Any]
) -> None:
    visitor = await visit(**context)
    for level in ("info", "success", "warning", "error"):
        await publish(service, f"A {level}", f"A {level}", level=level)
    await publish(service, "short", level="info")
    await visitor.sees(".notification", "short")
    await visitor.page.click("#filter-button")
    left_out = ("color-contrast",) if "forced_colors" in context else ()
    assert await violations(visitor.page, leave_out=left_out) == []
    assert await visitor.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await visitor.page.click(".details-button >> nth=0")
    assert await violations(visitor.page, "#details", leave_out=left_out) == []
