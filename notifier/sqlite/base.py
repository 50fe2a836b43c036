"""Django's backend for SQLite, which creates its file so that only we can read it.

SQLite would leave that to umask (0644, mostly), and the file holds hashes of passwords and the keys
of sessions. Its `-wal` and `-shm` get the mode of the file (`findCreateFileMode` in SQLite's
os_unix.c). A file that is there keeps its mode: an operator may have given it to a group.
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
        """Create the file, if there is none, and connect."""
        with contextlib.suppress(OSError):  # it is there; or cannot be made, which SQLite tells
            os.close(private.create(Path(conn_params["database"])))
        return super().get_new_connection(conn_params)
