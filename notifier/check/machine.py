"""Checks the limits of this machine, as the processes of the service will meet them."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

from notifier.check.findings import Finding, Level
from notifier.env import Environment
from notifier.file_limit import clients_within
from notifier.listening import BACKLOG, listening_socket
from realtime.wiring import limits

AREA = "machine"
SOMAXCONN = Path("/proc/sys/net/core/somaxconn")


def check_machine(environment: Environment) -> list[Finding]:
    """Compare the limits of this machine with the settings."""
    return [
        *judge_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[1], limits().connections),
        *judge_somaxconn(_read_somaxconn()),
        *judge_workers(environment.workers, _count_processors()),
        *_check_address(environment.host, environment.port),
    ]


def judge_open_files(files: int, connections: int) -> list[Finding]:
    """Compare the hard limit on open files, which each worker raises its own to, with the setting.

    Args:
        files: The limit.
        connections: The setting ``REALTIME_CONNECTIONS``, for each worker.
    """
    said = "unlimited" if files == resource.RLIM_INFINITY else f"{files:,}"
    if clients_within(files) >= connections:
        text = f"open files: {said}, enough for {connections:,} connections of each worker"
        return [Finding(AREA, Level.OK, text)]
    text = (
        f"open files: {said}, enough for {clients_within(files):,} connections, not for the "
        f"{connections:,} that a worker accepts"
    )
    advice = (
        "Raise LimitNOFILE in the systemd unit, or `ulimit -Hn` in a shell, or lower connections "
        "in NOTIFIER_LIMITS."
    )
    return [Finding(AREA, Level.WRONG, text, advice)]


def judge_somaxconn(most: int | None) -> list[Finding]:
    """Judge how many connections may wait until a worker accepts them; None is unknown."""
    if most is None:
        return []
    if most >= BACKLOG:
        return [Finding(AREA, Level.OK, f"net.core.somaxconn: {most:,}")]
    text = f"net.core.somaxconn: {most:,}: when many clients return at once, some are refused"
    return [Finding(AREA, Level.WARNING, text, "Set it: sysctl -w net.core.somaxconn=4096")]


def judge_workers(workers: int, processors: int) -> list[Finding]:
    """Compare the number of workers with that of the processors that they may use."""
    text = f"WEB_CONCURRENCY={workers} on a machine with {processors} processors for this process"
    if workers <= processors:
        return [Finding(AREA, Level.OK, text)]
    advice = "More workers than processors share their time and each need memory."
    return [Finding(AREA, Level.WARNING, text, advice)]


def _read_somaxconn() -> int | None:
    try:
        return int(SOMAXCONN.read_text(encoding="ascii"))
    except (OSError, ValueError):  # not Linux, or hidden
        return None


def _count_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_address(host: str, port: int) -> list[Finding]:
    try:
        listening_socket(host, port).close()
    except OSError as error:
        where = f"{host}:{port}"
        if error.errno == errno.EADDRINUSE:
            text = f"{where} is in use, by this service if it is running"
            return [Finding(AREA, Level.WARNING, text, "If it is not, choose another PORT.")]
        text = f"cannot listen on {where}: {error.strerror}"
        return [Finding(AREA, Level.WRONG, text, "Correct HOST and PORT.")]
    return [Finding(AREA, Level.OK, f"can listen on {host}:{port}")]
