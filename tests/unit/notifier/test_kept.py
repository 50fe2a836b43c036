"""What outlives a `make run`."""

from __future__ import annotations

import stat

import pytest

from notifier.kept import DEMO_USERS, FILE, Kept, keep, recall


def test_what_was_kept_is_recalled_and_nobody_else_can_read_it(tmp_path):
    directory = tmp_path / "run"
    kept = recall(directory)
    assert not directory.exists()
    keep(directory, kept)
    assert recall(directory) == kept
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / FILE).stat().st_mode) == 0o600


def test_each_checkout_has_its_own():
    one, other = Kept(), Kept()
    assert one.secret_key != other.secret_key
    assert len({*one.passwords.values(), *other.passwords.values()}) == 4
    assert set(one.passwords) == set(DEMO_USERS)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"secret_key": "short", "passwords": {"ada": "x", "ben": "y"}}']
)
def test_a_broken_file_is_replaced(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    kept = recall(tmp_path)
    assert len(kept.secret_key) >= 50
    keep(tmp_path, kept)
    assert recall(tmp_path) == kept


def test_the_secrets_do_not_show_in_the_representation():
    kept = Kept()
    assert kept.secret_key not in repr(kept)
    assert not any(word in repr(kept) for word in kept.passwords.values())
