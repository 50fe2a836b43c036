"""The API keys of this process, wherever they come from."""

from __future__ import annotations

import logging
from collections.abc import Callable

from realtime.errors import ConfigurationError, Unauthorized
from realtime.keys import NAMED, SETTING, Key, Keys, keys_of, notice, read_keys
from realtime.watched import WatchedFile

logger = logging.getLogger(__name__)


class Keyring:
    """Lets in who has a key."""

    def __init__(self, entries: object, *, and_one: str = "") -> None:
        """Read the keys.

        Args:
            entries: A list of keys, one as JSON text, or ``@`` and the path of a file with one.
            and_one: The secret of a key beside them that may do everything; empty is none.

        Raises:
            ConfigurationError: They cannot be used.
        """
        self._keys: Callable[[], Keys]
        if (path := path_of(entries)) is not None:
            self._keys = _KeysFile(path, and_one=and_one).content
        else:
            keys = _warn(keys_of(entries, and_one=and_one))
            self._keys = lambda: keys

    def notice(self) -> str:
        """Return what is to be said of keys that leave out lists; empty is nothing."""
        return notice(self._keys())

    def admit(self, secret: str) -> Key:
        """Return the key with this secret.

        Raises:
            Unauthorized: It is wrong, missing, or there are no keys at all.
        """
        keys = self._keys()
        if not keys:
            raise Unauthorized(
                "this service has no API key: set REALTIME_API_KEY (the service: NOTIFIER_API_KEY)"
            )
        key = keys.find(secret)
        if key is None:
            raise Unauthorized("the header X-API-Key is missing or wrong")
        return key


class _KeysFile:
    """The keys of one file, read again when somebody has changed it.

    Whoever withdraws a key removes its entry. So whatever can be read as a list replaces the keys,
    even where another entry of it cannot be used: the old keys stay only while the file is not a
    list at all, for example half written.
    """

    def __init__(self, path: str, *, and_one: str) -> None:
        self._and_one = and_one
        self._is_started = False
        self.content = WatchedFile(path, SETTING, "API keys", self._parse).content
        self._is_started = True

    def _parse(self, text: bytes) -> Keys:
        keys, flaws = read_keys(text, and_one=self._and_one)
        if flaws and not self._is_started:
            raise flaws[0]  # at the start an operator is there to mend it
        if flaws:
            _log_flaws(flaws)
        return _warn(keys)


def _log_flaws(flaws: list[ConfigurationError]) -> None:
    for flaw in flaws[:NAMED]:
        logger.error("ignored an entry of the API keys, its key is refused: %s", flaw)
    if len(flaws) > NAMED:
        logger.error("ignored %d more entries of the API keys", len(flaws) - NAMED)


def _warn(keys: Keys) -> Keys:
    """Log which keys may do less than they did in earlier versions; return the keys."""
    if text := notice(keys):
        logger.warning("API keys without lists: %s", text)
    return keys


def path_of(entries: object) -> str | None:
    """Return the path in ``@path``; None where the keys themselves stand there."""
    return entries[1:] if isinstance(entries, str) and entries.startswith("@") else None
