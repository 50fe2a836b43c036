"""Users whose connections are refused until a time. No clock: time is an argument, since 1970.

The broker keeps the blocks, and each node has a copy.
"""

from __future__ import annotations

from collections.abc import Mapping

from realtime.errors import RequestError

BLOCKS_LIMIT = 10_000
"""Maximum number of users who are blocked at the same time; a node reads all of them when it
starts, which takes Redis a millisecond."""


class TooManyBlocks(RequestError):
    """Too many users are blocked already; unblock some, or disable their accounts in your site."""

    code = "too_many_blocks"


class BlockedUsers:
    """The blocks that one node or broker knows."""

    def __init__(self, limit: int = BLOCKS_LIMIT) -> None:
        """Start without blocks.

        Args:
            limit: Maximum number of blocks.
        """
        self._limit = limit
        self._until: dict[str, int] = {}
        self._changes: dict[str, int] | None = None  # since a read began, if one is in progress

    def __len__(self) -> int:
        return len(self._until)

    def is_blocked(self, user: str, now: float) -> bool:
        """Tell whether the connections of a user are refused."""
        return self._until.get(user, 0) > now

    def change(self, user: str, until: int, now: float) -> None:
        """Block a user until a time in seconds; 0 ends the block.

        Raises:
            TooManyBlocks: There are too many already, without those that have ended.
        """
        if self._changes is not None:
            self._changes[user] = until
        if until <= now:
            self._until.pop(user, None)
            return
        if user not in self._until and len(self._until) >= self._limit:
            self.forget_ended(now)
            if len(self._until) >= self._limit:
                raise TooManyBlocks
        self._until[user] = until

    def forget_ended(self, now: float) -> None:
        """Forget the blocks that have ended."""
        self._until = {user: until for user, until in self._until.items() if until > now}

    def copy(self) -> dict[str, int]:
        """Return the end of each block, by user."""
        return dict(self._until)

    # ------------------------------------------------------------------ a node's copy

    def begin_read(self) -> None:
        """Note the changes from now on: what is being read may be older than they are."""
        self._changes = {}

    def finish_read(self, blocks: Mapping[str, int], now: float) -> int:
        """Replace the blocks with those that were read, and with the changes since `begin_read`.

        Returns:
            How many blocks of before are gone: they were ended without this node hearing of it, or
            the broker has lost them.
        """
        changes, self._changes = self._changes or {}, None
        before, self._until = self._until, {**blocks, **changes}
        self.forget_ended(now)
        return sum(
            until > now and user not in blocks and user not in changes
            for user, until in before.items()
        )
