"""Foreign projects whose users have primary keys that are not integers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.e2e.test_beside_the_service import MAILS
from tests.e2e.test_howtos import text_of
from tests.support.client import Client
from tests.support.eventually import eventually
from tests.support.host import Host, files_of
from tests.support.redis_server import RedisServer
from tests.support.service import ROOT

KEY = "key = models.CharField(primary_key=True, max_length=40, default={!r})"
FIELDS = {
    "a UUID": "id = models.UUIDField(primary_key=True, default=uuid.uuid4)",
    "an e-mail address": "email = models.EmailField(primary_key=True)",
    "a name of Auth0": KEY.format("auth0|123"),
    "not in ASCII": KEY.format("Zoë 1/2"),
}
MODEL = """
import uuid

from django.contrib.auth.models import AbstractUser
from django.db import models


class Member(AbstractUser):
    {field}
"""
SETTINGS = f"""
AUTH_USER_MODEL = "orders.Member"
{MAILS}"""
LOG_IN = """
import json
from django.conf import settings
from django.contrib.auth import get_user_model
from django.test import Client
from realtime import personal_channel
user = get_user_model().objects.create_user("ada", "a+b@example.com", "a password")
client = Client()
client.force_login(user)
print(json.dumps([client.cookies[settings.SESSION_COOKIE_NAME].value, personal_channel(user)]))
"""
ADA = "from orders.models import Member\nada = Member.objects.get(username='ada')\n"
SAY = f"{ADA}from realtime import personal_channel, publish\n"
HELLO = f"{SAY}publish(personal_channel(ada), 'hello')"
MAIL = f"{SAY}publish(personal_channel(ada), 'a mail', fallback='email', fallback_when='always')"
NEW_PASSWORD = f"{ADA}ada.set_password('another')\nada.save()"


@pytest.fixture(params=FIELDS.values(), ids=FIELDS)
def host(request: pytest.FixtureRequest, redis: RedisServer, tmp_path: Path) -> Host:
    host = Host(tmp_path, f"{tmp_path}:{ROOT}", redis.url)
    host.write(files_of(text_of("django-host")))
    (tmp_path / "orders/models.py").write_text(MODEL.format(field=request.param))
    with (tmp_path / "mysite/settings.py").open("a") as file:
        file.write(SETTINGS)
    host.run("manage.py", "makemigrations", "orders")
    host.run("manage.py", "migrate")
    return host


async def test_a_user_with_another_key_is_a_user(host: Host, tmp_path: Path) -> None:
    """Channel, session, mail and logout work for any primary key."""

    def shell(code: str) -> str:
        return host.run("manage.py", "shell", "-v", "0", "-c", code)

    said = await asyncio.to_thread(shell, LOG_IN)
    cookie, channel = json.loads(said.splitlines()[-1])
    server = ("-m", "uvicorn", "mysite.asgi:application", "--ws", "websockets-sansio")
    log = tmp_path / "log"
    with host.served(log, *server) as url:
        client = await Client.open(
            f"{url.replace('http', 'ws')}/connection/websocket",
            origin=url,
            additional_headers={"Cookie": f"sessionid={cookie}"},
        )
        pushed = (await client.next())["push"]
        assert ("subscribe" in pushed, pushed["channel"]) == (True, channel)
        async with client.attentive():  # a command may take longer than a pong may
            await asyncio.to_thread(shell, HELLO)
            await asyncio.to_thread(shell, MAIL)
            async with working(host):
                [mail] = await eventually(lambda: list((tmp_path / "mails").glob("*.log")))
                await eventually(lambda: "To: a+b@example.com" in mail.read_text(encoding="utf-8"))
            await asyncio.to_thread(shell, NEW_PASSWORD)
        assert await client.data() == "hello"
        assert await client.data() == "a mail"
        assert (await client.closed())[0] == 3503
        await client.close()


@asynccontextmanager
async def working(host: Host) -> AsyncIterator[None]:
    """Run a fallback worker of the project."""
    worker = await asyncio.create_subprocess_exec(
        *(host.interpreter, "manage.py", "runfallback"), cwd=host.folder, env=host.env
    )
    try:
        yield
    finally:
        worker.terminate()
        await worker.wait()
