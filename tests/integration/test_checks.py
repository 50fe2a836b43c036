"""What `manage.py check` says about the settings."""

from __future__ import annotations

import re
import sys
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from random import Random
from secrets import token_urlsafe
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from django.core import checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from realtime.core.secret_strength import is_weak
from tests.support.sentinels import sentinel_set

DOCS = Path(__file__).resolve().parents[2] / "docs"


REDIS = "redis://127.0.0.1:6379/0"


@pytest.fixture(autouse=True)
def with_redis() -> Iterator[None]:
    with override_settings(REALTIME_REDIS_URL=REDIS):
        yield


def messages() -> list[Any]:
    return checks.run_checks(tags=["realtime"])


def test_the_test_settings_pass_all_checks() -> None:
    assert messages() == []


def test_an_invalid_setting_is_an_error() -> None:
    with override_settings(REALTIME_PING_SECONDS=0):
        [message] = messages()
    assert message.id == "realtime.E001"
    assert message.level == checks.ERROR
    assert "REALTIME_PING_SECONDS" in message.msg


def test_an_unusable_api_keys_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text('[{"name": "shop"}]')
    with override_settings(REALTIME_API_KEYS=f"@{path}"):
        [message] = messages()
    assert (message.id, message.level) == ("realtime.E001", checks.ERROR)
    assert "REALTIME_API_KEYS: key 1 (shop): sha256 must be" in message.msg


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("REALTIME_PING_SECOND", "Did you mean REALTIME_PING_SECONDS?"),
        ("REALTIME_REDIS", "Did you mean REALTIME_REDIS_URL?"),
        ("REALTIME_DISTANCE_TO_THE_MOON_IN_NAUTICAL_MILES", None),
    ],
)
def test_an_unknown_setting_is_a_warning(name: str, hint: str | None) -> None:
    with override_settings(**{name: 1}):
        [message] = messages()
    assert (message.id, message.level, message.hint) == ("realtime.W001", checks.WARNING, hint)
    assert name in message.msg


@pytest.mark.parametrize("url", ["localhost:6379", "memory", "memory:/"])
def test_an_invalid_redis_url_is_told_what_is_valid(url: str) -> None:
    with override_settings(REALTIME_REDIS_URL=url):
        [message] = messages()
    assert message.id == "realtime.E001"
    assert "redis://user:password@host:port/number" in message.msg
    assert "memory://" in message.msg


def test_a_project_without_a_redis_is_told_unless_its_service_is_elsewhere() -> None:
    with override_settings(REALTIME_REDIS_URL=""):
        [message] = messages()
        assert message.id == "realtime.W010"
        assert "memory://" in str(message.hint), "what needs no server"
        with override_settings(REALTIME_PUBLIC_URL="https://notify.example.com"):
            assert messages() == []


@pytest.mark.parametrize(
    ("url", "ids"),
    [
        ("redis://:50%off@127.0.0.1/0", ["realtime.W011"]),
        ("redis://:50%25off@127.0.0.1/0", []),
        ("redis://:a/b@127.0.0.1/0", ["realtime.E001"]),
        ("redis://:a#b@127.0.0.1/0", ["realtime.E001"]),
    ],
)
def test_a_password_that_needs_percent_encoding_is_told_and_not_shown(
    url: str, ids: list[str]
) -> None:
    with override_settings(REALTIME_REDIS_URL=url):
        found = messages()
    assert [message.id for message in found] == ids
    assert all("percent-encode" in f"{each.msg} {each.hint}".lower() for each in found)
    assert not any("off" in message.msg or "a/b" in message.msg for message in found)


@pytest.mark.parametrize(
    ("addresses", "namespaces"),
    [
        ("path('live/', include('realtime.urls'))", []),
        ("path('live/', include([path('x/', include('realtime.urls'))]))", []),
        ("path('a/', include(([path('b/', include('realtime.urls'))], 'shop')))", ["shop"]),
        ("", []),
    ],
    ids=["plain", "inside another", "in a namespace", "none"],
)
def test_an_include_that_pages_do_not_find_is_a_warning(
    addresses: str, namespaces: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = ModuleType("a_site")
    code = f"from django.urls import include, path\nurlpatterns = [{addresses}]"
    exec(code, vars(site))
    monkeypatch.setitem(sys.modules, "a_site", site)
    with override_settings(ROOT_URLCONF="a_site"):
        found = messages()
    assert [message.id for message in found] == ["realtime.W012"] * len(namespaces)
    assert all(repr(name) in found[0].msg for name in namespaces)


def test_errors_and_warnings_are_reported_together() -> None:
    with override_settings(REALTIME_PING_SECONDS=0, REALTIME_PING_SECOND=1):
        assert {message.id for message in messages()} == {"realtime.E001", "realtime.W001"}


def test_the_check_command_runs_our_checks() -> None:
    with (
        override_settings(REALTIME_NAMESPACES={"news": {"colour": True}}),
        pytest.raises(SystemCheckError, match="unknown option 'colour'"),
    ):
        call_command("check")


# --- check --deploy ---

GOOD = {"REALTIME_API_KEY": token_urlsafe(24), "REALTIME_TOKEN_SECRET": token_urlsafe(48)}
OPEN = {"allow_subscribe_for_client": True, "allow_subscribe_for_anonymous": True}
ANONYMOUS = {"allow_publish_for_anonymous": True}


def dangers(**settings: Any) -> list[tuple[str, str]]:
    """Return the ids and texts of the warnings for a deployment with these settings."""
    deployed = {**GOOD, "REALTIME_NAMESPACES": {}, "REALTIME_REDIS_URL": REDIS, **settings}
    with override_settings(**deployed):
        found = checks.run_checks(tags=["realtime"], include_deployment_checks=True)
    assert all(message.level == checks.WARNING and message.hint for message in found)
    return [(message.id, message.msg) for message in found]


def test_a_careful_deployment_gets_no_warnings() -> None:
    assert dangers() == []


def test_security_warnings_appear_only_with_deploy() -> None:
    with override_settings(REALTIME_API_KEY="key", REALTIME_NAMESPACES={}):
        assert messages() == []


@pytest.mark.parametrize(
    ("namespaces", "names"),
    [
        ({}, []),
        ({"a": {**OPEN, **ANONYMOUS, "allow_publish_for_client": True}}, ["a"]),
        ({"a": {**OPEN, **ANONYMOUS, "allow_publish_for_subscriber": True}}, ["a"]),
        ({"a": {**OPEN, "allow_publish_for_client": True}}, []),
        ({"a": {**OPEN, "allow_publish_for_subscriber": True}}, []),
        ({"a": {**OPEN, **ANONYMOUS}}, []),
        ({"a": {"allow_publish_for_client": True}}, []),
        (
            {
                "chat": {"allow_subscribe_for_client": True, "allow_publish_for_client": True},
                "b": {"allow_subscribe_for_anonymous": True, "allow_publish_for_client": True},
            },
            [],
        ),
    ],
)
def test_a_namespace_that_is_open_to_the_world(namespaces: Any, names: list[str]) -> None:
    found = dangers(REALTIME_NAMESPACES=namespaces)
    assert [number for number, _ in found] == ["realtime.W002"] * len(names)
    assert all(repr(name) in text for name, (_, text) in zip(names, found, strict=True))


WEAK = [
    "key",
    "x" * 64,
    "0123456789" * 7,
    "correct horse staple",
    "SeCreT-aXJjqpGkEULW0mPHU6lGT3Fkhg7fcEvf4T",
]


@pytest.mark.parametrize("secret", WEAK)
def test_a_secret_that_can_be_guessed(secret: str) -> None:
    assert is_weak(secret)
    if " " not in secret:
        [(number, text)] = dangers(REALTIME_API_KEY=secret)
        assert number == "realtime.W003"
        assert "REALTIME_API_KEY" in text
        assert secret not in text


@given(st.integers(), st.sampled_from(["hex", "urlsafe", "uuid"]))
def test_random_secrets_are_never_reported_as_weak(seed: int, kind: str) -> None:
    made = Random(seed).randbytes(24)
    text = {
        "hex": made.hex(),
        "urlsafe": urlsafe_b64encode(made).decode(),
        "uuid": str(UUID(bytes=made[:16], version=4)),
    }[kind]
    assert not is_weak(text)


def test_one_secret_used_for_two_purposes() -> None:
    one = token_urlsafe(48)
    [(number, text)] = dangers(REALTIME_API_KEY=one, REALTIME_TOKEN_SECRET=one)
    assert (number, "API_KEY" in text, "TOKEN_SECRET" in text) == ("realtime.W004", True, True)
    with override_settings(SECRET_KEY=one):
        [(number, text)] = dangers(REALTIME_TOKEN_SECRET=one)
    assert (number, "SECRET_KEY and" in text) == ("realtime.W004", True)


@pytest.mark.parametrize(
    ("url", "ids"),
    [
        ("redis://redis.example:6379/0", ["realtime.W005"]),
        ("rediss://redis.example:6379/0", ["realtime.W005"]),
        ("redis://:pw@redis.example", []),
        ("redis://redis.example?password=pw", []),
        ("redis://localhost", []),
        ("redis://127.0.0.9", []),
        ("redis://[::1]:6379", []),
        ("redis://[fd00::1]:6379", ["realtime.W005"]),
        ("unix:///run/redis.sock", []),
        ("rediss://:pw@redis.example?ssl_ca_certs=/ca.pem", []),
        ("rediss://:pw@redis.example?ssl_cert_reqs=none", ["realtime.W006"]),
        ("rediss://:pw@redis.example?ssl_cert_reqs=required", []),
        ("rediss://:pw@redis.example?ssl_check_hostname=False", ["realtime.W006"]),
        ("rediss://127.0.0.1?ssl_cert_reqs=optional", ["realtime.W006"]),
        ("rediss://127.0.0.1?ssl_check_hostname=No", ["realtime.W006"]),
        ("unix:///run/redis.sock?db=1", []),
        ("redis+sentinel://127.0.0.1:1,10.0.0.1/m", ["realtime.W005", "realtime.W017"]),
        ("rediss+sentinel://:pw@[::1]:1/m?ssl_cert_reqs=none", ["realtime.W006", "realtime.W017"]),
        ("redis+sentinel://[::1]:1,127.0.0.1:1/m", ["realtime.W017"]),
    ],
)
def test_a_redis_that_others_can_reach(url: str, ids: list[str]) -> None:
    found = dangers(REALTIME_REDIS_URL=url)
    assert sorted(number for number, _ in found) == ids
    assert not any("pw" in text for _, text in found)


def test_a_master_that_needs_no_replica() -> None:
    with sentinel_set(sentinels=1, replicas=0) as found:
        [(number, text)] = dangers(REALTIME_REDIS_URL=found.url)
        assert number == "realtime.W016"
        assert "accepts writes while it has no replica" in text
        with found.master.client() as client:
            client.config_set("min-replicas-to-write", 1)
        assert dangers(REALTIME_REDIS_URL=found.url) == []


def test_every_check_is_documented() -> None:
    told = set(re.findall(r"^\| `(realtime\.\w+)`", (DOCS / "settings.md").read_text(), re.M))
    code = "".join(path.read_text() for path in (DOCS.parent / "realtime").rglob("*.py"))
    assert told == set(re.findall(r'id="(realtime\.\w+)"', code))


def test_tokens_without_expiry_are_accepted() -> None:
    assert [number for number, _ in dangers(REALTIME_TOKEN_EXPIRY="optional")] == ["realtime.W008"]
    assert dangers(REALTIME_TOKEN_EXPIRY="required") == []
