"""Runs `notifier.prepare` for the launcher: a process that prepares the database.

It runs while Valkey and the workers start, and takes less time than they do. The service is not
announced before it has succeeded, and stops if it fails.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PREPARATION_STOP_SECONDS = 5.0
NO_REDIS_YET = "unix:///later"
"""The Redis URL it gets before there is a Redis: it never connects to one."""


def python_path(environ: Mapping[str, str]) -> str:
    """Return a PYTHONPATH by which child processes find the checkout, which is not installed.

    They keep the working directory of the launcher, since paths in variables may be relative.
    """
    checkout = str(Path(__file__).resolve().parent.parent)
    return os.pathsep.join(filter(None, (checkout, environ.get("PYTHONPATH", ""))))


class Preparation:
    """The process, as a context manager: it ends with the context."""

    def __init__(self, environ: Mapping[str, str], *options: str) -> None:
        # Its own session: Ctrl-C in the terminal is for the launcher, which stops it, too.
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "notifier.prepare", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={**environ, "PYTHONPATH": python_path(environ)},
            start_new_session=True,
            encoding="utf-8",
            errors="replace",
        )

    def __enter__(self) -> Preparation:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(PREPARATION_STOP_SECONDS)
        self._process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def is_done(self) -> bool:
        """Return whether the database is ready."""
        return self._process.poll() == 0

    def failure(self) -> str:
        """Return why it cannot be prepared; empty while it may still succeed."""
        if self._process.poll() in (None, 0):
            return ""
        said = self._process.stdout.read().strip() if self._process.stdout else ""
        return said or "the database could not be prepared; see the messages above."
