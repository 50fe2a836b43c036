"""What a client asks for and what takes long: a publish, and a question to the host or to Redis.

A conversation has one of them under way at a time. Each runs in a task of its own, which the
conversation cancels when the client goes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from realtime.codes import (
    BAD_COMMAND,
    INTERNAL_ERROR,
    LIMIT_EXCEEDED,
    NOT_LIVE,
    NOT_PUBLISHED,
    PERMISSION_DENIED,
    UNKNOWN_OUTCOME,
    Refusal,
)
from realtime.connection import Ask, Look, Say
from realtime.errors import BrokerError, Forbidden, OutcomeUnknown, RequestError
from realtime.hostcode import failure_of, of_host
from realtime.identity import Identity
from realtime.joining import LIVE_SECONDS, why_not
from realtime.membership import TooManyMembers
from realtime.node import Node, is_allowed
from realtime.protocols import Call, Presence, PresenceStats, WireProtocol
from realtime.publication import encoded
from realtime.tally import Tally

logger = logging.getLogger(__name__)
_failures = Tally()

RPC_SECONDS = 10.0
"""How long the host may take to answer."""

Question = Call | Presence | PresenceStats


class Publishing:
    """A publish under way; one at a time keeps a client's publications in order."""

    __slots__ = ("_identity", "_node", "_protocol", "_say", "_task")

    def __init__(
        self,
        node: Node,
        identity: Identity,
        protocol: WireProtocol,
        say: Say,
        then: Callable[[BaseException | None], None],
    ) -> None:
        """Begin.

        Args:
            node: Publishes.
            identity: Who the client is.
            protocol: Writes the reply.
            say: What is published, as it was judged.
            then: Called when it has ended, with what our own code has raised, if it did.
        """
        self._node = node
        self._identity = identity
        self._protocol = protocol
        self._say = say
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(lambda task: then(failure_of(task)))

    @property
    def is_done(self) -> bool:
        """Whether its outcome is known."""
        return self._task.done()

    def reply(self) -> str:
        """Return the reply to a publish that is done."""
        command, refusal = self._say.command, self._task.result()
        if refusal is None:
            return self._protocol.done(command)
        return self._protocol.refused(command.id, refusal)

    def cancel(self) -> None:
        """Give it up: the client has gone."""
        self._task.cancel()

    async def _run(self) -> Refusal | None:
        say = self._say
        try:
            if say.must_ask and (refusal := await self._forbids(say.publication.channel)):
                return refusal
            if say.is_void:
                return PERMISSION_DENIED
            await self._node.publish(say.publication)
        except OutcomeUnknown:
            return UNKNOWN_OUTCOME
        except BrokerError:
            return NOT_PUBLISHED
        except RequestError as error:
            return BAD_COMMAND._replace(message=str(error))
        return None

    async def _forbids(self, channel: str) -> Refusal | None:
        """Let the host decide about a publish; return its no."""
        question = is_allowed(self._node, self._identity, channel, "publish")
        task = asyncio.get_running_loop().create_task(question)
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
        return why_not(task)


class Asking:
    """A question under way: to the host, or to Redis about who is on a channel."""

    __slots__ = ("_identity", "_node", "_protocol", "_task", "question")

    def __init__(
        self,
        node: Node,
        identity: Identity,
        protocol: WireProtocol,
        question: Question,
        decision: Ask | Look,
        then: Callable[[BaseException | None], None],
    ) -> None:
        """Begin.

        Args:
            node: Knows the host and Redis.
            identity: Who the client is.
            protocol: Writes the reply.
            question: What the client said.
            decision: As it was judged.
            then: Called when it has ended, with what it has failed with, if it did.
        """
        self._node = node
        self._identity = identity
        self._protocol = protocol
        self.question = question
        ask = self._call(decision) if isinstance(decision, Ask) else self._see(decision)
        self._task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(ask)
        self._task.add_done_callback(lambda task: then(failure_of(task)))

    @property
    def is_done(self) -> bool:
        """Whether there is an answer, or none will come."""
        return self._task.done()

    def answer(self) -> str | Refusal:
        """Return the reply to a question that is done, or why there is none."""
        error = failure_of(self._task)
        if error is None:
            answer: str | Refusal = self._task.result()
            return answer
        if isinstance(error, Forbidden):
            return PERMISSION_DENIED
        if isinstance(error, RequestError):
            return BAD_COMMAND._replace(message=str(error))
        # Any client can repeat what led to it, so not each is worth a line in the log.
        if count := _failures.add("rpc", asyncio.get_running_loop().time()):
            logger.error(
                "REALTIME_RPC failed: the client gets an error (%d so far)", count, exc_info=error
            )
        return INTERNAL_ERROR

    def cancel(self) -> None:
        """Give it up: the client has gone."""
        self._task.cancel()

    async def _call(self, ask: Ask) -> str | Refusal:
        async with asyncio.timeout(RPC_SECONDS):
            answer = await of_host(self._node.rpc(self._identity, ask.method, ask.data))
        try:
            return self._protocol.answered(ask.id, encoded(answer).decode())
        except RequestError as error:
            raise TypeError(f"it returned what cannot be sent: {error}") from error

    async def _see(self, look: Look) -> str | Refusal:
        """Find out who is on a channel, or why that cannot be told."""
        if not self._node.live:
            return NOT_LIVE
        try:
            async with asyncio.timeout(LIVE_SECONDS):
                return await self._look(look)
        except (BrokerError, TimeoutError):
            return NOT_LIVE
        except TooManyMembers as error:
            return LIMIT_EXCEEDED._replace(message=str(error))

    async def _look(self, look: Look) -> str:
        roster = self._node.roster
        if look.only_count:
            return self._protocol.counted(look.id, await roster.headcount(look.channel))
        return self._protocol.present(look.id, await roster.members(look.channel))
