"""What `manage.py runserver` says at its start if it serves no WebSockets."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import get_commands

from realtime.checks.runserver import check_runserver

RUNSERVER = ["manage.py", "runserver", "8001"]


@pytest.fixture(autouse=True)
def _starting(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[None]:
    """A project without daphne, whose `runserver` is starting."""
    settings.INSTALLED_APPS = ["django.contrib.staticfiles", "realtime"]
    settings.ASGI_APPLICATION = "mysite.asgi.application"
    monkeypatch.setattr(sys, "argv", RUNSERVER)
    get_commands.cache_clear()
    yield
    get_commands.cache_clear()


def test_a_runserver_without_websockets_says_what_to_install() -> None:
    """A page was silent for ten seconds, and its server had one line about it among many."""
    [warning] = check_runserver()
    assert warning.id == "realtime.W018"
    assert '"daphne" first' in str(warning.hint)


@pytest.mark.parametrize(
    "more",
    [
        {"INSTALLED_APPS": ["daphne", "django.contrib.staticfiles", "realtime"]},
        {"REALTIME_PUBLIC_URL": "https://notify.example.com"},
        {"ASGI_APPLICATION": None},
    ],
    ids=["daphne", "a service elsewhere", "no ASGI"],
)
def test_a_runserver_that_needs_none_says_nothing(settings: Any, more: dict[str, Any]) -> None:
    for name, value in more.items():
        setattr(settings, name, value)
    get_commands.cache_clear()
    assert check_runserver() == []


@pytest.mark.parametrize("command", ["check", "migrate", "test"])
def test_another_command_says_nothing(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """With another server in production, `runserver` may never be used."""
    monkeypatch.setattr(sys, "argv", ["manage.py", command])
    assert check_runserver() == []
