"""How a publication travels between nodes.

A broker stamps each publication with the next position of its channel and sends it to every node
that is subscribed,
**as one atomic step**: two publications of a channel are never seen in another order than that of
their offsets. Example: two publishers that publish at once on a channel at (e, 41) get (e, 42) and
(e, 43), and every subscriber sees 42 before 43.

Not promised: that a subscriber gets what was sent (it must compare positions), and that an epoch
lives long (whatever can make offsets go back must begin a new one).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from realtime.errors import BrokerError, RealtimeError
from realtime.gaps import Position
from realtime.membership import Beat, Headcount, Roll
from realtime.node_messages import Moment
from realtime.publication import Publication, Receipt
from realtime.survey import Question


class Message(NamedTuple):
    """An envelope arrived on a channel."""

    channel: str
    raw: bytes


class Subscribed(NamedTuple):
    """The broker confirms a subscription: what is published from now on arrives."""

    channel: str


class Unsubscribed(NamedTuple):
    """The broker confirms that a subscription is gone."""

    channel: str


Event = Message | Subscribed | Unsubscribed


ALL_NODES = "!nodes"
"""The channel that every node hears; no client can name it."""


class Told(NamedTuple):
    """What all nodes were told."""

    at: Moment
    raw: bytes


class Stats(NamedTuple):
    """How the queue stands."""

    waiting: int
    in_hand: int
    """Being handled at this moment."""
    later: int
    """Failed, and will be tried again."""
    dead: int
    hands: int
    """How many publications the workers can handle at once; 0: there is no worker."""
    oldest_seconds: float
    """For how long the next one has been queued; 0.0 where none waits."""
    handled: int
    """Since the queue was first used, like the ones below."""
    retried: int
    taken_over: int
    """From workers that ended in the middle of an attempt."""
    given_up: int
    """How many have been dead."""
    bytes: int
    """Of all that is queued, in hands too."""


class Survey(NamedTuple):
    """What nodes answered."""

    answers: list[bytes]
    silent: int
    """How many nodes heard the question and did not answer."""


class Subscription(Protocol):
    """One connection that hears from the broker; it never heals by itself, it breaks and raises.

    One task reads, one task sends; both stop at the first `BrokerUnavailable`.
    """

    @property
    def reads(self) -> int:
        """How often bytes came so far; more often than events, where these are large or slow."""

    async def read(self) -> Sequence[Event]:
        """Return the events that have arrived, in the broker's order; wait for the first.

        Raises:
            BrokerUnavailable: The connection is broken.
        """

    async def send(self, subscribe: Sequence[str], unsubscribe: Sequence[str]) -> None:
        """Ask for channels and give channels up; each name is confirmed by one event.

        Raises:
            BrokerUnavailable: The connection is broken.
        """

    async def aclose(self) -> None:
        """Close the connection."""


class Presence(Protocol):
    """Members of channels, written down by the nodes that have them.

    Nodes are names of hex digits that they give themselves. All methods raise `BrokerError`: not
    known, or perhaps done; doing it again is safe.
    """

    async def change(self, node: str, rolls: Sequence[Roll]) -> None:
        """Write down who came and who went; the nodes of a channel are told on it, if they are."""

    async def members(self, channel: str, most_bytes: int = ...) -> dict[str, str]:
        """Return who is on a channel: infos by client.

        Raises:
            TooManyMembers: There are more than can be named, or than so many bytes hold; then no
                more than these were read.
        """

    async def headcounts(self, channels: Sequence[str]) -> list[Headcount]:
        """Return how many are on each channel."""

    async def lease(self, node: str, *, is_new: bool) -> Beat:
        """Say that a node lives, and learn which ones do not."""

    async def sweep(self, node: str, *, is_leaving: bool = False) -> bool:
        """Count out some members of a node that is gone, or goes; return whether there are more."""

    async def keep(self, node: str, channels: Sequence[str]) -> list[str]:
        """Keep the members of channels from being forgotten; return the channels that were."""


class Broker(Protocol):
    """The async side; belongs to one event loop."""

    @property
    def presence(self) -> Presence:
        """Who is on which channel."""

    async def publish(self, publication: Publication) -> Receipt:
        """Stamp and send one publication.

        Raises:
            BrokerUnavailable: Certainly not published.
            OutcomeUnknown: Perhaps published.
            IdempotencyConflict: The key belongs to another publication.
        """

    async def publish_many(
        self, publications: Sequence[Publication]
    ) -> list[Receipt | RealtimeError]:
        """Stamp and send many in one round trip; one receipt or error each, in order.

        Raises:
            BrokerUnavailable: Certainly none published.
            OutcomeUnknown: Perhaps all published.
        """

    async def positions(self, channels: Sequence[str]) -> list[Position | BrokerError]:
        """Return where the channels stand, or why that is not known now; renew their counters.

        Raises:
            BrokerError: Not known now of any of them.
        """

    async def take(self, name: str, rate: float, count: int) -> float:
        """Take so many publications out of what a name may publish, on all nodes together.

        Args:
            name: Whose rate it is.
            rate: Publications a second. What was not used is kept for a second at most.
            count: How many; all or none. More than are ever kept are taken when all are there, and
                the next ones wait for that.

        Returns:
            0.0 where they are taken; otherwise the seconds until it is worth asking again.

        Raises:
            BrokerError: Nobody knows; they are perhaps taken.
        """

    async def send_raw(self, channel: str, raw: bytes) -> int:
        """Send bytes as they are, without a position, on the publisher's path.

        Returns:
            How many nodes listen there.

        Raises:
            BrokerError: They are perhaps not sent.
        """

    async def tell(self, raw: bytes) -> None:
        """Tell all nodes something: each hears it on `ALL_NODES` as ``moment raw``, and may ask.

        Raises:
            BrokerUnavailable: Certainly not told.
            OutcomeUnknown: Perhaps told.
        """

    async def announce(self) -> str:
        """Tell all nodes which service our database belongs to, on `ALL_NODES`; return its id.

        Raises:
            BrokerError: It is perhaps not told.
        """

    async def told_since(self, moment: Moment) -> tuple[Moment, list[Told]]:
        """Return what time it is, and what nodes were told after the moment, as far as it is kept.

        Raises:
            BrokerError: Not known now.
        """

    async def survey(self, question: Question) -> Survey:
        """Ask all nodes, and wait for their answers, a second at most.

        Raises:
            BrokerError: They are perhaps not asked.
        """

    async def answer(self, question_id: str, answer: bytes) -> None:
        """Answer a question, for this node.

        Raises:
            BrokerError: It is perhaps not answered.
        """

    async def queue_stats(self) -> Stats:
        """Return how the queue for fallbacks stands.

        Raises:
            BrokerError: Not known now.
        """

    async def subscription(self) -> Subscription:
        """Open a connection that hears from the broker.

        Raises:
            BrokerUnavailable: It cannot be opened.
        """

    async def aclose(self) -> None:
        """Close all connections."""
