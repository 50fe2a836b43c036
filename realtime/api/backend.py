"""What the methods of the HTTP API need from the publishing side.

The methods are coroutines that serve both rims. The ASGI rim awaits them. Under WSGI the backend
blocks and never suspends, so `run_blocking` runs a method to its end without an event loop. Both
rims see the same types and exceptions (ADR-0028).
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from realtime.core.publication import Publication, Receipt
from realtime.errors import RealtimeError

if TYPE_CHECKING:
    from realtime.brokers import Stats, Survey
    from realtime.core.members import Headcount
    from realtime.core.node_commands import NodeCommand
    from realtime.core.positions import Position
    from realtime.core.survey import Question

Outcome = Receipt | RealtimeError
T = TypeVar("T")


class Backend(Protocol):
    """The publishing side. Every method raises `BrokerError` if Redis does not answer."""

    async def publish(self, publication: Publication) -> Receipt:
        """Publish one.

        Raises:
            RequestError: It is refused.
        """

    async def publish_many(self, publications: Sequence[Publication]) -> list[Outcome]:
        """Publish several; return an outcome for each."""

    async def take_from_rate(self, name: str, rate: float, count: int) -> float:
        """See `realtime.brokers.Broker.take_from_rate`."""

    async def send_node_command(self, command: NodeCommand) -> None:
        """Send a command to all nodes."""

    async def queue_stats(self) -> Stats:
        """See `realtime.brokers.Broker.queue_stats`."""

    async def positions(self, channels: Sequence[str]) -> dict[str, Position]:
        """Return the position of each channel."""

    async def members(self, channel: str) -> dict[str, str]:
        """See `realtime.brokers.PresenceStore.members`."""

    async def headcount(self, channel: str) -> Headcount:
        """Count the clients and users on a channel."""

    async def survey(self, question: Question) -> Survey:
        """See `realtime.brokers.Broker.survey`."""


def run_blocking(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, and return its result.

    Raises:
        RuntimeError: It suspended, so its backend is not a blocking one.
    """
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise RuntimeError("a backend for threads must not await")
