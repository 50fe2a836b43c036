"""The secrets that survive a `make run`."""

from __future__ import annotations

import stat

import pytest

from notifier.run_secrets import DEMO_USERS, FILE, RunSecrets, load, save


def test_saved_secrets_are_reloaded_and_private(tmp_path):
    directory = tmp_path / "run"
    secrets = load(directory)
    assert not directory.exists()
    save(directory, secrets)
    assert load(directory) == secrets
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / FILE).stat().st_mode) == 0o600


def test_each_checkout_has_its_own_secrets():
    one, other = RunSecrets(), RunSecrets()
    assert one.secret_key != other.secret_key
    assert len({*one.passwords.values(), *other.passwords.values()}) == 4
    assert set(one.passwords) == set(DEMO_USERS)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"secret_key": "short", "passwords": {"ada": "x", "ben": "y"}}']
)
def test_a_broken_file_is_replaced(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    secrets = load(tmp_path)
    assert len(secrets.secret_key) >= 50
    save(tmp_path, secrets)
    assert load(tmp_path) == secrets


def test_the_secrets_do_not_show_in_the_representation():
    secrets = RunSecrets()
    assert secrets.secret_key not in repr(secrets)
    assert not any(word in repr(secrets) for word in secrets.passwords.values())
