"""A set of public keys in a file, read again when somebody has changed it.

Providers change their keys every few weeks; a job writes what they publish into the file, and no
node has to restart for it.
"""

from __future__ import annotations

from realtime.jwks import SETTING, keys_of_set
from realtime.tokens import Key
from realtime.watched import WatchedFile


class JwksFile:
    """The keys of one file."""

    def __init__(self, path: str) -> None:
        """Read the file.

        Raises:
            ConfigurationError: It cannot be read, or is no set of keys.
        """
        self._file = WatchedFile(path, SETTING, "token keys", keys_of_set)

    def key(self, name: str) -> Key | None:
        """Return the key of that id, as the file has it now."""
        return self._file.content().get(name)
