"""Lua scripts on Redis, and the type of commands."""

from __future__ import annotations

import hashlib
from importlib.resources import files

Args = tuple[str | bytes | int, ...]


ALLOW_OOM = "#!lua flags=allow-oom\n"
"""Run the script even if Redis is full (``maxmemory``); since Redis 7.0."""


class Script:
    """A Lua script, called by its digest."""

    def __init__(self, *names: str, allow_oom: bool = False) -> None:
        """Join the files; the first ones are shared by several scripts.

        Args:
            names: The names of the files.
            allow_oom: Run it even if Redis is full. For scripts that free memory, and for those
                that such scripts depend on.
        """
        folder = files("realtime.brokers") / "scripts"
        text = "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)
        self.text = ALLOW_OOM + text if allow_oom else text
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    @property
    def load(self) -> Args:
        """The command that loads the script into Redis."""
        return ("SCRIPT", "LOAD", self.text)
