"""The publishing side of the running event loop, as the methods of the API take it."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from realtime import wiring
from realtime.api.methods import AdmittedRequest, respond
from realtime.core.positions import by_channel
from realtime.wiring.metering import HTTP

if TYPE_CHECKING:
    from realtime.api.answers import Response
    from realtime.brokers import Stats, Survey
    from realtime.core.members import Headcount
    from realtime.core.positions import Position
    from realtime.core.survey import Question


class _Backend:
    """See `realtime.api.backend.Backend`."""

    # Without a function in between, which would only pass on.
    publish = staticmethod(partial(wiring.publish, method=HTTP))
    publish_many = staticmethod(partial(wiring.publish_many, method=HTTP))
    send_node_command = staticmethod(wiring.send_node_command)

    async def take_from_rate(self, name: str, rate: float, count: int) -> float:
        return await wiring.node().broker.take_from_rate(name, rate, count)

    async def queue_stats(self) -> Stats:
        return await wiring.node().broker.queue_stats()

    async def positions(self, channels: Sequence[str]) -> dict[str, Position]:
        return by_channel(channels, await wiring.read_positions(channels))

    async def members(self, channel: str) -> dict[str, str]:
        return await wiring.node().broker.presence.members(channel)

    async def headcount(self, channel: str) -> Headcount:
        counted = await wiring.node().broker.presence.headcounts([channel])
        [found] = counted.values()
        return found

    async def survey(self, question: Question) -> Survey:
        return await wiring.node().broker.survey(question)


BACKEND = _Backend()
"""For any loop: each call asks for the node of the loop that runs."""


def respond_here(admitted: AdmittedRequest, body: bytes) -> Coroutine[Any, Any, Response]:
    """Carry out a request on the running event loop, in its trace if tracing is on."""
    work = respond(admitted, body, BACKEND, wiring.namespaces(), wiring.routes())
    return wiring.continue_trace(admitted.request.traceparent, work)
