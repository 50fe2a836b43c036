"""The contract of a broker, which carries publications between nodes.

A broker assigns each publication the next position of its channel and sends it to every
subscribed node, **in one atomic step**: all subscribers see the publications of a channel in the
order of their offsets. Example: two publishers that publish concurrently on a channel at (e, 41)
get (e, 42) and (e, 43), and every subscriber sees 42 before 43.

Not promised: that a subscriber receives every publication (it must compare positions), and that an
epoch lasts (any event that could set offsets back must start a new one).

Long because it is one contract.

* `redis`, `redis_sync`: The broker on Redis, for event loops and for threads.
* `redis_queue`, `redis_presence`, `redis_blocks`: The fallback queue, members, blocked users.
* `commands`, `queue_commands`, `presence_commands`, `sentinel_commands`: Build commands for Redis
  or its sentinels, and parse replies.
* `script`: Loads Lua scripts from the folder ``scripts``.
* `link`: Keeps one connection for all commands of a node, and replaces it when it breaks.
* `pipeline`: That connection.
* `calls`: What is sent together on it, and who gets which reply.
* `server_facts`: Asks a Redis about its own state.
* `diagnosis`: Examines each Redis of a URL for a person: its state, clock and permissions.
* `connector`: Opens connections with redis-py.
* `connection_sync`: The options of connections for threads, and questions to several servers.
* `partition_sync`: What a broker for threads does in one partition.
* `cluster`: The broker on Redis Cluster.
* `asking`: Asks several servers at once.
* `sentinel`, `sentinel_sync`: Open connections to the master that sentinels name, and notice when
  it changes; for event loops and for threads.
* `events`: What arrives on a subscription.
* `watchdog`: Detects a subscription that is silent but broken.
* `canary`: Tracks the messages that a subscription sends to itself.
* `publisher`: Publishes on behalf of clients.
* `node_messages`: The messages between nodes.
* `neighbours`: Detects another service on the same channels.
* `bounds`: What a broker holds at most, and for how long.
* `fallback_queue`, `block_store`: The contracts of the fallback queue and of blocked users.
* `memory`: The broker inside the process.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple, NoReturn, Protocol

from realtime.brokers.events import ChannelsLost as ChannelsLost
from realtime.brokers.events import Event as Event
from realtime.brokers.events import Message as Message
from realtime.brokers.events import Subscribed as Subscribed
from realtime.brokers.events import Unsubscribed as Unsubscribed
from realtime.brokers.node_messages import ALL_NODES as ALL_NODES

if TYPE_CHECKING:
    from realtime.brokers.block_store import BlockStore
    from realtime.brokers.events import Receive as Receive
    from realtime.brokers.node_messages import Moment
    from realtime.core.members import Headcount, LeaseReply, MemberUpdate
    from realtime.core.positions import Position
    from realtime.core.publication import Publication, Receipt
    from realtime.core.redis_facts import RedisFacts
    from realtime.core.survey import Question
    from realtime.errors import BrokerError, RealtimeError


NODE_COMMANDS_PAGE = 250
"""Commands in one read, at most 16 MiB: `message_user` can send 64 KiB in one command."""


class SentCommand(NamedTuple):
    """A command that was sent to all nodes."""

    at: Moment
    raw: bytes


class Stats(NamedTuple):
    """The state of the fallback queue, as numbers of entries unless a field says otherwise."""

    waiting: int
    in_hand: int
    """Entries being handled now."""
    later: int
    """Failed entries that will be retried."""
    dead: int
    hands: int
    """How many publications the workers can handle concurrently; 0 means that no worker runs."""
    oldest_seconds: float
    """How long the next entry has been queued, in seconds; 0.0 if none waits."""
    handled: int
    """Total since the queue was first used, like the following counters."""
    retried: int
    taken_over: int
    """Entries taken over from workers that stopped during an attempt."""
    given_up: int
    """Entries that became dead."""
    bytes: int
    """The size of all queued entries, including those being handled."""


class Survey(NamedTuple):
    """The answers of nodes to a question."""

    answers: list[bytes]
    silent: int
    """The number of nodes that received the question and did not answer."""


class Subscription(Protocol):
    """One subscriber connection; it never reconnects by itself, but breaks and raises.

    One task listens, one task sends; both stop at the first `BrokerUnavailable`.
    """

    @property
    def reads(self) -> int:
        """The number of times that bytes have arrived; large or slow events take several reads."""

    @property
    def lag_seconds(self) -> float | None:
        """The latest round-trip time of its own canaries; None if the node must send them."""

    async def listen(self, receive: Receive) -> NoReturn:
        """Pass on the events that arrive, in the broker's order, until the connection breaks.

        They are passed on where they arrive, without another turn of the event loop. While
        ``receive`` has no room for more, little more is read, and the broker keeps the rest.

        Raises:
            BrokerUnavailable: The connection is broken.
            Exception: Whatever ``receive`` has raised.
        """

    async def send(self, subscribe: Sequence[str], unsubscribe: Sequence[str]) -> None:
        """Subscribe to and unsubscribe from channels; one event confirms each name.

        Raises:
            BrokerUnavailable: The connection is broken.
        """

    async def aclose(self) -> None:
        """Close the connection."""


class PresenceStore(Protocol):
    """The members of channels, written by the nodes that they are connected to.

    Nodes are identified by names of hex digits that they choose themselves. All methods raise
    `BrokerError` if the result is unknown or the change may have been made; retrying is safe.
    """

    async def change(self, node: str, updates: Sequence[MemberUpdate]) -> Collection[str]:
        """Write joins and leaves; announce them on the channel if the update requires it.

        Returns:
            The channels whose joins and leaves may not have been written, if others were: a part
            of the broker can be unavailable.
        """

    async def members(self, channel: str, most_bytes: int = ...) -> dict[str, str]:
        """Return the members of a channel: infos by client.

        Raises:
            TooManyMembers: There are more members than can be listed, or than fit into
                ``most_bytes``; reading stops at the limit.
        """

    async def headcounts(self, channels: Sequence[str]) -> dict[str, Headcount]:
        """Return the number of members of each channel, except where a part of the broker is away.

        Raises:
            BrokerError: None could be counted.
        """

    async def lease(self, node: str, *, is_new: bool) -> LeaseReply:
        """Renew the lease of a node, and return nodes whose lease has expired."""

    async def sweep(self, node: str, *, is_leaving: bool = False) -> bool:
        """Remove some members of a node that is gone or leaving; return whether more remain."""

    async def keep(self, node: str, channels: Sequence[str]) -> list[str]:
        """Keep the members of channels from expiring; return the channels that had expired."""


class SyncBroker(Protocol):
    """The publishing half of `Broker`, without async, for any thread.

    Arguments, results and errors are those of the async methods.
    """

    def publish(self, publication: Publication) -> Receipt:
        """See `Broker.publish`."""

    def publish_many(self, publications: Sequence[Publication]) -> list[Receipt | RealtimeError]:
        """See `Broker.publish_many`."""

    def positions(self, channels: Sequence[str]) -> list[Position | BrokerError]:
        """See `Broker.positions`."""

    def take_from_rate(self, name: str, rate: float, count: int) -> float:
        """See `Broker.take_from_rate`."""

    def send_node_command(self, raw: bytes) -> None:
        """See `Broker.send_node_command`."""

    def change_block(self, user: str, until: int, command: bytes) -> None:
        """See `realtime.brokers.block_store.BlockStore.change`."""

    def members(self, channel: str) -> dict[str, str]:
        """See `PresenceStore.members`."""

    def headcount(self, channel: str) -> Headcount:
        """See `PresenceStore.headcounts`."""

    def survey(self, question: Question) -> Survey:
        """See `Broker.survey`."""

    def queue_stats(self) -> Stats:
        """See `Broker.queue_stats`."""

    def queue_page(self, place: str, start: int, count: int) -> list[bytes]:
        """Return entries of the fallback queue at one of `fallback_queue.PLACES`, by position.

        Args:
            place: The place.
            start: The number of entries before the first.
            count: The maximum number of entries.
        """

    def move_entry(self, place: str, raw: bytes, written: bytes = b"") -> bool:
        """See `realtime.brokers.fallback_queue.FallbackQueue.move`."""

    def close(self) -> None:
        """Close all connections."""


class Broker(Protocol):
    """The async interface of a broker; bound to one event loop."""

    @property
    def presence(self) -> PresenceStore:
        """The members of channels."""

    @property
    def blocks(self) -> BlockStore:
        """The blocked users."""

    async def publish(self, publication: Publication) -> Receipt:
        """Assign the position of one publication, and send it.

        Raises:
            BrokerUnavailable: Certainly not published.
            OutcomeUnknown: Perhaps published.
            IdempotencyConflict: The key belongs to another publication.
        """

    async def publish_many(
        self, publications: Sequence[Publication]
    ) -> list[Receipt | RealtimeError]:
        """Assign positions and send in one round trip; return a receipt or error for each.

        Raises:
            BrokerUnavailable: Certainly none published.
            OutcomeUnknown: Perhaps all published.
        """

    async def positions(self, channels: Sequence[str]) -> list[Position | BrokerError]:
        """Return the position of each channel, or an error; renew the expiry of the counters.

        Raises:
            BrokerError: All positions are unknown at present.
        """

    async def take_from_rate(self, name: str, rate: float, count: int) -> float:
        """Take publications from the rate limit of a name, which is shared by all nodes.

        Args:
            name: Identifies the rate limit.
            rate: Publications per second. Unused ones accumulate for at most one second.
            count: How many to take; all or none. A count above the maximum is taken when the
                maximum is available, and the debt delays the next calls.

        Returns:
            0.0 if they are taken; otherwise the seconds until a retry can succeed.

        Raises:
            BrokerError: The outcome is unknown; they may have been taken.
        """

    async def send_raw(self, channel: str, raw: bytes) -> int:
        """Send bytes unchanged and without a position, on the publisher's path.

        Returns:
            The number of nodes that are subscribed to the channel.

        Raises:
            BrokerError: The bytes may not have been sent.
        """

    async def send_node_command(self, raw: bytes) -> None:
        """Send a command to all nodes, on `ALL_NODES` as ``moment raw``, and keep it for a while.

        Raises:
            BrokerUnavailable: Certainly not sent.
            OutcomeUnknown: Perhaps sent.
        """

    async def announce(self) -> str:
        """Announce the service of this database on `ALL_NODES`; return the id of the service.

        Raises:
            BrokerError: The announcement may not have been sent.
        """

    async def read_node_commands(self, moment: Moment) -> tuple[Moment, list[SentCommand]]:
        """Return the broker's time, and the kept commands sent to all nodes after ``moment``.

        Returns at most `NODE_COMMANDS_PAGE` commands, the oldest first; if there are that many,
        call it again with the moment of the last one.

        Raises:
            BrokerError: The broker could not be read.
        """

    async def survey(self, question: Question) -> Survey:
        """Ask all nodes, and wait at most one second for their answers.

        Raises:
            BrokerError: The question may not have been sent.
        """

    async def answer(self, question_id: str, answer: bytes) -> None:
        """Answer a question on behalf of this node.

        Raises:
            BrokerError: The answer may not have been sent.
        """

    async def queue_stats(self) -> Stats:
        """Return the state of the fallback queue.

        Raises:
            BrokerError: The broker could not be read.
        """

    async def read_servers(self) -> list[RedisFacts]:
        """Return the state of each server that the broker uses; none if it is inside the process.

        Raises:
            BrokerError: None of them answers.
        """

    async def subscription(self) -> Subscription:
        """Open a subscriber connection.

        Raises:
            BrokerUnavailable: It cannot be opened.
        """

    async def aclose(self) -> None:
        """Close all connections."""
