"""A file with public keys, reloaded when it changes.

Providers rotate their keys every few weeks; a job writes the published set into the file, and no
node has to restart.

A provider withdraws a key by publishing a set without it, and all keys by publishing an empty set
(RFC 7517 §5.1 requires no minimum). So any readable set replaces the keys, even if one of its
entries is unusable; the old keys stay only while the file is not a key set at all, for example
while half written.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from realtime.auth.watched_file import WatchedFile
from realtime.identity.jwks import SETTING, read_set

if TYPE_CHECKING:
    from realtime.identity.tokens import Key

logger = logging.getLogger(__name__)


class JwksFile:
    """The keys of one file."""

    def __init__(self, path: str) -> None:
        """Read the file.

        Raises:
            ConfigurationError: It cannot be read, is not a key set, or has a key that must not be
                in one.
        """
        self._is_started = False
        self._file = WatchedFile(path, SETTING, "token keys", self._parse)
        self._is_started = True

    def key(self, name: str) -> Key | None:
        """Return the key with that id from the current content of the file."""
        return self._file.content().get(name)

    def _parse(self, text: bytes) -> dict[str, Key]:
        keys, flaws = read_set(text)
        if flaws and not self._is_started:
            raise flaws[0]  # at startup, so that the operator can fix it
        for flaw in flaws:
            logger.error("refused a token key with an invalid entry: %s", flaw)
        return keys
