"""A configuration file that is reloaded when it changes.

No node has to restart. An unusable file changes nothing; a readable but empty one withdraws all
earlier content. Thread-safe.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Sized
from typing import Generic, TypeVar

from realtime.errors import ConfigurationError

logger = logging.getLogger(__name__)

LOOK_EVERY_SECONDS = 1.0
"""At most one `stat` a second, however often the content is requested, and none while idle."""
FILE_BYTES = 1024 * 1024

_Version = tuple[int, int, int]
Content = TypeVar("Content", bound=Sized)


class WatchedFile(Generic[Content]):
    """The parsed content of one file."""

    def __init__(
        self, path: str, setting: str, what: str, parse: Callable[[bytes], Content]
    ) -> None:
        """Read the file.

        Args:
            path: Its path.
            setting: The name of the setting with the path.
            what: What the file contains, for the log.
            parse: Parses its bytes, or raises `ConfigurationError`.

        Raises:
            ConfigurationError: It cannot be read or parsed.
        """
        self._path = path
        self._setting = setting
        self._what = what
        self._parse = parse
        self._lock = threading.Lock()
        self._is_broken = False
        self._read()
        self._look_at = time.monotonic() + LOOK_EVERY_SECONDS

    def content(self) -> Content:
        """Return the current content."""
        if time.monotonic() >= self._look_at:
            with self._lock:
                self._look()
        return self._content

    def _look(self) -> None:
        now = time.monotonic()
        if now < self._look_at:
            return  # another thread checked it meanwhile
        self._look_at = now + LOOK_EVERY_SECONDS
        # A broken file is read every time: the fix may be a permission, which changes neither the
        # modification time nor the size.
        if not self._is_broken and self._is_as_it_was():
            return
        try:
            self._read()
        except ConfigurationError as error:
            if not self._is_broken:
                self._is_broken = True
                logger.error(
                    "could not reload the %s, keeping the previous ones: %s", self._what, error
                )
        else:
            self._is_broken = False
            if len(self._content):
                logger.info("reloaded the %s: %d in use", self._what, len(self._content))
            else:
                logger.warning("reloaded the %s: none left, all are withdrawn", self._what)

    def _is_as_it_was(self) -> bool:
        try:
            return _version(os.stat(self._path)) == self._version
        except OSError:
            return False

    def _read(self) -> None:
        text, version = read_file(self._path, self._setting)
        self._content, self._version = self._parse(text), version


def read_file(path: str, setting: str) -> tuple[bytes, tuple[int, int, int]]:
    """Return the content of a file, and a version that changes whenever the file does.

    Raises:
        ConfigurationError: It cannot be read, is not a regular file, or is too large.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigurationError(setting, "names a path that is not a regular file")
            text = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            setting, f"names a file that cannot be read: {error.strerror}"
        ) from None
    except ValueError:
        raise ConfigurationError(setting, "names an invalid path") from None
    if len(text) > FILE_BYTES:
        raise ConfigurationError(setting, f"names a file larger than {FILE_BYTES} bytes")
    return text, _version(status)


def _without_waiting(path: str, flags: int) -> int:
    """Open a file without blocking: opening a pipe would wait for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _version(status: os.stat_result) -> _Version:
    """Return a value that changes with the file; a mounted secret is replaced through a link."""
    return status.st_mtime_ns, status.st_ino, status.st_size
