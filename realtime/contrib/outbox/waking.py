"""Waiting for rows: by PostgreSQL's LISTEN and NOTIFY, and by looking again after a while.

A notification only saves time. One that is lost, or does not come through a pooler
(pgbouncer's transaction mode), delays a row until the next look.
"""

from __future__ import annotations

import contextlib
import os
import select
from typing import TYPE_CHECKING, Any

from django.db import Error as DatabaseError
from django.db import connections
from django.db.utils import DatabaseErrorWrapper

from realtime.contrib.outbox.models import NOTIFICATIONS

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


class Waker:
    """Waits until rows may have been written, a time has passed, or `wake` was called."""

    def __init__(self, alias: str) -> None:
        """Connect at the first wait.

        Args:
            alias: The database.
        """
        self._alias = alias
        self._listening: BaseDatabaseWrapper | None = None
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)

    def wake(self) -> None:
        """End the current wait, or the next one; from a signal handler, or another thread."""
        with contextlib.suppress(BlockingIOError):  # it is full, so it wakes anyway
            os.write(self._wake, b"\0")

    def listen(self) -> None:
        """Ask the database for notifications, if it has any; look for rows afterwards.

        Raises:
            django.db.Error: The database cannot be reached.
        """
        if self._listening is not None or connections[self._alias].vendor != "postgresql":
            return
        # A connection of its own: notifications arrive only between its transactions.
        connection = connections.create_connection(self._alias)
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"LISTEN {NOTIFICATIONS}")
        except DatabaseError:
            connection.close()
            raise
        self._listening = connection

    def wait(self, seconds: float) -> None:
        """Wait for a notification, for `wake`, or for this long."""
        sockets = [self._woken]
        raw = None if self._listening is None else self._listening.connection
        if raw is not None:
            sockets.append(raw.fileno())
        ready, _, _ = select.select(sockets, [], [], seconds)
        if self._woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._woken, 1024)
        if raw is not None and len(ready) > (self._woken in ready):
            self._take_notifications(raw)

    def close(self) -> None:
        """Close the connection, and what wakes."""
        self._stop_listening()
        os.close(self._woken)
        os.close(self._wake)

    def _take_notifications(self, raw: Any) -> None:
        """Read what has arrived, so that the socket is quiet; its content does not matter."""
        try:
            with DatabaseErrorWrapper(self._listening):
                _drain(raw)
        except DatabaseError:  # the connection has ended
            self._stop_listening()

    def _stop_listening(self) -> None:
        if self._listening is not None:
            with contextlib.suppress(DatabaseError):
                self._listening.close()
            self._listening = None


def _drain(raw: Any) -> None:
    if hasattr(raw, "poll"):  # psycopg 2
        raw.poll()
        raw.notifies.clear()
        return
    # `Connection.notifies` has had a timeout since psycopg 3.2; Django takes 3.1.
    raw.pgconn.consume_input()
    while raw.pgconn.notifies():
        pass
