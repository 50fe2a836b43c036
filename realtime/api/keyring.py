"""The API keys of this process, from the settings or from a file that is reloaded."""

from __future__ import annotations

import logging
from collections.abc import Callable

from realtime.api.key_entries import NAMED, SETTING, describe_unlisted, keys_of, read_keys
from realtime.api.keys import NO_KEY, Key, Keys
from realtime.auth.watched_file import WatchedFile
from realtime.errors import ConfigurationError, Unauthorized

logger = logging.getLogger(__name__)


class Keyring:
    """Finds the API key of a request."""

    def __init__(self, entries: object, *, and_one: str = "") -> None:
        """Read the keys.

        Args:
            entries: A list of keys, the same as JSON text, or ``@`` and the path of a file with it.
            and_one: The secret of an additional key that may do everything; empty adds none.

        Raises:
            ConfigurationError: An entry is invalid.
        """
        self.current: Callable[[], Keys]
        """Returns the keys, which are another object after their file has changed."""
        if (path := path_of(entries)) is not None:
            self.current = _KeysFile(path, and_one=and_one).content
        else:
            self.current = _warn(keys_of(entries, and_one=and_one)).current

    def warning_text(self) -> str:
        """Return a warning that names keys whose entries omit a list; empty if there are none."""
        return describe_unlisted(self.current())

    def admit(self, secret: str) -> Key:
        """Return the key with this secret.

        Raises:
            Unauthorized: The secret is wrong or missing, or no keys are configured.
        """
        keys = self.current()
        if not keys:
            raise Unauthorized(
                "no API key is configured: set REALTIME_API_KEY (for the service: NOTIFIER_API_KEY)"
            )
        key = keys.find(secret)
        if key is None:
            raise Unauthorized(NO_KEY)
        return key


class _KeysFile:
    """The keys of one file, reloaded when the file changes.

    A key is withdrawn by removing its entry. Therefore any file that parses as a list replaces the
    keys, even if some of its entries are invalid. The old keys stay only while the file is not a
    list, for example while it is half written.
    """

    def __init__(self, path: str, *, and_one: str) -> None:
        self._and_one = and_one
        self._is_started = False
        self.content = WatchedFile(path, SETTING, "API keys", self._parse).content
        self._is_started = True

    def _parse(self, text: bytes) -> Keys:
        keys, flaws = read_keys(text, and_one=self._and_one)
        if flaws and not self._is_started:
            raise flaws[0]  # at startup, an operator is there to fix it
        if flaws:
            _log_flaws(flaws)
        return _warn(keys)


def _log_flaws(flaws: list[ConfigurationError]) -> None:
    for flaw in flaws[:NAMED]:
        logger.error("refused an API key with an invalid entry: %s", flaw)
    if len(flaws) > NAMED:
        logger.error("refused %d more API keys with invalid entries", len(flaws) - NAMED)


def _warn(keys: Keys) -> Keys:
    """Return the keys; log a warning if some of them omit a list."""
    if text := describe_unlisted(keys):
        logger.warning("API keys with default permissions: %s", text)
    return keys


def path_of(entries: object) -> str | None:
    """Return the path of ``@path``; None if the value holds the keys themselves."""
    return entries[1:] if isinstance(entries, str) and entries.startswith("@") else None
