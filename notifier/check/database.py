"""Checks the database of users and sessions."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from django.db import Error as DatabaseError
from django.db import connection

from notifier.check.findings import Finding, Level
from notifier.check.redis_servers import judge_clock
from notifier.database import file_of
from notifier.prepare import has_pending_migrations

AREA = "database"
MIGRATE = "Create them: python manage.py migrate"


def check_database() -> list[Finding]:
    """Connect to the database, and look for its tables."""
    # One connection is enough, and a pool would wait and log where we need the error.
    connection.settings_dict["OPTIONS"].pop("pool", None)
    path = file_of(connection.settings_dict)
    if path is not None and not path.exists():  # connecting would create it
        return [
            Finding(AREA, Level.WRONG, f"{path} does not exist, so tables are missing", MIGRATE)
        ]
    findings = _check_file(path) if path else []
    if path and not _may_write(path):
        return findings
    try:
        is_behind = has_pending_migrations()
        if path is None:
            findings += _check_server()
    except DatabaseError as error:
        reason = str(error).splitlines()[0]  # names host and user, never the password
        advice = "Start it, or correct DATABASE_URL. Without it, users cannot log in."
        return [Finding(AREA, Level.WRONG, f"cannot be reached: {reason}", advice)]
    finally:
        connection.close()
    if is_behind:
        findings.append(Finding(AREA, Level.WRONG, "tables or columns are missing", MIGRATE))
    else:
        findings.append(Finding(AREA, Level.OK, "has all tables"))
    return findings


def _check_server() -> list[Finding]:
    name = connection.settings_dict["HOST"] or "local socket"
    began = time.time()
    with connection.cursor() as cursor:
        cursor.execute("SELECT extract(epoch FROM clock_timestamp()), version()")
        now, version = cursor.fetchone()
    ahead = float(now) - (began + time.time()) / 2
    said = " ".join(str(version).split()[:2])
    return [Finding(AREA, Level.OK, f"{said} at {name}"), *judge_clock(AREA, name, ahead)]


def _check_file(path: Path) -> list[Finding]:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        text = f"{path} can be accessed by other users (mode {mode:04o})"
        return [Finding(AREA, Level.WRONG, text, f"chmod 600 {path}*")]
    if not _may_write(path):
        text = f"{path} or its directory cannot be written by this user"
        advice = "Check as the user of the service; SQLite writes files beside its own."
        return [Finding(AREA, Level.WRONG, text, advice)]
    return [Finding(AREA, Level.OK, f"SQLite at {path}, for this user only")]


def _may_write(path: Path) -> bool:
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
