"""A file of the configuration that is read again when somebody has changed it.

No node has to restart for it. A file that cannot be used changes nothing; one that can be read and
holds nothing withdraws all that it held before. Any thread may ask.
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
"""However often it is asked: one `stat` a second, and none while nobody asks."""
FILE_BYTES = 1024 * 1024

_Version = tuple[int, int, int]
Content = TypeVar("Content", bound=Sized)


class WatchedFile(Generic[Content]):
    """What one file says."""

    def __init__(
        self, path: str, setting: str, what: str, parse: Callable[[bytes], Content]
    ) -> None:
        """Read the file.

        Args:
            path: Where it is.
            setting: The name of the setting that says so.
            what: What stands in it, for the log.
            parse: Makes of its bytes what they say, or raises `ConfigurationError`.

        Raises:
            ConfigurationError: It cannot be read, or says nothing that can be used.
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
        """Return what the file says now."""
        if time.monotonic() >= self._look_at:
            with self._lock:
                self._look()
        return self._content

    def _look(self) -> None:
        now = time.monotonic()
        if now < self._look_at:
            return  # another thread was here
        self._look_at = now + LOOK_EVERY_SECONDS
        # A broken one is read each time: it may be mended by a right to read it, which no time and
        # no size shows.
        if not self._is_broken and self._is_as_it_was():
            return
        try:
            self._read()
        except ConfigurationError as error:
            if not self._is_broken:
                self._is_broken = True
                logger.error("the %s stay as they were: %s", self._what, error)
        else:
            self._is_broken = False
            if len(self._content):
                logger.info("the %s were read again: %d of them", self._what, len(self._content))
            else:
                logger.warning("the %s were read again: none is left", self._what)

    def _is_as_it_was(self) -> bool:
        try:
            return _version(os.stat(self._path)) == self._version
        except OSError:
            return False

    def _read(self) -> None:
        text, version = read_file(self._path, self._setting)
        self._content, self._version = self._parse(text), version


def read_file(path: str, setting: str) -> tuple[bytes, tuple[int, int, int]]:
    """Return what stands in a file, and what changes whenever that does.

    Raises:
        ConfigurationError: It cannot be read, is no file, or too large.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigurationError(setting, "names something that is not a file")
            text = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            setting, f"names a file that cannot be read: {error.strerror}"
        ) from None
    except ValueError:
        raise ConfigurationError(setting, "names what cannot be a file") from None
    if len(text) > FILE_BYTES:
        raise ConfigurationError(setting, f"names a file of more than {FILE_BYTES} bytes")
    return text, _version(status)


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; opening a pipe would last until somebody writes there."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _version(status: os.stat_result) -> _Version:
    """Return what changes whenever the file does; a mounted secret is replaced by a link."""
    return status.st_mtime_ns, status.st_ino, status.st_size
