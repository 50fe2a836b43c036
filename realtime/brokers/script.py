"""Lua scripts on Redis, and the type of commands."""

from __future__ import annotations

import hashlib
from importlib.resources import files

Args = tuple[str | bytes | int, ...]


class Script:
    """A Lua script, called by its digest."""

    def __init__(self, *names: str) -> None:
        """Join the files; the first ones are shared by several scripts."""
        folder = files("realtime.brokers") / "scripts"
        self.text = "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    @property
    def load(self) -> Args:
        """The command that loads the script into Redis."""
        return ("SCRIPT", "LOAD", self.text)
