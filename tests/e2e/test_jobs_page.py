"""The page of background jobs in Chromium, with a real worker process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.support.celery_worker import CeleryWorker
from tests.support.command import Command
from tests.support.database import manage, migrate
from tests.support.eventually import eventually, eventually_sync
from tests.support.losing import publish_while_cut
from tests.support.pages import SERVICE, Visitor, in_browser_loop, own_contexts
from tests.support.receivers import MailServer, mail_server
from tests.support.redis_server import RedisServer
from tests.support.service import Service

pytestmark = [pytest.mark.browser, in_browser_loop]

Serve = Callable[..., Service]
USERS = """
from django.contrib.auth.models import User
User.objects.create_user("ada", email="ada@example.com", password="a password")
"""
ROW = "#jobs > li:first-child"


@pytest.fixture
def mails() -> Iterator[MailServer]:
    with mail_server() as server:
        yield server


@pytest.fixture
def env(tmp_path: Path, own_redis: RedisServer, mails: MailServer) -> dict[str, str]:
    url = migrate(f"sqlite:///{tmp_path}/db.sqlite3", then=USERS)
    given = {name: value for name, value in SERVICE.items() if name != "app"}
    return {
        **given,
        "DATABASE_URL": url,
        "REDIS_URL": own_redis.url,
        "EMAIL_URL": f"smtp://127.0.0.1:{mails.port}",
    }


@pytest.fixture
def worker(env: dict[str, str], tmp_path: Path) -> Iterator[CeleryWorker]:
    running = CeleryWorker(tmp_path / "worker.log", app="notifier.celery", **env)
    running.wait_until_ready()
    yield running
    running.kill()


@pytest.fixture
def service(own_redis: RedisServer, serve: Serve, env: dict[str, str]) -> Service:
    return serve(own_redis.url, app=SERVICE["app"], **env)


@pytest_asyncio.fixture(loop_scope="session")
async def visit(chromium: Browser) -> AsyncIterator[Callable[..., Any]]:
    async with own_contexts(chromium) as browser:
        visitors: list[Visitor] = []

        async def open_page(service: Service, path: str = "/jobs/", **context: Any) -> Visitor:
            visitors.append(await Visitor.open(browser, service, path, **context))
            return visitors[-1]

        yield open_page
        assert [visitor.complaints for visitor in visitors] == [[] for _ in visitors]


async def value_of(visitor: Visitor) -> float:
    """Return the value of the newest job's progress bar."""
    return float(await visitor.page.locator(f"{ROW} progress").evaluate("bar => bar.value"))


async def moves(visitor: Visitor) -> None:
    """Wait until the newest job's progress bar has moved twice."""
    seen: set[float] = set()

    async def has_moved() -> bool:
        seen.add(await value_of(visitor))
        return len(seen) >= 3

    await eventually(has_moved, seconds=15)


async def test_progress_moves_in_every_open_browser_until_the_end(
    service: Service, worker: CeleryWorker, visit: Callable[..., Any]
) -> None:
    one, two = await visit(service), await visit(service)
    await one.sees("#empty", "There are no jobs")
    await one.page.click("#start")
    await two.sees(f"{ROW}[data-state=progress]", "Running")
    await asyncio.gather(moves(one), moves(two))
    late = await visit(service)  # live is not replayed: it asks
    assert await value_of(late) > 0
    for visitor in (one, two, late):
        await visitor.sees(f"{ROW}[data-state=succeeded]", "10,000 rows imported", seconds=40)
    again = await visit(service)
    await again.sees(f"{ROW}[data-state=succeeded]", "10,000 rows imported")


async def test_a_job_can_be_cancelled(
    service: Service, worker: CeleryWorker, visit: Callable[..., Any], env: dict[str, str]
) -> None:
    page, other = await visit(service), await visit(service)
    await page.page.focus("#start")
    await page.page.keyboard.press("Enter")
    await moves(page)
    assert await page.page.evaluate("document.activeElement.id") == "start", "the focus stays"
    await page.page.click(f"{ROW} button")
    for visitor in (page, other):
        await visitor.sees(f"{ROW}[data-state=cancelled]", "Cancelled")
    assert await page.count(f"{ROW} progress:visible") == 0
    code = "from notifier.models import Payment; print(Payment.objects.count())"
    rows = await asyncio.to_thread(manage, env["DATABASE_URL"], "shell", "-c", code)
    assert rows.split()[-1] == "0", "a cancelled import left rows"


async def test_a_failed_job_says_what_to_do(
    service: Service, worker: CeleryWorker, visit: Callable[..., Any]
) -> None:
    page = await visit(service)
    await page.page.click("#start-broken")
    await page.sees(
        f"{ROW}[data-state=failed]", "Row 7,321: “12,5O” is not a valid amount", seconds=40
    )
    assert "Correct the row and start again." in await page.text_of(f"{ROW} .job-message")


async def test_the_state_is_refetched_after_a_reconnect(
    service: Service, worker: CeleryWorker, visit: Callable[..., Any]
) -> None:
    """The web server is down while the job continues and ends, so the page misses those states."""
    page = await visit(service)
    await page.page.click("#start")
    await moves(page)
    await asyncio.to_thread(service.stop)
    await page.sees("#connection[data-state=reconnecting]")
    await eventually(lambda: "succeeded" in worker.log, seconds=30)
    assert await page.count(f"{ROW}[data-state=progress]") == 1
    await asyncio.to_thread(service.start)
    await page.sees(f"{ROW}[data-state=succeeded]", "10,000 rows imported", seconds=30)


async def test_the_state_is_refetched_after_a_gap(
    own_redis: RedisServer, service: Service, visit: Callable[..., Any]
) -> None:
    page = await visit(service)
    async with page.page.expect_response("**/jobs/state"):
        await asyncio.to_thread(publish_while_cut, own_redis, "jobs:all", 3)


async def test_a_killed_worker_delays_its_job_without_losing_it(
    service: Service,
    worker: CeleryWorker,
    visit: Callable[..., Any],
) -> None:
    """When the pool's process is killed, the message is requeued and the job restarts."""
    page = await visit(service)
    await page.page.click("#start")
    await moves(page)
    worker.kill_pool()
    await page.sees(f"{ROW}", "attempt 2", seconds=20)
    await page.sees(f"{ROW}[data-state=succeeded]", "10,000 rows imported", seconds=40)


async def test_the_owner_gets_a_mail_when_no_page_is_open(
    service: Service, worker: CeleryWorker, visit: Callable[..., Any], mails: MailServer, env: Any
) -> None:
    fallbacks = Command("runfallback", **env)
    page = await visit(service, "/")
    await page.page.goto(f"{service.http}/login/?next=/jobs/")
    await page.page.fill("#username", "ada")
    await page.page.fill("#password", "a password")
    await page.page.click("main button[type=submit]")
    await page.sees("#main[data-listening]")
    await page.page.click("#start-broken")
    await page.sees(f"{ROW}[data-state=progress]")
    await page.page.goto("about:blank")
    [mail] = await asyncio.to_thread(eventually_sync, lambda: mails.mails.got, 40)
    assert (mail["To"], mail["Subject"]) == ("ada@example.com", "Your import has failed")
    assert "Row 7,321" in mail.get_content()
    fallbacks.stop()


async def test_the_number_of_concurrent_jobs_is_limited(
    service: Service, visit: Callable[..., Any]
) -> None:
    page = await visit(service)
    for count in range(1, 4):
        await page.page.click("#start")
        await eventually(lambda count=count: _has(page, count))
    await page.page.click("#start")
    await page.sees("#start-error", "You already have 3 unfinished jobs")
    page.complaints[:] = [said for said in page.complaints if "status of 409" not in said]
    await page.page.click(f"{ROW} button")  # no worker runs: it is only asked for
    await page.sees(f"{ROW} .job-word", "Cancelling")


async def _has(page: Visitor, count: int) -> bool:
    return await page.count("#jobs > li") == count
