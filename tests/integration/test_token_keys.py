"""Keys in a file are reloaded while the node runs; refusals are logged once."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings

from realtime import connection_token, subscription_token, wiring
from realtime.auth import watched_file
from realtime.auth.jwks_file import JwksFile
from realtime.errors import ConfigurationError, InvalidToken
from tests.support.eventually import eventually_sync
from tests.support.tokens import Provider


def good(provider: Provider, name: str) -> bool:
    try:
        return wiring.tokens().verify_identity(provider.token(name), time.time()).user == "42"
    except InvalidToken:
        return False


@pytest.fixture
def provider(tmp_path: Path) -> Provider:
    return Provider(tmp_path / "jwks.json", "old")


def test_a_changed_file_is_read_again(provider: Provider, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "realtime.auth.watched_file")
    with override_settings(REALTIME_TOKEN_JWKS=f"@{provider.file}"):
        assert good(provider, "old")
        assert not good(provider, "new")
        provider.publish("new")
        eventually_sync(lambda: good(provider, "new"))
        assert not good(provider, "old"), "a removed key is no longer valid"
    lines = [r.getMessage() for r in caplog.records if r.name == "realtime.auth.watched_file"]
    assert lines == ["reloaded the token keys: 1 in use"]


@pytest.mark.parametrize("broken", ["{", "", "[]", '{"keys": {}}', None])
def test_a_broken_file_keeps_the_old_keys_and_is_logged_once(
    provider: Provider, caplog: pytest.LogCaptureFixture, broken: str | None
) -> None:
    with override_settings(REALTIME_TOKEN_JWKS=f"@{provider.file}"):
        assert good(provider, "old")
        provider.file.unlink() if broken is None else provider.file.write_text(broken)
        eventually_sync(lambda: good(provider, "old") and bool(caplog.records))
        looked_at = wiring.tokens()._key_named.__self__._file._look_at  # type: ignore[union-attr]
        eventually_sync(lambda: time.monotonic() > looked_at)
        assert good(provider, "old")
        [line] = [r.getMessage() for r in caplog.records if r.name == "realtime.auth.watched_file"]
        assert line.startswith(
            "could not reload the token keys, keeping the previous ones: REALTIME_TOKEN_JWKS: "
        )
        provider.publish("old", "new")
        eventually_sync(lambda: good(provider, "new"))


OF_NO_USE = {"kid": "a", "kty": "OKP", "crv": "Ed25519", "x": "eA"}


@pytest.mark.parametrize("keys", [[], [OF_NO_USE]], ids=["empty", "without a usable key"])
def test_withdrawing_all_keys_leaves_none_valid(
    provider: Provider, caplog: pytest.LogCaptureFixture, keys: list[Any]
) -> None:
    """An empty set was treated as a broken file, so tokens of a stolen key stayed valid."""
    with override_settings(REALTIME_TOKEN_JWKS=f"@{provider.file}"):
        assert good(provider, "old")
        provider.file.write_text(json.dumps({"keys": keys}))
        eventually_sync(lambda: not good(provider, "old"))
        lines = [r.getMessage() for r in caplog.records if r.name == "realtime.auth.watched_file"]
        assert lines == ["reloaded the token keys: none left, all are withdrawn"]
        provider.publish("new")
        eventually_sync(lambda: good(provider, "new"))
        assert not good(provider, "old")


@pytest.mark.parametrize(
    "flaw", [7, {"kty": "RSA"}, {"kid": "x", "kty": "oct", "k": "c2VjcmV0"}, "twice"]
)
def test_a_flaw_in_a_set_does_not_keep_a_withdrawn_key_valid(
    provider: Provider, caplog: pytest.LogCaptureFixture, flaw: Any
) -> None:
    """One unusable entry prevented the whole set from being read (RFC 7517 §5)."""
    with override_settings(REALTIME_TOKEN_JWKS=f"@{provider.file}"):
        assert good(provider, "old")
        provider.publish("new", *(["old", "old"] if flaw == "twice" else []))
        found = json.loads(provider.file.read_text())
        found["keys"] += [] if flaw == "twice" else [flaw]
        provider.file.write_text(json.dumps(found))
        eventually_sync(lambda: good(provider, "new"))
        assert not good(provider, "old")
        [line] = {r.getMessage() for r in caplog.records if r.name == "realtime.auth.jwks_file"}
        assert line.startswith("refused a token key with an invalid entry: REALTIME_TOKEN_JWKS: ")
        assert "c2VjcmV0" not in line


def test_a_node_starts_while_all_keys_are_withdrawn(provider: Provider) -> None:
    provider.publish()
    with override_settings(REALTIME_TOKEN_JWKS=f"@{provider.file}"):
        assert not good(provider, "old")
        provider.publish("old")
        eventually_sync(lambda: good(provider, "old"))


def test_a_file_is_checked_at_most_once_a_second(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Any] = []

    class CountingOs:
        """The module for the watched file alone; pytest and other threads use it, too."""

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def stat(self, path: str) -> os.stat_result:
            looks.append(path)
            return os.stat(path)

    began = time.monotonic()
    keys = JwksFile(str(provider.file))
    monkeypatch.setattr(watched_file, "os", CountingOs())
    while time.monotonic() < began + 1.2:
        assert keys.key("unknown") is None
    assert 1 <= len(looks) <= int(time.monotonic() - began)


def test_a_missing_file_is_an_invalid_setting(tmp_path: Path) -> None:
    with (
        override_settings(REALTIME_TOKEN_JWKS=f"@{tmp_path / 'none.json'}"),
        pytest.raises(ConfigurationError, match=r"cannot be read: No such file"),
    ):
        wiring.tokens()


# --- the log ---


def test_a_token_refusal_is_logged_once_without_the_token(
    provider: Provider, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from realtime.auth import token_log
    from realtime.core.tally import Tally

    monkeypatch.setattr(token_log, "_tally", Tally())
    shown = [
        connection_token("42")[:-6] + "AAAAAA",
        connection_token("42", channels=["a"]).replace(".", "!", 1),
        provider.token("old"),
    ]
    for _ in range(20):
        for each in shown:
            with pytest.raises(InvalidToken):
                wiring.tokens().verify_identity(each, time.time())
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "refused a token: its signature does not match our key (1 so far)",
        "refused a token: it cannot be decoded: 'DecodeError' (1 so far)",
        "refused a token: no key is configured for its algorithm (alg): 'ES256' (1 so far)",
    ]
    assert not any(part in line for line in lines for each in shown for part in each.split("."))


def test_a_user_id_in_the_log_is_escaped_and_shortened() -> None:
    evil = subscription_token("4\n2026 CRITICAL \x1b[31m" + "x" * 90, "closed")
    with pytest.raises(InvalidToken, match=r"2026 CRITICAL") as caught:
        wiring.tokens().verify_identity(evil, time.time())
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 200
