"""Lua scripts on Redis, and what a command is."""

from __future__ import annotations

import hashlib
from importlib.resources import files

Args = tuple[str | bytes | int, ...]


class Script:
    """A Lua script, called by its digest."""

    def __init__(self, *names: str) -> None:
        """Join the files; the first ones are what several scripts share."""
        folder = files("realtime.brokers")
        self.text = "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    @property
    def load(self) -> Args:
        """The command that makes Redis know the script."""
        return ("SCRIPT", "LOAD", self.text)
