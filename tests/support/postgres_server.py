"""A private PostgreSQL for tests: a cluster in a temporary directory, on a Unix socket."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

import psycopg

from tests.support.eventually import eventually_sync


def _binaries() -> Path | None:
    """Return the directory of the server's commands, which Debian does not put into the PATH."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return folders[-1].parent if folders else None


def _user() -> str | None:
    """Return the user to run as: initdb and postgres reject root."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


class PostgresServer:
    """One server process, which leaves nothing behind."""

    @staticmethod
    def is_installed() -> bool:
        return _binaries() is not None

    def __init__(self) -> None:
        binaries = _binaries()
        assert binaries is not None, "PostgreSQL is required (NOTIFIER_REQUIRE) and not installed"
        self._binaries = binaries
        # Short: the path of a Unix socket has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="rt-pg-", dir="/tmp"))
        self._user = _user()
        if self._user:
            shutil.chown(self.folder, self._user)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> PostgresServer:
        data = str(self.folder / "data")
        subprocess.run(
            [self._binaries / "initdb", "--pgdata", data, "--auth", "trust", "--username", "tests",
             "--encoding", "UTF8", "--no-locale", "--no-sync"],
            user=self._user, cwd=self.folder, check=True, capture_output=True,
        )  # fmt: skip
        return self.start_again()

    def start_again(self) -> PostgresServer:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", str(self.folder / "data"),
                 "-k", str(self.folder), "-c", "listen_addresses=", "-c", "fsync=off"],
                user=self._user, cwd=self.folder, stdout=log, stderr=log,
            )  # fmt: skip
        eventually_sync(self._answers, seconds=20)
        return self

    def url(self, database: str = "postgres") -> str:
        return f"postgres://tests@{quote(str(self.folder), safe='')}/{database}"

    def new_database(self) -> str:
        """Return the URL of a database without tables."""
        name = f"test_{secrets.token_hex(6)}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def shut_down(self) -> None:
        """Stop it at once, but cleanly; clients are disconnected."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # "fast shutdown"
            self._process.wait(20)
            self._process = None

    def stop(self) -> None:
        self.shut_down()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url()).close()
        except psycopg.OperationalError:
            return False
        return True
