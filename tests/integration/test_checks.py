"""What `manage.py check` says about the settings."""

from __future__ import annotations

from typing import Any

import pytest
from django.core import checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings


def messages() -> list[Any]:
    return checks.run_checks(tags=["realtime"])


def test_the_settings_of_these_tests_are_fine() -> None:
    assert messages() == []


def test_a_setting_that_cannot_work_is_an_error() -> None:
    with override_settings(REALTIME_PING_SECONDS=0):
        [message] = messages()
    assert message.id == "realtime.E001"
    assert message.level == checks.ERROR
    assert "REALTIME_PING_SECONDS" in message.msg


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("REALTIME_PING_SECOND", "Did you mean REALTIME_PING_SECONDS?"),
        ("REALTIME_REDIS", "Did you mean REALTIME_REDIS_URL?"),
        ("REALTIME_COLOUR_OF_THE_MOON", None),
    ],
)
def test_a_setting_that_nobody_reads_is_a_warning(name: str, hint: str | None) -> None:
    with override_settings(**{name: 1}):
        [message] = messages()
    assert (message.id, message.level, message.hint) == ("realtime.W001", checks.WARNING, hint)
    assert name in message.msg


def test_both_are_told_at_once() -> None:
    with override_settings(REALTIME_PING_SECONDS=0, REALTIME_PING_SECOND=1):
        assert {message.id for message in messages()} == {"realtime.E001", "realtime.W001"}


def test_the_check_command_runs_them() -> None:
    with (
        override_settings(REALTIME_NAMESPACES={"news": {"colour": True}}),
        pytest.raises(SystemCheckError, match="unknown option 'colour'"),
    ):
        call_command("check")
