"""A foreign Django project in a directory of its own, built from the code on a page of the docs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx

from tests.support.eventually import eventually_sync
from tests.support.ports import free_port


class File(NamedTuple):
    """A file that a page shows."""

    name: str
    is_appended: bool
    text: str


def files_of(page: str) -> list[File]:
    """Return the files that a page shows: a name, maybe ``, at the end``, and a block of code."""
    found = re.findall(r"^`([\w./]+)`(, at the end)?:\n\n```\w+\n(.*?)^```$", page, re.M | re.S)
    return [File(name, bool(at_the_end), text) for name, at_the_end, text in found]


def foreign_environment() -> dict[str, str]:
    """Return the environment without what belongs to this project and its tests."""
    ours = ("DJANGO_", "REALTIME_", "NOTIFIER_", "PYTEST", "PYTHONDEVMODE")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


class Host:
    """A project created by `startproject`: `mysite` with an app `orders`."""

    interpreter = sys.executable
    """The interpreter whose packages the project has."""
    command_seconds = 200.0
    """The deadline of a command."""

    def __init__(self, folder: Path, packages: str, redis_url: str) -> None:
        """Create the project.

        Args:
            folder: An empty directory.
            packages: Where `realtime` is, for PYTHONPATH.
            redis_url: The Redis of its settings, as REDIS_URL.
        """
        self.folder = folder
        self.env = foreign_environment() | {"PYTHONPATH": packages, "REDIS_URL": redis_url}
        self.run("-m", "django", "startproject", "mysite", ".")
        self.run("manage.py", "startapp", "orders")

    def write(self, files: list[File]) -> None:
        """Write what a page shows."""
        for name, is_appended, text in files:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a" if is_appended else "w") as file:
                file.write(text)

    def run(self, *arguments: str) -> str:
        """Run Python in the project; return its output, including stderr."""
        done = self._done([self.interpreter, *arguments])
        return done.stdout + done.stderr

    def shell(self, command: list[str]) -> str:
        """Run a command in the project; return its output."""
        return self._done(command).stdout

    def _done(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True,
            timeout=self.command_seconds,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    @contextmanager
    def served(
        self, log: Path, *command: str, probe: str = "/live/readyz", port: int | None = None
    ) -> Iterator[str]:
        """Serve the project with a command, to which a port is added; yield the URL."""
        port = port or free_port()
        url = f"http://127.0.0.1:{port}"
        where = [f"127.0.0.1:{port}"] if "runserver" in command else ["--port", str(port)]
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                [self.interpreter, *command, *where],
                cwd=self.folder, env=self.env, stdout=output, stderr=output,
            )  # fmt: skip
        try:
            try:
                eventually_sync(lambda: _answers(url + probe), seconds=20)
            except AssertionError:
                raise AssertionError(log.read_text(encoding="utf-8")) from None
            yield url
            assert "Traceback" not in log.read_text(encoding="utf-8")
        finally:
            process.terminate()
            process.wait(timeout=60)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
