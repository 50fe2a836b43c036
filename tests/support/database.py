"""Databases for the services of the tests."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def migrate(url: str) -> str:
    """Make the tables, as a deployment does; returns the URL."""
    manage(url, "migrate", "--verbosity", "0")
    return url


def manage(url: str, *arguments: str, **variables: str) -> str:
    """Run ``manage.py`` of the service on a database; returns what it printed."""
    env = {"DATABASE_URL": url, "DEBUG": "1", "SECRET_KEY": "only for this command", **variables}
    env["DJANGO_SETTINGS_MODULE"] = "notifier.settings"
    ran = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@cache
def migrated_url() -> str:
    """Return a database with tables and nobody in them, for services that only have to start."""
    folder = tempfile.mkdtemp(prefix="rt-db-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return migrate(f"sqlite:///{folder}/db.sqlite3")
