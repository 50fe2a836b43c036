"""The limit on open files, each of which may be a client."""

from __future__ import annotations

import contextlib
import logging
import math
import resource

from notifier.counting import SPARE_CONNECTIONS

logger = logging.getLogger("notifier.server")

OWN_FILES = 64
"""Files that a worker needs besides client connections: Redis, the database, static files, the
listening socket."""


def raise_file_limit() -> int:
    """Raise the limit on open files as far as the system allows, and return it.

    Each client is an open file. The soft limit is often 1,024, for programs that use `select`. A
    worker that reaches it cannot accept connections, nor reconnect to Redis.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS says "infinity" and takes 10,240
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def clients_within(files: int) -> float:
    """Return for how many clients a limit on open files is enough."""
    if files == resource.RLIM_INFINITY:
        return math.inf
    return max(0, files - OWN_FILES - SPARE_CONNECTIONS)


def warn_if_file_limit_is_low(files: int, connections: int) -> None:
    """Log a warning if the limit on open files allows fewer clients than the settings.

    Args:
        files: The limit on open files.
        connections: The limit on the connections of clients.
    """
    clients = clients_within(files)
    if clients < connections:
        logger.warning(
            "the limit on open files (%d) allows only %d clients, fewer than REALTIME_CONNECTIONS "
            "(%d): raise the limit (LimitNOFILE, ulimit -Hn) or lower REALTIME_CONNECTIONS",
            *(files, clients, connections),
        )
