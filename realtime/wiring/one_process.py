"""The store of ``memory://``: one for a process, and one process for a project.

Publications from a second process would be lost silently. So the first process that uses the store
of a project locks a file, and any other process is refused. A fork starts without a store,
and is refused as long as its parent lives. Processes that run tests share nothing and need no lock:
each has its own store, also with `manage.py test --parallel` and pytest-xdist.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from django.conf import settings as django_settings

from realtime.brokers.memory.shared import SharedStore
from realtime.conf.improper import ImproperSetting
from realtime.core.redis_url import SETTING
from realtime.wiring.guard import is_test_run

COMMAND_CHARACTERS = 80
FROM_OUTSIDE = (
    "publish in a view of that process, or post to its API (docs/howto/testing.md#one-process-only)"
)
"""What reaches the clients of the process that has the store."""
_stores: dict[str, SharedStore] = {}
_locks: dict[str, int] = {}
_forget: set[Callable[[], object]] = set()
_making = threading.Lock()


def store_of(prefix: str, forget: Callable[[], object]) -> SharedStore:
    """Return the store of this process for a prefix.

    Args:
        prefix: The prefix of its channels.
        forget: Called in a forked process, which must not go on with this store.

    Raises:
        ConfigurationError: Another process of the same project uses it.
    """
    with _making:
        _forget.add(forget)
        if prefix not in _locks and not is_test_run():
            _locks[prefix] = _lock(_path(prefix))
        if prefix not in _stores:
            _stores[prefix] = SharedStore()
        return _stores[prefix]


def has_store(prefix: str) -> bool:
    """Tell whether this process already uses a store, or may have its own."""
    return prefix in _stores or is_test_run()


def _path(prefix: str) -> Path:
    """Return the file that the processes of one project have in common, for this user."""
    project = getattr(django_settings, "BASE_DIR", None) or Path.cwd()
    name = hashlib.sha256(f"{os.path.realpath(project)} {prefix}".encode()).hexdigest()[:16]
    user = os.getuid() if hasattr(os, "getuid") else ""
    return Path(tempfile.gettempdir()) / f"realtime-memory-{user}-{name}.lock"


def _lock(path: Path) -> int:
    """Lock a file for the rest of this process; return its descriptor."""
    # The directory belongs to everybody: follow no link that another user has put there (CWE-59).
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise ImproperSetting(
            SETTING, f"is memory://, whose lock {path} cannot be opened ({error.strerror})"
        ) from error
    if not _try_lock(descriptor):
        said = os.read(descriptor, 200).decode(errors="replace")
        os.close(descriptor)
        raise ImproperSetting(
            SETTING,
            f"is memory://, which works inside one process only, and another one uses it "
            f"({said or 'just starting'}). What this process publishes would reach nobody. Stop "
            f"the other process, use a single worker, or set a redis:// URL; or {FROM_OUTSIDE}",
        )
    os.ftruncate(descriptor, 0)
    command = " ".join(sys.argv)[:COMMAND_CHARACTERS]
    os.write(descriptor, ascii(f"process {os.getpid()}: {command}")[1:-1].encode())
    return descriptor


if sys.platform == "win32":

    def _try_lock(descriptor: int) -> bool:
        return True  # nothing tells of a second process there (docs/howto/testing.md)

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _start_anew() -> None:
        """Forget what a forked process has inherited; the lock still belongs to its parent."""
        global _making
        _making = threading.Lock()
        for forget in _forget:
            forget()
        _forget.clear()
        _stores.clear()
        for descriptor in _locks.values():
            os.close(descriptor)
        _locks.clear()

    os.register_at_fork(after_in_child=_start_anew)
