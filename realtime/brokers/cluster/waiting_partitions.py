"""The partitions in which entries may wait, and the hands that wait for one. No Redis."""

from __future__ import annotations

import asyncio

from realtime.core.partitions import PARTITIONS


class WaitingPartitions:
    """See the module. Bound to one event loop.

    Partitions take turns: a hand that has found an entry notes the partition again, and the next
    hand gets the one after it.
    """

    def __init__(self, start: int = 0) -> None:
        """Note nothing yet.

        Args:
            start: The partition whose turn it is; not the same for all workers.
        """
        self._noted: set[int] = set()
        self._next = start
        self._has_noted = asyncio.Event()
        self._hands = 0
        self._error: BaseException | None = None
        self.are_wanted = asyncio.Event()
        """Set while a hand waits."""

    def note(self, number: int) -> None:
        """Record that entries may wait in a partition."""
        self._noted.add(number)
        self._has_noted.set()

    def fail(self, error: BaseException) -> None:
        """Let `next` raise: nothing will be noted any more."""
        self._error = error
        self._has_noted.set()

    async def next(self, until: float) -> int | None:
        """Return a partition to look at, or wait for one; None if there is none in time.

        Args:
            until: How long to wait, in seconds of the event loop.

        Raises:
            BaseException: What was given to `fail`.
        """
        self._hands += 1
        self.are_wanted.set()
        try:
            async with asyncio.timeout_at(until):
                while not self._noted and self._error is None:
                    self._has_noted.clear()
                    await self._has_noted.wait()
        except TimeoutError:
            return None
        finally:
            self._hands -= 1
            if not self._hands:
                self.are_wanted.clear()
        if self._error is not None:
            raise self._error
        number = min(self._noted, key=lambda each: (each - self._next) % len(PARTITIONS))
        self._noted.remove(number)
        self._next = (number + 1) % len(PARTITIONS)
        return number
