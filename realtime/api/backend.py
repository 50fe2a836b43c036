"""What the methods of the HTTP API ask of the publishing side.

The methods are coroutines, so that one rule serves both rims. The ASGI rim awaits them. Under WSGI
the backend's calls block and never suspend, so `finished` runs a method to its end without an event
loop. Both see the same types and the same exceptions (ADR-0028).
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from realtime.brokers import Stats, Survey
from realtime.control import Command
from realtime.errors import RealtimeError
from realtime.membership import Headcount
from realtime.publication import Publication, Receipt
from realtime.survey import Question

Outcome = Receipt | RealtimeError
T = TypeVar("T")


class Backend(Protocol):
    """See the module. Every method raises `BrokerError` where Redis does not answer."""

    async def publish(self, publications: Sequence[Publication]) -> list[Outcome]:
        """Publish; return an outcome for each.

        Raises:
            RequestError: There is one, and that is what is wrong with it.
        """

    async def take(self, name: str, rate: float, count: int) -> float:
        """See `realtime.brokers.Broker.take`."""

    async def tell(self, command: Command) -> None:
        """Tell all nodes."""

    async def queue_stats(self) -> Stats:
        """See `realtime.brokers.Broker.queue_stats`."""

    async def members(self, channel: str) -> dict[str, str]:
        """See `realtime.brokers.Presence.members`."""

    async def headcount(self, channel: str) -> Headcount:
        """Return how many are on a channel."""

    async def survey(self, question: Question) -> Survey:
        """See `realtime.brokers.Broker.survey`."""


def finished(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, and return its result.

    Raises:
        RuntimeError: It suspended: its backend is not one for threads.
    """
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise RuntimeError("a backend for threads must not await")
