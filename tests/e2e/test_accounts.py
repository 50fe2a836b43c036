"""Users of the service: their database, logging in and logging out."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import httpx
import pytest
import websockets

from notifier.login_limit import NAME_FROM_ADDRESS
from tests.support.client import Client
from tests.support.database import manage, migrate
from tests.support.eventually import eventually, eventually_sync
from tests.support.postgres_server import PostgresServer
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, Service

PASSWORD = "one that nobody guesses"
MAKE_USER = (
    "from django.core.management import call_command; call_command('migrate', verbosity=0);"
    "from django.contrib.auth.models import User;"
    f"User.objects.create_user('ada', password='{PASSWORD}')"
)

Attach = Callable[..., Awaitable[Client]]
Serve = Callable[..., Service]


@contextmanager
def browsing(service: Service, address: str = "203.0.113.1") -> Iterator[Browser]:
    browser = Browser(service, address)
    with browser.http:
        yield browser


class Browser:
    """Keeps cookies and sends the form's token, like a browser."""

    def __init__(self, service: Service, address: str) -> None:
        # The launcher trusts a proxy on this machine.
        headers = {"X-Forwarded-For": address, "Origin": service.http}
        self.http = httpx.Client(base_url=service.http, headers=headers, timeout=60)

    def token(self, path: str) -> str:
        found = re.search('name="csrfmiddlewaretoken" value="([^"]+)"', self.http.get(path).text)
        return found[1] if found else ""

    def post(self, path: str, *, form: str, **fields: str) -> httpx.Response:
        return self.http.post(path, data={"csrfmiddlewaretoken": self.token(form), **fields})

    def log_in(self, name: str = "ada", password: str = PASSWORD, **fields: str) -> httpx.Response:
        return self.post("/login/", form="/login/", username=name, password=password, **fields)

    def is_logged_in(self) -> bool:
        return 'id="account-name" dir="auto">ada<' in self.http.get("/").text


@pytest.fixture(scope="module")
def service(redis_server: RedisServer, database_url: str) -> Iterator[Service]:
    manage(database_url, "shell", "--no-imports", "--command", MAKE_USER)
    env = {"DATABASE_URL": database_url, "HTTPS": "0", "NOTIFIER_REDIS_PREFIX": "accounts"}
    service = Service(redis_server.url, DEPLOYED, **env).start()
    yield service
    service.stop()


_addresses = (f"192.0.2.{n}" for n in itertools.count(1))


@pytest.fixture
def browser(service: Service) -> Iterator[Browser]:
    """A browser with its own address, because login attempts are counted per address."""
    with browsing(service, next(_addresses)) as browser:
        yield browser
    assert "Traceback" not in service.log


def test_a_user_logs_in_and_out(browser: Browser) -> None:
    assert 'id="log-in"' in browser.http.get("/").text
    assert not browser.is_logged_in()
    entered = browser.log_in(next="/chat/")
    assert (entered.status_code, entered.headers["Location"]) == (302, "/chat/")
    cookie = entered.headers["Set-Cookie"]
    assert "sessionid=" in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert browser.is_logged_in()
    assert browser.http.get("/logout/").status_code == 405
    assert browser.is_logged_in()
    assert browser.post("/logout/", form="/").headers["Location"] == "/"
    assert not browser.is_logged_in()


def test_a_form_on_another_site_cannot_log_a_user_in_or_out(browser: Browser) -> None:
    """Login CSRF: the victim would use the attacker's account without knowing it."""
    refused = browser.http.post("/login/", data={"username": "ada", "password": PASSWORD})
    assert refused.status_code == 403
    assert "<style" not in refused.text
    browser.log_in()
    assert browser.http.post("/logout/").status_code == 403
    assert browser.is_logged_in()


def test_the_login_does_not_redirect_to_other_sites(browser: Browser) -> None:
    assert browser.log_in(next="https://evil.example/").headers["Location"] == "/"


def test_a_wrong_name_and_a_wrong_password_look_the_same(browser: Browser) -> None:
    answers = [browser.log_in("ada", "mistyped"), browser.log_in("nobody", "mistyped")]
    assert [answer.status_code for answer in answers] == [200, 200]
    one, other = (re.findall('role="alert">[^<]+', answer.text) for answer in answers)
    assert one == other != []
    assert "mistyped" not in answers[0].text


def test_password_guessing_is_limited(service: Service, browser: Browser) -> None:
    for _ in range(NAME_FROM_ADDRESS):
        assert browser.log_in(password="wrong").status_code == 200
    refused = browser.log_in()
    assert refused.status_code == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 900
    assert "Too many attempts. Try again in 15 minutes." in refused.text
    assert not browser.is_logged_in()
    with browsing(service, "198.51.100.7") as elsewhere:
        assert elsewhere.log_in().status_code == 302


SPELLINGS = [
    "ada",
    "ada ",
    "\u3000ada\u00a0",
    "ADA",
    "ａda",
    "𝐚da",
    "a\u1d48a",
    "ⓐⓓⓐ",
    " " * 300 + "ada",
]
"""Django strips and normalizes a name (NFKC): all except ``ADA`` are the account ``ada``."""


def test_all_spellings_of_an_account_share_one_counter(browser: Browser) -> None:
    """Issue 15, A4: `"ada "`, `ａda` and `𝐚da` were one account with three separate counters."""
    codes = [browser.log_in(name, "wrong").status_code for name in SPELLINGS]
    assert codes == [200] * NAME_FROM_ADDRESS + [429] * (len(SPELLINGS) - NAME_FROM_ADDRESS)


def test_a_login_with_another_spelling_resets_its_attempts(browser: Browser) -> None:
    for _ in range(3):
        for _ in range(NAME_FROM_ADDRESS - 1):
            assert browser.log_in("ada ", "wrong").status_code == 200
        assert browser.log_in("𝐚da").status_code == 302
        browser.post("/logout/", form="/")


def test_the_login_limit_does_not_reveal_whether_an_account_exists(service: Service) -> None:
    said = []
    for name, address in (("ada", "198.51.100.21"), ("eve", "198.51.100.22")):
        with browsing(service, address) as browser:
            answers = [
                browser.log_in(spelling, "wrong")
                for spelling in (
                    name,
                    f"{name} ",
                    name.upper(),
                    f" {name}",
                    name,
                    name,
                    f"{name}\t",
                )
            ]
        # Apart from the name that was typed and the form's token.
        texts = [re.sub(r'value="[^"]*"', "", answer.text) for answer in answers]
        said.append([(a.status_code, len(text)) for a, text in zip(answers, texts, strict=True)])
    assert said[0] == said[1]


@pytest.mark.parametrize("name", ["", "a\0b", "<b>" * 100, "\ud7ff" * 2000])
def test_an_unusual_username_is_refused_safely(browser: Browser, name: str) -> None:
    answer = browser.log_in(name)
    assert answer.status_code == 200
    assert "<b><b>" not in answer.text


async def test_a_page_receives_private_publications_until_logout(
    service: Service, browser: Browser, attach: Attach
) -> None:
    await asyncio.to_thread(browser.log_in)
    page = await attach(service, connect=False, **handshake(service, browser))
    assert "connect" in await page.ask(connect={})
    assert await page.push("state") == {"live": True}
    served = await page.push("subscribe")
    assert served["positioned"] is True
    await asyncio.to_thread(browser.post, "/logout/", form="/")
    assert (await page.closed(seconds=5))[0] == 3503


def handshake(service: Service, browser: Browser) -> dict[str, Any]:
    """Return the headers that a browser adds to the handshake of its page."""
    cookie = f"sessionid={browser.http.cookies['sessionid']}"
    return {"origin": service.http, "additional_headers": {"Cookie": cookie}}


ODD_COOKIE = r'sessionid="\000aaaaaaaa"'
"""A NUL in Django's eyes; PostgreSQL refuses it."""


async def takes_an_odd_cookie_for_none(service: Service, attach: Attach) -> None:
    headers = {"Cookie": ODD_COOKIE, "Origin": service.http}
    async with httpx.AsyncClient(base_url=service.http, headers=headers, timeout=60) as http:
        answers = [
            await http.get("/"),
            await http.get("/connection/token"),
            await http.post("/api/publish", json={"channel": "public:news", "data": 1}),
        ]
    assert [answer.status_code for answer in answers[::2]] == [200, 401]
    assert answers[1].status_code < 500
    client = await attach(service, origin=service.http, additional_headers={"Cookie": ODD_COOKIE})
    await client.subscribe("public:news")


@pytest.mark.postgres
async def test_connected_clients_stay_when_postgres_goes_away(
    redis_server: RedisServer, serve: Serve, attach: Attach
) -> None:
    postgres = await asyncio.to_thread(PostgresServer().start)
    try:
        url = postgres.new_database()
        await asyncio.to_thread(manage, url, "shell", "--no-imports", "--command", MAKE_USER)
        env = {"DATABASE_URL": url, "HTTPS": "0", "NOTIFIER_REDIS_PREFIX": "away"}
        service = await asyncio.to_thread(partial(serve, redis_server.url, DEPLOYED, **env))
        await takes_an_odd_cookie_for_none(service, attach)
        assert "Traceback" not in service.log
        with browsing(service) as browser:
            assert (await asyncio.to_thread(browser.log_in)).status_code == 302
            page = handshake(service, browser)
        stays = await attach(service, **page)
        assert (await stays.push("subscribe"))["offset"] == 0  # the user's own channel
        await stays.subscribe("public:news")
        await asyncio.to_thread(postgres.shut_down)
        with pytest.raises(websockets.InvalidStatus) as refused:
            await attach(service, **page)
        assert refused.value.response.status_code == 403
        with httpx.Client(headers=page["additional_headers"]) as http:
            answer = await asyncio.to_thread(http.get, service.http, timeout=60)
        assert answer.status_code == 503
        assert "The user database is unreachable" in answer.text
        nobody = await attach(service)
        await nobody.subscribe("public:news")
        await asyncio.to_thread(service.publish, "public:news", "still here")
        assert [await client.data() for client in (stays, nobody)] == ["still here"] * 2
        await asyncio.to_thread(postgres.start_again)

        async def comes_back() -> Client | None:
            with suppress(websockets.InvalidStatus):
                return await attach(service, **page)

        back = await eventually(comes_back)
        assert (await back.push("subscribe"))["offset"] == 0
        assert "Traceback" not in service.log
    finally:
        await asyncio.to_thread(postgres.stop)


@pytest.mark.postgres
def test_the_service_starts_and_delivers_without_postgres(
    redis_server: RedisServer, serve: Serve
) -> None:
    postgres = PostgresServer().start()
    try:
        url = migrate(postgres.new_database())
        postgres.shut_down()
        service = serve(redis_server.url, DEPLOYED, DATABASE_URL=url, HTTPS="0")
        service.publish("public:news", 1)
        assert httpx.get(service.http).status_code == 200
        eventually_sync(lambda: "the database is unreachable" in service.log)
        postgres.start_again()
        with browsing(service) as browser:
            assert "password is incorrect" in browser.log_in("nobody", "x").text
    finally:
        postgres.stop()


def test_logins_are_refused_without_redis(own_redis: RedisServer, serve: Serve) -> None:
    """Without the counters, passwords could be guessed without limit."""
    service = serve(own_redis.url, DEPLOYED, HTTPS="0")
    own_redis.kill()
    with browsing(service) as browser:
        refused = browser.log_in()
    assert refused.status_code == 503
    assert refused.headers["Retry-After"]
    assert "Login is temporarily unavailable" in refused.text
