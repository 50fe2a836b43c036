"""Which master has which partition of a Redis Cluster, for an event loop.

One question at a time serves all who want to know. The nodes are asked at once, and the newest
answer counts: a node that was cut off from the others answers with an old one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from redis import exceptions

from realtime.brokers.asking import ask_several
from realtime.brokers.cluster.slots import ASK_FOR_SLOTS, SlotMap, SlotOwners, newest, parse_slots
from realtime.brokers.connector import RedisServer, abort
from realtime.core.redis_address import master_url

if TYPE_CHECKING:
    from realtime.core.partitions import Partition
    from realtime.core.redis_url import Address, RedisUrl

REFRESH_SECONDS = 0.1
"""The shortest interval between two questions: a prototype asked a hundred times a second."""
ASKED_NODES = 16
"""How many nodes are asked at most."""


class ClusterTopology:
    """See the module. Bound to one event loop; create it inside that loop."""

    def __init__(self, url: RedisUrl) -> None:
        """Start without knowing anything.

        Args:
            url: The URL of the cluster, as `realtime.core.redis_url.read_redis_url` parses it.
        """
        self._url = url
        self._owners = SlotOwners()
        self.asked_at = -REFRESH_SECONDS
        """When the nodes were asked last, in seconds of the event loop."""
        self._asking: asyncio.Task[None] | None = None
        self.changed = asyncio.Event()
        """Set whenever an owner may have changed; for one consumer, which clears it."""

    def known_owner(self, partition: Partition) -> Address | None:
        """Return the address of the master of a partition, if it is known."""
        return self._owners.of(partition)

    def masters(self) -> set[Address]:
        """Return the addresses of all masters that are known."""
        return self._owners.masters()

    def note_moved(self, partition: Partition, address: Address) -> None:
        """Record what a redirection says."""
        if self._owners.note_moved(partition, address):
            self.changed.set()

    async def owner(self, partition: Partition) -> Address:
        """Return the address of the master of a partition; ask if it is not known.

        Raises:
            RedisError: No node answers, or the partition has no master.
        """
        if (address := self.known_owner(partition)) is None:
            await self.refresh()
            address = self.known_owner(partition)
        if address is None:
            raise exceptions.ClusterDownError(f"no master has slot {partition.slot}")
        return address

    async def refresh(self) -> None:
        """Ask the nodes, unless that was done just now; one question for all who want it.

        Raises:
            RedisError: No node answers.
        """
        if self._asking is None or self._asking.done():
            pause = self.asked_at + REFRESH_SECONDS - asyncio.get_running_loop().time()
            self._asking = asyncio.create_task(
                self._ask_after(pause), name="realtime question to a cluster"
            )
        # A caller that is cancelled must not cancel the question of the others.
        await asyncio.shield(self._asking)

    async def aclose(self) -> None:
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask_after(self, pause: float) -> None:
        if pause > 0:
            await asyncio.sleep(pause)
        self.asked_at = asyncio.get_running_loop().time()
        self._owners.note_question()
        if self._owners.note_answer(await self._ask()):
            self.changed.set()

    async def _ask(self) -> SlotMap:
        """Ask several nodes; return the newest answer.

        Raises:
            RedisError: No node answers.
        """
        asked = list(dict.fromkeys((*self._owners.nodes, *self._url.cluster)))[:ASKED_NODES]
        maps, errors = await ask_several([self._answer_of(each) for each in asked])
        return newest(maps, errors)

    async def _answer_of(self, address: Address) -> SlotMap | Exception:
        connection = None
        try:
            connection = await RedisServer(master_url(self._url, address)).connect()
            packed = connection.pack_commands(ASK_FOR_SLOTS)
            await connection.send_packed_command(packed, check_health=False)
            replies = [await connection.read_response() for _ in ASK_FOR_SLOTS]
            return parse_slots(replies, address)
        except (exceptions.RedisError, OSError) as error:
            return error
        finally:
            if connection is not None:
                abort(connection)
