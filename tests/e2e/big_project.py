"""A project of some size with the app added, as docs/howto/existing-project.md says, to the letter.

It has to fetch RDMO and takes minutes, so it is no part of `make test`; `make foreign` runs it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from playwright.async_api import Browser, Page

from tests.support.client import Client
from tests.support.host import files_of
from tests.support.pages import becomes_true, in_browser_loop, own_contexts
from tests.support.rdmo import MANAGE, SUITE_SECONDS, Rdmo
from tests.support.service import ROOT
from tests.support.wheel import build_wheel

PAGE = (ROOT / "docs/howto/existing-project.md").read_text(encoding="utf-8")
PROJECT = "/projects/1/"
REQUESTS = [
    ("GET", "/", ""),
    ("GET", "/api/", ""),
    ("GET", "/api/v1/projects/projects/1/", ""),
    ("OPTIONS", "/api/v1/projects/projects/", ""),
    ("POST", "/api/v1/projects/projects/", "{" + 100_000 * " " + "}"),
    ("POST", "/api/publish", "{}"),
    ("GET", "/api/openapi.json", ""),
    ("GET", "/connection/sse?channel=public:news", ""),
    ("GET", "/livez", ""),
    ("GET", "/no/such/page", ""),
]
"""A host's own, among them addresses that only our service claims, and a body over its limits."""
STREAM = "/connection/sse"
JSON = {"Content-Type": "application/json"}
LARGE_SUITE = 1000  # fewer tests than this have not been collected as they should be
COMMANDS = (["check"], ["makemigrations", "--check", "--dry-run"], ["migrate", "--check"])
SERVER = (MANAGE, "runserver", "--noreload", "--insecure")
LISTEN = """
window.heard = [];
for (const name of ["subscribed", "publication", "error"]) {
  document.addEventListener(`realtime:${name}`, ({ detail }) => {
    window.heard.push(`${name} ${detail.channel}`);
  });
}
"""

pytestmark = pytest.mark.timeout(2 * SUITE_SECONDS)


class Before(NamedTuple):
    """What RDMO did alone."""

    outcomes: dict[str, str]
    said: list[str]
    answers: list[tuple[int, str]]


@pytest.fixture(scope="module")
def alone() -> Rdmo:
    return Rdmo()


@pytest.fixture(scope="module")
def before(alone: Rdmo, tmp_path_factory: pytest.TempPathFactory) -> Before:
    log = tmp_path_factory.mktemp("before") / "log"
    with alone.served(log, *SERVER, probe="/") as url:
        answers = answers_of(url)
    return Before(alone.outcomes(), said_by(alone), answers)


@pytest.fixture(scope="module")
def project(alone: Rdmo, before: Before, tmp_path_factory: pytest.TempPathFactory) -> Rdmo:
    """RDMO with the app."""
    alone.add_app(build_wheel(tmp_path_factory.mktemp("wheel")), files_of(PAGE))
    return alone


BY_THE_CLOCK = ("rdmo.accounts.tests.test_views::test_terms_of_use_accept_renews_outdated_consent",)
"""Tests of RDMO that fail while Berlin has another date than UTC, with the app and without it."""


@pytest.fixture(params=["debug", "production"])
def url(project: Rdmo, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Serve it; without DEBUG, RDMO adds its version to the addresses of static files."""
    served = with_debug(project, request.param == "debug")
    with served.served(tmp_path / "log", *SERVER) as url:
        yield url


def test_its_own_tests_pass_as_before(before: Before, project: Rdmo) -> None:
    assert len(before.outcomes) > LARGE_SUITE
    after = project.outcomes()
    for name in BY_THE_CLOCK:
        assert (before.outcomes.pop(name, ""), after.pop(name, "")).count("") in (0, 2), name
    assert after == before.outcomes


def test_its_checks_and_migrations_are_as_before(before: Before, project: Rdmo) -> None:
    assert said_by(project) == before.said


def test_its_own_addresses_answer_as_before(before: Before, url: str) -> None:
    """Those of its API begin with /api/, as those of our service do."""
    assert answers_of(url) == before.answers
    assert {status for status, _ in before.answers} >= {200, 302, 400, 404}, before.answers


def test_its_own_addresses_answer_as_before_behind_our_endpoint(
    before: Before, project: Rdmo, tmp_path: Path
) -> None:
    """With event streams, which it has mounted; it keeps all other addresses."""
    asgi = project.folder / "testing/config/asgi.py"
    text = asgi.read_text(encoding="utf-8")
    behind = text.replace("require_upgrade(django)", "HttpEndpoint(require_upgrade(django))")
    assert behind != text
    imported = "from realtime.endpoint import HttpEndpoint\n\napplication ="
    try:
        asgi.write_text(behind.replace("\napplication =", imported), encoding="utf-8")
        with with_debug(project, True).served(tmp_path / "log", *SERVER) as url:
            kept = [at for at, each in enumerate(REQUESTS) if not each[1].startswith(STREAM)]
            assert [answer_to(url, *REQUESTS[at]) for at in kept] == [
                before.answers[at] for at in kept
            ]
            with httpx.stream("GET", f"{url}{STREAM}?channel=public:news") as stream:
                assert stream.headers["content-type"].startswith("text/event-stream")
    finally:
        asgi.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("others", [("celery[redis]==5.5.*", "redis==5.2.1"), ("arq",)])
def test_a_project_with_another_client_of_redis_can_install_the_app(
    others: tuple[str, ...], tmp_path: Path
) -> None:
    """`redis>=8` excluded both. Without the pin, pip tries all kombus instead of another redis."""
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    done = subprocess.run(
        [*pip, str(build_wheel(tmp_path)), *others], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr


def with_debug(project: Rdmo, debug: bool) -> Rdmo:
    changed = copy(project)
    changed.env = project.env | {"DJANGO_DEBUG": str(debug)}
    return changed


def said_by(project: Rdmo) -> list[str]:
    """Return what commands say; without DEBUG, our check would warn about ``memory://``."""
    return [with_debug(project, True).run(MANAGE, *each) for each in COMMANDS]


def answers_of(url: str) -> list[tuple[int, str]]:
    return [answer_to(url, *request) for request in REQUESTS]


def answer_to(url: str, method: str, path: str, body: str) -> tuple[int, str]:
    """Return the status and the type of what a member of the project gets."""
    answer = httpx.request(
        method, url + path, auth=("owner", "owner"), content=body, headers=JSON, timeout=60
    )
    return answer.status_code, answer.headers.get("content-type", "")


@pytest.mark.browser
@in_browser_loop
async def test_a_task_that_a_colleague_closes_is_closed_on_the_open_page(
    url: str, chromium: Browser
) -> None:
    async with own_contexts(chromium) as browser:
        guest, owner = [await logged_in(browser, url, name) for name in ("guest", "owner")]
        errors: list[str] = []
        modules: list[str] = []
        guest.on("pageerror", lambda error: errors.append(str(error)))
        guest.on("request", lambda request: modules.append(request.url))
        await guest.add_init_script(LISTEN)
        await set_status(owner, url, "open")
        await guest.goto(url + PROJECT)
        await becomes_true(guest, "window.heard.includes('subscribed project:1')")
        await guest.locator("#project-issues td", has_text="open").wait_for()
        await set_status(owner, url, "closed")
        await guest.locator("#project-issues td", has_text="closed").wait_for(timeout=60_000)
        assert "publication project:1" in await guest.evaluate("window.heard")  # so no reload
        assert errors == []
        assert len([each for each in modules if "/realtime/client" in each]) == 1


async def logged_in(browser: Browser, url: str, name: str) -> Page:
    page = await (await browser.new_context()).new_page()
    await page.goto(f"{url}/account/login/")
    await page.fill("[name=login]", name)
    await page.fill("[name=password]", name)
    await page.get_by_role("button", name="Login").click()
    await page.wait_for_url(f"{url}/projects/")
    return page


async def set_status(page: Page, url: str, status: str) -> None:
    """Change the status of the project's task, with RDMO's own form."""
    await page.goto(f"{url}{PROJECT}issues/1/update/")
    await page.locator("[name=status]").select_option(status)
    await page.get_by_role("button", name="Update task").click()
    await page.wait_for_url(url + PROJECT)


async def test_only_those_who_may_see_a_project_may_listen_to_it(url: str) -> None:
    allowed = [await may_listen(url, name) for name in ("guest", "user", "")]
    assert allowed == [True, False, False]


async def may_listen(url: str, name: str) -> bool:
    async with httpx.AsyncClient(base_url=url) as session:
        if name:
            page = await session.get("/account/login/")
            [token] = re.findall(r'csrfmiddlewaretoken" value="(\w+)"', page.text)
            form = {"login": name, "password": name, "csrfmiddlewaretoken": token}
            await session.post("/account/login/", data=form)
        cookies = "; ".join(f"{key}={value}" for key, value in session.cookies.items())
    address = f"{url.replace('http', 'ws')}/connection/websocket"
    client = await Client.open(address, origin=url, additional_headers={"Cookie": cookies})
    try:
        return "subscribe" in await client.ask(subscribe={"channel": "project:1"})
    finally:
        await client.close()
