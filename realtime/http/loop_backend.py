"""The publishing side of the running event loop, as the methods of the API take it."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from realtime import wiring
from realtime.core.positions import by_channel

if TYPE_CHECKING:
    from realtime.api.backend import Outcome
    from realtime.brokers import Stats, Survey
    from realtime.core.members import Headcount
    from realtime.core.node_commands import NodeCommand
    from realtime.core.positions import Position
    from realtime.core.publication import Publication, Receipt
    from realtime.core.survey import Question


class _Backend:
    """See `realtime.api.backend.Backend`."""

    def publish(self, publication: Publication) -> Coroutine[Any, Any, Receipt]:
        return wiring.publish(publication)

    async def publish_many(self, publications: Sequence[Publication]) -> list[Outcome]:
        return await wiring.publish_many(publications)

    async def take_from_rate(self, name: str, rate: float, count: int) -> float:
        return await wiring.node().broker.take_from_rate(name, rate, count)

    async def send_node_command(self, command: NodeCommand) -> None:
        await wiring.send_node_command(command)

    async def queue_stats(self) -> Stats:
        return await wiring.node().broker.queue_stats()

    async def positions(self, channels: Sequence[str]) -> dict[str, Position]:
        return by_channel(channels, await wiring.node().broker.positions(channels))

    async def members(self, channel: str) -> dict[str, str]:
        return await wiring.node().broker.presence.members(channel)

    async def headcount(self, channel: str) -> Headcount:
        [found] = await wiring.node().broker.presence.headcounts([channel])
        return found

    async def survey(self, question: Question) -> Survey:
        return await wiring.node().broker.survey(question)


BACKEND = _Backend()
"""For any loop: each call asks for the node of the loop that runs."""
