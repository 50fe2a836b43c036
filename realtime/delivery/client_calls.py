"""Client calls that wait for I/O: publishes, RPCs to the host, and presence queries to Redis.

A conversation runs one call at a time. Each call runs in its own task, which the conversation
cancels when the client disconnects.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from realtime.connection.decisions import CallHost, QueryPresence, SendPublication
from realtime.connection.hostcode import failure_of, of_host
from realtime.core.codes import (
    BAD_COMMAND,
    INTERNAL_ERROR,
    LIMIT_EXCEEDED,
    NOT_LIVE,
    NOT_PUBLISHED,
    PERMISSION_DENIED,
    UNKNOWN_OUTCOME,
    Refusal,
)
from realtime.core.json_text import encode_json
from realtime.core.members import TooManyMembers
from realtime.core.tally import Tally
from realtime.delivery.joining import LIVE_SECONDS, why_not
from realtime.delivery.node_services import NodeServices, is_allowed
from realtime.delivery.slow_log import timed_call
from realtime.errors import BrokerError, Forbidden, OutcomeUnknown, RequestError
from realtime.protocols import Call, Presence, PresenceStats, WireProtocol

if TYPE_CHECKING:
    from realtime.core.identity import Identity

logger = logging.getLogger(__name__)
_failures = Tally()

RPC_SECONDS = 10.0
"""The timeout for the host's answer."""

Query = Call | Presence | PresenceStats


class PendingPublish:
    """A pending publish; running one at a time keeps a client's publications in order."""

    __slots__ = ("_decision", "_identity", "_node", "_protocol", "_task")

    def __init__(
        self,
        node: NodeServices,
        identity: Identity,
        protocol: WireProtocol,
        decision: SendPublication,
        then: Callable[[BaseException | None], None],
    ) -> None:
        """Start publishing.

        Args:
            node: Publishes, and gives access to the host.
            identity: The identity of the client.
            protocol: Encodes the reply.
            decision: The publish, as accepted by the connection rules.
            then: Called at the end, with the exception that our own code raised, if any.
        """
        self._node = node
        self._identity = identity
        self._protocol = protocol
        self._decision = decision
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(lambda task: then(failure_of(task)))

    @property
    def is_done(self) -> bool:
        """Whether the outcome is known."""
        return self._task.done()

    def reply(self) -> str:
        """Return the reply once the publish is done."""
        command, refusal = self._decision.command, self._task.result()
        if refusal is None:
            return self._protocol.encode_empty_reply(command)
        return self._protocol.encode_refusal(command, refusal)

    def cancel(self) -> None:
        """Cancel the publish: the client has disconnected."""
        self._task.cancel()

    async def _run(self) -> Refusal | None:
        decision = self._decision
        try:
            if decision.must_ask and (refusal := await self._forbids(decision.publication.channel)):
                return refusal
            if decision.is_refused_anyway:
                return PERMISSION_DENIED
            await self._node.publish(decision.publication)
        except OutcomeUnknown:
            return UNKNOWN_OUTCOME
        except BrokerError:
            return NOT_PUBLISHED
        except RequestError as error:
            return BAD_COMMAND._replace(message=str(error))
        return None

    async def _forbids(self, channel: str) -> Refusal | None:
        """Ask the host for permission to publish; return its refusal, if any."""
        question = is_allowed(self._node, self._identity, channel, "publish")
        task = asyncio.get_running_loop().create_task(question)
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
        return why_not(task)


class PendingQuery:
    """A pending query: an RPC to the host, or a presence query to Redis."""

    __slots__ = ("_identity", "_node", "_protocol", "_task", "query")

    def __init__(
        self,
        node: NodeServices,
        identity: Identity,
        protocol: WireProtocol,
        decision: CallHost | QueryPresence,
        then: Callable[[BaseException | None], None],
    ) -> None:
        """Start the query.

        Args:
            node: Gives access to the host and to Redis.
            identity: The identity of the client.
            protocol: Encodes the reply.
            decision: The query, as accepted by the connection rules.
            then: Called at the end, with the exception that the query failed with, if any.
        """
        self._node = node
        self._identity = identity
        self._protocol = protocol
        self.query: Query = decision.command
        if isinstance(decision, CallHost):
            answer = self._call_host(decision)
        else:
            answer = self._query_presence(decision)
        self._task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(answer)
        self._task.add_done_callback(lambda task: then(failure_of(task)))

    @property
    def is_done(self) -> bool:
        """Whether the query has been answered or has failed."""
        return self._task.done()

    def answer(self) -> str | Refusal:
        """Return the reply once the query is done, or the refusal if it failed."""
        error = failure_of(self._task)
        if error is None:
            answer: str | Refusal = self._task.result()
            return answer
        if isinstance(error, Forbidden):
            return PERMISSION_DENIED
        if isinstance(error, RequestError):
            return BAD_COMMAND._replace(message=str(error))
        # Any client can repeat the failing call, so the log is throttled.
        if count := _failures.add("rpc", asyncio.get_running_loop().time()):
            logger.error(
                "REALTIME_RPC failed: the client gets an error (%d so far)", count, exc_info=error
            )
        return INTERNAL_ERROR

    def cancel(self) -> None:
        """Cancel the query: the client has disconnected."""
        self._task.cancel()

    async def _call_host(self, call: CallHost) -> str | Refusal:
        method = call.command.method
        with timed_call("REALTIME_RPC", method):
            async with asyncio.timeout(RPC_SECONDS):
                answer = await of_host(self._node.rpc(self._identity, method, call.data))
        try:
            return self._protocol.encode_call_reply(call.command, encode_json(answer).decode())
        except RequestError as error:
            raise TypeError(f"it returned a value that cannot be sent: {error}") from error

    async def _query_presence(self, decision: QueryPresence) -> str | Refusal:
        """Return the reply to a presence query, or the reason for refusing it."""
        if not self._node.live:
            return NOT_LIVE
        try:
            async with asyncio.timeout(LIVE_SECONDS):
                return await self._read_presence(decision.command)
        except (BrokerError, TimeoutError):
            return NOT_LIVE
        except TooManyMembers as error:
            return LIMIT_EXCEEDED._replace(message=str(error))

    async def _read_presence(self, command: Presence | PresenceStats) -> str:
        presence = self._node.presence
        if isinstance(command, PresenceStats):
            return self._protocol.encode_presence_stats_reply(
                command, await presence.headcount(command.channel)
            )
        return self._protocol.encode_presence_reply(
            command, await presence.members(command.channel)
        )
