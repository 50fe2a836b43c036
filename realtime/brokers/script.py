"""Lua scripts on Redis, and the type of commands."""

from __future__ import annotations

import hashlib
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from realtime.core.partitions import Partition

Args = tuple[str | bytes | int, ...]


ALLOW_OOM = "#!lua flags=allow-oom\n"
"""Run the script even if Redis is full (``maxmemory``); since Redis 7.0."""
_TO_ALL = "local PUBLISH, NUMSUB, IS_SHARDED = 'PUBLISH', 'NUMSUB', false\n"
_TO_SHARD = "local PUBLISH, NUMSUB, IS_SHARDED = 'SPUBLISH', 'SHARDNUMSUB', true\n"
"""What the scripts of one partition of a cluster begin with. Plain PUBLISH would reach all nodes of
the cluster, and cost each of them 5 µs."""


class Script:
    """A Lua script, called by its digest."""

    def __init__(self, *names: str, allow_oom: bool = False, is_sharded: bool = False) -> None:
        """Join the files; the first ones are shared by several scripts.

        Args:
            names: The names of the files.
            allow_oom: Run it even if Redis is full. For scripts that free memory, and for those
                that such scripts depend on.
            is_sharded: It publishes in a partition of a cluster.
        """
        self._names = names
        self._allow_oom = allow_oom
        folder = files("realtime.brokers") / "scripts"
        text = "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)
        self.text = (ALLOW_OOM if allow_oom else "") + (_TO_SHARD if is_sharded else _TO_ALL) + text
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    @cached_property
    def sharded(self) -> Script:
        """The same script for a partition of a cluster."""
        return Script(*self._names, allow_oom=self._allow_oom, is_sharded=True)

    def of(self, partition: Partition) -> Script:
        """Return the script for a partition."""
        return self.sharded if partition.is_sharded else self

    @property
    def load(self) -> Args:
        """The command that loads the script into Redis."""
        return ("SCRIPT", "LOAD", self.text)
