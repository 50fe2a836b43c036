"""On a page of the site, Django's session is enough to receive the user's publications."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import websockets

from realtime.delivery.users import RECHECK_SECONDS
from tests.support.client import Client
from tests.support.machine import within
from tests.support.redis_server import RedisServer
from tests.support.service import ROOT, SERVERS, Service
from tests.support.tokens import token

Attach = Callable[..., Awaitable[Client]]
ENDPOINT = "tests.asgi_endpoint:application"

LOG_IN = """
import json
import django
django.setup()
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import Client
call_command("migrate", verbosity=0)
user = get_user_model().objects.create_user("ada")
client = Client()
client.force_login(user)
print(json.dumps({"user": str(user.pk), "cookie": client.cookies["sessionid"].value}))
"""
CHANGE_PASSWORD = """
import django
django.setup()
from django.contrib.auth import get_user_model
user = get_user_model().objects.get()
user.set_password("another one")
user.save()
"""


ENDS = {
    "logging out": """
from importlib import import_module
from django.conf import settings
from django.contrib.auth import logout
from django.http import HttpRequest
request = HttpRequest()
request.session = import_module(settings.SESSION_ENGINE).SessionStore(KEY)
request.user = user
logout(request)
""",
    "deleting the session": """
from django.contrib.sessions.models import Session
Session.objects.get(pk=KEY).delete()
""",
    "a new password": "user.set_password('another one'); user.save()",
    "deactivating": "user.is_active = False; user.save(update_fields=['is_active'])",
    "deleting the user": "user.delete()",
    "deactivating behind Django's back": """
get_user_model().objects.filter(pk=user.pk).update(is_active=False)
""",
    "deleting the session behind Django's back": """
from django.contrib.sessions.models import Session
Session.objects.filter(pk=KEY)._raw_delete("default")
""",
}
"""The ways in which a login ends, and the code for each."""


class Site:
    """A project with users, and one of them logged in."""

    def __init__(self, template: Template, folder: Path, redis_url: str, server: str) -> None:
        self.database, self.ada = template.copy(folder)
        self.env = {
            "DJANGO_SETTINGS_MODULE": "tests.session_settings",
            "TEST_DATABASE": str(self.database),
            "TEST_REDIS_URL": redis_url,
            "TEST_CONNECT_SECONDS": "60",  # the logout runs in a separate process, which takes time
        }
        self.redis_url = redis_url
        self.service = Service(redis_url, server, **self.env).start()

    def run(self, code: str) -> str:
        return run(code, self.env)

    def end(self, code: str) -> str:
        """Run code that uses ``user`` and ``KEY``, the key of the session."""
        start = "import django; django.setup()\nfrom django.contrib.auth import get_user_model\n"
        names = f"user = get_user_model().objects.get()\nKEY = {self.ada['cookie']!r}\n"
        return self.run(start + names + code)

    def page(self, *, origin: str | None = None) -> dict[str, Any]:
        """Return the headers that a browser adds to the handshake of a page."""
        return {
            "origin": self.service.http if origin is None else origin,
            "additional_headers": {"Cookie": f"theme=dark; sessionid={self.ada['cookie']}"},
        }


def run(code: str, env: dict[str, str]) -> str:
    """Run code in another process and return what it printed."""
    command = [sys.executable, "-c", code]
    ran = subprocess.run(
        command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True, check=True
    )
    return ran.stdout


class Template(NamedTuple):
    """A database to copy, because migrating takes seconds."""

    database: Path
    ada: dict[str, str]

    def copy(self, folder: Path) -> tuple[Path, dict[str, str]]:
        """Copy the database into a folder, and give the user's session a new key.

        The tests of a process share one Redis, whose nodes remember for an hour which sessions have
        ended: with the same key, the logout of one test would end the session of the next.
        """
        database = folder / "site.sqlite3"
        shutil.copy(self.database, database)
        cookie = secrets.token_hex(16)
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("UPDATE django_session SET session_key = ?", [cookie])
        return database, {**self.ada, "cookie": cookie}


@pytest.fixture
def site(
    request: pytest.FixtureRequest, template: Template, redis_server: RedisServer, tmp_path: Path
) -> Any:
    site = Site(template, tmp_path, redis_server.url, getattr(request, "param", "framed"))
    yield site
    site.service.stop()


@pytest.mark.parametrize("site", SERVERS, indirect=True)
async def test_a_private_publication_reaches_only_pages_of_its_user(
    site: Site, attach: Attach
) -> None:
    channel = f"news#{site.ada['user']}"
    page = await attach(site.service, **site.page())
    assert await page.push("subscribe"), "the personal channel is subscribed automatically"
    await page.subscribe(channel)
    strangers = {
        "no cookie": {"origin": site.service.http},
        "no browser": {"additional_headers": site.page()["additional_headers"]},
        "another site's page": site.page(origin="https://app.example.com"),
        "a forged cookie": {**site.page(), "additional_headers": {"Cookie": "sessionid=forged"}},
    }
    for stranger in strangers.values():
        client = await attach(site.service, **stranger)
        refused = await client.ask(subscribe={"channel": channel})
        assert refused["error"]["code"] == 103
    receipt = await asyncio.to_thread(site.service.publish, channel, "for you")
    assert receipt["nodes"] == 1
    assert await page.data() == "for you"


async def test_a_token_takes_precedence_over_the_session(site: Site, attach: Attach) -> None:
    page = await attach(site.service, connect=False, **site.page())
    await page.ask(connect={"token": token("other")})
    await page.next()
    await page.subscribe("news#other")
    assert (await page.ask(subscribe={"channel": f"news#{site.ada['user']}"}))["error"]


async def test_a_session_ended_by_a_password_change_is_anonymous(
    site: Site, attach: Attach
) -> None:
    await asyncio.to_thread(site.run, CHANGE_PASSWORD)
    page = await attach(site.service, **site.page())
    refused = await page.ask(subscribe={"channel": f"news#{site.ada['user']}"})
    assert refused["error"]["code"] == 103


async def test_a_page_is_refused_temporarily_without_a_database(site: Site, attach: Attach) -> None:
    """If the page were accepted as anonymous, it would be refused its channels permanently."""
    site.database.rename(f"{site.database}.away")
    site.database.mkdir()
    with pytest.raises(websockets.InvalidStatus) as refused:
        await attach(site.service, **site.page())
    assert refused.value.response.status_code == 403
    assert "Traceback" not in site.service.log
    assert "cannot read the user of a session" in site.service.log
    nobody = await attach(site.service)
    await nobody.subscribe("public:news")


@pytest.mark.parametrize("end", [name for name in ENDS if "behind" not in name])
async def test_ending_a_login_closes_its_connections_within_two_seconds(
    site: Site, attach: Attach, end: str
) -> None:
    page = await attach(site.service, **site.page())
    nobody = await attach(site.service)
    closed = asyncio.create_task(page.closed(30))
    await asyncio.to_thread(site.end, ENDS[end])
    async with within(2):  # from the end of the process, which is later than the commit
        assert await closed == (3503, "force disconnect")
    await nobody.subscribe("public:news")


@pytest.mark.parametrize("end", ["logging out", "deleting the session", "deactivating"])
async def test_a_login_ends_between_the_handshake_and_the_connect(
    site: Site, attach: Attach, end: str
) -> None:
    """The session is looked up at the handshake.

    A client that sent `connect` only after a logout kept its connection until the next check of all
    users.
    """
    page = await attach(site.service, connect=False, **site.page())
    await asyncio.to_thread(site.end, ENDS[end])
    closed = asyncio.create_task(page.closed(30))
    await page.tell(connect={})
    async with within(2):
        assert await closed == (3503, "force disconnect")


@pytest.mark.parametrize("end", [name for name in ENDS if "behind" in name])
async def test_changes_without_a_django_signal_are_found_at_the_next_check(
    site: Site, attach: Attach, end: str
) -> None:
    page = await attach(site.service, **site.page())
    await asyncio.to_thread(site.end, ENDS[end])
    assert await page.closed(RECHECK_SECONDS + 5) == (3503, "force disconnect")


async def test_logging_out_in_one_browser_does_not_affect_another(
    site: Site, attach: Attach
) -> None:
    other = json.loads(site.run(LOG_IN.replace('create_user("ada")', "get()")))
    page = await attach(site.service, **site.page())
    headers = {"additional_headers": {"Cookie": f"sessionid={other['cookie']}"}}
    elsewhere = await attach(site.service, **{**site.page(), **headers})
    closed = asyncio.create_task(page.closed(30))
    await asyncio.to_thread(site.end, ENDS["logging out"])
    assert (await closed)[0] == 3503
    await elsewhere.subscribe("public:news")
    receipt = await asyncio.to_thread(site.service.publish, f"user:#{site.ada['user']}", "still")
    assert receipt["nodes"] == 1


MAKE_TOKEN = """
import django
django.setup()
from django.contrib.auth import get_user_model
from realtime import connection_token
print(connection_token(get_user_model().objects.get()), end="")
"""


async def test_a_password_change_ends_only_the_tokens_of_this_site(
    site: Site, attach: Attach
) -> None:
    own = await asyncio.to_thread(site.run, MAKE_TOKEN)
    foreign = token(site.ada["user"], stamp="ffffffff.of-another-secret-key")
    clients = []
    for shown in (own, foreign, token(site.ada["user"])):
        client = await attach(site.service, connect=False)
        assert "connect" in await client.ask(connect={"token": shown})
        clients.append(client)
    closed = asyncio.create_task(clients[0].closed(30))
    await asyncio.to_thread(site.end, ENDS["a new password"])
    assert await closed == (3503, "force disconnect")
    for client in clients[1:]:
        assert "ping" in await client.ask(ping={})
    again = await attach(site.service, connect=False)
    await again.ask(connect={"token": own})
    assert await again.closed() == (3503, "force disconnect"), "it is checked when it arrives"


MAKE_TOKEN_OF_SESSION = """
from realtime import connection_token
print(connection_token(user, session=KEY), end="")
"""


async def test_a_token_is_replayed_after_its_session_logged_out(site: Site, attach: Attach) -> None:
    """`connection/token` had issued it to a page, and it stayed valid for up to ten minutes.

    Tested on each transport, on a node that received the logout and on one that started later.
    """
    shown = await asyncio.to_thread(site.end, MAKE_TOKEN_OF_SESSION)
    page = await attach(site.service, connect=False)
    assert "connect" in await page.ask(connect={"token": shown})
    closed = asyncio.create_task(page.closed(30))
    await asyncio.to_thread(site.end, ENDS["logging out"])
    assert await closed == (3503, "force disconnect")
    later = Service(site.redis_url, app=ENDPOINT, **site.env)
    try:
        await asyncio.to_thread(later.start)
        for service in (site.service, later):
            again = await attach(service, connect=False)
            assert (await again.ask(connect={"token": shown}))["error"]["code"] == 109
        wanted = json.dumps({"token": shown, "subs": {"public:news": {}}})
        first = json.dumps({"id": 1, "connect": {"token": shown}})
        async with httpx.AsyncClient(base_url=later.http) as client:
            answer = await client.post("/connection/uni_sse", content=wanted)
            assert answer.status_code == 401
            async with client.stream("POST", "/connection/http_stream", content=first) as stream:
                line = json.loads(await anext(stream.aiter_lines()))
        assert line["error"] == {"code": 109, "message": "token expired"}
    finally:
        await asyncio.to_thread(later.stop)
