"""Web push: from a publication that nobody hears to a browser, through a push service."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from realtime.identity.web_push import public_text, read_private_key
from tests.support.eventually import eventually, eventually_sync
from tests.support.pages import in_browser_loop, own_contexts
from tests.support.push_service import PushBrowser, PushService, push_service
from tests.support.redis_server import RedisServer
from tests.support.service import ROOT, Service
from tests.webpush_settings import REALTIME_WEBPUSH_PRIVATE_KEY

BROWSERS = 20
"""Subscriptions of one user."""


class Site:
    """The site of `tests.webpush_site`, with its own Redis, and a fallback worker."""

    def __init__(self, redis: RedisServer, folder: Path, **variables: str) -> None:
        self._variables = {
            "DJANGO_SETTINGS_MODULE": "tests.webpush_settings",
            "TEST_DATABASE": str(folder / "site.sqlite3"),
            **variables,
        }
        self._env = {**os.environ, **self._variables, "TEST_REDIS_URL": redis.url}
        self._log = folder / "worker.log"
        self._users: list[User] = []
        self.run("migrate", "--verbosity", "0")
        self.service = Service(
            redis.url, app="tests.asgi_static:application", **self._variables
        ).start()
        with self._log.open("wb") as log:
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "django", "runfallback"],
                cwd=ROOT, env=self._env, stdout=log, stderr=log,
            )  # fmt: skip

    def stop(self) -> None:
        for user in self._users:
            user.http.close()
        self.service.stop()
        self._worker.terminate()
        assert self._worker.wait(60) == 0, self.log

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "django", *arguments],
            cwd=ROOT, env=self._env, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def user(self, name: str) -> User:
        self._users.append(User(self.service.http, name))
        return self._users[-1]

    def publish(self, user: User, data: Any, **options: Any) -> None:
        receipt = self.service.publish(
            f"user:#{user.id}", data, fallback="webpush", fallback_options=options
        )
        assert receipt["queued"]

    def dead(self) -> list[str]:
        """The reasons of dead entries."""
        return [line for line in self.run("fallback", "list").splitlines() if line]


class User:
    """A user with a browser of httpx."""

    def __init__(self, base: str, name: str) -> None:
        self.http = httpx.Client(base_url=base, timeout=60)
        self.id = self.http.get(f"/log-in/{name}/").text

    def post(self, path: str, body: Any) -> httpx.Response:
        csrf = self.http.get("/webpush/config/").json()["csrf"]
        return self.http.post(f"/webpush/{path}/", json=body, headers={"X-CSRFToken": csrf})

    def subscribe(self, subscription: dict[str, Any]) -> None:
        assert self.post("subscribe", subscription).status_code == 201


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    server = RedisServer().start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def site(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(redis, tmp_path_factory.mktemp("webpush"))
    yield made
    made.stop()


@pytest.fixture
def push() -> Iterator[PushService]:
    with push_service() as service:
        yield service


def test_what_nobody_hears_is_shown_by_all_browsers_of_the_user(
    site: Site, push: PushService
) -> None:
    ada, ben = site.user("ada"), site.user("ben")
    ada.subscribe(push.add("phone"))
    ada.subscribe(push.add("desk"))
    ben.subscribe(push.add("other"))
    data = {"title": "Shipped", "text": "Order 7 – é", "url": "/orders/7/"}
    site.publish(ada, data, ttl=60, urgency="high", topic="orders")
    for name in ("phone", "desk"):
        browser = push.wait_for(name)
        [message], [headers] = browser.messages, browser.headers
        tag = message.pop("tag")
        assert message == {"title": "Shipped", "body": "Order 7 – é", "url": "/orders/7/"}
        assert tag
        wanted = (headers["ttl"], headers["urgency"], headers["topic"])
        assert wanted == ("60", "high", "orders")
    key = read_private_key(REALTIME_WEBPUSH_PRIVATE_KEY)
    assert key is not None
    assert push.senders == {public_text(key)}
    assert ada.http.get("/webpush/config/").json()["key"] == public_text(key)
    assert push.browsers["/other"].headers == []


@pytest.mark.parametrize("status", [404, 410])
def test_a_subscription_that_has_ended_is_deleted_and_stops_no_other(
    site: Site, push: PushService, status: int
) -> None:
    user = site.user(f"ended-{status}")
    for name in ("ended", "works"):
        user.subscribe(push.add(name))
    push.browsers["/ended"].status = status
    site.publish(user, "first")
    assert push.wait_for("works").messages[0]["body"] == "first"
    site.publish(user, "second")
    push.wait_for("works", 2)
    assert len(push.browsers["/ended"].headers) == 1


def test_a_push_service_that_fails_is_asked_again_and_the_others_are_not(
    site: Site, push: PushService
) -> None:
    user = site.user("retry")
    for name in ("fails", "works"):
        user.subscribe(push.add(name))
    push.browsers["/fails"].status = 503
    site.publish(user, "hello")
    browser = push.wait_for("fails")
    browser.status = 201
    push.wait_for("fails", 2)
    assert [each["body"] for each in browser.messages] == ["hello"]
    assert len(push.browsers["/works"].headers) == 1


def test_a_message_that_is_refused_is_a_dead_letter_with_its_reason(
    site: Site, push: PushService
) -> None:
    user = site.user("refused")
    user.subscribe(push.add("refuses"))
    push.browsers["/refuses"].status = 413
    site.publish(user, "hello")
    eventually_sync(lambda: any("127.0.0.1 answered 413" in each for each in site.dead()))


def test_a_user_without_a_browser_is_a_dead_letter_with_its_reason(site: Site) -> None:
    site.publish(site.user("nobody"), "hello")
    eventually_sync(lambda: any("in no browser" in each for each in site.dead()))


def test_a_browser_is_of_the_user_who_is_logged_in_last(site: Site, push: PushService) -> None:
    first, second = site.user("first"), site.user("second")
    subscription = push.add("shared")
    first.subscribe(subscription)
    second.subscribe(subscription)
    assert first.post("unsubscribe", subscription).status_code == 200
    site.publish(second, "for the second")
    assert push.wait_for("shared").messages[0]["body"] == "for the second"
    assert second.post("unsubscribe", subscription).status_code == 200
    site.publish(second, "for nobody")
    eventually_sync(lambda: sum("in no browser" in each for each in site.dead()) >= 1)
    assert len(push.browsers["/shared"].headers) == 1


def test_a_user_has_a_bounded_number_of_browsers(site: Site, push: PushService) -> None:
    user = site.user("many")
    for number in range(BROWSERS + 1):
        user.subscribe(push.add(f"b{number}"))
    site.publish(user, "hello")
    push.wait_for(f"b{BROWSERS}")
    assert push.browsers["/b0"].headers == [], "the oldest one was replaced"


WRONG = {
    "no JSON": b"x",
    "not an object": b"[]",
    "too long": b'{"endpoint": "' + b"a" * 9_000 + b'"}',
    "nested": b"[" * 4_000,
    "no keys": b'{"endpoint": "https://push.example.com/a"}',
}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG)
def test_a_body_that_makes_no_sense_is_refused(site: Site, body: bytes) -> None:
    user = site.user("wrong")
    csrf = user.http.get("/webpush/config/").json()["csrf"]
    for path in ("subscribe", "unsubscribe"):
        answer = user.http.post(f"/webpush/{path}/", content=body, headers={"X-CSRFToken": csrf})
        is_fine = path == "unsubscribe" and b"example.com" in body
        assert answer.status_code == (200 if is_fine else 400)


@pytest.mark.parametrize(
    "change",
    [
        {"endpoint": "ftp://push.example.com/a"},
        {"endpoint": "https://user@push.example.com/a"},
        {"endpoint": "https://push.example.com/" + "a" * 2_100},
        {"endpoint": "https://push.example.com/a\r\nX: 1"},
        {"endpoint": None},
        {"keys": []},
        {"keys": {"p256dh": 1, "auth": 2}},
        {"keys": {"p256dh": "AAAA", "auth": "AAAA"}},
    ],
    ids=str,
)
def test_a_subscription_that_cannot_be_used_is_refused(site: Site, change: dict[str, Any]) -> None:
    subscription = PushBrowser().subscription("https://push.example.com/a")
    assert site.user("wrong").post("subscribe", subscription | change).status_code == 400


def test_guests_and_other_sites_cannot_subscribe(site: Site, push: PushService) -> None:
    subscription = push.add("guest")
    with httpx.Client(base_url=site.service.http) as guest:
        assert guest.get("/webpush/config/").status_code == 401
        assert guest.post("/webpush/subscribe/", json=subscription).status_code in (401, 403)
    user = site.user("victim")
    answer = user.http.post("/webpush/subscribe/", json=subscription)
    assert answer.status_code == 403, "another site does not know the CSRF token"


def test_the_service_worker_may_control_all_pages(site: Site) -> None:
    answer = httpx.get(f"{site.service.http}/webpush/worker.js")
    assert answer.headers["Service-Worker-Allowed"] == "/"
    assert answer.headers["Content-Type"].startswith("text/javascript")
    assert "showNotification" in answer.text


def test_endpoints_in_private_networks_are_not_contacted(
    redis: RedisServer, tmp_path: Path, push: PushService
) -> None:
    """Anyone who may log in could otherwise make the worker contact our neighbours (CWE-918)."""
    site = Site(redis, tmp_path, TEST_PUBLIC_ONLY="1", TEST_REDIS_PREFIX="webpush-private")
    try:
        user = site.user("attacker")
        assert user.post("subscribe", push.add("inside")).status_code == 400, "http:"
        inside = PushBrowser().subscription("https://localhost:1/inside")
        user.subscribe(inside)
        site.publish(user, "hello")
        eventually_sync(lambda: any("private network" in each for each in site.dead()))
    finally:
        site.stop()
    assert push.browsers["/inside"].headers == []


def test_a_user_without_a_browser_gets_the_other_fallback(
    redis: RedisServer, tmp_path: Path, push: PushService
) -> None:
    mails = tmp_path / "mails"
    variables = {"TEST_OTHERWISE": "email", "TEST_MAILS": str(mails)}
    site = Site(redis, tmp_path, TEST_REDIS_PREFIX="webpush-otherwise", **variables)

    def mailed(text: str) -> bool:
        return any(text in path.read_text(encoding="utf-8") for path in mails.glob("*.log"))

    try:
        user, other = site.user("ada"), site.user("ben")
        user.subscribe(push.add("phone"))
        site.publish(user, "on the phone")
        push.wait_for("phone")
        site.publish(other, "by mail")
        eventually_sync(lambda: mailed("by mail"))
        push.browsers["/phone"].status = 410
        site.publish(user, "the phone has gone")
        eventually_sync(lambda: mailed("the phone has gone"))
        assert not mailed("on the phone")
    finally:
        site.stop()


def test_the_command_makes_keys_that_can_be_used(site: Site) -> None:
    first = site.run("webpush_keys").splitlines()[0]
    text = first.split('"')[1]
    assert first == f'REALTIME_WEBPUSH_PRIVATE_KEY = "{text}"  # keep it secret'
    assert read_private_key(text) is not None
    assert text not in site.run("webpush_keys")


RECORD = """() => {
    self.shown = [];
    self.opened = [];
    registration.showNotification = async (title, options) => void shown.push([title, options]);
    clients.openWindow = async (url) => void opened.push(url);
}"""
"""What the headless shell cannot do: it has no notifications and denies them."""
CLICK = """async (url) => {
    const event = new ExtendableEvent("notificationclick");
    let closed = 0;
    Object.assign(event, { notification: { close: () => (closed += 1), data: { url } } });
    const done = [];
    event.waitUntil = (promise) => done.push(promise);
    dispatchEvent(event);
    await Promise.all(done);
    return [closed, opened.at(-1)];
}"""


@pytest_asyncio.fixture(loop_scope="session")
async def page(site: Site, chromium: Browser) -> AsyncIterator[Page]:
    """The page of the site, whose service worker is installed and records what it shows."""
    async with own_contexts(chromium) as browser:
        context = await browser.new_context()
        opened = await context.new_page()
        await opened.goto(f"{site.service.http}/log-in/ada/")
        await opened.goto(f"{site.service.http}/page/")
        scope = await opened.evaluate(
            """async () => {
                await navigator.serviceWorker.register(push.worker, { scope: "/" });
                return (await navigator.serviceWorker.ready).scope;
            }"""
        )
        assert scope == f"{site.service.http}/"
        [worker] = context.service_workers
        await worker.evaluate(RECORD)
        yield opened


@pytest.mark.browser
@in_browser_loop
@pytest.mark.parametrize(
    ("data", "title", "body"),
    [
        ('{"title": "Shipped", "body": "Order 7", "tag": "1"}', "Shipped", "Order 7"),
        ('{"title": "<b>x</b>", "body": 7}', "<b>x</b>", "7"),
        ("no JSON", "127.0.0.1", ""),
        ("null", "127.0.0.1", ""),
    ],
)  # fmt: skip
async def test_the_worker_shows_what_the_push_service_delivers(
    site: Site, page: Page, data: str, title: str, body: str
) -> None:
    session = await page.context.new_cdp_session(page)
    found: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def note(event: dict[str, Any]) -> None:
        for each in event["registrations"]:
            if each["scopeURL"].startswith(site.service.http) and not found.done():
                found.set_result(each["registrationId"])

    session.on("ServiceWorker.workerRegistrationUpdated", note)
    await session.send("ServiceWorker.enable")
    message = {"origin": site.service.http, "registrationId": await found, "data": data}
    await session.send("ServiceWorker.deliverPushMessage", message)
    [worker] = page.context.service_workers
    await eventually(lambda: worker.evaluate("shown.length"))
    [[shown, options]] = await worker.evaluate("shown")
    assert shown.startswith(title)
    assert options["body"] == body


@pytest.mark.browser
@in_browser_loop
async def test_a_click_opens_pages_of_the_site_alone(site: Site, page: Page) -> None:
    [worker] = page.context.service_workers
    home = f"{site.service.http}/"
    for url, opened in {
        "/orders/7/?a=b": f"{home}orders/7/?a=b",
        "": home,
        "//evil.example/": home,
        "https://evil.example/": home,
        "javascript:alert(1)": home,
        "http://[": home,
    }.items():
        assert await worker.evaluate(CLICK, url) == [1, opened]


@pytest.mark.browser
@in_browser_loop
async def test_a_page_says_that_notifications_are_denied(page: Page) -> None:
    assert await page.locator("#state").inner_text() == "denied"
    await page.get_by_role("button").click()
    await page.get_by_text("false denied").wait_for()
