"""Executes the commands of one client, one by one, in the order in which they arrive.

Slow commands do not block reading: commands that wait for Redis or the host wait in a queue, and
only the head of the queue is executed. A command is validated when it is executed, so it depends on
completed commands only, never on pending ones (ADR-0022). Subscribes behind the head are prepared
early: for all subscribes of a frame, the host is asked and Redis is read concurrently. Pongs count
as soon as they are read. When too many commands wait, reading from the client pauses.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Protocol

from realtime.connection.decisions import (
    CallHost,
    Decision,
    End,
    Greet,
    Leave,
    QueryPosition,
    QueryPresence,
    Renew,
    Reply,
    SendPublication,
)
from realtime.core.codes import BUSY, SERVER_ERROR, Close, Refusal
from realtime.core.namespaces import NOT_SERVED
from realtime.core.tally import Tally
from realtime.delivery.active_subscriptions import ActiveSubscriptions
from realtime.delivery.client_calls import PendingPublish, PendingQuery, Query
from realtime.delivery.client_subscriptions import ClientSubscriptions
from realtime.delivery.inbox import CommandQueue, CommandReader, Step
from realtime.delivery.joining import Joining
from realtime.delivery.node_services import NodeServices, state_push
from realtime.delivery.refusal_log import log_refusal
from realtime.protocols import BadFrame, Call, Subscribe, WireProtocol

if TYPE_CHECKING:
    from realtime.connection.client_state import ClientState
    from realtime.connection.writer import Writer
    from realtime.core.identity import Identity

logger = logging.getLogger(__name__)
_failures = Tally()

SMALL_BYTES = 4 * 1024
"""The largest presence reply that is queued for a slow client."""


class ConversationOwner(Protocol):
    """The owner of a conversation; `realtime.delivery.connections.Connections` implements it."""

    def why_refuse(self, user: str) -> Close | None:
        """Return why one more connection of this user is refused; None if it is not."""

    def welcome(self, conversation: Conversation) -> None:
        """Register a client that has completed its connect command."""

    def forget(self, conversation: Conversation) -> None:
        """Remove a connection that has ended."""

    def look_after(self, conversation: Conversation) -> None:
        """Check a connection every second for expired permissions."""


class Conversation:
    """One connection on the hub's side, from accept to end."""

    __slots__ = (
        "_node",
        "_owner",
        "_protocol",
        "_queue",
        "_reader",
        "_state",
        "_subscriptions",
        "_working",
        "active",
        "began",
        "transport",
        "writer",
    )

    def __init__(
        self,
        owner: ConversationOwner,
        node: NodeServices,
        state: ClientState,
        protocol: WireProtocol,
        writer: Writer,
        address: str = "",
        transport: str = "websocket",
    ) -> None:
        self._owner = owner
        self._node = node
        self._state = state
        self._protocol = protocol
        self._reader = CommandReader(node, state, writer, address)
        self._queue: CommandQueue | None = None  # None while no command waits: saves memory
        self._working: PendingPublish | PendingQuery | None = None  # the call of the queue's head
        self.active = ActiveSubscriptions(
            node, state, writer, expires=partial(owner.look_after, self)
        )
        self._subscriptions = ClientSubscriptions(
            node, state, writer, self.active, advance=self._advance
        )
        self.writer = writer
        self.transport = transport
        self.began = asyncio.get_running_loop().time()

    @property
    def identity(self) -> Identity:
        """The identity of the client."""
        return self._state.identity

    @property
    def client(self) -> str:
        """The id of the connection."""
        return self._state.client

    @property
    def session(self) -> str:
        """The secret of an emulated client's separate requests; empty on other transports."""
        return self._state.session

    @property
    def ended(self) -> bool:
        """Whether the connection has ended; further commands are ignored."""
        return self.writer.ended

    def begin(self) -> None:
        """Execute the commands that the protocol implies when a connection opens."""
        if commands := self._protocol.opening():
            with self.writer.corked():
                for command in commands:
                    self._take(command)

    def receive(self, frame: str | None) -> None:
        """Process a frame from the client; None stands for a frame that is not text."""
        # A pong: nearly all traffic from idle connections.
        if frame == self._protocol.PONG and self.writer.pong():
            return
        with self.writer.corked():
            for step in self._reader.commands(frame):
                self._take(step)
                if self.ended:
                    return

    @property
    def is_full(self) -> bool:
        """Whether so many commands wait that reading from the client must pause."""
        return self._queue is not None and self._queue.is_full

    def space(self) -> asyncio.Future[None] | None:
        """Return what is done when a full queue has room, or the connection has ended.

        None if there is room.
        """
        return None if self._queue is None else self._queue.space()

    def end(self, close: Close | None) -> None:
        """End the connection; None if the client has disconnected."""
        self.writer.end(close)

    def release(self) -> None:
        """Release all resources of the conversation; the writer calls this once, at its end."""
        queue, self._queue = self._queue, None
        if self._working is not None:
            self._working.cancel()
        self._subscriptions.release(_joinings(queue))
        self._reader.release()
        if queue is not None:
            queue.clear()
        self._owner.forget(self)

    def _take(self, step: Step | Subscribe) -> None:
        """Execute a step immediately if the queue is empty, or append it if it must wait."""
        if isinstance(step, Subscribe):
            step = Joining(step.channel, step)
        if self._queue is None:
            if self._do(step):
                return
            self._queue = CommandQueue()
        elif isinstance(step, Joining):
            self._subscriptions.prepare(step)
        self._queue.append(step)

    def _advance(self) -> None:
        """Execute the waiting steps that can finish now, in order."""
        queue = self._queue
        if self.ended or queue is None:
            return
        with self.writer.corked():
            while queue and self._do(queue.first):
                queue.drop_first()
        if not queue:
            self._queue = None

    def _do(self, step: Step) -> bool:
        """Execute the step at the head of the queue; False if it must wait."""
        if isinstance(step, Joining):
            return self._subscriptions.subscribe(step)
        if self._working is not None:
            return self._finish(self._working)
        if isinstance(step, Reply):
            return self._carry_out(step, step)
        if isinstance(step, BadFrame):
            return self._carry_out(step, self._state.bad_frame(step))
        decision = self._state.decide(step)
        return decision is None or self._carry_out(step, decision)

    def _carry_out(self, step: Step, decision: Decision) -> bool:
        identity = self._state.identity
        match decision:
            case SendPublication():
                self._working = PendingPublish(
                    self._node, identity, self._protocol, decision, self._note_published
                )
                return False
            case QueryPresence() if (why_not := self._reader.refuse_debt()) is not None:
                self.writer.send(self._protocol.encode_refusal(decision.command, why_not))
            case CallHost() | QueryPresence():
                self._working = PendingQuery(
                    self._node, identity, self._protocol, decision, self._note_answered
                )
                return False
            case QueryPosition():
                position = self.active.position(decision.command.channel)
                self.writer.send(self._protocol.encode_history_reply(decision.command, position))
            case Leave():
                self._subscriptions.leave(decision.channel)
                self.writer.send(decision.text)
            case Renew():
                self.writer.send(decision.text)
                self.active.renew(decision.channel, decision.ttl_seconds)
            case Reply():
                self.writer.send(decision.text)
            case Greet():
                self._greet(decision)
            case End():
                self.end(decision.close)
        return True

    def _greet(self, greet: Greet) -> None:
        if (close := self._owner.why_refuse(self.identity.user)) is not None:
            self.end(close)
            return
        self._owner.welcome(self)  # first: `forget` removes it if a later step ends it
        self.writer.send(greet.text)
        self.writer.send(state_push(self._protocol, live=self._node.live))
        self.active.renew("", greet.ttl_seconds)
        for channel, end in greet.refused:
            self.writer.send(self._protocol.encode_unsubscribe_push(channel, end))
            log_refusal(channel, end.because)
        for channel in greet.unserved:
            log_refusal(channel, NOT_SERVED)
        for join in greet.joins:
            self._subscriptions.serve(join)

    def prolong(self, expire_at: float | None) -> None:
        """Set when the client's identity expires, in seconds since 1970; None means never."""
        if not self.ended:
            ttl = self._state.prolong(expire_at)
            self.active.renew("", ttl)
            self.writer.send(self._protocol.encode_refresh_push(ttl))

    def serve(self, name: str) -> None:
        """Subscribe the client to a channel on behalf of the server."""
        if not self.ended and (join := self._state.channels.serve(name)) is not None:
            self._subscriptions.serve(join)

    def unserve(self, name: str) -> None:
        """End a subscription, or all with an empty name, including pending ones."""
        self._subscriptions.unserve(name, _joinings(self._queue))
        self._advance()

    def expire(self, now: float) -> bool:
        """End everything that was not renewed in time; return whether anything else can expire."""
        return self.active.expire(now)

    def message(self, data: str) -> None:
        """Send the client data that belongs to no channel, as compact JSON."""
        if not self.ended:
            self.writer.send(self._protocol.encode_message(data))

    # ------------------------------------------------------ slow calls, one at a time

    def _finish(self, working: PendingPublish | PendingQuery) -> bool:
        """Send the outcome of the running call; False if it still runs."""
        if not working.is_done:
            return False
        self._working = None
        if isinstance(working, PendingPublish):
            self.writer.send(working.reply())
            return True
        return self._send_answer(working.query, working.answer())

    def _send_answer(self, query: Query, answer: str | Refusal) -> bool:
        if not isinstance(query, Call):
            self._reader.charge(answer)
            judged = self._state.decide(query)  # a subscription may have ended meanwhile
            if isinstance(judged, Reply):
                return self._carry_out(query, judged)
            # A reply is never dropped, and this one may be as large as the whole outbox.
            is_slow = self.writer.is_suspended or self.writer.flow.congested
            if is_slow and len(answer) > SMALL_BYTES:
                answer = BUSY
        elif not query.wants_answer:
            return True  # no reply is expected; `answer` has logged a failure already
        if isinstance(answer, Refusal):
            self.writer.send(self._protocol.encode_refusal(query, answer))
        else:
            self.writer.send(answer)
        return True

    def _note_published(self, error: BaseException | None) -> None:
        if self.ended:
            return
        if error is not None:
            # Any client can repeat the failing publish, so the log is throttled.
            if count := _failures.add("publish", asyncio.get_running_loop().time()):
                logger.error(
                    "publishing for a client failed; closing its connection (%d so far)",
                    count,
                    exc_info=error,
                )
            self.end(SERVER_ERROR)
            return
        self._advance()

    def _note_answered(self, error: BaseException | None) -> None:
        self._advance()  # `PendingQuery.answer` reports the error


def _joinings(steps: CommandQueue | None) -> list[Joining]:
    return [step for step in steps or () if isinstance(step, Joining)]
