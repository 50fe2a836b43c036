"""Django's own session is all that a page of the site needs to hear what is for its user."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import websockets

from tests.support.client import Client
from tests.support.redis_server import RedisServer
from tests.support.service import ROOT, SERVERS, Service
from tests.support.tokens import token

Attach = Callable[..., Awaitable[Client]]

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


class Site:
    """A project with users, and one of them logged in."""

    def __init__(self, folder: Path, redis_url: str, server: str) -> None:
        self.database = folder / "site.sqlite3"
        self.env = {
            "DJANGO_SETTINGS_MODULE": "tests.session_settings",
            "TEST_DATABASE": str(self.database),
        }
        self.ada = json.loads(self.run(LOG_IN))
        self.service = Service(redis_url, server, **self.env).start()

    def run(self, code: str) -> str:
        ran = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ | self.env,
            capture_output=True,
            text=True,
            check=True,
        )
        return ran.stdout

    def page(self, *, origin: str | None = None) -> dict[str, Any]:
        """Return what a browser adds to the handshake of a page."""
        return {
            "origin": self.service.http if origin is None else origin,
            "additional_headers": {"Cookie": f"theme=dark; sessionid={self.ada['cookie']}"},
        }


@pytest.fixture
def site(request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path) -> Any:
    site = Site(tmp_path, redis_server.url, getattr(request, "param", "framed"))
    yield site
    site.service.stop()


@pytest.mark.parametrize("site", SERVERS, indirect=True)
async def test_the_page_of_a_user_hears_what_is_for_him_and_no_other_page_does(
    site: Site, attach: Attach
) -> None:
    channel = f"news#{site.ada['user']}"
    page = await attach(site.service, **site.page())
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


async def test_a_token_says_more_than_the_session(site: Site, attach: Attach) -> None:
    page = await attach(site.service, connect=False, **site.page())
    await page.ask(connect={"token": token("other")})
    await page.next()
    await page.subscribe("news#other")
    assert (await page.ask(subscribe={"channel": f"news#{site.ada['user']}"}))["error"]


async def test_a_session_that_a_new_password_has_ended_is_nobody(
    site: Site, attach: Attach
) -> None:
    await asyncio.to_thread(site.run, CHANGE_PASSWORD)
    page = await attach(site.service, **site.page())
    refused = await page.ask(subscribe={"channel": f"news#{site.ada['user']}"})
    assert refused["error"]["code"] == 103


async def test_without_a_database_a_page_is_refused_and_may_come_back(
    site: Site, attach: Attach
) -> None:
    """Let in as nobody, it would be refused its channels for good."""
    site.database.rename(f"{site.database}.away")
    site.database.mkdir()
    with pytest.raises(websockets.InvalidStatus) as refused:
        await attach(site.service, **site.page())
    assert refused.value.response.status_code == 403
    assert "Traceback" not in site.service.log
    assert "cannot read whose session it is" in site.service.log
    nobody = await attach(site.service)
    await nobody.subscribe("public:news")
