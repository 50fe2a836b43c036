"""Ports that no other test of this machine has, in this process or in another one."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

PORTS = range(20_000, 32_000)
"""Below the ports that the kernel gives to clients (32768 up)."""
_LEDGER = Path(tempfile.gettempdir()) / f"notifier-test-ports-{os.getuid()}"
_taken: set[int] = set()


def free_port() -> int:
    """Return a port that nobody has, and reserve it for this process until it ends.

    To try whether a port can be bound is not enough: between the trial and the start of the server,
    which may take a second, a test of another process would find the same port free. So a process
    locks one byte per port of a file that all of them share.
    """
    while True:
        port = random.SystemRandom().choice(PORTS)  # not the seed of the tests' order
        if port not in _taken and _lock(port) and _can_bind(port):
            _taken.add(port)
            return port


# Open until the process ends: to close any descriptor of the file would give up all its locks.
_ledger = os.open(_LEDGER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(port: int) -> bool:
    try:
        fcntl.lockf(_ledger, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError as error:
        if error.errno not in {errno.EACCES, errno.EAGAIN}:
            raise
        return False
    return True


def _can_bind(port: int) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False
