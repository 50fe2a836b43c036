"""A set of public keys in a file, read again when somebody has changed it.

Providers change their keys every few weeks; a job writes what they publish into the file, and no
node has to restart for it.

A provider withdraws a key by publishing a set without it, and all of its keys by an empty set
(RFC 7517 §5.1 asks for no minimum). So whatever can be read as a set replaces the keys, even where
an entry of it cannot be used: the old keys stay only while the file is no set at all, for example
half written.
"""

from __future__ import annotations

import logging

from realtime.jwks import SETTING, read_set
from realtime.tokens import Key
from realtime.watched import WatchedFile

logger = logging.getLogger(__name__)


class JwksFile:
    """The keys of one file."""

    def __init__(self, path: str) -> None:
        """Read the file.

        Raises:
            ConfigurationError: It cannot be read, is no set of keys, or has a key that must not be
                in one.
        """
        self._is_started = False
        self._file = WatchedFile(path, SETTING, "token keys", self._parse)
        self._is_started = True

    def key(self, name: str) -> Key | None:
        """Return the key of that id, as the file has it now."""
        return self._file.content().get(name)

    def _parse(self, text: bytes) -> dict[str, Key]:
        keys, flaws = read_set(text)
        if flaws and not self._is_started:
            raise flaws[0]  # whoever configures it is there to mend it
        for flaw in flaws:
            logger.error("ignored an entry of the token keys: %s", flaw)
        return keys
