"""The broker inside the process, for threads."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from realtime.brokers import ALL_NODES, Stats, Survey
from realtime.brokers.bounds import QUEUE_BYTES, QUEUE_ITEMS, SURVEY_POLL_SECONDS, SURVEY_SECONDS
from realtime.brokers.memory.steps import PublishingSteps, stats_of
from realtime.core.members import MEMBERS_BYTES, Headcount
from realtime.core.survey import Question, encode_question

if TYPE_CHECKING:
    from realtime.brokers.memory.shared import SharedStore
    from realtime.core.positions import Position
    from realtime.core.publication import Publication, Receipt
    from realtime.errors import BrokerError, RealtimeError


class SyncMemoryBroker:
    """A `realtime.brokers.SyncBroker` inside the process, for any thread."""

    def __init__(
        self,
        shared: SharedStore,
        *,
        queue_items: int = QUEUE_ITEMS,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        """Use a store; arguments as for `MemoryBroker`."""
        self._shared = shared
        self._steps = PublishingSteps(shared, queue_items, queue_bytes)

    def publish(self, publication: Publication) -> Receipt:
        """See `realtime.brokers.Broker.publish`."""
        return self._steps.publish_one(publication)

    def publish_many(self, publications: Sequence[Publication]) -> list[Receipt | RealtimeError]:
        """See `realtime.brokers.Broker.publish_many`."""
        return self._steps.publish(publications)

    def positions(self, channels: Sequence[str]) -> list[Position | BrokerError]:
        """See `realtime.brokers.Broker.positions`."""
        return self._shared.do(lambda store, now: store.positions(channels))

    def take_from_rate(self, name: str, rate: float, count: int) -> float:
        """See `realtime.brokers.Broker.take_from_rate`."""
        return self._shared.do(lambda store, now: store.take_from_rate(name, rate, count, now))

    def send_node_command(self, raw: bytes) -> None:
        """See `realtime.brokers.Broker.send_node_command`."""
        self._shared.do(lambda store, now: store.send_node_command(raw, now))

    def change_block(self, user: str, until: int, command: bytes) -> None:
        """See `realtime.brokers.block_store.BlockStore.change`."""
        self._shared.do(lambda store, now: store.change_block(user, until, command, now))

    def members(self, channel: str) -> dict[str, str]:
        """See `realtime.brokers.PresenceStore.members`."""
        return self._shared.do(
            lambda store, now: store.roster.members(channel, MEMBERS_BYTES, int(now * 1000))
        )

    def headcount(self, channel: str) -> Headcount:
        """See `realtime.brokers.PresenceStore.headcounts`."""
        return self._shared.do(lambda store, now: store.roster.headcount(channel, int(now * 1000)))

    def survey(self, question: Question) -> Survey:
        """See `realtime.brokers.Broker.survey`."""
        raw = encode_question(question)
        asked = self._shared.do(lambda store, now: store.exchange.publish(ALL_NODES, raw))
        until = time.monotonic() + SURVEY_SECONDS
        while True:
            answers = self._shared.do(lambda store, now: list(store.answers(question.id, now)))
            if len(answers) >= asked or time.monotonic() > until:
                return Survey(answers, max(0, asked - len(answers)))
            time.sleep(SURVEY_POLL_SECONDS)

    def queue_stats(self) -> Stats:
        """See `realtime.brokers.Broker.queue_stats`."""
        return self._shared.do(stats_of)

    def queue_page(self, place: str, start: int, count: int) -> list[bytes]:
        """See `realtime.brokers.SyncBroker.queue_page`."""
        return self._shared.do(lambda store, now: store.queue.page(place, start, count))

    def move_entry(self, place: str, raw: bytes, written: bytes = b"") -> bool:
        """See `realtime.brokers.fallback_queue.FallbackQueue.move`."""
        return self._shared.do(lambda store, now: store.queue.move(place, raw, written))

    def close(self) -> None:
        """Do nothing: the store belongs to the process."""
