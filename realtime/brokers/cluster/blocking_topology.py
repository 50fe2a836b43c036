"""Which master has which partition of a Redis Cluster, as all threads of a process know it.

Follows the rules of `topology`. The nodes are asked by a thread that publishes, at once; all others
go on with what is known, or wait if nothing is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from redis import exceptions

from realtime.brokers.asking import ANSWER_SECONDS
from realtime.brokers.cluster.slots import ASK_FOR_SLOTS, SlotMap, SlotOwners, newest, parse_slots
from realtime.brokers.cluster.topology import ASKED_NODES, REFRESH_SECONDS
from realtime.brokers.connection_sync import ask_server, ask_several
from realtime.core.redis_address import master_url

if TYPE_CHECKING:
    from realtime.core.partitions import Partition
    from realtime.core.redis_url import Address, RedisUrl


class SyncClusterTopology:
    """See the module. Used by any thread."""

    def __init__(self, url: RedisUrl, seconds: float) -> None:
        """Start without knowing anything.

        Args:
            url: The URL of the cluster, as `realtime.core.redis_url.read_redis_url` parses it.
            seconds: How long a publish may take, of which a question takes at most half.
        """
        self._url = url
        self._answer_seconds = min(ANSWER_SECONDS, seconds / 2)
        self._lock = threading.Lock()  # held by the thread that asks
        self._owners = SlotOwners()
        self._doubted: set[Address] = set()
        self._asked_at = -REFRESH_SECONDS
        self._failure = ""

    def known_owner(self, partition: Partition) -> Address | None:
        """Return the address of the master of a partition, if it is known."""
        return self._owners.of(partition)

    def masters(self) -> set[Address]:
        """Return the addresses of all masters that are known."""
        return self._owners.masters()

    def note_moved(self, partition: Partition, address: Address) -> None:
        """Record what a redirection says."""
        self._owners.note_moved(partition, address)

    def doubt(self, address: Address) -> None:
        """Record that a master did not answer: whoever needs it next asks who has its slots."""
        self._doubted.add(address)

    def find_owners(self, partitions: Iterable[Partition], deadline: float) -> bool:
        """Ask the nodes if the master of one of the partitions is doubted, or not known.

        Wait for an answer only if no master is known: commands for the others need not wait.

        Returns:
            Whether the nodes were asked.
        """
        owners = {self.known_owner(partition) for partition in partitions}
        if owners == {None}:
            return self.refresh_since(time.monotonic(), deadline)
        if None in owners or not self._doubted.isdisjoint(owners):
            return self.refresh(deadline)
        return False

    def missing(self, partition: Partition) -> exceptions.RedisError:
        """Return why the master of a partition is not known."""
        return exceptions.ClusterDownError(self._failure or f"no master has slot {partition.slot}")

    def refresh(self, deadline: float) -> bool:
        """Ask the nodes, unless that was done just now, or another thread is doing it.

        Args:
            deadline: When to stop waiting for answers, in seconds of `time.monotonic`.

        Returns:
            Whether they were asked.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            is_due = time.monotonic() >= self._asked_at + REFRESH_SECONDS
            if is_due:
                self._ask(deadline)
            return is_due
        finally:
            self._lock.release()

    def refresh_since(self, since: float, deadline: float) -> bool:
        """Ask the nodes as soon as that may be done, or wait for the answer to another thread.

        Args:
            since: An answer to an earlier question does not count.
            deadline: When to stop waiting. Both are in seconds of `time.monotonic`.

        Returns:
            Whether they were asked.
        """
        if not self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            return False
        try:
            is_due = self._asked_at < since
            if is_due:
                pause = min(self._asked_at + REFRESH_SECONDS, deadline) - time.monotonic()
                time.sleep(max(0.0, pause))
                self._ask(deadline)
            return is_due
        finally:
            self._lock.release()

    def forget_lock(self) -> None:
        """Let a forked process begin, whatever a thread of its parent was doing."""
        self._lock = threading.Lock()

    def _ask(self, deadline: float) -> None:
        self._asked_at = time.monotonic()
        seconds = min(self._answer_seconds, deadline - self._asked_at)
        asked = list(dict.fromkeys((*self._owners.nodes, *self._url.cluster)))[:ASKED_NODES]
        # Others may come to doubt a master while this thread asks.
        doubted, self._doubted = self._doubted, set()
        self._owners.note_question()
        try:
            found = newest(*ask_several(asked, self._answer_of, seconds))
        # While Python shuts down, threads cannot be started any more.
        except (exceptions.RedisError, RuntimeError) as error:
            self._failure = str(error)
            self._doubted.update(doubted)
            return
        self._owners.note_answer(found)
        self._failure = ""

    def _answer_of(self, address: Address) -> SlotMap:
        url = master_url(self._url, address)
        return parse_slots(ask_server(url, ASK_FOR_SLOTS, self._answer_seconds), address)
