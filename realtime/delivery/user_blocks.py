"""The blocked users, as this node knows them.

The broker keeps the blocks. A node reads them when it starts and after each outage, and in between
hears of each change. What it has read may be older than a change that it heard meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from realtime.core.blocked_users import BlockedUsers, TooManyBlocks
from realtime.errors import BrokerError

if TYPE_CHECKING:
    from realtime.brokers.block_store import BlockStore
    from realtime.core.node_commands import BlockUser

logger = logging.getLogger(__name__)


class UserBlocks:
    """See the module. Belongs to one hub."""

    def __init__(self, store: BlockStore, wall_seconds: Callable[[], float]) -> None:
        """Start without blocks, until the first `refresh`.

        Args:
            store: Keeps the blocks.
            wall_seconds: Returns the seconds since 1970.
        """
        self._store = store
        self._wall_seconds = wall_seconds
        self._blocked = BlockedUsers()
        self._is_outdated = True

    def note_outdated(self) -> None:
        """Note that changes may have been missed: the next `refresh` reads all blocks."""
        self._is_outdated = True

    def is_blocked(self, user: str) -> bool:
        """Tell whether the connections of a user are refused now."""
        return self._blocked.is_blocked(user, self._wall_seconds())

    def apply(self, command: BlockUser) -> None:
        """Apply a change that was just heard."""
        try:
            self._blocked.change(command.user, command.until, self._wall_seconds())
        except TooManyBlocks:  # the broker accepted it: the clock of this machine is behind
            self._is_outdated = True

    async def refresh(self) -> bool:
        """Read all blocks if changes may have been missed; return whether they were read."""
        if not self._is_outdated:
            return False
        self._is_outdated = False
        self._blocked.begin_read()
        try:
            blocks = await self._store.read()
        except BrokerError:  # the hub reports the outage; the next check asks again
            self._is_outdated = True
            return False
        if gone := self._blocked.finish_read(blocks, self._wall_seconds()):
            logger.warning(
                "%d users are no longer blocked: their blocks were ended while this node was cut "
                "off, or Redis has lost its data",
                gone,
            )
        return True
