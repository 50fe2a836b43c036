"""``memory://`` belongs to one process of a project; others are refused as long as it lives."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from realtime.checks.settings import check_settings
from realtime.conf import Settings
from realtime.errors import ConfigurationError
from realtime.wiring import one_process
from tests.support.service import ROOT

SETUP = """
import os, sys, time, django
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
django.setup()
settings.REALTIME_REDIS_URL = "memory://"
settings.BASE_DIR = os.environ["BASE_DIR"]
from realtime import publish
def attempt():
    try:
        return str(publish("plain", 1).offset)
    except ImproperlyConfigured as error:
        return f"refused: {error}"
"""


def run(code: str, folder: Path, base: str = "base") -> str:
    """Return what code prints in a process of the project in ``base``."""
    env = {
        **os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "TMPDIR": str(folder),
        "BASE_DIR": str(folder / base),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", SETUP + code], cwd=ROOT, env=env, capture_output=True, text=True,
        encoding="utf-8", timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_another_process_of_the_project_is_refused_until_the_first_ends(
    tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.BASE_DIR = str(tmp_path / "base")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    lock = one_process._lock(one_process._path("rt"))
    said = run("print(attempt())", tmp_path)
    assert said.startswith("refused: REALTIME_REDIS_URL: is memory://")
    assert f"another one uses it (process {os.getpid()}: " in said
    settings.BASE_DIR = str(tmp_path / "another project")
    os.close(one_process._lock(one_process._path("rt")))
    os.close(lock)
    assert run("print(attempt())", tmp_path) == "1\n", "the first has ended"


FORK = """
parent = [attempt(), attempt()]
reading, writing = os.pipe()
if os.fork() == 0:
    os.write(writing, attempt().encode())
    os._exit(0)
os.wait()
print(parent, os.read(reading, 1000).decode(), attempt())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_after_the_first_use_is_refused(tmp_path: Path) -> None:
    """Like the workers of a server that preloads the application."""
    said = run(FORK, tmp_path)
    assert said.startswith("['1', '2'] refused: REALTIME_REDIS_URL")
    assert said.endswith("3\n"), "the parent continues"


DAEMON = """
assert attempt() == "1"
if os.fork() == 0:
    while (said := attempt()).startswith("refused"):
        time.sleep(0.01)  # until the parent has ended
    print(said, flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_daemon_whose_parent_has_ended_starts_anew(tmp_path: Path) -> None:
    assert run(DAEMON, tmp_path) == "1\n"


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="links can be followed here")
def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    """Every user can write to the directory (CWE-59)."""
    run("attempt()", tmp_path)
    [lock] = tmp_path.glob("realtime-memory-*.lock")
    assert lock.stat().st_mode & 0o077 == 0
    lock.unlink()
    victim = tmp_path / "victim"
    victim.write_text("untouched", encoding="utf-8")
    lock.symlink_to(victim)
    said = run("print(attempt())", tmp_path)
    assert "cannot be opened" in said
    assert victim.read_text(encoding="utf-8") == "untouched"


@pytest.mark.parametrize("url", ["memory:", "memory://1", "memory:///path", "Memory://"])
def test_it_is_written_exactly(settings: Any, url: str) -> None:
    settings.REALTIME_REDIS_URL = url
    with pytest.raises(ConfigurationError, match="REALTIME_REDIS_URL"):
        Settings.from_django()


def test_test_runs_are_not_warned(settings: Any) -> None:
    """Test runs set DEBUG to False."""
    settings.REALTIME_REDIS_URL = "memory://"
    assert "realtime.W013" not in [message.id for message in check_settings()]
