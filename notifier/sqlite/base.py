"""Django's SQLite backend, but the database file is created so that only we can read it.

SQLite would leave that to umask (usually 0644), and the file holds password hashes and session
keys. Its `-wal` and `-shm` files get the same mode (`findCreateFileMode` in SQLite's os_unix.c). An
existing file keeps its mode: an operator may have given access to a group.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from django.db.backends.sqlite3 import base

from notifier import private


class DatabaseWrapper(base.DatabaseWrapper):
    """A connection to a file that it may have to create."""

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Create the file, if it is missing, and connect."""
        with contextlib.suppress(OSError):  # it exists, or SQLite will report why it cannot
            os.close(private.create(Path(conn_params["database"])))
        return super().get_new_connection(conn_params)
