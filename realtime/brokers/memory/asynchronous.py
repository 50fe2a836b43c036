"""The broker inside the process, for an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, NoReturn

from realtime.brokers import (
    ALL_NODES,
    NODE_COMMANDS_PAGE,
    Event,
    Message,
    SentCommand,
    Stats,
    Subscribed,
    Survey,
    Unsubscribed,
)
from realtime.brokers.bounds import QUEUE_BYTES, QUEUE_ITEMS, SURVEY_POLL_SECONDS, SURVEY_SECONDS
from realtime.brokers.memory.exchange import DeliveredMessage, MailboxClosed
from realtime.brokers.memory.shared import Result, SharedStore, TakeStep, random_text
from realtime.brokers.memory.steps import PublishingSteps, stats_of
from realtime.brokers.node_messages import Moment
from realtime.core.members import MEMBERS_BYTES, Headcount, LeaseReply, MemberUpdate
from realtime.core.survey import Question, encode_question
from realtime.errors import BrokerError, BrokerUnavailable, RealtimeError

if TYPE_CHECKING:
    from realtime.brokers import Receive
    from realtime.brokers.memory.store import MemoryStore
    from realtime.core.positions import Position
    from realtime.core.publication import Publication, Receipt
    from realtime.core.redis_facts import RedisFacts


class MemoryBroker:
    """A `realtime.brokers.Broker` inside the process; create it inside the loop that uses it."""

    def __init__(
        self,
        shared: SharedStore,
        *,
        queue_items: int = QUEUE_ITEMS,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        """Use a store.

        Args:
            shared: The store, which all brokers of a process share.
            queue_items: The maximum number of entries in the fallback queue.
            queue_bytes: The maximum size of these entries.
        """
        self._shared = shared
        self._steps = PublishingSteps(shared, queue_items, queue_bytes)
        self._subscriptions: set[MemorySubscription] = set()
        self._is_closed = False
        self.presence = MemoryPresence(self._do)
        """The members of channels."""
        self.blocks = MemoryBlocks(self._do)
        """The blocked users."""

    async def publish(self, publication: Publication) -> Receipt:
        """See `realtime.brokers.Broker.publish`."""
        self._refuse_closed()
        return self._steps.publish_one(publication)

    async def publish_many(
        self, publications: Sequence[Publication]
    ) -> list[Receipt | RealtimeError]:
        """See `realtime.brokers.Broker.publish_many`."""
        self._refuse_closed()
        return self._steps.publish(publications)

    async def positions(self, channels: Sequence[str]) -> list[Position | BrokerError]:
        """See `realtime.brokers.Broker.positions`."""
        return self._do(lambda store, now: store.positions(channels))

    async def take_from_rate(self, name: str, rate: float, count: int) -> float:
        """See `realtime.brokers.Broker.take_from_rate`."""
        return self._do(lambda store, now: store.take_from_rate(name, rate, count, now))

    async def send_raw(self, channel: str, raw: bytes) -> int:
        """See `realtime.brokers.Broker.send_raw`."""
        return self._do(lambda store, now: store.exchange.publish(channel, raw))

    async def send_node_command(self, raw: bytes) -> None:
        """See `realtime.brokers.Broker.send_node_command`."""
        self._do(lambda store, now: store.send_node_command(raw, now))

    async def announce(self) -> str:
        """See `realtime.brokers.Broker.announce`."""
        return self._do(lambda store, now: store.announce(random_text()))

    async def read_node_commands(self, moment: Moment) -> tuple[Moment, list[SentCommand]]:
        """See `realtime.brokers.Broker.read_node_commands`."""

        def step(store: MemoryStore, now: float) -> tuple[Moment, list[SentCommand]]:
            entries = store.read_node_commands(moment, NODE_COMMANDS_PAGE, now)
            return Moment(int(now * 1000), 0), [SentCommand(at, raw) for at, raw in entries]

        return self._do(step)

    async def survey(self, question: Question) -> Survey:
        """See `realtime.brokers.Broker.survey`."""
        asked = await self.send_raw(ALL_NODES, encode_question(question))
        loop = asyncio.get_running_loop()
        until = loop.time() + SURVEY_SECONDS
        while True:
            answers = self._do(lambda store, now: list(store.answers(question.id, now)))
            if len(answers) >= asked or loop.time() > until:
                return Survey(answers, max(0, asked - len(answers)))
            await asyncio.sleep(SURVEY_POLL_SECONDS)

    async def answer(self, question_id: str, answer: bytes) -> None:
        """See `realtime.brokers.Broker.answer`."""
        self._do(lambda store, now: store.answer(question_id, answer, now))

    async def queue_stats(self) -> Stats:
        """See `realtime.brokers.Broker.queue_stats`."""
        return self._do(stats_of)

    async def read_servers(self) -> list[RedisFacts]:
        """See `realtime.brokers.Broker.read_servers`."""
        return []

    async def subscription(self) -> MemorySubscription:
        """See `realtime.brokers.Broker.subscription`."""
        self._refuse_closed()
        made = MemorySubscription(self._shared, self._subscriptions.discard)
        self._subscriptions.add(made)
        return made

    async def aclose(self) -> None:
        """Close all subscriptions, and accept nothing more."""
        self._is_closed = True
        for subscription in list(self._subscriptions):
            await subscription.aclose()

    def _do(self, step: Callable[[MemoryStore, float], Result]) -> Result:
        self._refuse_closed()
        return self._shared.do(step)

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise BrokerUnavailable("the broker was closed")


class MemorySubscription:
    """A `realtime.brokers.Subscription` inside the process."""

    lag_seconds = None

    def __init__(self, shared: SharedStore, closed: Callable[[MemorySubscription], object]) -> None:
        self._shared = shared
        self._closed = closed
        self._arrived = asyncio.Event()
        self._box = shared.open(self._arrived.set)
        self.reads = 0
        """See `realtime.brokers.Subscription.reads`."""

    async def listen(self, receive: Receive) -> NoReturn:
        """See `realtime.brokers.Subscription.listen`."""
        while True:
            if (space := receive(await self._read())) is not None:
                await space

    async def _read(self) -> list[Event]:
        """Wait for the first event; return all that have arrived."""
        await asyncio.sleep(0)  # a long backlog must not hold up the loop
        while True:
            self._arrived.clear()
            try:
                arrived = self._shared.do(lambda store, now: store.exchange.read(self._box))
            except MailboxClosed as error:
                raise BrokerUnavailable(f"memory://: {error}") from error
            if arrived:
                self.reads += 1
                return [_event(each) for each in arrived]
            await self._arrived.wait()

    async def send(self, subscribe: Sequence[str], unsubscribe: Sequence[str]) -> None:
        """See `realtime.brokers.Subscription.send`."""

        def step(store: MemoryStore, now: float) -> None:
            store.exchange.subscribe(self._box, subscribe)
            store.exchange.unsubscribe(self._box, unsubscribe)

        try:
            self._shared.do(step)
        except MailboxClosed as error:
            raise BrokerUnavailable(f"memory://: {error}") from error

    async def aclose(self) -> None:
        """Close the subscription."""
        self._shared.close(self._box)
        self._arrived.set()
        self._closed(self)


class MemoryPresence:
    """A `realtime.brokers.PresenceStore` inside the process."""

    def __init__(self, do: TakeStep) -> None:
        self._do = do

    async def change(self, node: str, updates: Sequence[MemberUpdate]) -> Collection[str]:
        """Write joins and leaves."""

        def step(store: MemoryStore, now: float) -> None:
            for update in updates:
                store.roster.change(node, update, int(now * 1000))

        self._do(step)
        return ()

    async def members(self, channel: str, most_bytes: int = MEMBERS_BYTES) -> dict[str, str]:
        """Return the members of a channel: infos by client.

        Raises:
            TooManyMembers: There are more than can be listed, or than fit into ``most_bytes``.
        """
        return self._do(lambda store, now: store.roster.members(channel, most_bytes, _ms(now)))

    async def headcounts(self, channels: Sequence[str]) -> dict[str, Headcount]:
        """Return the number of members of each channel."""
        return self._do(
            lambda store, now: {name: store.roster.headcount(name, _ms(now)) for name in channels}
        )

    async def lease(self, node: str, *, is_new: bool) -> LeaseReply:
        """Renew the lease of a node, and return nodes whose lease has expired."""
        return self._do(lambda store, now: store.roster.lease(node, _ms(now), is_new=is_new))

    async def sweep(self, node: str, *, is_leaving: bool = False) -> bool:
        """Remove some members of a node that is gone or leaving; return whether more remain."""
        return self._do(
            lambda store, now: store.roster.sweep(node, _ms(now), is_leaving=is_leaving)
        )

    async def keep(self, node: str, channels: Sequence[str]) -> list[str]:
        """Keep the members of channels from expiring; return the channels that had expired."""
        return self._do(lambda store, now: store.roster.keep(node, channels, _ms(now)))


class MemoryBlocks:
    """A `realtime.brokers.block_store.BlockStore` inside the process."""

    def __init__(self, do: TakeStep) -> None:
        self._do = do

    async def change(self, user: str, until: int, command: bytes) -> None:
        """Block a user until a time in seconds, or end the block (0); tell all nodes."""
        self._do(lambda store, now: store.change_block(user, until, command, now))

    async def read(self) -> dict[str, int]:
        """Return the end of each block, by user."""
        return self._do(lambda store, now: store.blocked.copy())


def _event(arrived: DeliveredMessage) -> Event:
    if arrived.kind == "message":
        return Message(arrived.channel, arrived.raw)
    return (Subscribed if arrived.kind == "subscribe" else Unsubscribed)(arrived.channel)


def _ms(now: float) -> int:
    return int(now * 1000)
