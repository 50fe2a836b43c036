"""The collected static files of this checkout, without which the service does not start."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COLLECTED = ROOT / "staticfiles"
SOURCES = (ROOT / "static", ROOT / "realtime" / "static")


@cache
def collect() -> None:
    """Collect them, unless they are newer than their sources and the packages."""
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # tests run in several processes
        if not _are_current():
            # Those of the tests are in the environment of pytest-django.
            env = {**os.environ, "DJANGO_SETTINGS_MODULE": "notifier.settings"}
            ran = subprocess.run(
                [sys.executable, "manage.py", "collectstatic", "--clear", "--noinput"],
                cwd=ROOT, env=env, capture_output=True, text=True,
            )  # fmt: skip
            assert ran.returncode == 0, ran.stderr
    finally:
        os.close(folder)


def _are_current() -> bool:
    sources = [ROOT / "uv.lock", *(path for folder in SOURCES for path in folder.rglob("*"))]
    try:
        finished = (COLLECTED / "staticfiles.json").stat().st_mtime
    except FileNotFoundError:
        return False
    return all(path.stat().st_mtime < finished for path in sources)
