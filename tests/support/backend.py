"""An API backend whose calls return or raise what a test configures; it never contacts Redis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from realtime.api.backend import Outcome
from realtime.brokers import Stats, Survey
from realtime.core.members import Headcount
from realtime.core.node_commands import NodeCommand, encode_command
from realtime.core.positions import Position
from realtime.core.publication import Publication, Receipt
from realtime.core.survey import Question
from realtime.errors import RealtimeError

RECEIPT = Receipt("0123456789abcdef", 1, 0)


class CannedBackend:
    """See the module docstring. `answers` maps a call to its result; an error is raised."""

    def __init__(self, **answers: Callable[..., Any]) -> None:
        self._answers = answers
        self.called: list[str] = []

    def _answer(self, name: str, default: Any, *arguments: Any) -> Any:
        self.called.append(name)
        answer = self._answers[name](*arguments) if name in self._answers else default
        if isinstance(answer, RealtimeError):
            raise answer
        return answer

    async def publish(self, publication: Publication) -> Receipt:
        [answer] = await self.publish_many([publication])
        if isinstance(answer, RealtimeError):
            raise answer  # as a broker would
        return answer

    async def publish_many(self, publications: Sequence[Publication]) -> list[Outcome]:
        canned = [RECEIPT] * len(publications)
        answer: list[Outcome] = self._answer("publish", canned, publications)
        return answer

    async def take_from_rate(self, name: str, rate: float, count: int) -> float:
        return float(self._answer("take_from_rate", 0.0))

    async def send_node_command(self, command: NodeCommand) -> None:
        encode_command(command)
        self._answer("send_node_command", None)

    async def queue_stats(self) -> Stats:
        stats: Stats = self._answer("queue_stats", Stats(*[0] * 11))
        return stats

    async def positions(self, channels: Sequence[str]) -> dict[str, Position]:
        start = dict.fromkeys(channels, Position(RECEIPT.epoch, 0))
        positions: dict[str, Position] = self._answer("positions", start)
        return positions

    async def members(self, channel: str) -> dict[str, str]:
        members: dict[str, str] = self._answer("members", {})
        return members

    async def headcount(self, channel: str) -> Headcount:
        headcount: Headcount = self._answer("headcount", Headcount(1, 1))
        return headcount

    async def survey(self, question: Question) -> Survey:
        survey: Survey = self._answer("survey", Survey([], 1))
        return survey
