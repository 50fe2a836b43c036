"""The steps of the page `/`, in a real Chromium: each is ticked off when it has really happened."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser

from notifier.guardian import is_private, private_directory
from tests.support.axe import violations
from tests.support.database import migrate
from tests.support.eventually import eventually
from tests.support.pages import PHONE, SERVICE, Visitor, becomes_true, in_browser_loop, own_contexts
from tests.support.redis_server import RedisServer
from tests.support.service import Service

Open = Callable[..., Any]
REFUSALS = ("403", "503", "504")
"""What the browser itself writes to its console about answers of the API."""


@pytest.fixture(scope="module")
def own_redis() -> Iterator[str]:
    """The URL of a Valkey that looks like the private one of `make run`: it may be stopped."""
    server = RedisServer().start()
    folder = private_directory()
    link = folder / server.socket.name
    link.symlink_to(server.socket)
    yield f"unix://{link}"
    server.stop()
    link.unlink()
    folder.rmdir()


@pytest.fixture(scope="module")
def service(own_redis: str) -> Iterator[Service]:
    with tempfile.TemporaryDirectory() as folder:
        database = f"sqlite:///{folder}/db.sqlite3"
        migrate(database)
        service = Service(own_redis, **SERVICE, DATABASE_URL=database).start()
        yield service
        service.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def visit(chromium: Browser, service: Service) -> AsyncIterator[Open]:
    async with own_contexts(chromium) as browser:
        visitors: list[Visitor] = []

        async def open_page(path: str = "/", **context: Any) -> Visitor:
            visitors.append(await Visitor.open(browser, service, path, **context))
            return visitors[-1]

        yield open_page
        for visitor in visitors:
            others = [one for one in visitor.complaints if not any(c in one for c in REFUSALS)]
            assert others == []


def is_done(step: str) -> str:
    return f"document.getElementById('{step}').dataset.done !== undefined"


async def code_of(visitor: Visitor, tab: str) -> str:
    await visitor.page.click(f"#tab-{tab}")
    return await visitor.page.locator("#start-code").inner_text()


async def succeeds(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1)
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return out.decode()


@pytest.mark.browser
@in_browser_loop
async def test_the_command_and_the_program_publish_as_they_are(visit: Open) -> None:
    visitor = await visit()
    assert not await visitor.page.evaluate(is_done("step-post"))
    title = """It's <here> \\ "now\""""
    await visitor.page.fill("#post-title", title)
    assert '"offset"' in await succeeds("sh", "-c", await code_of(visitor, "curl"))
    await becomes_true(visitor.page, is_done("step-post"))
    assert "200" in await succeeds(sys.executable, "-c", await code_of(visitor, "python"))
    await eventually(lambda: two_of(visitor, title))


async def two_of(visitor: Visitor, title: str) -> bool:
    return await visitor.page.locator(".notification-title").all_inner_texts() == [title, title]


@pytest.mark.browser
@in_browser_loop
async def test_what_is_to_listen_does(visit: Open, service: Service) -> None:
    """The script of the tab JavaScript runs in a page of the site, as its caption says."""
    visitor, listener = await visit(), await visit("/chat/")
    tag = await code_of(visitor, "javascript")
    heard: list[str] = []
    listener.page.on("console", lambda message: heard.append(message.text))
    # Not as a tag: the policy of the service's own pages forbids scripts in them.
    script = tag.removeprefix('<script type="module">').removesuffix("</script>")
    imports = script.replace("import { connect } from ", "const { connect } = await import(", 1)
    await listener.page.evaluate(f"async () => {{ {imports.replace(';', ');', 1)} }}")

    async def hears() -> bool:
        await asyncio.to_thread(service.publish, "public:news", {"title": "To the script"})
        return any("title" in text for text in heard)

    await eventually(hears)


@pytest.mark.browser
@in_browser_loop
async def test_the_tabs_follow_the_form_and_the_keyboard_and_are_remembered(visit: Open) -> None:
    visitor = await visit()
    page = visitor.page
    await page.focus("#tab-curl")
    for key, chosen in (
        ("ArrowRight", "python"), ("End", "htmx"), ("ArrowRight", "curl"), ("ArrowLeft", "htmx"),
        ("ArrowLeft", "django"),
    ):  # fmt: skip
        await page.keyboard.press(key)
        assert await page.evaluate("document.activeElement.id") == f"tab-{chosen}"
        assert await page.locator("[role=tab][aria-selected=true]").count() == 1
        assert await page.get_attribute("#start-panel", "aria-labelledby") == f"tab-{chosen}"
    assert "X-API-Key" not in await page.locator("#start-code").inner_text()
    await page.fill("#post-event", "seats.changed")
    assert 'event="seats.changed"' in await page.locator("#start-code").inner_text()
    await page.reload()
    assert await page.get_attribute("#tab-django", "aria-selected") == "true"
    assert "sse:realtime.gap" in await code_of(visitor, "htmx")


@pytest.mark.browser
@in_browser_loop
async def test_the_second_window_is_noticed_by_both(visit: Open) -> None:
    one = await visit()
    await one.page.wait_for_selector("#main[data-listening]")
    assert not await one.page.evaluate(is_done("step-second"))
    two = await visit()
    for visitor in (one, two):
        await becomes_true(visitor.page, is_done("step-second"))
        assert "2 windows" in await visitor.text_of("#step-second .step-done")


@pytest.mark.browser
@in_browser_loop
async def test_redis_is_stopped_and_each_event_is_shown_or_reported_as_missed(visit: Open) -> None:
    visitor = await visit()
    page = visitor.page
    await page.wait_for_selector("#main[data-listening]")
    await page.click("#break")
    await page.wait_for_selector("#connection:not([data-state=live])", timeout=60_000)
    await page.wait_for_selector("#step-break[data-done]", timeout=120_000)
    outcomes = await page.evaluate(
        "[...document.querySelectorAll('.attempt')].map((each) => each.dataset.outcome)"
    )
    published, refused = outcomes.count("published"), outcomes.count("not-published")
    assert published + refused == len(outcomes) > 5
    assert f"{published} published, {refused} certainly not" in await visitor.text_of(
        "#break-result"
    )
    # The law of docs/semantics.md, read off the page: shown and missed are all, and disjoint.
    shown = set(await offsets(visitor, ".notification[data-event='demo.break']", "Number(offset)"))
    missed = {
        offset
        for first, last in await offsets(visitor, "#notifications .gap", "[+from, +to]")
        for offset in range(first, last + 1)
    }
    last = max(shown | missed)
    assert len(shown | missed) == published
    assert shown | missed == set(range(last - published + 1, last + 1))
    assert not shown & missed
    if missed:
        await page.click("#notifications .gap summary")
        assert "did not reach this page" in await visitor.text_of("#notifications .gap-why p")


async def offsets(visitor: Visitor, selector: str, expression: str) -> list[Any]:
    return await visitor.page.evaluate(
        f"[...document.querySelectorAll(`{selector}`)].map(({{dataset}}) => "
        f"{{ const {{offset, from, to}} = dataset; return {expression}; }})"
    )


@pytest.mark.browser
@in_browser_loop
async def test_what_became_of_an_event_is_shown_step_by_step(visit: Open) -> None:
    visitor = await visit()
    page = visitor.page
    await page.wait_for_selector("#main[data-listening]")
    await page.click("#post-submit")
    await visitor.sees("#post-result", "Received here")
    steps = await page.locator(".timeline-step").all_inner_texts()
    assert [step.split("\n")[0] for step in steps] == ["Posted", "Accepted", "Live here"]
    assert all("ms" in step for step in steps[1:])
    statuses = [403, 504]
    await page.route("**/api/publish", lambda route: route.fulfill(status=statuses.pop(0), json={}))
    await page.click("#post-submit")
    await visitor.sees(".timeline-step[data-outcome=not-published]", "Certainly not published")
    assert await visitor.count(".timeline-step") == 2
    await page.click("#post-submit")
    await visitor.sees(".timeline-step[data-outcome=unknown]", "Outcome unknown")
    await page.fill("#post-title", "Another")
    await page.unroute("**/api/publish")
    await page.click("#post-again")
    await visitor.sees(".timeline-step[data-outcome=published]", "Sent again")
    await visitor.sees("#post-result", "Received here")


@pytest.mark.browser
@in_browser_loop
async def test_hidden_steps_stay_hidden(visit: Open) -> None:
    visitor = await visit()
    await visitor.page.focus("#start-hide")
    await visitor.page.keyboard.press("Enter")
    assert await visitor.page.evaluate("document.activeElement.id") == "main"
    await visitor.page.reload()
    await visitor.page.wait_for_selector("#main[data-listening]")
    assert not await visitor.page.is_visible("#start")


@pytest.mark.node
@pytest.mark.browser
@in_browser_loop
@pytest.mark.parametrize(
    "context", [{}, {"color_scheme": "dark"}, PHONE], ids=["", "dark", "phone"]
)
async def test_a_gap_and_outcomes_keep_nobody_from_using_the_page(
    visit: Open, context: dict[str, Any]
) -> None:
    visitor = await visit(**context)
    page = visitor.page
    await page.wait_for_selector("#main[data-listening]")
    if context == PHONE:
        assert not await page.is_visible("#steps")
        await page.click("#start-fold")
        await page.click("#post-fold")
    await page.click("#break")
    await page.wait_for_selector(
        ".attempt[data-outcome=unknown], .attempt[data-outcome=not-published]"
    )
    await page.wait_for_selector("#step-break[data-done]", timeout=120_000)
    await page.click("#post-submit")
    await visitor.sees("#post-result", "Received here")
    assert await violations(page) == []
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_only_the_private_redis_can_be_stopped(
    service: Service, redis_server: RedisServer, serve: Callable[..., Service]
) -> None:
    other = serve(redis_server.url, **SERVICE)
    assert "Stop Redis" not in httpx.get(other.http).text
    assert post(other) == 404
    assert httpx.get(service.http + "/stop-redis").status_code == 405
    assert httpx.post(service.http + "/stop-redis").status_code == 403, "another site's form"


def test_redis_is_stopped_once_at_a_time(service: Service) -> None:
    assert (post(service), post(service)) == (200, 409)


def post(service: Service) -> int:
    with httpx.Client(base_url=service.http) as client:
        client.get("/login/")  # sets the cookie
        token = client.cookies["csrftoken"]
        return client.post("/stop-redis", headers={"X-CSRFToken": token}).status_code


def test_which_redis_is_private() -> None:
    folder = private_directory()
    assert is_private(f"unix://{folder}/valkey.sock")
    folder.rmdir()
    for url in (
        "redis://127.0.0.1:6379/0", "unix:///run/redis/redis.sock", "unix:///tmp/valkey.sock",
        f"redis://{folder}/valkey.sock", "memory://", "",
    ):  # fmt: skip
        assert not is_private(url)
