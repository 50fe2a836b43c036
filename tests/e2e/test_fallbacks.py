"""The service's built-in fallbacks, run by its worker: real mails and real webhooks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Command
from tests.support.database import migrate
from tests.support.eventually import eventually_sync
from tests.support.receivers import Hooks, MailServer, hook_server, mail_server
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, DEPLOYMENT, Service

SECRET = "a secret of the tests, long enough"
MAKE_USERS = """
from django.contrib.auth.models import User
User.objects.create(pk=41, username="ada", email="ada@example.com")
User.objects.create(pk=42, username="gone", email="gone@example.com", is_active=False)
User.objects.create(pk=43, username="mute")
"""


@pytest.fixture
def mails() -> Iterator[MailServer]:
    with mail_server() as server:
        yield server


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    with hook_server() as server:
        yield server


@pytest.fixture
def env(tmp_path: Path, mails: MailServer, hooks: Hooks) -> dict[str, str]:
    url = migrate(f"sqlite:///{tmp_path}/db.sqlite3", then=MAKE_USERS)
    shop = {
        "use": "webhook",
        "url": f"http://127.0.0.1:{hooks.port}/",
        "secret": SECRET,
        "allow_private": True,
    }
    return {
        "DATABASE_URL": url,
        "EMAIL_URL": f"smtp://127.0.0.1:{mails.port}",
        "EMAIL_FROM": "notifier@example.com",
        "NOTIFIER_FALLBACKS": json.dumps({"shop": shop}),
        "NOTIFIER_NAMESPACES": json.dumps({"orders": {"fallback": "shop"}}),
    }


@pytest.fixture
def service(
    env: dict[str, str], own_redis: RedisServer, serve: Callable[..., Service]
) -> Iterator[Service]:
    running = serve(own_redis.url, DEPLOYED, **env)
    worker = Command("runfallback", **{**DEPLOYMENT, **env, "REDIS_URL": own_redis.url})
    yield running
    assert worker.interrupt() == 0
    worker.stop()


def stats(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = service.post("info", {}).json()["result"]["fallback"]
    return found


def test_an_offline_user_gets_a_mail(service: Service, mails: MailServer) -> None:
    data = {"title": "Shipped", "text": "It is on its way", "url": "https://example.com/7"}
    answer = service.post(
        "publish", {"channel": "user:#service.41", "data": data, "fallback": "email"}
    )
    assert answer.json()["result"]["queued"] is True
    [mail] = eventually_sync(lambda: mails.mails.got)
    assert (mail["To"], mail["From"]) == ("ada@example.com", "notifier@example.com")
    assert mail["Subject"] == "Shipped"
    assert "https://example.com/7" in mail.get_content()


def test_a_mail_to_a_user_without_an_address_is_given_up_with_a_reason(
    service: Service, mails: MailServer
) -> None:
    for user in ("42", "43", "44", "nobody"):
        channel = f"user:#service.{user}"
        service.post("publish", {"channel": channel, "data": 1, "fallback": "email"})
    service.post("publish", {"channel": "news", "data": 1, "fallback": "email"})
    eventually_sync(lambda: stats(service)["dead"] == 5)
    assert not mails.mails.got


def test_another_spelling_of_an_id_mails_its_user(service: Service, mails: MailServer) -> None:
    """Nobody has the channel `user:#service.041`, but Python's `int` parses each of these as 41."""
    for user in ("041", "4_1", "0041"):
        body = {"channel": f"user:#service.{user}", "data": 1, "fallback": "email"}
        assert service.post("publish", body).status_code == 200
    eventually_sync(lambda: stats(service)["dead"] == 3)
    assert not mails.mails.got


def test_a_namespace_sends_undelivered_publications_to_a_webhook(
    service: Service, hooks: Hooks
) -> None:
    answer = service.post("publish", {"channel": "orders:7", "data": {"n": 1}})
    assert answer.json()["result"]["queued"] is True
    [post] = eventually_sync(lambda: hooks.got)
    assert json.loads(post.body)["channel"] == "orders:7"
    eventually_sync(lambda: stats(service)["handled"] == 1)
    assert stats(service)["hands"] == 4


def test_fallback_secrets_are_never_shown(env: dict[str, str], own_redis: RedisServer) -> None:
    broken = {
        "shop": {"use": "webhook", "url": "https://user:hunter2@example.com", "secret": SECRET}
    }
    given = {**DEPLOYMENT, **env, "REDIS_URL": own_redis.url}
    command = Command("runfallback", **{**given, "NOTIFIER_FALLBACKS": json.dumps(broken)})
    said = command.said("notifier.variables.BadEnvironment: NOTIFIER_FALLBACKS is invalid: ")
    assert "url must have no user or password" in said
    assert "hunter2" not in said
    assert SECRET not in said
    command.stop()
