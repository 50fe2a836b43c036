"""What one client says, done and answered in the order in which it was said.

Reading is not held up by doing: what must wait for Redis waits in a queue, the Redis part of all
subscribes of a frame starts at once, and a pong counts when it is read. Only a client that lets too
much pile up is not read for a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from realtime.codes import (
    BAD_COMMAND,
    BUSY,
    CONNECTION_LIMIT,
    EXPIRED,
    INTERNAL_ERROR,
    LIMIT_EXCEEDED,
    NOT_LIVE,
    NOT_PUBLISHED,
    NOT_SUBSCRIBED,
    PERMISSION_DENIED,
    SERVER_ERROR,
    SUBSCRIPTION_EXPIRED,
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
from realtime.fanout import Listener
from realtime.gaps import Gap, GapDetector
from realtime.identity import Identity
from realtime.limits import Throttle
from realtime.membership import TooManyMembers
from realtime.protocols import BadFrame, Command, Pong, WireProtocol
from realtime.protocols import Publish as PublishCommand
from realtime.publication import Publication, Receipt, encoded
from realtime.registry import Channel

if TYPE_CHECKING:
    from realtime.hub import Hub

logger = logging.getLogger(__name__)

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
ANSWER_BYTES = 512 * 1024
"""Of a reply with all members of a channel; stock clients refuse frames over 1 MiB for good."""
LIVE_SECONDS = 2.0
"""How long a subscribe waits for the broker; then it is refused as temporary: SDKs come again."""

Publish = Callable[[Publication], Awaitable[Receipt]]
Authorize = Callable[[Identity, str, str], Awaitable[bool]]
"""Whether somebody may "subscribe" or "publish" on a channel."""
Rpc = Callable[[Identity, str, object], Awaitable[object]]
"""What the host answers to a method and its data, any JSON values."""


class Conversation:
    """One connection on the hub's side, from accept to end."""

    __slots__ = (
        "_answering",
        "_asked",
        "_connection",
        "_ends",
        "_hub",
        "_listeners",
        "_protocol",
        "_publishing",
        "_room",
        "_throttle",
        "_timers",
        "_todo",
        "_todo_bytes",
        "_wanted",
        "began",
        "driver",
    )

    def __init__(
        self, hub: Hub, connection: Connection, protocol: WireProtocol, driver: Driver
    ) -> None:
        self._hub = hub
        self._connection = connection
        self._protocol = protocol
        self._todo: deque[Decision] | None = (
            None  # None while nothing waits: most connections, most of the time
        )
        self._todo_bytes = 0
        self._wanted: dict[Join, Channel[Listener]] = {}
        self._timers: dict[Join, asyncio.TimerHandle] = {}
        self._listeners: dict[str, tuple[Channel[Listener], Listener]] = {}
        self._publishing: asyncio.Task[Refusal | None] | None = None
        self._answering: asyncio.Task[str | Refusal] | None = None
        self._room: asyncio.Future[None] | None = None
        self._asked: dict[Join, asyncio.Task[bool]] | None = None  # None: the host is asked nothing
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
            for decision in self._decisions(frame):
                self._take(decision)
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
        self._todo = None
        for working in (self._publishing, self._answering):
            if working is not None:
                working.cancel()
        for task in (self._asked or {}).values():
            task.cancel()
        for join in list(self._wanted):
            self._unwant(join)
        for name in list(self._listeners):
            self._leave(name)
        self._make_room()
        self._hub.forget(self)

    def _decisions(self, frame: str | None) -> Iterator[Decision]:
        """Decide about each command of a frame, in order; pongs count at once."""
        bad = None
        try:
            if frame is None:
                raise BadFrame("frames are text")
            limits = self._hub.limits
            commands = self._protocol.read(frame, limits.frame_bytes, limits.frame_commands)
        except BadFrame as error:
            commands, bad = list(error.good), error
            if error.limit:
                self._hub.reached.count(error.limit)
        for command in commands:
            if isinstance(command, Pong) and self.driver.pong():
                continue
            why_not = self._throttled(command)
            if why_not is None:
                if decision := self._connection.decide(command):
                    yield decision
            elif isinstance(why_not, Close):
                self.end(why_not)  # at once: what waits before it is part of the flood
                return
            elif not isinstance(command, Pong):
                yield Reply(self._protocol.refused(command.id, why_not))
        if bad is not None:
            yield self._connection.bad_frame(bad)

    def _throttled(self, command: Command) -> Refusal | Close | None:
        """Return why a command is not even looked at, if it is one too many."""
        if self._throttle is None:
            self._throttle = Throttle(self._hub.limits.commands, self._hub.limits.publications)
        now = asyncio.get_running_loop().time()
        name, why_not = "commands", self._throttle.command(now)
        if why_not is None and isinstance(command, PublishCommand):
            name, why_not = "publications", self._throttle.publication(now)
        if why_not is not None:
            self._hub.reached.count(f"{name}_per_second")
        return why_not

    def _take(self, decision: Decision) -> None:
        """Do it at once if nothing waits before it and it need not wait itself."""
        if isinstance(decision, Join):
            if decision.must_ask:
                self._ask(decision)
            else:
                self._want(decision)
        if self._todo is None:
            if self._do(decision):
                return
            self._todo = deque()
        self._todo.append(decision)
        self._todo_bytes += _bytes_of(decision)

    def _advance(self) -> None:
        """Something that was waited for has come: do and answer what can be done now, in order."""
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

    def _do(self, decision: Decision) -> bool:
        """Do it and answer; False says that it has to wait."""
        match decision:
            case Join():
                return self._join(decision)
            case Say():
                return self._say(decision)
            case Ask() | Look():
                return self._find_out(decision)
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
                if decision.limit:
                    self._hub.reached.count(decision.limit)
            case Greet():
                self._greet(decision)
            case End():
                self.end(decision.close)
        return True

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

    def _serve(self, join: Join) -> None:
        """Let the client listen as soon as the broker does; nothing waits for it."""
        if join.must_ask:
            self._ask(join)
            return
        wake = partial(self._served, join)
        channel = self._hub.registry.want(join.channel, join.namespace, join, wake)
        self._wanted[join] = channel
        if channel.is_live:
            self._served(join)
        else:
            self._hub.wishes_changed()

    def _served(self, join: Join) -> None:
        channel = self._wanted.get(join)
        if channel is not None and channel.is_live:
            self._hub.fanout.seal(channel)
            self.driver.say(self._protocol.served(join.channel, channel.position))
            self._tell_missed(join, channel)
            self._listen(join, channel)

    def _want(self, join: Join) -> None:
        channel = self._hub.registry.want(join.channel, join.namespace, join, self._advance)
        self._wanted[join] = channel
        if not channel.is_live:
            self._hub.wishes_changed()
            self._be_patient(join)

    def _be_patient(self, join: Join) -> None:
        """Wait for the broker, but not for ever."""
        if join not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers[join] = loop.call_later(LIVE_SECONDS, self._give_up, join)

    def _ask(self, join: Join) -> None:
        """Let the host decide; all subscribes of a frame are asked about at once."""
        task = asyncio.get_running_loop().create_task(self._is_allowed(join.channel, "subscribe"))
        self._asked = self._asked or {}
        self._asked[join] = task
        task.add_done_callback(partial(self._judged, join) if join.is_served else self._decided)

    def _judged(self, join: Join, task: asyncio.Task[bool]) -> None:
        """The host has decided about a channel that no reply waits for."""
        if self.ended or task.cancelled() or self._asked is None:
            return
        self._asked.pop(join, None)
        if _refusal(task) is None and not join.is_void:
            join.must_ask = False
            self._serve(join)
        else:
            self._connection.join_failed(join)
            self.driver.say(self._protocol.unsubscribed(join.channel, NOT_SUBSCRIBED))

    def _decided(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled():
            task.exception()  # or asyncio would complain when the client has gone meanwhile
        self._advance()

    async def _is_allowed(self, channel: str, action: str) -> bool:
        async with asyncio.timeout(AUTHORIZE_SECONDS):
            return bool(await self._hub.authorize(self._connection.identity, channel, action))

    def _answer(self, join: Join, task: asyncio.Task[bool]) -> bool:
        """Go on with a join as the host has decided."""
        if not task.done():
            return False
        assert self._asked is not None  # noqa: S101 - the task is from there
        del self._asked[join]
        refusal = _refusal(task)
        if refusal is None and join.is_void:
            refusal = PERMISSION_DENIED
        if refusal is None:
            self._want(join)
            return self._join(join)
        self._connection.join_failed(join)
        self.driver.say(self._protocol.refused(join.id, refusal))
        return True

    def _join(self, join: Join) -> bool:
        if self._asked and (task := self._asked.get(join)) is not None:
            return self._answer(join, task)
        channel = self._wanted.get(join)
        if channel is None:
            self.driver.say(self._protocol.refused(join.id, NOT_LIVE))
            return True
        if join.channel in self._listeners:  # the server has subscribed it; it goes on from there
            self._unwant(join)
            self.driver.say(self._protocol.subscribed(join.id, None, join.ttl_seconds))
            return True
        if not channel.is_live:
            self._be_patient(join)  # it was live when this was said, and broke before its turn
            return False
        # One step, without an await: what waits goes to those who listen now, the reply names the
        # position that this leaves, and the first push after it is the next one.
        self._hub.fanout.seal(channel)
        missed = self._missed(join, channel)
        has_all = None if join.since is None else not missed
        position, ttl = channel.position, join.ttl_seconds
        self.driver.say(self._protocol.subscribed(join.id, position, ttl, has_all=has_all))
        self._tell_missed(join, channel)
        self._forget_served(join.channel)
        self._listen(join, channel)
        return True

    def _missed(self, join: Join, channel: Channel[Listener]) -> Sequence[Gap]:
        """Return the gaps between where the client says that it stands, and the channel."""
        return () if join.since is None else GapDetector(join.since).resume(channel.position)

    def _tell_missed(self, join: Join, channel: Channel[Listener]) -> None:
        for gap in self._missed(join, channel):
            self.driver.say(self._protocol.gap(join.channel, gap, RECONNECT))

    def _listen(self, join: Join, channel: Channel[Listener]) -> None:
        if self.ended:  # by what was just said, which was too much for a client that does not read
            return
        listener = Listener(self.driver, hears_joins=join.hears_joins)
        channel.listeners[listener] = None
        self._listeners[join.channel] = (channel, listener)
        self._renew(join.channel, join.ttl_seconds)
        if channel.namespace.counts_members:
            self._hub.count_in(channel, self._connection.member_of(channel.name))
        self._unwant(join)

    def _forget_served(self, name: str) -> None:
        """Give up what the server wished and could not do yet."""
        for join in [join for join in self._wanted if join.is_served and join.channel == name]:
            self._unwant(join)

    def _give_up(self, join: Join) -> None:
        del self._timers[join]
        if self._wanted[join].is_live:
            return  # the broker is here; what was said before is what takes so long
        self._connection.join_failed(join)
        self._unwant(join)
        self._advance()

    def _unwant(self, join: Join) -> None:
        channel = self._wanted.pop(join)
        if (timer := self._timers.pop(join, None)) is not None:
            timer.cancel()
        del channel.waiting[join]
        self._hub.release(channel)

    def _leave(self, name: str) -> None:
        self._renew(name, None)
        self._forget_served(name)
        channel, listener = self._listeners.pop(name, (None, None))
        if channel is None or listener is None:
            return
        listener.active = False
        del channel.listeners[listener]
        if channel.namespace.counts_members:
            self._hub.count_out(channel, self.client)
        self.driver.forget(name)
        self._hub.release(channel)

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
        for channel in [name] if name else self._connection.channels:
            self._give_up_asked(channel)
            if self.ended or channel not in self._connection.channels:
                continue
            self._leave(channel)
            self._connection.left(channel)
            self.driver.say(self._protocol.unsubscribed(channel, UNSUBSCRIBED))

    def _give_up_asked(self, name: str) -> None:
        """Refuse for now what was asked for before: when it comes again, it is judged anew."""
        for join in [join for join in self._asked or () if join.channel == name]:
            assert self._asked is not None  # noqa: S101 - the join is from there
            self._asked.pop(join).cancel()
            self._connection.join_failed(join)
        for join in [join for join in self._wanted if join.channel == name and not join.is_served]:
            self._unwant(join)
            self._connection.join_failed(join)
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

    def _say(self, say: Say) -> bool:
        """Publish; one at a time, so that a client's publications keep their order."""
        if self._publishing is None:
            self._publishing = asyncio.get_running_loop().create_task(self._published(say))
            self._publishing.add_done_callback(self._said)
            return False
        if not self._publishing.done():
            return False
        refusal = self._publishing.result()
        self._publishing = None
        if refusal is None:
            self.driver.say(self._protocol.done(say.command))
        else:
            self.driver.say(self._protocol.refused(say.command.id, refusal))
        return True

    async def _published(self, say: Say) -> Refusal | None:
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
        return _refusal(task)

    def _find_out(self, question: Ask | Look) -> bool:
        """Let the host answer, or Redis; one question at a time, like publishing."""
        if self._answering is None:
            answer = (
                self._answer_to(question) if isinstance(question, Ask) else self._seen(question)
            )
            self._answering = asyncio.get_running_loop().create_task(answer)
            self._answering.add_done_callback(self._decided)
            return False
        if not self._answering.done():
            return False
        task, self._answering = self._answering, None
        answer_text = _answer_of(task)
        if not question.id:
            return True  # nobody waits for it; what went wrong was told all the same
        if isinstance(answer_text, Refusal):
            self.driver.say(self._protocol.refused(question.id, answer_text))
        else:
            self.driver.say(answer_text)
        return True

    async def _answer_to(self, ask: Ask) -> str | Refusal:
        async with asyncio.timeout(RPC_SECONDS):
            answer = await self._hub.rpc(self._connection.identity, ask.method, ask.data)
        try:
            return self._protocol.answered(ask.id, encoded(answer).decode())
        except RequestError as error:
            raise TypeError(f"it returned what cannot be sent: {error}") from error

    async def _seen(self, look: Look) -> str | Refusal:
        """Find out who is on a channel, or why that cannot be told."""
        if look.channel not in self._listeners:  # it has been left, or could not be joined
            return PERMISSION_DENIED
        if not self._hub.live:
            return NOT_LIVE
        try:
            async with asyncio.timeout(LIVE_SECONDS):
                text = await self._look(look)
        except (BrokerError, TimeoutError):
            return NOT_LIVE
        except TooManyMembers as error:
            return LIMIT_EXCEEDED._replace(message=str(error))
        if len(text) > ANSWER_BYTES:
            return LIMIT_EXCEEDED._replace(message="too many members: ask presence_stats")
        # A reply is never dropped, and this one may be as large as all that may wait.
        return BUSY if self.driver.is_congested and len(text) > SMALL_BYTES else text

    async def _look(self, look: Look) -> str:
        roster = self._hub.roster
        if look.only_count:
            return self._protocol.counted(look.id, await roster.headcount(look.channel))
        return self._protocol.present(look.id, await roster.members(look.channel))

    def _tell_where(self, where: Where) -> None:
        channel, _ = self._listeners.get(where.channel, (None, None))
        if channel is None:  # it has been left, or could not be joined
            self.driver.say(self._protocol.refused(where.id, PERMISSION_DENIED))
            return
        self.driver.say(self._protocol.stands(where.id, channel.position))

    def _said(self, task: asyncio.Task[Refusal | None]) -> None:
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            logger.error("publishing for a client failed; its connection ends", exc_info=error)
            self.end(SERVER_ERROR)
            return
        self._advance()


def _refusal(task: asyncio.Task[bool]) -> Refusal | None:
    """Return why not, when the host has decided or failed to."""
    if (error := task.exception()) is None:
        return None if task.result() else PERMISSION_DENIED
    logger.error("the authorizer failed: the client is refused for now", exc_info=error)
    return INTERNAL_ERROR


def _answer_of(task: asyncio.Task[str | Refusal]) -> str | Refusal:
    """Return the reply, or why there is none."""
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, Forbidden):
        return PERMISSION_DENIED
    if isinstance(error, RequestError):
        return BAD_COMMAND._replace(message=str(error))
    logger.error("REALTIME_RPC failed: the client gets an error", exc_info=error)
    return INTERNAL_ERROR


def _bytes_of(decision: Decision) -> int:
    if isinstance(decision, Ask):
        return decision.size
    return len(decision.publication.body) if isinstance(decision, Say) else 0
