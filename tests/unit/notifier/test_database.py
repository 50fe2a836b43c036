"""The meaning of DATABASE_URL."""

from __future__ import annotations

import pytest

from notifier.database import CHECKOUT, BadDatabaseUrl, database_settings, file_of
from notifier.env import BadEnvironment, read_environment


def test_the_default_database_is_a_file_in_the_checkout():
    assert file_of(database_settings("")) == CHECKOUT / "db.sqlite3"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("sqlite:////var/lib/a.sqlite3", "/var/lib/a.sqlite3"),
        ("sqlite:////var/lib/a%20b%23.sqlite3", "/var/lib/a b#.sqlite3"),
        ("sqlite:///data/a.sqlite3", f"{CHECKOUT}/data/a.sqlite3"),
    ],
)
def test_a_sqlite_url_names_a_file(url: str, name: str):
    database = database_settings(url)
    assert database["NAME"] == name
    assert "journal_mode=WAL" in database["OPTIONS"]["init_command"]


def test_a_postgres_url_is_accepted():
    database = database_settings("postgres://u:p%40ss@db.example:6543/users?sslmode=require")
    assert database["ENGINE"] == "django.db.backends.postgresql"
    expected = {"USER": "u", "PASSWORD": "p@ss", "HOST": "db.example", "PORT": 6543}
    assert expected.items() <= database.items()
    assert database["OPTIONS"]["sslmode"] == "require"
    assert database["OPTIONS"]["pool"]["max_size"] <= 10
    assert file_of(database) is None


BAD = [
    "mysql://u:hunter2@host/name",
    "u:hunter2@host/name",
    "postgres://u:hunter2@host",
    "postgres://u:hunter2@host/",
    "postgres://u:hunter2[@host/name",
    "postgres://u:hunter2@host:port/name",
    "postgres://u:hunter2@host:99999/name",
    "postgres://u:hunter2@host:0/name",
    "sqlite://",
    "sqlite://:memory:",
    "sqlite:///a?hunter2=1",
]


@pytest.mark.parametrize("url", BAD)
def test_an_unusable_url_is_refused_without_its_password(url: str):
    with pytest.raises(BadDatabaseUrl) as refused:
        database_settings(url)
    assert refused.value.__cause__ is None
    with pytest.raises(
        BadEnvironment, match=r"^DATABASE_URL (must|contains|has|is not a valid URL)"
    ) as told:
        read_environment({"DEBUG": "1", "SECRET_KEY": "x", "DATABASE_URL": url})
    assert "hunter2" not in str(told.value)
    assert "hunter2" not in repr(told.value)
