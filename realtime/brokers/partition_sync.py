"""What a broker does in one partition, for threads: commands, and what their replies mean.

A single Redis is one partition, a cluster has 64 (`realtime.core.partitions`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from redis import exceptions

from realtime.brokers import Survey, SyncBroker
from realtime.brokers.bounds import SURVEY_POLL_SECONDS, SURVEY_SECONDS
from realtime.brokers.commands import (
    Commands,
    parse_positions,
    parse_queue_stats,
    parse_receipts,
    parse_wait,
    unavailable,
)
from realtime.brokers.presence_commands import (
    PresenceCommands,
    parse_headcount,
    parse_members,
    refuse_errors,
)
from realtime.brokers.redis_blocks import BlockCommands, check_change
from realtime.core.members import MEMBERS_BYTES, Headcount
from realtime.core.partitions import WHOLE
from realtime.errors import BrokerError, RealtimeError

if TYPE_CHECKING:
    from realtime.brokers import Stats
    from realtime.brokers.script import Args, Script
    from realtime.core.partitions import Partition
    from realtime.core.positions import Position
    from realtime.core.publication import Publication, Receipt
    from realtime.core.survey import Question


class SyncRedis(SyncBroker, Protocol):
    """A broker for threads that also keeps keys for others in Redis, on one server or a cluster."""

    def ask(self, commands: Sequence[Args]) -> list[Any]:
        """Return the replies to plain commands, whose keys are all names that `beside` returned.

        They are not executed in one step. None is executed twice; two with the same key keep their
        order.

        Raises:
            BrokerUnavailable: Redis is unreachable, or refused one of the commands.
            OutcomeUnknown: The commands may have been executed.
        """

    def beside(self, kind: str, name: str) -> str:
        """Return the name of a key that belongs to no channel."""


class SyncPartition:
    """See the module. A subclass sends the commands; all methods are those of `SyncRedis`."""

    def __init__(
        self, prefix: str, partition: Partition = WHOLE, *, queue_items: int, queue_bytes: int
    ) -> None:
        """Build commands; arguments as for `Commands`."""
        self._commands = Commands(
            prefix, partition, queue_items=queue_items, queue_bytes=queue_bytes
        )
        self._presence = PresenceCommands(prefix, partition)
        self._blocking = BlockCommands(prefix, self._commands, partition)
        self._scripts = self._commands.scripts

    def publish(self, publication: Publication) -> Receipt:
        """See `realtime.brokers.Broker.publish`."""
        [reply] = self._run_script(self._scripts.publish, [self._commands.publish(publication)])
        [answer] = parse_receipts(reply)
        if isinstance(answer, RealtimeError):
            raise answer
        return answer

    def publish_many(self, publications: Sequence[Publication]) -> list[Receipt | RealtimeError]:
        """See `realtime.brokers.Broker.publish_many`."""
        [reply] = self._run_script(self._scripts.publish, [self._commands.publish(*publications)])
        return parse_receipts(reply)

    def positions(self, channels: Sequence[str]) -> list[Position | BrokerError]:
        """See `realtime.brokers.Broker.positions`."""
        commands = self._commands.read_positions(channels)
        replies = self._run_script(self._scripts.read_position, commands)
        return parse_positions(replies, len(channels))

    def take_from_rate(self, name: str, rate: float, count: int) -> float:
        """See `realtime.brokers.Broker.take_from_rate`."""
        [reply] = self._run_script(
            self._scripts.take_from_rate, [self._commands.take_from_rate(name, rate, count)]
        )
        return parse_wait(reply)

    def send_node_command(self, raw: bytes) -> None:
        """See `realtime.brokers.Broker.send_node_command`."""
        command = self._commands.send_node_command(raw)
        [reply] = self._run_script(self._scripts.send_node_command, [command])
        if isinstance(reply, exceptions.RedisError):
            raise unavailable(reply)

    def change_block(self, user: str, until: int, command: bytes) -> None:
        """See `realtime.brokers.block_store.BlockStore.change`."""
        changing = self._blocking.change(user, until, command)
        [reply] = self._run_script(self._blocking.script, [changing])
        check_change(reply)

    def members(self, channel: str) -> dict[str, str]:
        """See `realtime.brokers.PresenceStore.members`."""
        command = self._presence.read(channel, MEMBERS_BYTES)
        [reply] = self._run_script(self._presence.scripts.read, [command])
        return parse_members(reply)

    def headcount(self, channel: str) -> Headcount:
        """See `realtime.brokers.PresenceStore.headcounts`."""
        command = self._presence.count(channel)
        [reply] = self._run_script(self._presence.scripts.headcount, [command])
        return parse_headcount(reply)

    def survey(self, question: Question) -> Survey:
        """See `realtime.brokers.Broker.survey`."""
        command = self._commands.ask_nodes(question)
        [asked] = self._run_script(self._scripts.send_raw, [command])
        refuse_errors([asked])
        until = time.monotonic() + SURVEY_SECONDS
        answers: list[bytes] = []
        while True:
            [more] = self.ask([self._commands.answers(question.id, len(answers))])
            answers += more
            if len(answers) >= int(asked) or time.monotonic() > until:
                return Survey(answers, max(0, int(asked) - len(answers)))
            time.sleep(SURVEY_POLL_SECONDS)

    def queue_stats(self) -> Stats:
        """See `realtime.brokers.Broker.queue_stats`."""
        queue = self._commands.queue
        [reply] = self._run_script(queue.scripts.stats, [queue.stats()])
        return parse_queue_stats(reply)

    def queue_page(self, place: str, start: int, count: int) -> list[bytes]:
        """See `realtime.brokers.SyncBroker.queue_page`."""
        [entries] = self.ask([self._commands.queue.page(place, start, count)])
        return list(entries)

    def move_entry(self, place: str, raw: bytes, written: bytes = b"") -> bool:
        """See `realtime.brokers.fallback_queue.FallbackQueue.move`."""
        queue = self._commands.queue
        replies = self._run_script(queue.scripts.move, [queue.move(place, raw, written)])
        refuse_errors(replies)
        return bool(replies[0])

    def ask(self, commands: Sequence[Args]) -> list[Any]:
        """See `SyncRedis.ask`."""
        replies = self._execute(commands)
        for reply in replies:
            if isinstance(reply, exceptions.RedisError):
                raise unavailable(reply)
        return replies

    def beside(self, kind: str, name: str) -> str:
        """See `SyncRedis.beside`."""
        return self._commands.beside(kind, name)

    def _run_script(self, script: Script, commands: Sequence[Args]) -> list[Any]:
        """Return a reply or an error reply for each command; load the script if Redis lacks it.

        Raises:
            BrokerUnavailable: Certainly not done.
            OutcomeUnknown: Perhaps done.
        """
        raise NotImplementedError

    def _execute(self, commands: Sequence[Args]) -> list[Any]:
        """Return a reply or an error reply for each command; otherwise as `_run_script`."""
        raise NotImplementedError
