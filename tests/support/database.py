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


def migrate(url: str, then: str = "") -> str:
    """Create the tables, as a deployment does, and run code in its shell; return the URL.

    For SQLite this is done once for each code, and copied: migrating takes a second.
    """
    file = url.removeprefix("sqlite:///")
    if file == url:
        _prepare(url, then)
    else:
        shutil.copy(_template(then), file)  # with its mode: nobody else may read it
    return url


@cache
def _template(then: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="rt-db-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = folder / "template.sqlite3"
    _prepare(f"sqlite:///{file}", then)
    assert list(folder.iterdir()) == [file], "some of it is not in the file yet"
    return file


def _prepare(url: str, then: str) -> None:
    manage(url, "migrate", "--verbosity", "0")
    if then:
        manage(url, "shell", "--no-imports", "--command", then)


def manage(url: str, *arguments: str, **variables: str) -> str:
    """Run the service's ``manage.py`` on a database; return its output."""
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
    """Return a database with tables but no users, for services that only have to start."""
    folder = tempfile.mkdtemp(prefix="rt-db-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return migrate(f"sqlite:///{folder}/db.sqlite3")
