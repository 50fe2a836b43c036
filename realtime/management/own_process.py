"""Refuses ``memory://`` in commands that only make sense beside another process."""

from __future__ import annotations

from django.core.management.base import CommandError

from realtime import wiring
from realtime.wiring.one_process import FROM_OUTSIDE


def refuse_memory(code: int = 1) -> None:
    """Refuse to run where the broker is inside another process, or inside none.

    Raises:
        CommandError: `REALTIME_REDIS_URL` is ``memory://``, and this process has no broker.
    """
    if wiring.is_alone():
        raise CommandError(
            "REALTIME_REDIS_URL is memory://, a broker inside one process. This command is a "
            "process of its own: it reaches neither the clients nor the queue of any other. Use "
            f"a redis:// URL for both; without Redis, {FROM_OUTSIDE}",
            returncode=code,
        )
