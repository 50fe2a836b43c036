"""Parses DATABASE_URL, the database of users and sessions, into Django's settings.

Without a URL, SQLite; PostgreSQL if several machines serve, or if one is available anyway. The app
`realtime` needs neither. Pure: opens nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dj_database_url

from realtime.core.url_rules import is_line

CHECKOUT = Path(__file__).resolve().parent.parent
DEFAULT_FILE = "db.sqlite3"

SQLITE_OPTIONS = {
    # Readers and the writer do not block each other; a power failure may lose the last login, but
    # never the file (sqlite.org/wal.html).
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
    # A transaction that reads first and then writes fails immediately if another one is writing.
    "transaction_mode": "IMMEDIATE",
    "timeout": 5,
}
# Under ASGI, Django keeps no connection for the next request: without a pool, each client that
# returns after a restart would open one, and PostgreSQL's default limit is 100.
POOL = {
    "min_size": 1,
    "max_size": 8,
    "timeout": 3,
    # After this long it gives up, and retries on the next request; the default of 5 minutes causes
    # pauses of minutes in which a recovered PostgreSQL goes unnoticed.
    "reconnect_timeout": 3,
}
CONNECT_SECONDS = 5

_SCHEMES = ("sqlite", "postgres", "postgresql")


class BadDatabaseUrl(ValueError):
    """An invalid URL. The text ends a sentence, without the value, which may hold a password."""


def database_settings(url: str) -> dict[str, Any]:
    """Return the entry of Django's ``DATABASES``; an empty URL is ``db.sqlite3`` in the checkout.

    Raises:
        BadDatabaseUrl: It is invalid.
    """
    url = url or f"sqlite:///{DEFAULT_FILE}"
    try:
        if urlsplit(url).scheme not in _SCHEMES:
            raise BadDatabaseUrl("must start with postgres:// or sqlite:///.")
        if urlsplit(url).port == 0:  # dj-database-url would use the default port
            raise BadDatabaseUrl("has port 0: use 1 to 65535.")
        found: dict[str, Any] = dict(dj_database_url.parse(url))
    except ValueError as error:
        if isinstance(error, BadDatabaseUrl):
            raise
        raise BadDatabaseUrl(
            "is not a valid URL: use postgres://user:password@host:5432/name, and percent-encode "
            "special characters in the password (@ is %40)."
        ) from None  # the cause quotes the URL
    if not all(is_line(value) for value in found.values() if isinstance(value, str)):
        raise BadDatabaseUrl("contains a line break or another control character.")
    return _sqlite(found) if "sqlite" in found["ENGINE"] else _postgres(found)


def file_of(database: dict[str, Any]) -> Path | None:
    """Return the file of an SQLite database; None for PostgreSQL."""
    return Path(database["NAME"]) if "sqlite" in database["ENGINE"] else None


def _sqlite(found: dict[str, Any]) -> dict[str, Any]:
    name = str(found["NAME"])
    if name in ("", ":memory:") or found.get("OPTIONS"):
        raise BadDatabaseUrl("must name a file, without options: sqlite:////var/lib/db.sqlite3.")
    engine = "notifier.sqlite"  # Django's backend, with a file that only we can read
    return {**found, "ENGINE": engine, "NAME": str(CHECKOUT / name), "OPTIONS": SQLITE_OPTIONS}


def _postgres(found: dict[str, Any]) -> dict[str, Any]:
    if not found["NAME"]:
        raise BadDatabaseUrl("must name a database: postgres://user:password@host:5432/name.")
    options = {"connect_timeout": CONNECT_SECONDS, **found.get("OPTIONS", {}), "pool": POOL}
    # Checked whenever the pool hands out a connection: PostgreSQL may have restarted.
    return {**found, "OPTIONS": options, "CONN_HEALTH_CHECKS": True}
