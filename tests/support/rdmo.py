"""RDMO: a Django project of some size, with tests of its own, that knows nothing of this one.

Its source comes from PyPI, in the versions that tests/e2e/rdmo/requirements.txt pins. All that is
fetched and made is in `.foreign` of this checkout, which `make clean` removes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from xml.etree import ElementTree

from tests.support.host import File, Host, foreign_environment
from tests.support.service import ROOT

FOLDER = ROOT / ".foreign"
LOCK = ROOT / "tests/e2e/rdmo/requirements.txt"
OUR_LOCK = ROOT / "requirements.txt"
MANAGE = "testing/manage.py"
HOSTS = File("testing/config/settings/local.py", True, '\nALLOWED_HOSTS = ["127.0.0.1"]\n')
"""What RDMO needs where DEBUG is off."""
IS_FULL = os.environ.get("NOTIFIER_FOREIGN") == "full"
PART = (
    "rdmo/accounts", "rdmo/core", "rdmo/management", "rdmo/tasks", "rdmo/views",
    "rdmo/projects/tests/*issue*.py",
)  # fmt: skip
"""The tests of what a host shares with the app: users and sessions, addresses, pages, an API, and
the tasks whose changes are published."""
SUITE_SECONDS = 4 * 3600.0
"""Some minutes for an idle machine; others are busy."""


class Rdmo(Host):
    """The source of RDMO as it was released, with what it needs, its database and static files."""

    command_seconds = SUITE_SECONDS

    def __init__(self) -> None:
        """Unpack and install it anew."""
        self.env = foreign_environment()
        environment = FOLDER / "env"
        FOLDER.mkdir(exist_ok=True)
        self._command(sys.executable, "-m", "venv", "--clear", str(environment))
        self.interpreter = str(environment / "bin/python")
        self._pip("install", "--require-hashes", "-r", str(LOCK))
        self.folder = self._unpacked()
        self.write([HOSTS])
        self.run(MANAGE, "migrate", "-v0")
        data = sorted(str(path) for path in self.folder.glob("testing/fixtures/*.json"))
        self.run(MANAGE, "loaddata", "-v0", *data)
        self.collect_static()

    def add_app(self, wheel: Path, files: list[File]) -> None:
        """Install our wheel and the servers, as docs/howto/django-host.md does; write the files.

        RDMO keeps its versions; those of the rest are the ones of our own tests.
        """
        pins = FOLDER / "constraints.txt"
        versions = _pinned(OUR_LOCK) | _pinned(LOCK)
        pins.write_text("".join(f"{name}=={pin}\n" for name, pin in versions.items()), "utf-8")
        self._pip("install", str(wheel), "daphne", "uvicorn", "websockets", "-c", str(pins))
        self.write([*files, HOSTS])
        self.collect_static()

    def collect_static(self) -> None:
        self.run(MANAGE, "collectstatic", "-v0", "--no-input")

    def outcomes(self) -> dict[str, str]:
        """Run RDMO's own tests, or a part of them; return the outcome of each.

        Without those that drive a browser, which RDMO leaves out by default as well: they need
        packages that these pins do not have.
        """
        report = FOLDER / "report.xml"
        part = () if IS_FULL else [str(each) for glob in PART for each in self.folder.glob(glob)]
        said = self._command(
            self.interpreter, "-m", "pytest", "-q", "-n", str(os.cpu_count() or 1), *part,
            "--ignore-glob=*/tests/e2e", f"--junit-xml={report}",
            cwd=self.folder, statuses=(0, 1),
        )  # fmt: skip
        print(f"\nRDMO's own tests: {said.splitlines()[-1]}")
        cases = ElementTree.parse(report).getroot().iter("testcase")
        return {f"{case.get('classname')}::{case.get('name')}": _outcome(case) for case in cases}

    def _unpacked(self) -> Path:
        [(lines, version)] = re.findall(
            r"^(rdmo==(\S+) .*?)(?=^\w)", LOCK.read_text("utf-8"), re.M | re.S
        )
        only = FOLDER / "rdmo.txt"
        only.write_text(lines, "utf-8")
        options = ("--no-deps", "--no-binary", "rdmo", "--require-hashes", "-d", str(FOLDER))
        self._pip("download", *options, "-r", str(only))
        shutil.rmtree(FOLDER / f"rdmo-{version}", ignore_errors=True)
        with tarfile.open(FOLDER / f"rdmo-{version}.tar.gz") as archive:
            archive.extractall(FOLDER, filter="data")
        return FOLDER / f"rdmo-{version}"

    def _pip(self, verb: str, *arguments: str) -> None:
        quiet = ("--quiet", "--disable-pip-version-check", "--cache-dir", str(FOLDER / "pip"))
        self._command(self.interpreter, "-m", "pip", verb, *quiet, *arguments)

    def _command(self, *command: str, cwd: Path = FOLDER, statuses: tuple[int, ...] = (0,)) -> str:
        done = subprocess.run(
            command, cwd=cwd, env=self.env, capture_output=True, text=True,
            timeout=self.command_seconds,
        )  # fmt: skip
        assert done.returncode in statuses, done.stdout + done.stderr
        return done.stdout


def _pinned(lock: Path) -> dict[str, str]:
    """Return the version of each package in a file of requirements."""
    return dict(re.findall(r"^([\w.-]+)(?:\[.*?\])?==([^\s;]+)", lock.read_text("utf-8"), re.M))


def _outcome(case: ElementTree.Element) -> str:
    return next(
        (part.tag for part in case if part.tag in {"failure", "error", "skipped"}), "passed"
    )
