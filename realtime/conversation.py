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
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from sys import getsizeof
from typing import Any, Protocol

from realtime.codes import (
    BAD_COMMAND,
    BUSY,
    CONNECTION_LIMIT,
    ENDED_BY_SERVER,
    EXPIRED,
    INTERNAL_ERROR,
    LIMIT_EXCEEDED,
    NOT_LIVE,
    NOT_PUBLISHED,
    NOT_SUBSCRIBED,
    PERMISSION_DENIED,
    SERVER_ERROR,
    SUBSCRIPTION_EXPIRED,
    TOO_MANY_COMMANDS,
    UNKNOWN_OUTCOME,
    UNSUBSCRIBED,
    Close,
    Refusal,
)
from realtime.connection import (
    Ask,
    Connection,
    Decision,
    End,
    Greet,
    Join,
    Leave,
    Look,
    Renew,
    Reply,
    Say,
    Where,
)
from realtime.driver import Driver
from realtime.errors import BrokerError, Forbidden, OutcomeUnknown, RequestError
from realtime.fanout import Fanout, Listener
from realtime.gaps import Gap, missed_until
from realtime.hostcode import failure_of, of_host
from realtime.identity import Identity
from realtime.joining import Joining, why_not
from realtime.limits import Limits, Reached, Subscriptions, Throttle
from realtime.membership import ANSWER_BYTES, TooManyMembers
from realtime.protocols import (
    BadFrame,
    Call,
    Command,
    Connect,
    Pong,
    Presence,
    PresenceStats,
    Subscribe,
    WireProtocol,
)
from realtime.protocols import Publish as PublishCommand
from realtime.publication import Publication, Receipt, encoded
from realtime.registry import Channel
from realtime.roster import Roster
from realtime.subscriber import Subscriber
from realtime.tally import Tally

logger = logging.getLogger(__name__)
_failures = Tally()

WAITING_LIMIT = 256
"""Commands that wait to be answered; then the client is not read until some are."""
WAITING_BYTES = 256 * 1024
"""Of what they publish; 256 publications of 64 KiB would be 16 MiB for each hostile client."""
AUTHORIZE_SECONDS = 5.0
"""How long the host may take to decide."""
RPC_SECONDS = 10.0
"""How long the host may take to answer."""
RECONNECT = "reconnect"
"""The reason of a gap between two connections of one client."""
SMALL_BYTES = 4 * 1024
"""Of a reply that may wait for a client that is behind."""
BYTES_PER_COMMAND = 16 * 1024
"""Of the members of a channel: so many cost as much as one more command."""
LIVE_SECONDS = 2.0
"""How long a subscribe waits for the broker; then it is refused as temporary: SDKs come again."""

Publish = Callable[[Publication], Awaitable[Receipt]]
Authorize = Callable[[Identity, str, str], Awaitable[bool]]
"""Whether somebody may "subscribe" or "publish" on a channel."""
Rpc = Callable[[Identity, str, object], Awaitable[object]]
"""What the host answers to a method and its data, any JSON values."""


_Step = Joining | Command | BadFrame | Reply
"""What waits for its turn; a `Reply` is a command that was refused before it was looked at."""


class Node(Protocol):
    """What a conversation knows of its hub."""

    limits: Limits
    reached: Reached
    subscriptions: Subscriptions
    """New ones, by address."""
    grace_seconds: int
    fanout: Fanout
    roster: Roster
    subscriber: Subscriber
    authorize: Authorize
    rpc: Rpc
    publish: Publish

    @property
    def live(self) -> bool:
        """Whether everything that is published reaches this node."""

    def admits(self, user: str) -> bool:
        """Tell whether there is room for one more connection of this user."""

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
        "_answering",
        "_connection",
        "_ends",
        "_hub",
        "_listeners",
        "_pending",
        "_protocol",
        "_publishing",
        "_room",
        "_serving",
        "_throttle",
        "_todo",
        "_todo_bytes",
        "began",
        "driver",
    )

    def __init__(
        self,
        hub: Node,
        connection: Connection,
        protocol: WireProtocol,
        driver: Driver,
        address: str = "",
    ) -> None:
        self._hub = hub
        self._address = address
        self._connection = connection
        self._protocol = protocol
        self._todo: deque[_Step] | None = (
            None  # None while nothing waits: most connections, most of the time
        )
        self._todo_bytes = 0
        self._pending: dict[str, Joining] = {}  # subscribes in the queue, as far as prepared
        self._serving: dict[str, Joining] = {}  # what is to be served and is not yet
        self._listeners: dict[str, tuple[Channel[Listener], Listener]] = {}
        self._publishing: asyncio.Task[Refusal | None] | None = None
        self._answering: asyncio.Task[str | Refusal] | None = None
        self._room: asyncio.Future[None] | None = None
        self._throttle: Throttle | None = None  # None: it has not said anything yet
        self._ends: dict[str, float] | None = None  # None: nothing expires
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
        for working in (self._publishing, self._answering):
            if working is not None:
                working.cancel()
        for joining in [*_joinings(todo), *self._serving.values()]:
            self._drop(joining)
        for name in list(self._listeners):
            self._leave(name)
        self._make_room()
        self._hub.forget(self)

    # ---------------------------------------------------------------- the queue

    def _steps(self, frame: str | None) -> Iterator[_Step]:
        """Yield what a frame asks for, in order, without judging it; pongs count at once."""
        bad = None
        try:
            if frame is None:
                raise BadFrame("frames are text")
            limits = self._hub.limits
            is_known = self._connection.connected
            most = limits.escaped_frame_bytes if is_known else limits.frame_bytes
            commands = self._protocol.read(frame, most, limits.frame_commands)
        except BadFrame as error:
            commands, bad = list(error.good), error
            if error.limit:
                self._hub.reached.count(error.limit)
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
            self._throttle = Throttle(self._hub.limits.commands, self._hub.limits.publications)
        now = asyncio.get_running_loop().time()
        # Each of its `subs` is judged and answered like a subscribe, so it costs as much.
        cost = 1 + len(command.subs) if isinstance(command, Connect) else 1
        name, why_not = "commands", self._throttle.command(now, cost)
        if why_not is None and isinstance(command, PublishCommand):
            name, why_not = "publications", self._throttle.publication(now)
        if why_not is not None:
            self._hub.reached.count(f"{name}_per_second")
            return why_not
        wanted = _subscriptions_in(command)
        if wanted and not self._hub.subscriptions.take(self._address, wanted, now):
            self._hub.reached.count("subscriptions_per_address")
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
            self._prepare(step)
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
            return self._subscribe(step)
        if self._publishing is not None:
            return self._finish_publishing(step)  # type: ignore[arg-type]  # it is a Publish
        if self._answering is not None:
            return self._finish_answering(step)  # type: ignore[arg-type]  # it is a question
        if isinstance(step, Reply):
            return self._carry_out(step)
        if isinstance(step, BadFrame):
            return self._carry_out(self._connection.bad_frame(step))
        decision = self._connection.decide(step)
        return decision is None or self._carry_out(decision)

    def _carry_out(self, decision: Decision) -> bool:
        match decision:
            case Say():
                self._publishing = asyncio.get_running_loop().create_task(self._publish(decision))
                self._publishing.add_done_callback(self._said)
                return False
            case Ask() | Look():
                self._answering = asyncio.get_running_loop().create_task(self._answer(decision))
                self._answering.add_done_callback(self._decided)
                return False
            case Where():
                self._tell_where(decision)
            case Leave():
                self._leave(decision.channel)
                self.driver.say(decision.text)
            case Renew():
                self.driver.say(decision.text)
                self._renew(decision.channel, decision.ttl_seconds)
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
        if not self._hub.admits(self.identity.user):
            self.end(CONNECTION_LIMIT)
            return
        state = self._hub.welcome(self)  # at once: what ends it now also counts it out
        self.driver.say(greet.text)
        self.driver.say(state)
        self._renew("", greet.ttl_seconds)
        for text in greet.refused:
            self.driver.say(text)
        for join in greet.joins:
            self._serve(join)

    # ------------------------------------------------------------ subscriptions

    def _prepare(self, joining: Joining) -> None:
        """Start what takes long about a subscribe that waits for its turn, if it may succeed."""
        is_next = joining.name not in self._pending  # of those that name this channel
        if is_next and self._connection.has_room(len(self._pending)):
            judged = self._judge(joining)
            if isinstance(judged, Join):
                self._begin(joining, judged)

    def _judge(self, joining: Joining) -> Join | Refusal | End:
        command = joining.command
        assert command is not None  # noqa: S101 - the client asked for it
        if joining.shown is None:
            joining.shown = self._connection.grant_of(command.token)
        return self._connection.subscribe(command, joining.shown)

    def _begin(self, joining: Joining, join: Join) -> None:
        self._pending[joining.name] = joining
        joining.join = join
        if join.must_ask:
            self._ask(joining)
        else:
            self._want(joining)

    def _subscribe(self, joining: Joining) -> bool:
        """Judge a subscribe whose turn it is, as often as it is looked at, and finish it."""
        judged = self._judge(joining)
        if isinstance(judged, End):
            return self._carry_out(judged)
        if isinstance(judged, Refusal):
            return self._refuse(joining, judged)
        if joining.refusal is not None:
            return self._refuse(joining, joining.refusal)
        joining.join = judged
        if judged.must_ask:
            if joining.must_ask:
                self._begin(joining, judged)
            if not joining.is_answered:
                return False
            if (refusal := joining.why_not()) is not None:
                return self._refuse(joining, refusal)
        if joining.name in self._listeners:
            self._take_over(joining, judged)
            return True
        if joining.channel is None:
            self._pending[joining.name] = joining
            self._want(joining)
        channel = joining.channel
        assert channel is not None  # noqa: S101 - it is wanted
        if not channel.is_live:
            # Perhaps it was live when this was said, and broke since.
            joining.be_patient(LIVE_SECONDS, self._run_out)
            return False
        # One step, without an await: what waits goes to those who listen now, the reply names the
        # position that this leaves, and the first push after it is the next one.
        self._hub.fanout.seal(channel)
        gaps, ttl = _missed(judged, channel), self._connection.joined(judged)
        text = self._protocol.subscribed(
            judged.id, channel.position, ttl, has_all=_has_all(judged, gaps)
        )
        self._listen(judged, channel, ttl, [text, *self._told(judged, gaps)])
        self._drop(joining)
        return True

    def _take_over(self, joining: Joining, join: Join) -> None:
        """The client asks for what the server has subscribed it to: it goes on from there.

        The reply has no position. Publications after the one where serving began are on their way
        or were delivered, and a client would take them for old ones.
        """
        channel, listener = self._listeners[join.channel]
        self._drop(joining)
        gaps, ttl = _missed(join, channel), self._connection.joined(join)
        listener.hears_joins = join.hears_joins
        has_all = _has_all(join, gaps)
        self.driver.say(self._protocol.subscribed(join.id, None, ttl, has_all=has_all))
        for text in self._told(join, gaps):
            self.driver.say(text)

    def _refuse(self, joining: Joining, refusal: Refusal) -> bool:
        assert joining.command is not None  # noqa: S101 - or no reply waits for it
        self._drop(joining)
        self.driver.say(self._protocol.refused(joining.command.id, refusal))
        if refusal is LIMIT_EXCEEDED:
            self._hub.reached.count("channels_per_connection")
        return True

    def _ask(self, joining: Joining) -> None:
        """Let the host decide; all subscribes of a frame are asked about at once."""
        joining.ask(self._is_allowed(joining.name, "subscribe"), self._answered)

    def _answered(self, joining: Joining) -> None:
        """The host has decided: prepare what it allows; it is judged in its turn."""
        if self.ended:
            return
        if joining.channel is None and joining.is_allowed:
            self._want(joining)
        self._woken(joining)

    def _woken(self, joining: Joining) -> None:
        if joining.command is None:
            self._finish_serving(joining)
        else:
            self._advance()

    def _decided(self, task: asyncio.Task[Any]) -> None:
        failure_of(task)  # asyncio logs an error that nobody has looked at
        self._advance()

    async def _is_allowed(self, channel: str, action: str) -> bool:
        async with asyncio.timeout(AUTHORIZE_SECONDS):
            answer = self._hub.authorize(self._connection.identity, channel, action)
            return bool(await of_host(answer))

    def _want(self, joining: Joining) -> None:
        """Let the node listen to a channel that the client may listen to."""
        assert joining.join is not None  # noqa: S101 - it was judged
        joining.channel = self._hub.subscriber.want(
            joining.name, joining.join.namespace, joining, partial(self._woken, joining)
        )
        if joining.command is not None and not joining.channel.is_live:
            joining.be_patient(LIVE_SECONDS, self._run_out)

    def _run_out(self, joining: Joining) -> None:
        self._give_up(joining, NOT_LIVE)
        self._advance()

    def _give_up(self, joining: Joining, why: Refusal) -> None:
        """Refuse it when its turn comes; when it is asked for again, it is judged anew."""
        joining.refusal = why
        self._drop(joining)

    def _drop(self, joining: Joining) -> None:
        joining.drop(self._hub.subscriber.release)
        for under_way in (self._pending, self._serving):
            if under_way.get(joining.name) is joining:
                del under_way[joining.name]

    def _serve(self, join: Join) -> None:
        """Let the client listen as soon as it may and the broker does; nothing waits for it."""
        joining = self._serving[join.channel] = Joining(join.channel, join=join)
        if join.must_ask:
            self._ask(joining)
        else:
            self._want(joining)
            self._finish_serving(joining)

    def _finish_serving(self, joining: Joining) -> None:
        """Judge what is to be served, as often as it is looked at, and serve it if it can be."""
        join = joining.join
        if self.ended or join is None or self._serving.get(joining.name) is not joining:
            return
        end = self._connection.end_of(join)
        if join.must_ask and end is None:
            if joining.must_ask:
                self._ask(joining)
            if not joining.is_answered:
                return
            end = None if joining.why_not() is None else NOT_SUBSCRIBED
        channel = joining.channel
        if end is not None:
            self._drop(joining)
            self._connection.join_failed(join)
            self.driver.say(self._protocol.unsubscribed(join.channel, end))
        elif channel is not None and channel.is_live:
            self._hub.fanout.seal(channel)
            gaps, ttl = _missed(join, channel), self._connection.joined(join)
            join.began = channel.position
            text = self._protocol.served(join.channel, join.began)
            self._listen(join, channel, ttl, [text, *self._told(join, gaps)])
            self._drop(joining)

    def _told(self, join: Join, gaps: Sequence[Gap]) -> Iterator[str]:
        return (self._protocol.gap(join.channel, gap, RECONNECT) for gap in gaps)

    def _listen(
        self,
        join: Join,
        channel: Channel[Listener],
        ttl_seconds: int | None,
        texts: Sequence[str],
    ) -> None:
        """Tell the client that it listens, and what it missed; then let it."""
        for text in texts:
            self.driver.say(text)
        if self.ended:  # by what was just said, which was too much for a client that does not read
            return
        listener = Listener(self.driver, hears_joins=join.hears_joins)
        channel.listeners[listener] = None
        self._listeners[join.channel] = (channel, listener)
        # Only now: a channel that nobody listens to or waits for is left by the node.
        self._stop_serving(join.channel)
        self._renew(join.channel, ttl_seconds)
        if channel.namespace.counts_members:
            self._hub.roster.count_in(channel, self._connection.member_of(channel.name))

    def _stop_serving(self, name: str) -> None:
        """Give up what the server wished and could not do yet."""
        if (joining := self._serving.get(name)) is not None:
            self._drop(joining)

    def _leave(self, name: str) -> None:
        self._renew(name, None)
        self._stop_serving(name)
        channel, listener = self._listeners.pop(name, (None, None))
        if channel is None or listener is None:
            return
        listener.active = False
        del channel.listeners[listener]
        if channel.namespace.counts_members:
            self._hub.roster.count_out(channel, self.client)
        self.driver.forget(name)
        self._hub.subscriber.release(channel)

    def _renew(self, name: str, ttl_seconds: int | None) -> None:
        """Note when a permission ends: of a subscription, or with an empty name of all."""
        if ttl_seconds is not None:
            now = asyncio.get_running_loop().time()
            self._ends = self._ends or {}
            self._ends[name] = now + ttl_seconds + self._hub.grace_seconds
            self._hub.look_after(self)
        elif self._ends and name in self._ends:
            del self._ends[name]

    def serve(self, name: str) -> None:
        """Let the client listen to a channel that it did not ask for."""
        if not self.ended and (join := self._connection.serve(name)) is not None:
            self._serve(join)

    def unserve(self, name: str) -> None:
        """End a subscription, or with an empty name all, also one that is only asked for yet."""
        for joining in _joinings(self._todo or ()):
            if name in ("", joining.name):
                self._give_up(joining, ENDED_BY_SERVER)
        for channel in [name] if name else self._connection.channels:
            if self.ended or channel not in self._connection.channels:
                continue
            self._leave(channel)
            self._connection.left(channel)
            self.driver.say(self._protocol.unsubscribed(channel, UNSUBSCRIBED))
        self._advance()

    def prolong(self, expire_at: float | None) -> None:
        """Its identity is known until then, seconds since 1970; None is for ever."""
        if not self.ended:
            ttl = self._connection.prolong(expire_at)
            self._renew("", ttl)
            self.driver.say(self._protocol.prolonged(ttl))

    def message(self, data: str) -> None:
        """Tell the client something that is on no channel, as compact JSON."""
        if not self.ended:
            self.driver.say(self._protocol.message(data))

    def expire(self, now: float) -> bool:
        """End what was not renewed in time; return whether more can expire."""
        for name, end in list((self._ends or {}).items()):
            if now < end or self.ended:
                continue
            self._renew(name, None)
            if not name:
                self.end(EXPIRED)
            elif name in self._listeners:
                self._leave(name)
                self._connection.left(name)
                self.driver.say(self._protocol.unsubscribed(name, SUBSCRIPTION_EXPIRED))
        return bool(self._ends) and not self.ended

    # ------------------------------------------------- what takes long, one at a time

    def _finish_publishing(self, command: PublishCommand) -> bool:
        """Say what became of a publish; one at a time keeps a client's publications in order."""
        assert self._publishing is not None  # noqa: S101 - the caller has looked
        if not self._publishing.done():
            return False
        refusal = self._publishing.result()
        self._publishing = None
        if refusal is None:
            self.driver.say(self._protocol.done(command))
        else:
            self.driver.say(self._protocol.refused(command.id, refusal))
        return True

    async def _publish(self, say: Say) -> Refusal | None:
        try:
            if say.must_ask and (refusal := await self._forbids(say.publication.channel)):
                return refusal
            if say.is_void:
                return PERMISSION_DENIED
            await self._hub.publish(say.publication)
        except OutcomeUnknown:
            return UNKNOWN_OUTCOME
        except BrokerError:
            return NOT_PUBLISHED
        except RequestError as error:
            return BAD_COMMAND._replace(message=str(error))
        return None

    async def _forbids(self, channel: str) -> Refusal | None:
        """Let the host decide about a publish; return its no."""
        task = asyncio.get_running_loop().create_task(self._is_allowed(channel, "publish"))
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
        return why_not(task)

    def _finish_answering(self, question: Call | Presence | PresenceStats) -> bool:
        """Say what the host has answered, or Redis; one question at a time, like publishing."""
        assert self._answering is not None  # noqa: S101 - the caller has looked
        if not self._answering.done():
            return False
        task, self._answering = self._answering, None
        answer_text = _answer_of(task)
        if not isinstance(question, Call):
            self._pay(answer_text)
            judged = self._connection.decide(question)  # a subscription may have ended meanwhile
            if isinstance(judged, Reply):
                return self._carry_out(judged)
            # A reply is never dropped, and this one may be as large as all that may wait.
            if self.driver.is_congested and len(answer_text) > SMALL_BYTES:
                answer_text = BUSY
        if not question.id:
            return True  # nobody waits for it; what went wrong was told all the same
        if isinstance(answer_text, Refusal):
            self.driver.say(self._protocol.refused(question.id, answer_text))
        else:
            self.driver.say(answer_text)
        return True

    def _pay(self, answer: str | Refusal) -> None:
        """Count who is on a channel as work: how much it is, is known when it is read."""
        size = len(answer)
        if isinstance(answer, Refusal):
            size = ANSWER_BYTES if answer.code == LIMIT_EXCEEDED.code else 0
        if self._throttle is not None:
            now = asyncio.get_running_loop().time()
            self._throttle.pay(now, size // BYTES_PER_COMMAND)

    async def _answer(self, question: Ask | Look) -> str | Refusal:
        return await (self._call(question) if isinstance(question, Ask) else self._see(question))

    async def _call(self, ask: Ask) -> str | Refusal:
        async with asyncio.timeout(RPC_SECONDS):
            answer = await of_host(self._hub.rpc(self._connection.identity, ask.method, ask.data))
        try:
            return self._protocol.answered(ask.id, encoded(answer).decode())
        except RequestError as error:
            raise TypeError(f"it returned what cannot be sent: {error}") from error

    async def _see(self, look: Look) -> str | Refusal:
        """Find out who is on a channel, or why that cannot be told."""
        if not self._hub.live:
            return NOT_LIVE
        try:
            async with asyncio.timeout(LIVE_SECONDS):
                return await self._look(look)
        except (BrokerError, TimeoutError):
            return NOT_LIVE
        except TooManyMembers as error:
            return LIMIT_EXCEEDED._replace(message=str(error))

    async def _look(self, look: Look) -> str:
        roster = self._hub.roster
        if look.only_count:
            return self._protocol.counted(look.id, await roster.headcount(look.channel))
        return self._protocol.present(look.id, await roster.members(look.channel))

    def _tell_where(self, where: Where) -> None:
        channel, _ = self._listeners[where.channel]
        self.driver.say(self._protocol.stands(where.id, channel.position))

    def _said(self, task: asyncio.Task[Refusal | None]) -> None:
        error = failure_of(task)
        if self.ended:
            return
        if error is not None:
            if count := _count_failure("publish"):
                logger.error(
                    "publishing for a client failed; its connection ends (%d so far)",
                    count,
                    exc_info=error,
                )
            self.end(SERVER_ERROR)
            return
        self._advance()


def _answer_of(task: asyncio.Task[str | Refusal]) -> str | Refusal:
    """Return the reply, or why there is none."""
    error = failure_of(task)
    if error is None:
        return task.result()
    if isinstance(error, Forbidden):
        return PERMISSION_DENIED
    if isinstance(error, RequestError):
        return BAD_COMMAND._replace(message=str(error))
    if count := _count_failure("rpc"):
        logger.error(
            "REALTIME_RPC failed: the client gets an error (%d so far)", count, exc_info=error
        )
    return INTERNAL_ERROR


def _missed(join: Join, channel: Channel[Listener]) -> Sequence[Gap]:
    """Return the gaps between where the client says that it stands, and where it listens from."""
    if join.since is None:
        return ()
    now = channel.position
    return missed_until(join.since, join.began or now, now)


def _has_all(join: Join, gaps: Sequence[Gap]) -> bool | None:
    """Tell whether the client has missed nothing; None where it did not say what it has."""
    return None if join.since is None else not gaps


def _joinings(steps: Iterable[_Step]) -> list[Joining]:
    return [step for step in steps if isinstance(step, Joining)]


def _count_failure(reason: str) -> int | None:
    """Count a failure of the host's code; return how many, if that is worth a line in the log.

    Any client can repeat what led to it.
    """
    return _failures.add(reason, asyncio.get_running_loop().time())


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
