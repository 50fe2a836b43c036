"""The contract of what keeps blocked users for all nodes."""

from __future__ import annotations

from typing import Protocol


class BlockStore(Protocol):
    """The blocked users, as long as the broker keeps its data; bound to one event loop."""

    async def change(self, user: str, until: int, command: bytes) -> None:
        """Keep a block, and send the command about it to all nodes, in one step.

        Args:
            user: The user.
            until: When the block ends, in seconds since 1970; 0 ends it now.
            command: Is sent as by `realtime.brokers.Broker.send_node_command`.

        Raises:
            TooManyBlocks: There are too many blocks; nothing was changed or sent.
            BrokerUnavailable: Certainly not done.
            OutcomeUnknown: Perhaps done; repeating it is safe.
        """

    async def read(self) -> dict[str, int]:
        """Return the end of each block, by user; some may have ended.

        Raises:
            BrokerError: The broker could not be read.
        """
