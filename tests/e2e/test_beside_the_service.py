"""Follows docs/howto/beside-the-service.md: two user tables, each with a user 1."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from email import message_from_string, policy
from functools import partial
from pathlib import Path

import httpx

from tests.support.client import Client
from tests.support.command import Command
from tests.support.database import manage
from tests.support.eventually import eventually, eventually_sync
from tests.support.host import Host, files_of
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, DEPLOYMENT, ROOT, Service

PAGE = (ROOT / "docs/howto/beside-the-service.md").read_text()
SECRET = "a secret of the service and of the shop alone"
MAKE_USER = """
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import Client
call_command("migrate", verbosity=0)
user = get_user_model().objects.create_user(NAME, email=NAME + "@example.com", is_staff=True)
client = Client()
client.force_login(user)
print(user.pk, next(iter(client.cookies.values())).value)
"""
DEACTIVATE = "from django.contrib.auth.models import User; ada = User.objects.get();\
ada.is_active = False; ada.save()"
MAILS = """
import django
if django.VERSION >= (6, 1):
    _files = {"file_path": BASE_DIR / "mails"}
    MAILERS = {"default": {"BACKEND": "django.core.mail.backends.filebased.EmailBackend",
                           "OPTIONS": _files}}
else:
    EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
    EMAIL_FILE_PATH = BASE_DIR / "mails"
"""
CONFIGURED = """
import os, re
import django
os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
django.setup()
from django.contrib.auth import get_user_model
from django.template import engines
from django.test import RequestFactory
request = RequestFactory().get("/", headers={"Host": "127.0.0.1"})
request.user = get_user_model().objects.get()
shown = engines["django"].from_string("{% load realtime %}{% realtime %}").render({}, request)
print(re.search(r'realtime-config[^>]*>(.*?)</script>', shown)[1])
"""
SHELL = ("shell", "--no-imports", "-v", "0", "-c")
CSRF = "a" * 32

Attach = Callable[..., Awaitable[Client]]


class Ada:
    """User 1 of the service, and the service itself."""

    def __init__(self, redis_url: str, folder: Path, shop: str) -> None:
        """Start the service for the pages of a shop, which has this origin."""
        self.mails = folder / "mails"
        self._database = f"sqlite:///{folder}/db.sqlite3"
        self._env = {
            **DEPLOYMENT,
            "DATABASE_URL": self._database,
            "REDIS_URL": redis_url,
            "NOTIFIER_TOKEN_SECRET": SECRET,
            "ALLOWED_ORIGINS": shop,
            "HTTPS": "0",
            "EMAIL_URL": f"file://{self.mails}",
        }
        pk, self.cookie = self.run(f"NAME = 'ada'{MAKE_USER}").split()
        assert pk == "1"
        self.service = Service(redis_url, DEPLOYED, **self._env).start()

    def run(self, code: str) -> str:
        secret_key = DEPLOYMENT["SECRET_KEY"]  # signs sessions
        redis_url = self._env["REDIS_URL"]
        return manage(self._database, *SHELL, code, SECRET_KEY=secret_key, REDIS_URL=redis_url)

    def worker(self) -> Command:
        return Command("runfallback", **self._env)

    def dead(self) -> int:
        found: int = self.service.post("info", {}).json()["result"]["fallback"]["dead"]
        return found


def shop_of(redis_url: str, folder: Path, service: Service) -> Host:
    """Create the project of the page, with a mail backend that writes files."""
    folder.mkdir()
    shop = Host(folder, f"{folder}:{ROOT}", redis_url)
    shop.env |= {"SERVICE_URL": service.http, "NOTIFIER_TOKEN_SECRET": SECRET}
    shop.write(files_of(PAGE))
    with (folder / "mysite/settings.py").open("a") as settings:
        settings.write(MAILS)
    return shop


class Bob:
    """User 1 of the shop, on a page of the shop."""

    def __init__(self, url: str, cookie: str) -> None:
        cookies = {"sessionid": cookie, "csrftoken": CSRF}
        self.url, self.cookie = url, cookie
        self._headers = {"X-CSRFToken": CSRF}
        self._headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())

    def token(self) -> str:
        found: str = httpx.get(f"{self.url}/live/connection/token", headers=self._headers).json()[
            "token"
        ]
        return found

    def ship(self, number: int) -> None:
        answer = httpx.post(f"{self.url}/orders/{number}/ship/", headers=self._headers)
        assert answer.status_code == 204


async def test_two_users_with_the_same_key_have_nothing_in_common(
    own_redis: RedisServer, attach: Attach, tmp_path: Path
) -> None:
    port = free_port()
    ada = await asyncio.to_thread(Ada, own_redis.url, tmp_path, f"http://127.0.0.1:{port}")
    try:
        shop = await asyncio.to_thread(shop_of, own_redis.url, tmp_path / "shop", ada.service)
        made = await asyncio.to_thread(shop.run, "manage.py", *SHELL, f"NAME = 'bob'{MAKE_USER}")
        pk, cookie = made.split()
        assert pk == "1"
        server = ("manage.py", "runserver", "--noreload")
        with shop.served(tmp_path / "log", *server, probe="/live/livez", port=port) as url:
            bob = Bob(url, cookie)
            configured = json.loads(await asyncio.to_thread(shop.run, "-c", CONFIGURED))
            assert configured["url"] == f"{ada.service.http}/connection/websocket"
            assert configured["tokenUrl"] == "/live/connection/token"
            await _share_no_idempotency_key(ada, bob)
            await _hears_only_what_is_for_her(ada, bob, attach)
            await asyncio.to_thread(bob.ship, 8)  # no user of the shop is connected
        await asyncio.to_thread(_mails_go_to_whom_they_are_for, ada, shop)
    finally:
        await asyncio.to_thread(ada.service.stop)


async def _hears_only_what_is_for_her(ada: Ada, bob: Bob, attach: Attach) -> None:
    service = ada.service
    headers = {"Cookie": f"sessionid={ada.cookie}"}
    at_ada = await attach(service, origin=service.http, additional_headers=headers)
    at_bob = await attach(service, connect=False, origin=bob.url)
    token = await asyncio.to_thread(bob.token)
    assert "connect" in await at_bob.ask(connect={"token": token})
    assert await _own_channel(at_ada) == "user:#service.1"
    assert await _own_channel(at_bob) == "user:#1"
    for client in (at_ada, at_bob):
        await client.subscribe("chat:both")
    await eventually(partial(_are_both_there, service))
    await asyncio.to_thread(bob.ship, 7)
    assert (await at_bob.push("pub", passing_over="state"))["data"]["title"] == "Shipped"
    await asyncio.to_thread(service.publish, "user:#service.1", "for ada")
    assert await at_ada.data() == "for ada", "the first publication that she receives"

    answer = await asyncio.to_thread(service.post, "disconnect", {"user": "1"})
    assert answer.status_code == 200
    assert (await at_bob.closed())[0] == 3503
    assert "ping" in await at_ada.ask(ping={})
    closed = asyncio.create_task(at_ada.closed(30))
    await asyncio.to_thread(ada.run, DEACTIVATE)
    assert (await closed)[0] == 3503, "her own table says who she is"


async def _are_both_there(service: Service) -> bool:
    """Tell whether the presence of a channel has two users, of the same primary key."""
    answer = await asyncio.to_thread(service.post, "presence", {"channel": "chat:both"})
    there = answer.json()["result"]["presence"].values()
    return {member["user"] for member in there} == {"1", "service.1"}


async def _share_no_idempotency_key(ada: Ada, bob: Bob) -> None:
    """Both are staff, and post to the API from a page of their own site."""
    body = {"channel": "public:news", "data": 1, "idempotency_key": "the-same"}
    posts = (
        (f"{ada.service.http}/api/publish", f"sessionid={ada.cookie}"),
        (f"{bob.url}/live/api/publish", f"sessionid={bob.cookie}"),
    )
    for offset, (url, cookie) in enumerate(posts, 1):
        headers = {
            "Cookie": f"{cookie}; csrftoken={CSRF}",
            "X-CSRFToken": CSRF,
            "Origin": "/".join(url.split("/", 3)[:3]),
        }
        answer = await asyncio.to_thread(httpx.post, url, json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        assert (answer.json()["result"]["offset"], "repeated" in answer.text) == (offset, False)


async def _own_channel(client: Client) -> str:
    """Return the channel to which the server automatically subscribes a client."""
    while "subscribe" not in (push := (await client.next())["push"]):
        pass  # the state of the node
    channel: str = push["channel"]
    return channel


def _mails_go_to_whom_they_are_for(ada: Ada, shop: Host) -> None:
    worker = ada.worker()
    eventually_sync(lambda: ada.dead() == 1)
    assert worker.interrupt() == 0
    worker.stop()
    assert not list(ada.mails.glob("*")), "the service sends no mail"
    [entry] = [json.loads(line) for line in shop.run("manage.py", "fallback", "list").splitlines()]
    assert "is for users of another table" in json.dumps(entry)
    assert "run `runfallback` in the project" in json.dumps(entry)

    shop.run("manage.py", "fallback", "retry", "--all")
    own = Command("runfallback", PYTHONPATH=shop.env["PYTHONPATH"], **_settings_of(shop))
    [path] = eventually_sync(lambda: list((shop.folder / "mails").glob("*.log")))
    eventually_sync(lambda: "on its way" in path.read_text())
    assert own.interrupt() == 0
    own.stop()
    mail = message_from_string(path.read_text(), policy=policy.default)
    assert (mail["To"], mail["Subject"]) == ("bob@example.com", "Shipped")


def _settings_of(shop: Host) -> dict[str, str]:
    names = ("REDIS_URL", "SERVICE_URL", "NOTIFIER_TOKEN_SECRET")
    return {"DJANGO_SETTINGS_MODULE": "mysite.settings", **{name: shop.env[name] for name in names}}
