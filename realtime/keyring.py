"""The API keys of this process, wherever they come from."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from realtime.errors import Unauthorized
from realtime.keys import SETTING, Key, Keys, keys_of, notice
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
        parse = partial(_told, and_one=and_one)
        if (path := path_of(entries)) is not None:
            self._keys = WatchedFile(path, SETTING, "API keys", parse).content
        else:
            keys = parse(entries)
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


def _told(entries: object, *, and_one: str) -> Keys:
    """Read keys, and tell the log which of them may do less than they did in earlier versions."""
    keys = keys_of(entries, and_one=and_one)
    if text := notice(keys):
        logger.warning("API keys without lists: %s", text)
    return keys


def path_of(entries: object) -> str | None:
    """Return the path in ``@path``; None where the keys themselves stand there."""
    return entries[1:] if isinstance(entries, str) and entries.startswith("@") else None
