"""The guardian of the private Valkey: a small child process of the launcher.

It owns the Valkey process and its directory. Its standard input is the read end of a pipe to the
launcher. When that pipe closes (the launcher stopped, or was killed by SIGKILL and could do nothing
more) it stops Valkey and removes the directory. It runs in its own session, so Ctrl-C in the
terminal does not stop Valkey while workers are still closing connections.

It prints one line, the URL, once Valkey responds. Standard library only: it starts within a few
milliseconds and has little that could fail.
"""

from __future__ import annotations

import argparse
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from notifier import servicefile

FOLDER_PREFIX = "notifier-"
SOCKET_NAME = "valkey.sock"
# sun_path holds 104 bytes on macOS (108 on Linux), including the terminating zero.
SOCKET_PATH_BYTES = 103

START_SECONDS = 10.0
STOP_SECONDS = 5.0
# A Valkey that dies (someone may be testing just that) is restarted, but not in a busy loop.
RESTART_PAUSE_SECONDS = 0.5
LAUNCHER_POLL_SECONDS = 0.2


class Valkey:
    """One Valkey server on a unix socket in a directory that only this user can enter."""

    def __init__(self, binary: str, directory: Path) -> None:
        self.directory = directory
        self.socket_path = directory / SOCKET_NAME
        self.log_path = directory / "valkey.log"
        # fmt: off
        self._command = [
            binary,
            "--port", "0",
            "--unixsocket", str(self.socket_path),
            "--unixsocketperm", "700",
            "--dir", str(directory),
            "--save", "",
            # Keeps the fallback queue if Valkey dies: Valkey restarts in the same directory.
            "--appendonly", "yes",
            "--appendfsync", "everysec",
            "--daemonize", "no",
            "--loglevel", "warning",
            "--logfile", str(self.log_path),
        ]
        # fmt: on
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it responds.

        Raises:
            RuntimeError: It exited or did not respond in time; includes its last output.
        """
        process = subprocess.Popen(  # noqa: S603 - the binary of our own wheel
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        self._process = process
        deadline = time.monotonic() + START_SECONDS
        while not answers(self.socket_path):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Valkey did not start: {self._read_last_line()}")
            time.sleep(0.01)

    def is_alive(self) -> bool:
        """Return whether the process is still running."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Stop the server; it has nothing to save, so it gets little time."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read_last_line(self) -> str:
        try:
            return (
                self.log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
            )
        except (OSError, IndexError):
            return "it said nothing"


def answers(path: Path) -> bool:
    """Return whether a server responds to PING on the Unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def private_directory() -> Path:
    """Make a directory (0700) with a path short enough for a Unix socket, and ASCII for a URL."""
    directory = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
    if str(directory).isascii() and len(bytes(directory / SOCKET_NAME)) <= SOCKET_PATH_BYTES:
        return directory
    directory.rmdir()
    return Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir="/tmp"))


def is_private(redis_url: str) -> bool:
    """Return whether a URL is that of a private Valkey, which only one launcher's processes use."""
    socket_path = Path(redis_url.removeprefix("unix://"))
    return (
        redis_url.startswith("unix://")
        and socket_path.name == SOCKET_NAME
        and socket_path.parent.name.startswith(FOLDER_PREFIX)
    )


def guard(valkey: Valkey) -> None:
    """Keep Valkey running until the launcher is gone."""
    while not _is_launcher_gone(LAUNCHER_POLL_SECONDS):
        if valkey.is_alive():
            continue
        if _is_launcher_gone(RESTART_PAUSE_SECONDS):
            return
        valkey.start()


def _is_launcher_gone(seconds: float) -> bool:
    # Nothing is ever written into this pipe: readable means that its other end is closed.
    readable, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(readable)


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    # Runs the `finally` of main().
    raise SystemExit(0)


def main(arguments: list[str] | None = None) -> int:
    """Run the guardian; see the module docstring."""
    parser = argparse.ArgumentParser(prog="notifier.guardian", description="Internal.")
    parser.add_argument("--binary", required=True)
    parser.add_argument("--service-file", type=Path, required=True)
    parser.add_argument("--launcher", type=int, required=True)
    options = parser.parse_args(arguments)

    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    directory = private_directory()
    valkey = Valkey(options.binary, directory)
    try:
        valkey.start()
        # UTF-8 in any locale, as the launcher expects: a temporary directory may have any name.
        os.write(sys.stdout.fileno(), os.fsencode(f"unix://{valkey.socket_path}\n"))
        guard(valkey)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # nothing may interrupt the clean-up
        valkey.stop()
        shutil.rmtree(directory, ignore_errors=True)
        # Only this launcher's file, and only if it could not remove it itself.
        servicefile.remove(options.service_file, pid=options.launcher)
    return 0


if __name__ == "__main__":
    sys.exit(main())
