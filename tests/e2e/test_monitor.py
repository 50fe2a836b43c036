"""The page /monitor/ of a service with two workers, in Chromium, for a member of the staff."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from realtime.brokers.queue_commands import QueueCommands
from tests.support.client import Client
from tests.support.database import migrate
from tests.support.pages import (
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

ATTACK = "<img src=x onerror=alert(1)>"
QUEUE = QueueCommands("rt").keys
WIDTHS = (390, 768, 1440)
Look = Callable[..., Awaitable[Page]]


@pytest.fixture(scope="module")
def service(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    url = migrate(f"sqlite:///{tmp_path_factory.mktemp('monitor')}/db.sqlite3", then=USERS)
    env = {"DATABASE_URL": url, "HTTPS": "0", "WEB_CONCURRENCY": "2"}
    service = Service(redis.url, DEPLOYED, **env).start()
    yield service
    log = service.log
    service.stop()
    assert "Traceback" not in log


@pytest_asyncio.fixture(loop_scope="session")
async def look(service: Service, chromium: Browser) -> AsyncIterator[Look]:
    """Open the page; no page may write errors to its console."""
    complaints: list[str] = []
    async with own_contexts(chromium) as browser:
        pages = Pages(browser, service)

        async def open_page(path: str = "/monitor/", **context: Any) -> Page:
            page = await pages.open(path, user="ada", **context)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda said: _complain(said, complaints))
            if context.get("java_script_enabled", True):
                await page.wait_for_selector("#main[data-listening]")
            return page

        yield open_page
        assert complaints == []


def _complain(said: Any, complaints: list[str]) -> None:
    # The network errors are those of workers that were frozen.
    if said.type == "error" and "net::ERR" not in said.text:
        complaints.append(said.text)


async def sees(page: Page, selector: str, text: str, *, seconds: float = 10) -> None:
    found = page.locator(selector).filter(has_text=text)
    await found.first.wait_for(timeout=PATIENCE * seconds * 1000)


async def test_every_node_is_shown_with_its_numbers(service: Service, look: Look) -> None:
    page = await look()
    await sees(page, "#empty", "Nothing has been published yet")
    await page.evaluate("window.kept = document.querySelector('#nodes dd')")
    client = await Client.open(service.ws)
    await client.subscribe("public:news")
    for number in range(5):
        await asyncio.to_thread(service.publish, "public:news", number)
    await sees(page, "#problems", "All nodes are live.")
    await sees(page, "#sums", "2 of 2")
    assert await page.locator("#nodes > li[data-level=success]").count() == 2
    for pid in service.worker_pids:
        await sees(page, "#nodes .node-name", f"_{pid}")
    await sees(page, "#servers .node-facts", "Valkey ")
    await sees(page, "#servers dd", "noeviction")
    await sees(page, "#changes li", "Live")
    # A rate is that of five seconds.
    most = "document.querySelector('[data-plot=delivered] .plot-range').textContent"
    await becomes_true(page, f"Number({most}.replace('most: ', '')) > 0")
    assert await page.locator("#empty").is_hidden()
    await becomes_true(page, "/Delivery time, p50[\\d.]+.(ms|s)/.test(sums.textContent)")
    await client.close()
    assert await page.evaluate("window.kept.isConnected"), "a screen reader keeps its place"


async def test_each_picture_is_a_table_for_screen_readers(look: Look) -> None:
    page = await look()
    plots = page.locator("figure.plot")
    assert await plots.count() == 5
    session = await page.context.new_cdp_session(page)
    nodes: list[dict[str, Any]] = (await session.send("Accessibility.getFullAXTree"))["nodes"]
    roles = [node["role"]["value"] for node in nodes if not node["ignored"]]
    captions = await page.locator("figure.plot caption").all_inner_texts()
    assert roles.count("table") == 5 + 1  # and that of the reasons of losses
    assert roles.count("figure") == 5
    assert "SvgRoot" not in roles
    assert all(caption.endswith(", the last 15 minutes") for caption in captions)
    await becomes_true(
        page, "[...document.querySelectorAll('.plot tbody')].every((b) => b.rows.length)"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
async def test_the_page_fits_every_screen(look: Look, width: int, scheme: str) -> None:
    size = {"width": width, "height": 900}
    page = await look(viewport=size, color_scheme=scheme, reduced_motion="reduce")
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert await page.evaluate(wide) <= 0
    assert await page.evaluate("document.getAnimations().length") == 0
    small = """[...document.querySelectorAll("main button")].filter((button) =>
      button.checkVisibility() && button.offsetHeight < 44).length"""
    assert await page.evaluate(small) == 0
    edges = [await page.locator(each).bounding_box() for each in ("h1", ".brand .icon")]
    assert edges[0]
    assert edges[1]
    assert edges[0]["x"] == edges[1]["x"]


async def test_forced_colors_keep_the_lines_and_the_states(look: Look) -> None:
    page = await look(forced_colors="active")
    await page.wait_for_selector(".plot-line[d*=L]", state="attached", timeout=60_000)
    color = "(one) => getComputedStyle(one).stroke"
    line = await page.locator(".plot-line").first.evaluate(color)
    ground = await page.locator(".plot-ground").first.evaluate(color)
    back = "(one) => getComputedStyle(one).backgroundColor"
    assert len({line, ground, await page.locator(".plot").first.evaluate(back)}) == 3
    mask = "(one) => getComputedStyle(one).maskImage"
    assert "success" in await page.locator("#nodes .node-state .icon").first.evaluate(mask)


async def test_without_javascript_the_page_says_that_it_needs_it(look: Look) -> None:
    page = await look(java_script_enabled=False)
    assert await page.locator("noscript p").is_visible()
    assert await page.locator("main h2").filter(visible=True).count() == 0


async def test_a_frozen_node_leaves_the_others_on_the_page(service: Service, look: Look) -> None:
    page = await look()
    await sees(page, "#sums", "2 of 2")
    frozen = service.worker_pids[0]
    os.kill(frozen, signal.SIGSTOP)
    try:
        await sees(page, "#problems", "1 node does not answer", seconds=20)
        await sees(page, "#sums", "1 of 1")
        assert await page.locator("#nodes > li").count() == 1
        assert await page.locator("#nodes > li").filter(has_text=f"_{frozen}").count() == 0
    finally:
        os.kill(frozen, signal.SIGCONT)
    await sees(page, "#sums", "2 of 2", seconds=20)
    await sees(page, "#problems", "All nodes are live.")


async def test_without_redis_the_sums_are_those_of_the_launcher(
    own_redis: RedisServer, chromium: Browser, tmp_path: Path, serve: Callable[..., Service]
) -> None:
    url = migrate(f"sqlite:///{tmp_path}/db.sqlite3", then=USERS)
    env = {"DATABASE_URL": url, "HTTPS": "0", "WEB_CONCURRENCY": "2"}
    service = await asyncio.to_thread(serve, own_redis.url, DEPLOYED, **env)
    async with own_contexts(chromium) as browser:
        page = await Pages(browser, service).open("/monitor/", user="ada")
        await sees(page, "#sums", "2 of 2")
        await asyncio.to_thread(own_redis.kill)
        await sees(page, "#problems", "so the others cannot be asked", seconds=20)
        await sees(page, "#problems", "those of the 2 workers of this launcher")
        await sees(page, "#sums", "0 of 2")
        await sees(page, "#servers", "Redis does not answer.")
        await sees(page, "#queue", "Redis does not answer.")
        await sees(page, "#changes > li[data-level=error]", "does not receive from Redis")
        await asyncio.to_thread(own_redis.start)
        await sees(page, "#sums", "2 of 2", seconds=20)


# --- the fallback queue ---


def letter(number: int, **more: Any) -> bytes:
    said = {
        "epoch": "e", "offset": number, "at": 1, "channel": "orders:all", "fallback": "log",
        "data": {"n": "private"}, "reason": f"refusal {number}", "failed_at": 2, **more,
    }  # fmt: skip
    return b"5 " + json.dumps(said).encode()


@pytest.fixture
def dead(redis: RedisServer) -> Iterator[Callable[..., None]]:
    """Add dead letters to the queue, which ends empty."""
    client = redis.client()

    def add(*letters: bytes) -> None:
        client.rpush(QUEUE.dead, *letters)

    yield add
    client.delete(QUEUE.dead, QUEUE.waiting)
    client.close()


async def test_a_dead_entry_is_queued_again_after_a_confirmation(
    service: Service, redis: RedisServer, look: Look, dead: Callable[..., None]
) -> None:
    dead(letter(1), letter(2))
    page = await look()
    await sees(page, "#letters li", "refusal 1")
    assert "private" not in await page.inner_text("main")
    row = page.locator("#letters li").filter(has_text="refusal 1")
    await row.get_by_role("button", name="Retry").click()
    await page.get_by_role("button", name="Cancel").click()
    dead(letter(9))
    await sees(page, "#letters li", "refusal 9")
    assert await page.evaluate("document.activeElement.textContent") == "Retry"
    await row.get_by_role("button", name="Retry").click()
    await sees(page, "#confirm-words", "Queue this dead entry again?")
    await page.click("#confirm-yes")
    await sees(page, "#dead-result", "1 entry was queued again.")
    await page.locator("#letters li").filter(has_text="refusal 1").wait_for(state="detached")
    await sees(page, "#letters li", "refusal 2")
    with redis.client() as client:
        assert [client.llen(each) for each in (QUEUE.waiting, QUEUE.dead)] == [1, 2]
    assert "user ada retried dead entries of the fallback queue: 1" in service.log


async def test_all_dead_entries_are_purged_with_the_keyboard(
    service: Service, redis: RedisServer, look: Look, dead: Callable[..., None]
) -> None:
    dead(letter(3), letter(4, channel=ATTACK, reason=ATTACK), ATTACK.encode())
    page = await look()
    await sees(page, "#letters li", ATTACK)
    await sees(page, "#letters li", "This entry is unreadable.")
    assert await page.locator("main img").count() == 0
    await page.focus("#purge-all")
    await page.keyboard.press("Enter")
    await sees(page, "#confirm-words", "Delete these 3 dead entries permanently?")
    await page.focus("#confirm-yes")
    await page.keyboard.press("Enter")
    await sees(page, "#dead-result", "3 entries were deleted.")
    await page.locator("#dead").wait_for(state="hidden")
    assert await page.evaluate("document.activeElement.id") == "queue-heading"
    with redis.client() as client:
        assert client.llen(QUEUE.dead) == 0
    assert "user ada purged dead entries of the fallback queue: 3" in service.log
