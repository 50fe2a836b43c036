"""A set of public keys in a file, read again when somebody has changed it.

Providers change their keys every few weeks; a job writes what they publish into the file, and no
node has to restart for it. A file that cannot be used changes nothing.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from realtime.errors import ConfigurationError
from realtime.jwks import SET_BYTES, SETTING, keys_of_set
from realtime.tokens import Key

logger = logging.getLogger(__name__)

LOOK_EVERY_SECONDS = 1.0
"""However many tokens are shown, known or not: one `stat` a second."""

_Version = tuple[int, int, int]


class JwksFile:
    """The keys of one file."""

    def __init__(self, path: str) -> None:
        """Read the file.

        Raises:
            ConfigurationError: It cannot be read, or is no set of keys.
        """
        self._path = Path(path)
        self._version = self._look()
        self._keys = self._read()
        self._look_at = time.monotonic() + LOOK_EVERY_SECONDS

    def key(self, name: str) -> Key | None:
        """Return the key of that id, as the file has it now."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY_SECONDS
            self._renew()
        return self._keys.get(name)

    def _renew(self) -> None:
        version = self._look()
        if version == self._version:
            return
        self._version = version
        try:
            self._keys = self._read()
        except ConfigurationError as error:
            logger.error("the token keys stay as they were: %s", error)
        else:
            logger.info("the token keys were read again: %d of them", len(self._keys))

    def _look(self) -> _Version | None:
        """Return what changes whenever the file does; a mounted secret is replaced by a link."""
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

    def _read(self) -> dict[str, Key]:
        try:
            with self._path.open("rb") as file:
                text = file.read(SET_BYTES + 1)
        except OSError as error:
            raise ConfigurationError(
                SETTING, f"names a file that cannot be read: {error.strerror}"
            ) from None
        return keys_of_set(text)
