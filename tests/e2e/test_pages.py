"""The pages in a real Chromium, with and without faults."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from realtime.core.partitions import partition_of
from tests.support.eventually import eventually
from tests.support.losing import publish_while_cut
from tests.support.pages import SERVICE, Visitor, becomes_true, in_browser_loop, own_contexts
from tests.support.redis_cluster import cluster_set
from tests.support.redis_server import RedisServer
from tests.support.sentinels import sentinel_set
from tests.support.service import SERVERS, Service

pytestmark = [pytest.mark.browser, in_browser_loop]

Serve = Callable[..., Service]
WATCH = """
const connection = document.getElementById("connection");
window.states = [connection.dataset.state];
new MutationObserver(() => {
  const now = connection.dataset.state;
  if (now !== window.states.at(-1)) window.states.push(now);
}).observe(connection, {attributeFilter: ["data-state"]});
"""
Open = Callable[..., Any]


@pytest_asyncio.fixture(loop_scope="session")
async def visit(chromium: Browser) -> AsyncIterator[Open]:
    """Open pages, each in a separate browser; none of them may log errors to its console."""
    async with own_contexts(chromium) as browser:
        visitors: list[Visitor] = []

        async def open_page(service: Service, path: str = "/", **context: Any) -> Visitor:
            visitors.append(await Visitor.open(browser, service, path, **context))
            return visitors[-1]

        yield open_page
        assert [visitor.complaints for visitor in visitors] == [[] for _ in visitors]


@pytest.fixture
def service(redis_server: RedisServer, serve: Serve) -> Service:
    return serve(redis_server.url, **SERVICE)


@pytest.mark.parametrize("server", SERVERS)
async def test_one_post_appears_in_two_browsers(
    redis_server: RedisServer, serve: Serve, visit: Open, server: str
) -> None:
    service = serve(redis_server.url, server, **SERVICE)
    one, two = await visit(service), await visit(service)
    assert "Live" in await one.text_of("#connection-text")
    await asyncio.to_thread(
        service.publish, "public:news", {"title": "Hello", "text": "to all", "level": "success"}
    )
    for visitor in (one, two):
        await visitor.sees(".notification[data-level=success] .notification-title", "Hello")
        await visitor.sees(".toast", "to all")
        assert await visitor.count("#notifications .notification") == 1


async def test_the_form_posts_like_curl(service: Service, visit: Open) -> None:
    one, two = await visit(service), await visit(service)
    await one.page.fill("#post-title", "From the form's <b>field</b>")
    await one.page.click("#post-submit")
    await one.sees("#post-result", "Received here after")
    await two.sees(".notification-title", "From the form's <b>field</b>")
    await one.page.click("#start-hide")  # its first step has the same command
    await one.page.click("#curl-details summary")
    curl = await one.page.locator("#curl").inner_text()
    process = await asyncio.create_subprocess_shell(curl, stdout=-1, stderr=-1)
    answer, _ = await process.communicate()
    assert json.loads(answer)["result"]["nodes"] == 1
    await two.sees("#notifications .notification .repeats", "2 times")


async def test_two_browsers_can_chat(service: Service, visit: Open) -> None:
    ada, bob = await visit(service, "/chat/tea/"), await visit(service, "/chat/tea/")
    elsewhere = await visit(service, "/chat/")
    await ada.sees("#not-stored", "Messages are not stored")
    await ada.page.fill("#composer-text", "Good morning")
    await ada.page.press("#composer-text", "Enter")
    await bob.sees(".message:not([data-own=true]) .message-text", "Good morning")
    await bob.sees(".message-author", await ada.text_of("#you"))
    await ada.sees(".message[data-own=true][data-status=sent]", "Good morning")
    await bob.page.fill("#composer-text", "one")
    await bob.page.press("#composer-text", "Shift+Enter")
    await bob.page.keyboard.type("two")
    await bob.page.press("#composer-text", "Enter")
    await ada.sees(".message[data-own=false] .message-text", "one\ntwo")
    assert await elsewhere.count(".message") == 0


async def test_the_chat_shows_members_and_who_is_typing(service: Service, visit: Open) -> None:
    ada = await visit(service, "/chat/here/")
    await ada.sees("#here-count", "1 here")
    bob = await visit(service, "/chat/here/")
    for visitor in (ada, bob):
        await visitor.sees("#here-count", "2 here")
        await visitor.sees(".person-name", await bob.text_of("#you"))
        await visitor.sees(".person-name", ", you")
    await bob.page.locator("#composer-text").press_sequentially("Well")
    await ada.sees("#typing", f"{await bob.text_of('#you')} is typing…")
    assert await bob.text_of("#typing") == ""
    await bob.page.press("#composer-text", "Enter")
    await ada.sees(".message-text", "Well")
    await eventually(lambda: empty(ada, "#typing"))
    await bob.page.context.close()
    await ada.sees("#here-count", "1 here")
    await eventually(lambda: is_count(ada, ".person", 1))
    assert await ada.count(".message") == 1, "typing is not a message"


async def empty(visitor: Visitor, selector: str) -> bool:
    return await visitor.text_of(selector) == ""


async def is_count(visitor: Visitor, selector: str, number: int) -> bool:
    return await visitor.count(selector) == number


async def test_a_cut_redis_connection_shows_the_exact_number_missed(
    own_redis: RedisServer, serve: Serve, visit: Open
) -> None:
    service = serve(own_redis.url, **SERVICE)
    visitor = await visit(service)
    sockets: list[Any] = []
    visitor.page.on("websocket", lambda socket: sockets.append(socket))
    await asyncio.to_thread(publish_while_cut, own_redis, "public:news", 3)
    await visitor.sees(".gap", "3 missed while Redis was unreachable")
    await visitor.sees("#connection[data-state=live]")
    await asyncio.to_thread(service.publish, "public:news", {"title": "Back again"})
    await visitor.sees(".notification-title", "Back again")
    assert sockets == [], "the page kept its connection"
    assert await visitor.count(".gap") == 1


async def test_a_redis_restart_shows_possible_and_known_losses(
    own_redis: RedisServer, serve: Serve, visit: Open
) -> None:
    from tests.faults.test_redis import Outside

    service = serve(own_redis.url, **SERVICE)
    visitor = await visit(service)
    sockets: list[Any] = []
    visitor.page.on("websocket", lambda socket: sockets.append(socket))
    await asyncio.to_thread(own_redis.kill)
    await visitor.sees("#connection-text", "Paused: Redis is unreachable")
    await visitor.page.click("#post-submit")
    await visitor.sees("#post-error", "Not published: Redis is unreachable")
    service.freeze()  # so that it cannot be back before these are published
    await asyncio.to_thread(own_redis.start)
    outside = Outside(own_redis)
    for n in range(2):
        outside.publish("public:news", {"title": f"lost {n}"})
    outside.close()
    service.thaw()
    await visitor.sees(".gap[data-missed='2']", "2 missed while Redis was unreachable")
    await visitor.sees(".gap:not([data-missed])", "Some may be missing while Redis was unreachable")
    await visitor.sees("#connection[data-state=live]")
    await asyncio.to_thread(service.publish, "public:news", {"title": "Live again"})
    await visitor.sees(".notification-title", "Live again")
    assert sockets == [], "the page kept its connection"
    assert await empty(visitor, "#post-error"), "that no longer holds"
    assert all("status of 503" in said for said in visitor.complaints)
    visitor.complaints.clear()


async def test_a_master_behind_sentinels_is_killed_while_a_page_is_open(
    serve: Serve, visit: Open
) -> None:
    with sentinel_set() as found:
        service = await asyncio.to_thread(serve, found.url, **SERVICE)
        news = await visit(service)
        assert "Live" in await news.text_of("#connection-text")
        sockets: list[Any] = []
        news.page.on("websocket", lambda socket: sockets.append(socket))
        await news.page.evaluate(WATCH)
        await asyncio.to_thread(service.publish, "public:news", {"title": "Before"})
        await news.sees(".notification-title", "Before")
        await asyncio.to_thread(found.master.kill)
        await becomes_true(news.page, "window.states.includes('not-live')", seconds=10)
        await becomes_true(news.page, "window.states.at(-1) === 'live'", seconds=20)
        await news.sees(
            ".gap:not([data-missed])", "Some may be missing while Redis was unreachable"
        )
        await asyncio.to_thread(service.publish, "public:news", {"title": "After"})
        await news.sees(".notification-title", "After")
        assert await news.page.evaluate("window.states") == ["live", "not-live", "live"]
        assert sockets == []


async def test_a_master_of_a_cluster_is_killed_while_pages_are_open(
    serve: Serve, visit: Open
) -> None:
    """The page on its channels tells it and goes on; the page on another channel notices nothing.

    Neither loses its connection.
    """
    with cluster_set(3, 3) as cluster:
        service = await asyncio.to_thread(serve, cluster.url, **SERVICE)
        master = await asyncio.to_thread(cluster.owner_of, partition_of("public:news").slot)
        assert master is not None
        slots = await asyncio.to_thread(cluster.slots_of, master)
        room = next(
            name
            for name in (f"room{number}" for number in range(100))
            if not {partition_of(f"{each}:{name}").slot for each in ("chat", "typing")} & {*slots}
        )
        news, chat = await visit(service), await visit(service, f"/chat/{room}/")
        sockets: list[Any] = []
        for visitor in (news, chat):
            assert "Live" in await visitor.text_of("#connection-text")
            await visitor.page.evaluate(WATCH)
            visitor.page.on("websocket", lambda socket: sockets.append(socket))
        first = await asyncio.to_thread(service.publish, "public:news", {"title": "Before"})
        await news.sees(".notification-title", "Before")
        await asyncio.to_thread(master.kill)
        await becomes_true(news.page, "window.states.includes('not-live')", seconds=10)
        await becomes_true(news.page, "window.states.at(-1) === 'live'", seconds=20)
        await news.sees(
            ".gap:not([data-missed])", "Some may be missing while Redis was unreachable"
        )
        second = await asyncio.to_thread(service.publish, "public:news", {"title": "After"})
        await news.sees(".notification-title", "After")
        assert first["epoch"] != second["epoch"]
        assert await news.page.evaluate("window.states") == ["live", "not-live", "live"]
        assert await chat.page.evaluate("window.states") == ["live"]
        assert sockets == []


async def test_the_page_reconnects_after_a_server_restart(
    redis_server: RedisServer, serve: Serve, visit: Open
) -> None:
    service = serve(redis_server.url, **SERVICE)
    visitor = await visit(service)
    await asyncio.to_thread(service.publish, "public:news", {"title": "Before"})
    await visitor.sees(".notification-title", "Before")
    await asyncio.to_thread(service.kill)
    await visitor.sees("#connection[data-state=reconnecting]")
    with_others = serve(redis_server.url)
    for n in range(2):
        await asyncio.to_thread(with_others.publish, "public:news", {"title": f"missed {n}"})
    await asyncio.to_thread(service.start)
    await visitor.sees("#connection[data-state=live]", seconds=30)
    await visitor.sees(".gap[data-missed='2']", "2 missed while disconnected")
    await asyncio.to_thread(service.publish, "public:news", {"title": "After"})
    await visitor.sees(".notification-title", "After")


@pytest.mark.parametrize(
    "text",
    [
        "<img src=x onerror=alert(1)>",
        "<script>alert(1)</script>",
        '"><svg/onload=alert(1)>',
        "javascript:alert(1)",
        "{{constructor.constructor('alert(1)')()}}",
        "\u202eevil\u0000\u2028<b>",
    ],
)
async def test_data_is_shown_as_text_and_never_becomes_markup(
    service: Service, visit: Open, text: str
) -> None:
    visitor, chatter = await visit(service), await visit(service, "/chat/xss/")
    dialogs: list[Any] = []
    for page in (visitor.page, chatter.page):
        page.on("dialog", lambda dialog: dialogs.append(dialog))
    for data in ({"title": text, "text": text}, text, {text: [text]}):
        await asyncio.to_thread(service.publish, "public:news", data)
    await asyncio.to_thread(service.publish, "chat:xss", {"name": text, "text": text, "id": text})
    await becomes_true(visitor.page, "document.querySelectorAll('.notification').length === 3")
    await chatter.sees(".message")
    for page in (visitor.page, chatter.page):
        found = "main img, main svg, main script, main b, .toasts img, .toasts svg, .toasts b"
        assert await page.locator(found).count() == 0
    assert dialogs == []


@pytest.mark.parametrize("path", ["/", "/chat/"])
@pytest.mark.parametrize("width", [360, 390, 1280])
async def test_long_content_never_scrolls_sideways(
    service: Service, visit: Open, path: str, width: int
) -> None:
    visitor = await visit(service, path, viewport={"width": width, "height": 800})
    word = "x" * 10_000
    await asyncio.to_thread(service.publish, "public:news", {"title": word, "text": word})
    await asyncio.to_thread(
        service.publish, "chat:lobby", {"name": "\U0001f9d1\u200d\U0001f680" * 100, "text": word}
    )
    await visitor.sees(".notification, .message")
    wide = await visitor.page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert wide <= 0


async def test_the_form_is_folded_on_a_phone_until_its_user_unfolds_it(
    service: Service, visit: Open
) -> None:
    phone = await visit(service, viewport={"width": 390, "height": 844})
    assert not await phone.page.is_visible("#post-form")
    await asyncio.to_thread(service.publish, "public:news", {"title": "Hello"})
    await phone.sees(".notification-title", "Hello")
    assert await is_in_the_window(phone, ".notification")
    await phone.page.click("#post-fold")
    await phone.page.click("#post-submit")
    await phone.sees("#post-result", "Received here after")
    assert await phone.page.is_visible("#post-form"), "a user of the form keeps it"
    await phone.page.click("#post-fold")
    assert not await phone.page.is_visible("#post-form")


async def test_the_page_moves_under_the_reader_when_an_event_arrives(
    service: Service, visit: Open
) -> None:
    """The form folded at the first event, which moved everything below it by half a screen."""
    phone = await visit(service, viewport={"width": 390, "height": 844})
    await phone.page.click("#post-fold")
    await phone.page.evaluate(
        """() => {
          window.shifts = [];
          new PerformanceObserver((list) => {
            window.shifts.push(...list.getEntries().map(({ value }) => value));
          }).observe({ type: "layout-shift" });
        }"""
    )
    before = await phone.page.locator("#post-submit").bounding_box()
    for number in range(3):
        data = {"title": f"Event {number}"}
        await asyncio.to_thread(service.publish, "public:news", data)
        await phone.sees("#notifications .notification-title", f"Event {number}")
    assert await phone.page.locator("#post-submit").bounding_box() == before
    assert sum(await phone.page.evaluate("shifts")) < 0.05


@pytest.mark.parametrize("height", [600, 720, 800, 1080])
async def test_toasts_cover_neither_the_newest_entry_nor_the_form(
    service: Service, visit: Open, height: int
) -> None:
    visitor = await visit(service, viewport={"width": 1280, "height": height})
    for n in range(4):
        data = {"title": f"Number {n}", "text": "It left the warehouse and arrives on Friday."}
        await asyncio.to_thread(service.publish, "public:news", data)
    await visitor.sees(".toast-more")
    await becomes_true(
        visitor.page, "document.querySelectorAll('#notifications .notification').length === 4"
    )
    toasts = await visitor.page.locator(".toasts").bounding_box()
    for selector in (".notification >> nth=0", ".notification >> nth=1", "#post-submit"):
        box = await visitor.page.locator(selector).bounding_box()
        assert not overlap(toasts, box), selector


def overlap(one: dict[str, float], two: dict[str, float]) -> bool:
    return all(
        one[start] < two[start] + two[size] and two[start] < one[start] + one[size]
        for start, size in (("x", "width"), ("y", "height"))
    )


async def is_in_the_window(visitor: Visitor, selector: str) -> bool:
    box = await visitor.page.locator(selector).first.bounding_box()
    height = await visitor.page.evaluate("innerHeight")
    return bool(box) and box["y"] >= 0 and box["y"] + box["height"] <= height


async def test_the_pages_work_with_the_keyboard(service: Service, visit: Open) -> None:
    visitor = await visit(service)
    await visitor.page.focus("#post-title")
    await visitor.page.keyboard.press("Enter")
    await visitor.sees(".toast")
    assert await visitor.page.evaluate("document.activeElement.id") == "post-title"
    await visitor.page.keyboard.press("Escape")
    await eventually(lambda: _is_gone(visitor, ".toast"))
    await visitor.sees(".notification")
    assert await visitor.count(".notification") == 1
    await visitor.page.focus("#post-submit")
    await visitor.page.keyboard.press("Enter")
    await visitor.sees(".notification .repeats", "2 times")
    assert await visitor.page.evaluate("document.activeElement.id") == "post-submit"


async def _is_gone(visitor: Visitor, selector: str) -> bool:
    return await visitor.count(selector) == 0
