"""Lists the connections of this node for a survey, without stalling the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from heapq import nsmallest
from operator import attrgetter
from typing import TYPE_CHECKING

from realtime.connection.backlog import backlog_of
from realtime.core import connection_survey, survey
from realtime.core.connection_survey import (
    NAMES_LIMIT,
    AnswerBuilder,
    ConnectionQuery,
    ListedConnection,
)

if TYPE_CHECKING:
    from realtime.delivery.conversation import Conversation

_by_client = attrgetter("client")


class ConnectionLister:
    """See the module. Belongs to one hub."""

    def __init__(
        self,
        uid: str,
        connections: Callable[[], Iterable[Conversation]],
        wall_seconds: Callable[[], float],
    ) -> None:
        """Take what describes the node.

        Args:
            uid: The id of the node.
            connections: Returns those that have completed their connect command, in any order.
            wall_seconds: Returns the seconds since 1970.
        """
        self._uid = uid
        self._connections = connections
        self._wall_seconds = wall_seconds

    async def answer(self, query: ConnectionQuery, name: str) -> bytes:
        """Return the encoded answer of this node, which is called ``name``, to a query."""
        found = await self._find(query)
        page = found[: query.limit]
        answer = AnswerBuilder(self._uid, name)
        described = 0
        for conversation in page:
            if not conversation.ended and not answer.add(self._describe(conversation, query)):
                return answer.encode(has_more=True)
            described += 1 + len(conversation.active.channels) // NAMES_LIMIT
            if described >= connection_survey.SLICE:
                described = 0
                await asyncio.sleep(0)
        return answer.encode(has_more=len(found) > len(page))

    async def _find(self, query: ConnectionQuery) -> list[Conversation]:
        """Return the first matching connections by client id, and one more if there are more.

        Not all of them are sorted at once: with a hundred thousand, that would take too long.
        """
        first: list[Conversation] = []
        matching: list[Conversation] = []
        for number, conversation in enumerate(list(self._connections()), 1):
            if _matches(conversation, query):
                matching.append(conversation)
            if number % survey.SLICE == 0:
                first, matching = nsmallest(query.limit + 1, first + matching, _by_client), []
                await asyncio.sleep(0)
        return nsmallest(query.limit + 1, first + matching, _by_client)

    def _describe(self, conversation: Conversation, query: ConnectionQuery) -> ListedConnection:
        channels = conversation.active.channels
        age = asyncio.get_running_loop().time() - conversation.began
        writer = conversation.writer
        return ListedConnection(
            client=conversation.client,
            user=conversation.identity.user,
            transport=conversation.transport,
            connected_at=int(self._wall_seconds() - age),
            num_channels=len(channels),
            outbox_bytes=backlog_of(writer)[0],
            is_congested=writer.is_suspended or writer.flow.congested,
            # Five times as fast as `nsmallest` with the 128 channels that a client may have.
            channels=tuple(sorted(channels)[:NAMES_LIMIT]) if query.names else None,
        )


def _matches(conversation: Conversation, query: ConnectionQuery) -> bool:
    return (
        conversation.client > query.after
        and query.user in ("", conversation.identity.user)
        and (not query.channel or query.channel in conversation.active)
    )
