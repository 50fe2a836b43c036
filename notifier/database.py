"""What DATABASE_URL means: the database of users and sessions, as Django's settings.

SQLite without a URL; PostgreSQL where several machines serve, or wherever one runs already. The app
`realtime` needs neither. Pure: opens nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dj_database_url

from realtime.url_rules import is_line

CHECKOUT = Path(__file__).resolve().parent.parent
DEFAULT_FILE = "db.sqlite3"

SQLITE_OPTIONS = {
    # Readers and the writer do not wait for each other; a power cut may lose the last login, never
    # the file (sqlite.org/wal.html).
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
    # A transaction that starts as a reader and then writes fails at once when another one writes.
    "transaction_mode": "IMMEDIATE",
    "timeout": 5,
}
# Django under ASGI keeps no connection for the next request: without a pool, each client that
# returns after a restart would open one, and PostgreSQL allows 100 of them.
POOL = {
    "min_size": 1,
    "max_size": 8,
    "timeout": 3,
    # After so many seconds it gives up and tries anew when somebody asks; the default, 5 minutes,
    # ends in pauses of minutes in which a PostgreSQL that is back is not noticed.
    "reconnect_timeout": 3,
}
CONNECT_SECONDS = 5

_SCHEMES = ("sqlite", "postgres", "postgresql")


class BadDatabaseUrl(ValueError):
    """The text is the rest of a sentence, without the value: it may carry a password."""


def database_settings(url: str) -> dict[str, Any]:
    """Return the entry of Django's ``DATABASES``; an empty URL is ``db.sqlite3`` in the checkout.

    Raises:
        BadDatabaseUrl: It cannot be used.
    """
    url = url or f"sqlite:///{DEFAULT_FILE}"
    try:
        if urlsplit(url).scheme not in _SCHEMES:
            raise BadDatabaseUrl("must start with postgres:// or sqlite:///.")
        found: dict[str, Any] = dict(dj_database_url.parse(url))
    except ValueError as error:
        if isinstance(error, BadDatabaseUrl):
            raise
        raise BadDatabaseUrl(
            "cannot be read: postgres://user:password@host:5432/name is meant, and what is special "
            "in a password is written as %40."
        ) from None  # the cause quotes it
    if not all(is_line(value) for value in found.values() if isinstance(value, str)):
        raise BadDatabaseUrl("has a line break or another control character in it.")
    return _sqlite(found) if "sqlite" in found["ENGINE"] else _postgres(found)


def file_of(database: dict[str, Any]) -> Path | None:
    """Return the file of an SQLite database, None for PostgreSQL."""
    return Path(database["NAME"]) if "sqlite" in database["ENGINE"] else None


def _sqlite(found: dict[str, Any]) -> dict[str, Any]:
    name = str(found["NAME"])
    if name in ("", ":memory:") or found.get("OPTIONS"):
        raise BadDatabaseUrl("must name a file, and no options: sqlite:////var/lib/db.sqlite3.")
    engine = "notifier.sqlite"  # Django's, with a file that only we can read
    return {**found, "ENGINE": engine, "NAME": str(CHECKOUT / name), "OPTIONS": SQLITE_OPTIONS}


def _postgres(found: dict[str, Any]) -> dict[str, Any]:
    if not found["NAME"]:
        raise BadDatabaseUrl("names no database: postgres://user:password@host:5432/name.")
    options = {"connect_timeout": CONNECT_SECONDS, **found.get("OPTIONS", {}), "pool": POOL}
    # Asked with each connection that the pool hands out: PostgreSQL may have been restarted.
    return {**found, "OPTIONS": options, "CONN_HEALTH_CHECKS": True}
