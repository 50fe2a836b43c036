"""Carries out what one client says, step by step, in the order in which it was said.

Reading is not held up: what must wait for Redis or the host waits in a queue, whose head alone is
carried out. A command is judged when it is carried out, so it rests on what was done before it and
never on what was merely asked for (ADR-0022). Subscribes behind the head are only prepared: all of
a frame are asked about, and read from Redis, at once. A pong counts when it is read. A client that
lets too much pile up is not read for a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from sys import getsizeof
from typing import Protocol

from realtime.client_calls import Asking, Publishing, Question
from realtime.client_subscriptions import ClientSubscriptions
from realtime.codes import (
    BUSY,
    CONNECTION_LIMIT,
    LIMIT_EXCEEDED,
    SERVER_ERROR,
    TOO_MANY_COMMANDS,
    Close,
    Refusal,
)
from realtime.connection import (
    Ask,
    Connection,
    Decision,
    End,
    Greet,
    Leave,
    Look,
    Renew,
    Reply,
    Say,
    Where,
)
from realtime.driver import Driver
from realtime.identity import Identity
from realtime.joining import Joining
from realtime.limits import Throttle
from realtime.membership import ANSWER_BYTES
from realtime.node import Node
from realtime.protocols import (
    BadFrame,
    Call,
    Command,
    Connect,
    Pong,
    Subscribe,
    WireProtocol,
)
from realtime.protocols import Publish as PublishCommand
from realtime.tally import Tally

logger = logging.getLogger(__name__)
_failures = Tally()

WAITING_LIMIT = 256
"""Commands that wait to be answered; then the client is not read until some are."""
WAITING_BYTES = 256 * 1024
"""Of what they publish; 256 publications of 64 KiB would be 16 MiB for each hostile client."""
SMALL_BYTES = 4 * 1024
"""Of a reply that may wait for a client that is behind."""
BYTES_PER_COMMAND = 16 * 1024
"""Of the members of a channel: so many cost as much as one more command."""
_Step = Joining | Command | BadFrame | Reply
"""What waits for its turn; a `Reply` is a command that was refused before it was looked at."""


class ConversationNode(Node, Protocol):
    """What a conversation knows of its hub, beside what its parts do."""

    def welcome(self, conversation: Conversation) -> str:
        """Count in a client that has introduced itself; return how this node stands."""

    def forget(self, conversation: Conversation) -> None:
        """Count out a connection that has ended."""

    def look_after(self, conversation: Conversation) -> None:
        """Watch a connection of which something expires."""


class Conversation:
    """One connection on the hub's side, from accept to end."""

    __slots__ = (
        "_address",
        "_connection",
        "_node",
        "_protocol",
        "_room",
        "_subscriptions",
        "_throttle",
        "_todo",
        "_todo_bytes",
        "_working",
        "began",
        "driver",
    )

    def __init__(
        self,
        node: ConversationNode,
        connection: Connection,
        protocol: WireProtocol,
        driver: Driver,
        address: str = "",
    ) -> None:
        self._node = node
        self._address = address
        self._connection = connection
        self._protocol = protocol
        self._todo: deque[_Step] | None = (
            None  # None while nothing waits: most connections, most of the time
        )
        self._todo_bytes = 0
        self._working: Publishing | Asking | None = None  # the head of the queue, if it takes long
        self._subscriptions = ClientSubscriptions(
            node,
            connection,
            protocol,
            driver,
            advance=self._advance,
            expires=partial(node.look_after, self),
        )
        self._room: asyncio.Future[None] | None = None
        self._throttle: Throttle | None = None  # None: it has not said anything yet
        self.driver = driver
        self.began = asyncio.get_running_loop().time()

    @property
    def identity(self) -> Identity:
        """Who the client is."""
        return self._connection.identity

    @property
    def client(self) -> str:
        """The id of the connection."""
        return self._connection.client

    @property
    def session(self) -> str:
        """By which the client speaks, where that comes not with its stream; else empty."""
        return self._connection.session

    @property
    def ended(self) -> bool:
        """Whether nothing that the client says matters any more."""
        return self.driver.ended

    def receive(self, frame: str | None) -> None:
        """Take a frame from the client; None stands for one that is not text."""
        # An answer to a ping: nearly all that ten thousand idle connections ever say.
        if frame == self._protocol.PONG and self.driver.pong():
            return
        with self.driver.corked():
            for step in self._steps(frame):
                self._take(step)
                if self.ended:
                    return

    async def room(self) -> None:
        """Wait until more may be read from the client."""
        if self.is_full:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def end(self, close: Close | None) -> None:
        """End the connection; None if the client has gone itself."""
        self.driver.end(close)

    def release(self) -> None:
        """Give back all that this conversation holds; the driver calls it once, when it ends."""
        todo, self._todo = self._todo or (), None
        if self._working is not None:
            self._working.cancel()
        self._subscriptions.release(_joinings(todo))
        self._make_room()
        self._node.forget(self)

    # ---------------------------------------------------------------- the queue

    def _steps(self, frame: str | None) -> Iterator[_Step]:
        """Yield what a frame asks for, in order, without judging it; pongs count at once."""
        bad = None
        try:
            if frame is None:
                raise BadFrame("frames are text")
            limits = self._node.limits
            is_known = self._connection.connected
            most = limits.escaped_frame_bytes if is_known else limits.frame_bytes
            commands = self._protocol.read(frame, most, limits.frame_commands)
        except BadFrame as error:
            commands, bad = list(error.good), error
            if error.limit:
                self._node.reached.count(error.limit)
        for command in commands:
            if isinstance(command, Pong) and self.driver.pong():
                continue
            why_not = self._throttled(command)
            if isinstance(why_not, Close):
                self.end(why_not)  # at once: what waits before it is part of the flood
                return
            if isinstance(command, Pong):
                continue
            yield command if why_not is None else self._refusal(command.id, why_not)
        if bad is not None:
            yield bad

    def _throttled(self, command: Command) -> Refusal | Close | None:
        """Return why a command is not even looked at, if it is one too many."""
        if self._throttle is None:
            self._throttle = Throttle(self._node.limits.commands, self._node.limits.publications)
        now = asyncio.get_running_loop().time()
        # Each of its `subs` is judged and answered like a subscribe, so it costs as much.
        cost = 1 + len(command.subs) if isinstance(command, Connect) else 1
        name, why_not = "commands", self._throttle.command(now, cost)
        if why_not is None and isinstance(command, PublishCommand):
            name, why_not = "publications", self._throttle.publication(now)
        if why_not is not None:
            self._node.reached.count(f"{name}_per_second")
            return why_not
        wanted = _subscriptions_in(command)
        if wanted and not self._node.subscriptions.take(self._address, wanted, now):
            self._node.reached.count("subscriptions_per_address")
            return TOO_MANY_COMMANDS
        return None

    def _take(self, step: _Step) -> None:
        """Carry a step out at once if nothing waits before it and it need not wait itself."""
        if isinstance(step, Subscribe):
            step = Joining(step.channel, step)
        if self._todo is None:
            if self._do(step):
                return
            self._todo = deque()
        elif isinstance(step, Joining):
            self._subscriptions.prepare(step)
        self._todo.append(step)
        self._todo_bytes += _bytes_of(step)

    def _advance(self) -> None:
        """Something that was waited for has come: carry out what can be done now, in order."""
        if self.ended:
            return
        with self.driver.corked():
            while self._todo and self._do(self._todo[0]):
                self._drop_first()
        self._todo = self._todo or None
        self._make_room()

    def _drop_first(self) -> None:
        if self._todo:  # doing it may have ended the connection, and with it the queue
            self._todo_bytes -= _bytes_of(self._todo.popleft())

    @property
    def is_full(self) -> bool:
        """Whether so much waits that nothing more should be read from the client."""
        return self._todo is not None and (
            len(self._todo) >= WAITING_LIMIT or self._todo_bytes >= WAITING_BYTES
        )

    def _make_room(self) -> None:
        if self._room is not None and not self.is_full:
            if not self._room.done():  # cancelled with its reader, whom the server has given up
                self._room.set_result(None)
            self._room = None

    def _do(self, step: _Step) -> bool:
        """Carry out the step whose turn it is; False says that it has to wait."""
        if isinstance(step, Joining):
            return self._subscriptions.subscribe(step)
        if self._working is not None:
            return self._finish(self._working)
        if isinstance(step, Reply):
            return self._carry_out(step, step)
        if isinstance(step, BadFrame):
            return self._carry_out(step, self._connection.bad_frame(step))
        decision = self._connection.decide(step)
        return decision is None or self._carry_out(step, decision)

    def _carry_out(self, step: _Step, decision: Decision) -> bool:
        identity = self._connection.identity
        match decision:
            case Say():
                self._working = Publishing(
                    self._node, identity, self._protocol, decision, self._published
                )
                return False
            case Ask() | Look():
                assert isinstance(step, Question)  # noqa: S101 - only these are decided so
                self._working = Asking(
                    self._node, identity, self._protocol, step, decision, self._answered
                )
                return False
            case Where():
                position = self._subscriptions.position(decision.channel)
                self.driver.say(self._protocol.stands(decision.id, position))
            case Leave():
                self._subscriptions.leave(decision.channel)
                self.driver.say(decision.text)
            case Renew():
                self.driver.say(decision.text)
                self._subscriptions.renew(decision.channel, decision.ttl_seconds)
            case Reply():
                self.driver.say(decision.text)
            case Greet():
                self._greet(decision)
            case End():
                self.end(decision.close)
        return True

    def _refusal(self, command_id: int, refusal: Refusal) -> Reply:
        return Reply(self._protocol.refused(command_id, refusal))

    def _greet(self, greet: Greet) -> None:
        if not self._node.admits(self.identity.user):
            self.end(CONNECTION_LIMIT)
            return
        state = self._node.welcome(self)  # at once: what ends it now also counts it out
        self.driver.say(greet.text)
        self.driver.say(state)
        self._subscriptions.renew("", greet.ttl_seconds)
        for text in greet.refused:
            self.driver.say(text)
        for join in greet.joins:
            self._subscriptions.serve(join)

    def prolong(self, expire_at: float | None) -> None:
        """Its identity is known until then, seconds since 1970; None is for ever."""
        if not self.ended:
            ttl = self._connection.prolong(expire_at)
            self._subscriptions.renew("", ttl)
            self.driver.say(self._protocol.prolonged(ttl))

    def serve(self, name: str) -> None:
        """Let the client listen to a channel that it did not ask for."""
        if not self.ended and (join := self._connection.serve(name)) is not None:
            self._subscriptions.serve(join)

    def unserve(self, name: str) -> None:
        """End a subscription, or with an empty name all, also one that is only asked for yet."""
        self._subscriptions.unserve(name, _joinings(self._todo or ()))
        self._advance()

    def expire(self, now: float) -> bool:
        """End what was not renewed in time; return whether more can expire."""
        return self._subscriptions.expire(now)

    def message(self, data: str) -> None:
        """Tell the client something that is on no channel, as compact JSON."""
        if not self.ended:
            self.driver.say(self._protocol.message(data))

    # ------------------------------------------------- what takes long, one at a time

    def _finish(self, working: Publishing | Asking) -> bool:
        """Say what became of what was under way; False says that it still is."""
        if not working.is_done:
            return False
        self._working = None
        if isinstance(working, Publishing):
            self.driver.say(working.reply())
            return True
        return self._tell_answer(working.question, working.answer())

    def _tell_answer(self, question: Question, answer: str | Refusal) -> bool:
        if not isinstance(question, Call):
            self._pay(answer)
            judged = self._connection.decide(question)  # a subscription may have ended meanwhile
            if isinstance(judged, Reply):
                return self._carry_out(question, judged)
            # A reply is never dropped, and this one may be as large as all that may wait.
            if self.driver.is_congested and len(answer) > SMALL_BYTES:
                answer = BUSY
        if not question.id:
            return True  # nobody waits for it; what went wrong was told all the same
        if isinstance(answer, Refusal):
            self.driver.say(self._protocol.refused(question.id, answer))
        else:
            self.driver.say(answer)
        return True

    def _pay(self, answer: str | Refusal) -> None:
        """Count who is on a channel as work: how much it is, is known when it is read."""
        size = len(answer)
        if isinstance(answer, Refusal):
            size = ANSWER_BYTES if answer.code == LIMIT_EXCEEDED.code else 0
        if self._throttle is not None:
            now = asyncio.get_running_loop().time()
            self._throttle.pay(now, size // BYTES_PER_COMMAND)

    def _published(self, error: BaseException | None) -> None:
        if self.ended:
            return
        if error is not None:
            # Any client can repeat what led to it, so not each is worth a line in the log.
            if count := _failures.add("publish", asyncio.get_running_loop().time()):
                logger.error(
                    "publishing for a client failed; its connection ends (%d so far)",
                    count,
                    exc_info=error,
                )
            self.end(SERVER_ERROR)
            return
        self._advance()

    def _answered(self, error: BaseException | None) -> None:
        self._advance()  # `Asking.answer` tells what went wrong


def _joinings(steps: Iterable[_Step]) -> list[Joining]:
    return [step for step in steps if isinstance(step, Joining)]


def _subscriptions_in(command: Command) -> int:
    """Return how many channels a command wants to listen to."""
    if isinstance(command, Connect):
        return len(command.subs)
    return 1 if isinstance(command, Subscribe) else 0


def _bytes_of(step: _Step) -> int:
    """Return how much of a step waits that a client can make large, as memory.

    One character beyond the BMP makes Python take four bytes for each of a text (PEP 393).
    """
    command = step.command if isinstance(step, Joining) else step
    names = ("data", "token", "method", "channel")
    size = sum(getsizeof(getattr(command, name, "")) for name in names)
    if isinstance(command, Connect):
        size += sum(getsizeof(each.channel) + getsizeof(each.token) for each in command.subs)
    return size
