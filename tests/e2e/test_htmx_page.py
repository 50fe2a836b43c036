"""The order board, built with HTMX, in Chromium; and its views."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.support.database import manage, migrate
from tests.support.losing import publish_while_cut
from tests.support.pages import SERVICE, Visitor, in_browser_loop, own_contexts
from tests.support.redis_server import RedisServer
from tests.support.service import Service

Serve = Callable[..., Service]
Browse = Callable[[Service], httpx.Client]
USERS = """
from django.contrib.auth.models import User
User.objects.create_user('ada', password='a password')
"""


@pytest.fixture
def database(tmp_path: Path) -> str:
    return migrate(f"sqlite:///{tmp_path}/db.sqlite3")


@pytest.fixture
def service(own_redis: RedisServer, serve: Serve, database: str) -> Service:
    return serve(own_redis.url, **{**SERVICE, "DATABASE_URL": database})


@pytest_asyncio.fixture(loop_scope="session")
async def visit(chromium: Browser) -> AsyncIterator[Callable[..., Any]]:
    async with own_contexts(chromium) as browser:
        visitors: list[Visitor] = []

        async def open_page(service: Service, **context: Any) -> Visitor:
            visitors.append(await Visitor.open(browser, service, "/htmx/", **context))
            return visitors[-1]

        yield open_page
        # HTMX's own messages about a broken stream or an unanswered request.
        noise = re.compile(
            r"^\[object Event\]$|^htmx:(sendError|afterRequest|responseError|sseError)"
        )
        for visitor in visitors:
            said = [text for text in visitor.complaints if not noise.match(text)]
            assert [text for text in said if "status of" not in text] == []


async def order(visitor: Visitor, what: str) -> None:
    await visitor.page.locator("#what").fill(what)
    await visitor.page.locator("#order-form button").click()


@pytest.mark.browser
@in_browser_loop
async def test_two_windows_show_the_same_board(service: Service, visit: Any) -> None:
    ada, ben = await visit(service), await visit(service, viewport={"width": 390, "height": 844})
    await ada.sees(".empty", "There are no orders")
    await order(ada, "A <b>red</b> & shiny bicycle")
    for visitor in (ada, ben):
        await visitor.sees(".order", "A <b>red</b> & shiny bicycle")
        await visitor.sees("#happened li", "Someone placed order 1")
    assert await ada.page.locator("#what").input_value() == ""
    await ben.page.locator("#next-1").click()
    for visitor in (ada, ben):
        await visitor.sees(".order[data-state=packed]")
        await visitor.sees("#happened li:first-child", "packed")
    await ada.page.locator("#next-1").click()
    await ben.sees(".order[data-state=shipped]")
    assert await ben.count(".order button") == 0
    await order(ben, "x" * 80)
    await ben.sees(".order", "x" * 80)
    assert await ben.page.evaluate("document.documentElement.scrollWidth") == 390
    assert await ben.count(".order b") == 0, "text is text"


@pytest.mark.browser
@in_browser_loop
async def test_a_gap_is_shown_and_the_board_is_refreshed(
    service: Service, own_redis: RedisServer, database: str, visit: Any
) -> None:
    ada = await visit(service)
    code = "from notifier.models import Order; Order.objects.create(what='Saved, but not told')"
    await asyncio.to_thread(manage, database, "shell", "-c", code)
    await asyncio.to_thread(publish_while_cut, own_redis, "public:orders", 3)
    await ada.sees("#happened .gap", "3 missed here; the board is up to date")
    await ada.sees(".order", "Saved, but not told")


@pytest.mark.browser
@in_browser_loop
async def test_a_missed_change_appears_in_the_list(
    service: Service, own_redis: RedisServer, database: str, visit: Any
) -> None:
    ada = await visit(service)
    await order(ada, "A bell")
    await ada.sees("#happened li", "Someone placed order 1: A bell")
    code = (
        "from notifier.models import Order, OrderChange; order = Order.objects.get();"
        "OrderChange.objects.create(order=order, state='packed', who='ben')"
    )
    await asyncio.to_thread(manage, database, "shell", "-c", code)
    await asyncio.to_thread(publish_while_cut, own_redis, "public:orders", 3)
    await ada.sees("#happened .happened", "ben packed order 1: A bell")
    assert await ada.count("#happened .happened") == 2, "each change is one line"


@pytest.mark.browser
@in_browser_loop
async def test_the_board_catches_up_after_a_service_outage(
    service: Service, database: str, visit: Any
) -> None:
    ada = await visit(service)
    await asyncio.to_thread(service.kill)
    await ada.sees("#connection[data-state=reconnecting]", "Reconnecting")
    await order(ada, "lost?")
    await ada.sees("#send-error", "did not respond")
    code = "from notifier.models import Order; Order.objects.create(what='Meanwhile')"
    await asyncio.to_thread(manage, database, "shell", "-c", code)
    await asyncio.to_thread(service.start)
    await ada.sees("#connection[data-state=live]", seconds=20)
    await ada.sees(".order", "Meanwhile")


@pytest.mark.browser
@in_browser_loop
async def test_without_the_service_the_board_has_no_banner(service: Service, visit: Any) -> None:
    ada = await visit(service)
    await asyncio.to_thread(service.kill)
    await ada.sees("#notice", "The server is unreachable. This page retries automatically")
    assert not await ada.page.is_visible("#retry-now"), "only the browser can retry"
    await asyncio.to_thread(service.start)
    await ada.sees("#connection[data-state=live]", seconds=20)
    assert not await ada.page.is_visible("#notice")


@pytest.mark.browser
@in_browser_loop
async def test_a_refused_stream_has_no_countdown_and_forgets_its_position(
    service: Service, visit: Any
) -> None:
    """After a 503, HTMX opens another stream, without the id of the last event."""
    ada = await visit(service)
    await order(ada, "A bell")
    await ada.sees("#happened li", "Someone placed order 1: A bell")
    refused = re.compile("/connection/sse")
    await ada.page.route(refused, lambda route: route.fulfill(status=503))
    await asyncio.to_thread(service.kill)
    await asyncio.to_thread(service.start)
    await ada.sees("#connection-text", "Reconnecting in")
    for _ in range(2):
        await asyncio.to_thread(service.publish, "public:orders", {}, event="order")
    await ada.page.unroute(refused)
    await ada.sees("#happened .gap", "2 missed here; the board is up to date", seconds=20)
    await ada.sees("#connection[data-state=live]")


@pytest.mark.browser
@in_browser_loop
async def test_without_redis_the_board_says_so_and_still_saves(
    service: Service, own_redis: RedisServer, visit: Any
) -> None:
    ada = await visit(service)
    await asyncio.to_thread(own_redis.kill)
    await ada.sees("#connection[data-state=not-live]", "Paused: Redis is unreachable")
    await order(ada, "A bell")
    await ada.sees("#order-problem", "Saved, but other pages were not notified")
    await asyncio.to_thread(own_redis.start)
    await ada.sees("#connection[data-state=live]")
    assert await ada.count("#order-problem") == 0, "that no longer holds"
    await order(ada, "Another bell")
    await ada.sees(".order", "A bell")
    await ada.sees(".order", "Another bell")


@pytest.mark.browser
@in_browser_loop
async def test_the_board_works_with_the_keyboard(service: Service, visit: Any) -> None:
    ada = await visit(service)
    await ada.page.locator("#what").focus()
    await ada.page.keyboard.type("By hand")
    await ada.page.keyboard.press("Enter")
    await ada.sees(".order", "By hand")
    await ada.page.locator("#next-1").focus()
    await ada.page.keyboard.press("Enter")
    await ada.sees(".order[data-state=packed]")
    assert await ada.page.evaluate("document.activeElement.id") == "next-1", "the focus stays"


@pytest.mark.browser
@in_browser_loop
async def test_a_button_works_as_soon_as_it_is_shown(service: Service, visit: Any) -> None:
    """By default, HTMX activates a new button after 20 ms; earlier clicks were ignored."""
    ada = await visit(service)
    await ada.page.evaluate(
        """document.body.addEventListener("htmx:afterSwap", ({ target }) => {
          const button = target.id === "orders" && document.getElementById("next-1");
          if (button && button.textContent === "Pack") setTimeout(() => button.click());
        })"""
    )
    await order(ada, "A bell")
    await ada.sees(".order[data-state=packed]")


@pytest.fixture
def client() -> Iterator[Callable[[Service], httpx.Client]]:
    """Return HTTP clients that use the page's token as a browser does."""
    opened: list[httpx.Client] = []

    def browse(service: Service) -> httpx.Client:
        opened.append(httpx.Client(base_url=service.http, timeout=60))
        page = opened[-1].get("/htmx/").text
        [opened[-1].headers["X-CSRFToken"]] = re.findall(r'"X-CSRFToken": "(\w+)"', page)
        return opened[-1]

    yield browse
    for http in opened:
        http.close()


def test_errors_are_shown_in_the_form(service: Service, client: Browse) -> None:
    http = client(service)
    for what in ("", "   ", "x" * 81, "a\x07b"):
        answer = http.post("/htmx/create", data={"what": what})
        assert answer.status_code == 422
        assert answer.headers["hx-retarget"] == "#order-form"
        assert "1 to 80 characters" in answer.text
    assert http.post("/htmx/1/next", data={"state": "new"}).status_code == 404
    assert http.get("/htmx/create").status_code == 405
    del http.headers["X-CSRFToken"]
    assert http.post("/htmx/create", data={"what": "forged"}).status_code == 403
    assert "There are no orders" in http.get("/htmx/orders").text
    assert http.get("/htmx/changes").status_code == 400
    for after in ("-1", "1e3", "9" * 19, "<b>", "٣x"):
        assert http.get("/htmx/changes", params={"after": after}).status_code == 400
    assert http.get("/htmx/changes?after=0").status_code == 204
    assert "1 missed" in http.get("/htmx/gap?missed=1").text
    assert "Some may be missing" in http.get("/htmx/gap?missed=<b>").text


def test_the_number_and_age_of_orders_are_bounded(
    service: Service, database: str, client: Browse
) -> None:
    http = client(service)
    codes = [http.post("/htmx/create", data={"what": f"no. {n}"}).status_code for n in range(21)]
    assert codes == [200] * 20 + [429]
    code = (
        "from notifier.models import Order; from django.utils import timezone;"
        "Order.objects.update(created_at=timezone.now().replace(year=2025))"
    )
    manage(database, "shell", "-c", code)
    for n in range(15):
        assert http.post("/htmx/create", data={"what": f"more {n}"}).status_code == 200
    page = http.get("/htmx/orders").text
    assert page.count('class="card order"') == 30


def test_the_board_may_create_markup_but_not_run_scripts(service: Service) -> None:
    """Trusted types forbid what HTMX does; the rest of the policy is that of the other pages."""
    others, own = [
        dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        for answer in (httpx.get(service.http), httpx.get(f"{service.http}/htmx/"))
    ]
    for name in ("require-trusted-types-for", "trusted-types"):
        del others[name]
    assert own == others
    assert own["script-src"] == "'self'"


def test_a_second_press_of_the_button_has_no_effect(service: Service, client: Browse) -> None:
    http = client(service)
    http.post("/htmx/create", data={"what": "one"})
    for _ in range(2):
        assert http.post("/htmx/1/next", data={"state": "new"}).status_code == 204
    assert 'data-state="packed"' in http.get("/htmx/orders").text


def test_only_users_may_order_in_production(
    own_redis: RedisServer, serve: Serve, database: str, client: Browse
) -> None:
    manage(database, "shell", "-c", USERS)
    given = {**SERVICE, "DATABASE_URL": database, "NOTIFIER_DEMO_KEY": "0"}
    http = client(serve(own_redis.url, **given))
    answer = http.post("/htmx/create", data={"what": "a"})
    assert (answer.status_code, "Log in" in answer.text) == (403, True)
    page = http.get("/login/").text
    [csrf] = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
    fields = {"username": "ada", "password": "a password", "csrfmiddlewaretoken": csrf}
    assert http.post("/login/", data=fields).status_code == 302
    [http.headers["X-CSRFToken"]] = re.findall(r'"X-CSRFToken": "(\w+)"', http.get("/htmx/").text)
    assert http.post("/htmx/create", data={"what": "a"}).status_code == 200
    assert "no. 1" in http.get("/htmx/orders").text.lower()
