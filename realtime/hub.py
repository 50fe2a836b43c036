"""The delivering side of one node: hears from the broker what its connections want, and tells them.

One hub per event loop. It owns the node's one subscription at the broker. When that breaks,
connections stay; they are told that the node is not live, and after the repair what each channel
missed.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any

from realtime import __version__
from realtime.attendance import Attendance
from realtime.brokers import ALL_NODES, Broker, Message, Subscribed, Subscription
from realtime.clerk import Clerk
from realtime.codes import SHUTDOWN, TOO_MANY_REQUESTS
from realtime.connection import Connection
from realtime.conversation import Authorize, Conversation, Publish, Rpc
from realtime.driver import Driver, Send, Wire
from realtime.envelope import opened
from realtime.errors import BrokerError, BrokerUnavailable, EnvelopeError
from realtime.fanout import Fanout, Listener
from realtime.flow import WINDOW_BYTES
from realtime.gaps import Position
from realtime.heartbeat import Heartbeat
from realtime.identity import ANONYMOUS, Identity
from realtime.limits import Crowd, Limits, Reached, Subscriptions
from realtime.membership import Member, is_about_members
from realtime.namespaces import Namespace, Namespaces
from realtime.neighbours import Neighbours, service_in
from realtime.protocols import WireProtocol, centrifugo
from realtime.registry import Arrival, Channel, Registry, State, UnexpectedConfirmation
from realtime.roster import Roster
from realtime.tokens import Tokens
from realtime.users import LOOK_SECONDS, Entitled, Users
from realtime.vigil import Vigil

logger = logging.getLogger(__name__)

OUTBOX_BYTES = 1024 * 1024  # Centrifugo 1 MiB, Redis' own pub/sub limit 32 MiB
GRACE_SECONDS = 25  # Centrifugo 25
PING_SECONDS = 25  # Centrifugo 25, Engine.IO 25
WISHES_LIMIT = 500
"""Channels in one SUBSCRIBE, and positions in one round trip."""
RENEW_SECONDS = 60.0
"""How often the counters of subscribed channels are kept from expiring, at the soonest in 300 s."""
ANNOUNCE_SECONDS = 5.0
"""How often the nodes are told which service this is."""
BACKOFF_SECONDS = (0.05, 1.0)
REASONS_TOLD = 8
"""Different reasons in the log, until the node is live again."""
CARRIED = b"said "
"""How what another node has got for a client of this one begins; a canary is a number."""
DRAIN_PER_SECOND = 200
"""Connections closed in a second while a node drains; more only if the time would not do."""

_address: ContextVar[str] = ContextVar("address", default="")
"""As whom the connection is counted that this task serves; `Hub.place` knows, `Hub.attach` asks."""


class Hub:
    """See the module. `start` it in the loop that made it, and `stop` it there."""

    def __init__(
        self,
        broker: Broker,
        namespaces: Namespaces,
        publish: Publish,
        *,
        limits: Limits,
        outbox_bytes: int = OUTBOX_BYTES,
        window_bytes: int = WINDOW_BYTES,
        ping_seconds: int = PING_SECONDS,
        tokens: Tokens | None = None,
        grace_seconds: int = GRACE_SECONDS,
        authorize: Authorize | None = None,
        entitled: Entitled | None = None,
        rpc: Rpc | None = None,
        wall_seconds: Callable[[], float] = time.time,
    ) -> None:
        """Make a hub that does nothing yet.

        Args:
            broker: Where publications come from.
            namespaces: Say what clients may do.
            publish: Called for what clients publish.
            limits: What clients may take.
            outbox_bytes: What may wait for one connection.
            window_bytes: What may be on its way to one client.
            ping_seconds: How often a connection is pinged.
            tokens: Say what clients' tokens are worth; without them, nothing.
            grace_seconds: What a client has to show another token when one has expired.
            authorize: Asked where no rule of ours says yes or no.
            entitled: Asked now and then who of the clients may still be here.
            rpc: Answers what clients ask the host.
            wall_seconds: Tells the seconds since 1970, in which tokens count.
        """
        self.limits = limits
        self.crowd = Crowd(limits)
        """Who is connected, as far as that is limited."""
        self.subscriptions = Subscriptions(limits.subscriptions_per_address)
        """How many new ones each address may still have."""
        self.reached = Reached()
        """How often which limit was reached."""
        self._broker = broker
        self._namespaces = namespaces
        self._protocol: WireProtocol = centrifugo
        self._outbox_bytes = outbox_bytes
        self._window_bytes = window_bytes
        self._ping_seconds = ping_seconds
        self._tokens = tokens or Tokens({})
        self._conversations: dict[Conversation, tuple[int, Listener] | None] = {}
        self._expiring: dict[Conversation, None] = {}
        self._sessions: dict[str, Conversation] = {}
        self._everyone: Channel[Listener] = Channel("", Namespace())
        self._heartbeat = Heartbeat(
            ping_seconds,
            limits.connect_seconds,
            on_stale=partial(self.reached.count, "connect_seconds"),
            on_tick=self._ticked,
        )
        self._node = f"!{secrets.token_hex(8)}"  # no client can name this channel
        self._owner: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._wishes = asyncio.Event()
        self._to_settle: dict[str, None] = {}
        self._settle = asyncio.Event()
        self._recovering: set[str] | None = None
        self._vigil = self._new_vigil()
        self._failures = 0  # since it was live: Redis may let us in and refuse each SUBSCRIBE
        self._not_live_at = asyncio.get_running_loop().time()
        self._told: set[str] = set()  # reasons that the log has named since
        self._renew_at = 0.0
        self._busy_at = 0.0
        self.dropped_envelopes = 0
        """Messages on the broker that were not ours."""
        self.grace_seconds = grace_seconds
        self._has_authorizer = authorize is not None
        self.authorize: Authorize = authorize or _nobody_may
        self._has_rpc = rpc is not None
        self.rpc: Rpc = rpc or _no_answer
        self._wall_seconds = wall_seconds
        self.publish = publish
        self.registry: Registry[Listener] = Registry()
        self.fanout = Fanout(self._protocol)
        self._attendance = Attendance(broker)
        self.roster = Roster(broker, self._attendance, self.registry, self.fanout, self._protocol)
        """Who is on the channels of this node's connections."""
        self.neighbours = Neighbours()
        """Other services that this node hears, and should not."""
        self.users = Users(broker, entitled)
        """The connections by user."""
        self._clerk = Clerk(
            broker,
            self.uid,
            self.registry,
            lambda: (self.connections, len(self.users)),
        )
        self.live = False
        """Whether everything that is published reaches this node, as far as it can know."""
        self.reason: str | None = "starting"
        """Why it is not live, for operators; None while it is."""
        self.rest_after_seconds: float | None = None
        """After how long without a client to stop; for servers that have no lifespan to tell."""

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Begin to listen to the broker. Comes back at once; `live` says when it does."""
        if self._owner is not None:
            return
        loop = asyncio.get_running_loop()
        self.registry.want(self._node, Namespace(), self, _nothing)
        self.registry.want(ALL_NODES, Namespace(), self, self.users.look_again)
        self._busy_at = self._not_live_at = loop.time()  # to rest was no outage
        self._told.clear()
        self._owner = loop.create_task(self._own(), name="realtime hub")
        self._watch()
        self._heartbeat.start()

    async def stop(self) -> None:
        """Close all connections with 3001 and the subscription."""
        for conversation in list(self._conversations):
            conversation.end(SHUTDOWN)
        tasks = [task for task in (self._owner, self._watcher) if task is not None]
        self._rest()
        await asyncio.gather(*tasks, return_exceptions=True)
        if tasks:
            await self._attendance.aclose()

    async def drain(self, seconds: float) -> None:
        """Close all connections with 3001, spread over at most ``seconds``.

        They will not all come back at once.

        Few connections take less: a node restarts as fast as its clients allow.
        """
        loop = asyncio.get_running_loop()
        leaving = list(self._conversations)
        pause = min(seconds / max(1, len(leaving)), 1 / DRAIN_PER_SECOND)
        start = loop.time()
        for number, conversation in enumerate(leaving):
            ahead = start + number * pause - loop.time()
            await asyncio.sleep(
                max(ahead, pause / 2)
            )  # whoever is late catches up, and not at once
            conversation.end(SHUTDOWN)
        for conversation in list(self._conversations):  # whose handshake was under way
            conversation.end(SHUTDOWN)

    def _rest(self) -> None:
        """Let the owner and the timer end; a new connection starts them again."""
        self._heartbeat.stop()
        self.roster.stop()
        self._clerk.stop()
        if self._owner is not None:
            self._owner.cancel()
            self._owner = None
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None
        self.live, self.reason = False, "stopped"

    @property
    def is_started(self) -> bool:
        """Whether it listens to the broker, or tries to."""
        return self._owner is not None

    @property
    def connections(self) -> int:
        """How many clients are attached."""
        return len(self._conversations)

    @property
    def lag_seconds(self) -> float:
        """How long the way through the broker took last time."""
        return self._vigil.lag_seconds

    # ----------------------------------------------------------- connections

    def attach(
        self,
        send: Send,
        task: asyncio.Task[Any],
        wire: Wire | None = None,
        identity: Identity = ANONYMOUS,
        *,
        session: str = "",
    ) -> Conversation:
        """Take over an accepted connection; from now on only the hub sends.

        Args:
            send: The ASGI send of the connection.
            task: The one that reads from it, which must be the current one.
            wire: The server's own way for ready frames, if it offers one.
            identity: Whom the transport knows the client to be.
            session: By which the client says what it says, where that comes not with its stream.
        """
        connection = Connection(
            self._protocol,
            self._namespaces,
            client=str(uuid.uuid4()),
            version=__version__,
            ping_seconds=self._ping_seconds,
            tokens=self._tokens,
            wall_seconds=self._wall_seconds,
            identity=identity,
            has_authorizer=self._has_authorizer,
            has_rpc=self._has_rpc,
            channels_limit=self.limits.channels_per_connection,
            emulated_by=(session, self.uid) if session else None,
        )
        driver = Driver(
            send,
            self._protocol,
            task=task,
            context=copy_context(),
            outbox_bytes=self._outbox_bytes,
            window_bytes=self._window_bytes,
            watch=self._heartbeat.watch,
            wire=wire,
        )
        conversation = Conversation(self, connection, self._protocol, driver, _address.get())
        driver.on_end = conversation.release
        self._conversations[conversation] = None
        if session:
            self._sessions[session] = conversation
        self._heartbeat.expect(driver)
        return conversation

    @property
    def uid(self) -> str:
        """The name of this node, as others know it."""
        return self._node[1:]

    def emulated(self, session: str, frame: str) -> None:
        """Take what a client says beside its stream; nothing, where that has ended."""
        conversation = self._sessions.get(session)
        if conversation is None or conversation.ended:
            return
        if conversation.is_full:  # a request waits for nothing, so nothing holds this client up
            self.reached.count("commands_waiting")
            conversation.end(TOO_MANY_REQUESTS)
        else:
            conversation.receive(frame)

    @contextmanager
    def place(self, address: str) -> Iterator[str | None]:
        """Give a connection its place for as long as it is served, however that ends.

        Yields:
            The limit that leaves none for it, which it does not get to know; or None.
        """
        limit = self.crowd.enter(address)
        if limit is not None:
            self.reached.count(limit)
            yield limit
            return
        token = _address.set(address)
        try:
            yield None
        finally:
            _address.reset(token)
            self.crowd.leave(address)

    def admits(self, user: str) -> bool:
        """Tell whether there is room for one more connection of this user."""
        limit = self.limits.connections_per_user
        if not limit or not user or self.users.count(user) < limit:
            return True
        self.reached.count("connections_per_user")
        return False

    def welcome(self, conversation: Conversation) -> str:
        """A client has introduced itself: count it in, and return how this node stands."""
        listener = Listener(conversation.driver)
        self.fanout.seal(self._everyone)  # what was announced before is not news to this one
        self._everyone.listeners[listener] = None
        self._conversations[conversation] = (self._heartbeat.welcome(conversation.driver), listener)
        self.users.add(conversation)
        return self._state_text()

    def forget(self, conversation: Conversation) -> None:
        """A connection has ended."""
        self._expiring.pop(conversation, None)
        self._sessions.pop(conversation.session, None)
        self.users.discard(conversation)
        bucket, listener = self._conversations.pop(conversation) or (None, None)
        self._heartbeat.forget(conversation.driver, bucket)
        if listener is not None:
            listener.active = False
            del self._everyone.listeners[listener]

    def count_in(self, channel: Channel[Listener], member: Member) -> None:
        """A connection is on a channel that counts its members."""
        self.roster.changed(channel.name)
        self._attendance.join(channel.name, member, is_told=channel.namespace.join_leave)

    def count_out(self, channel: Channel[Listener], client: str) -> None:
        """A connection is on such a channel no more."""
        self.roster.changed(channel.name)
        self._attendance.leave(channel.name, client)

    def look_after(self, conversation: Conversation) -> None:
        """Something of it expires: see to it."""
        self._expiring[conversation] = None

    def wishes_changed(self) -> None:
        """The registry may have something for the broker."""
        self._wishes.set()

    def release(self, channel: Channel[Listener]) -> None:
        """Leave the channel at the broker if nobody wants it any more."""
        self.registry.release(channel)
        if self.registry.has_wishes:
            self._wishes.set()

    def _watch(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self.users.watch())
        self._watcher.add_done_callback(self._watched)

    def _watched(self, watcher: asyncio.Task[None]) -> None:
        """Watch again; only the site's own code can have failed here."""
        if watcher is self._watcher and not watcher.cancelled():
            logger.error("looking at the users failed", exc_info=watcher.exception())
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self._watch_again, watcher)

    def _watch_again(self, watcher: asyncio.Task[None]) -> None:
        if watcher is self._watcher:
            self._watch()

    # ---------------------------------------------------------------- broker

    async def _own(self) -> None:
        """Own the subscription: open it, serve it, and when it breaks, open another one."""
        while True:
            try:
                await self._serve(await self._broker.subscription())
            except BrokerError as error:
                self._not_live(str(error))
            except (
                Exception
            ):  # the hub's outermost loop: no mistake of ours may silence this node for good
                logger.exception("the hub failed; it starts again")
                self._not_live("internal error")
            await asyncio.sleep(_backoff_seconds(self._failures))
            self._failures += 1

    async def _serve(self, subscription: Subscription) -> None:
        """Serve one subscription until it breaks.

        Raises:
            BrokerUnavailable: It broke.
        """
        self._vigil = self._new_vigil()
        self._to_settle.clear()
        self._recovering = {channel.name for channel in self.registry}
        self._wishes.set()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(subscription))
                group.create_task(self._wish(subscription))
                group.create_task(self._settle_all())
                group.create_task(self._attendance.keep())
                group.create_task(self.roster.watch())
                group.create_task(self._announce())
                group.create_task(self._vigil.sing())
                group.create_task(self._vigil.listen(subscription))
        except* (BrokerError, UnexpectedConfirmation) as broken:
            raise BrokerUnavailable(str(broken.exceptions[0])) from broken
        finally:
            # Or the node would call itself live as soon as its clients leave what is in there.
            self._recovering = None
            self.registry.lost()
            await subscription.aclose()

    def _new_vigil(self) -> Vigil:
        return Vigil(
            self._broker,
            self._node,
            is_subscribed=lambda: self._has_recovered(self._node),
            is_behind=lambda: self.fanout.is_full,
        )

    async def _read(self, subscription: Subscription) -> None:
        while True:
            events = await subscription.read()
            for event in events:
                if isinstance(event, Message):
                    self._message(event)
                elif isinstance(event, Subscribed):
                    if self.registry.subscribed(event.channel):
                        self._to_settle[event.channel] = None
                        self._settle.set()
                else:
                    self.registry.unsubscribed(event.channel)
                    self._wishes.set()
            if self.fanout.is_full:
                await self.fanout.room()

    def _message(self, message: Message) -> None:
        if message.channel == self._node:
            if message.raw.startswith(CARRIED):
                self._carried(message.raw)
            else:
                self._vigil.back(message.raw)
            return
        if message.channel == ALL_NODES:
            if (service := service_in(message.raw)) is not None:
                self._hear_service(service)
                return
            self.users.hear(message.raw)
            self._clerk.hear(message.raw)
            return
        channel = self.registry.get(message.channel)
        if channel is None:
            return  # on its way while we left
        try:
            envelope = opened(message.raw)
        except EnvelopeError as error:
            if not self._is_about_members(channel, message.raw):
                self._drop(message.channel, error)
            return
        if (arrival := channel.arrived(envelope)) is not None:
            self.fanout.add(channel, arrival)

    def _carried(self, raw: bytes) -> None:
        """Another node has got what a client of this one says."""
        session, _, frame = raw[len(CARRIED) :].partition(b" ")
        self.emulated(session.decode("latin-1"), frame.decode(errors="replace"))

    def _is_about_members(self, channel: Channel[Listener], raw: bytes) -> bool:
        """Tell whether this is no publication but about who is on the channel, and take it."""
        if not is_about_members(raw):
            return False
        try:
            self.roster.hear(channel, raw)
        except EnvelopeError as error:
            self._drop(channel.name, error)
        return True

    def _drop(self, channel: str, error: EnvelopeError) -> None:
        self.dropped_envelopes += 1
        count = self.dropped_envelopes
        if count & (count - 1) == 0:  # the 1st, 2nd, 4th, 8th …: never a flood
            logger.warning(
                "dropped what is not an envelope on %s: %s (%d so far)", channel, error, count
            )

    async def _wish(self, subscription: Subscription) -> None:
        """Carry out what the registry wishes; nobody else subscribes or unsubscribes."""
        while True:
            await self._wishes.wait()
            self._wishes.clear()
            while self.registry.has_wishes:
                await subscription.send(*self.registry.take_wishes(WISHES_LIMIT))

    async def _announce(self) -> None:
        """Tell the nodes which service this is; the vigil finds out where Redis is away."""
        while True:
            with suppress(BrokerError):
                self.neighbours.announced(await self._broker.announce())
            await asyncio.sleep(ANNOUNCE_SECONDS)

    def _hear_service(self, service: str) -> None:
        if self.neighbours.hear(service):
            logger.error(
                "another service (%s) uses the channels of this one (%s): each delivers the "
                "publications of the other. Pub/sub of Redis knows no database numbers: give each "
                "service its own REALTIME_REDIS_PREFIX",
                *(service, self.neighbours.own),
                extra={"service": self.neighbours.own, "other_service": service},
            )

    async def _settle_all(self) -> None:
        """Read the positions of channels that were just confirmed, and now and then of all."""
        while True:
            await self._settle.wait()
            self._settle.clear()
            while self._to_settle:
                await self._settle_some()

    async def _settle_some(self) -> None:
        names = list(self._to_settle)[:WISHES_LIMIT]
        for name in names:
            del self._to_settle[name]
        error = None
        for name, position in zip(names, await self._positions(names), strict=True):
            channel = self.registry.get(name)
            if channel is None:
                continue  # nobody wants it any more
            if isinstance(position, BrokerError):
                error = position
                self._to_settle[name] = None
            # A name that is due again was left and confirmed anew meanwhile: this position is older
            # than that.
            elif channel.state is State.SETTLING and name not in self._to_settle:
                self._settled(channel, channel.settled(position))
        self._look_whether_live()
        if error is not None:
            if not self.live:  # Redis lets us in and still loads, or is full: now this is why
                self._not_live(str(error))
            await asyncio.sleep(BACKOFF_SECONDS[0])

    async def _positions(self, names: list[str]) -> Sequence[Position | BrokerError]:
        try:
            return await self._broker.positions(names)
        except BrokerError as error:
            return [error] * len(names)

    def _settled(self, channel: Channel[Listener], arrivals: list[Arrival]) -> None:
        for arrival in arrivals:
            self.fanout.add(channel, arrival)
        for wake in list(channel.waiting.values()):
            wake()

    # ----------------------------------------------------------------- state

    def _not_live(self, reason: str) -> None:
        was_live, self.live, self.reason = self.live, False, reason
        if was_live:
            self._not_live_at = asyncio.get_running_loop().time()
            self._told.clear()
        if reason not in self._told and len(self._told) < REASONS_TOLD:
            self._told.add(reason)  # not again with each attempt to connect
            logger.warning("not live: %s", reason, extra=self._size())
        if was_live:
            self.fanout.announce(self._everyone, self._state_text())

    def _look_whether_live(self) -> None:
        """Everything that broke with the last subscription has been compared: the node is live."""
        if self.live or self._recovering is None:
            return
        self._recovering = {name for name in self._recovering if not self._has_recovered(name)}
        if not self._recovering:
            self._recovering = None
            self._failures = 0
            self.live, self.reason = True, None
            seconds = asyncio.get_running_loop().time() - self._not_live_at
            logger.info("live after %.1f s", seconds, extra=self._size())
            self.fanout.announce(self._everyone, self._state_text())

    def _size(self) -> dict[str, int]:
        """Return whom a change of state concerns; fields of its line in the log."""
        return {"connections": self.connections, "channels": len(self.registry)}

    def _has_recovered(self, name: str) -> bool:
        channel = self.registry.get(name)
        return channel is None or channel.is_live

    def _state_text(self) -> str:
        return self._protocol.state(live=self.live, reason=None if self.live else "broker")

    def _ticked(self) -> None:
        now = asyncio.get_running_loop().time()
        self._look_whether_live()
        self._tell_limits(now)
        for conversation in list(self._expiring):
            if not conversation.expire(now):
                self._expiring.pop(conversation, None)
        if now >= self._renew_at:
            self._renew_at = now + RENEW_SECONDS
            self._to_settle.update(
                (channel.name, None) for channel in self.registry if channel.is_live
            )
            self._settle.set()
        if self._conversations:
            self._busy_at = now
        elif self.rest_after_seconds is not None and now - self._busy_at > self.rest_after_seconds:
            self._rest()

    def _tell_limits(self, now: float) -> None:
        for name, times in self.reached.news(now):
            logger.warning(
                "the limit %s was reached %d times", name, times,
                extra={"limit": name, "reached": times},
            )  # fmt: skip


def carried(session: str, frame: str) -> bytes:
    """Return what brings to a node what one of its clients says."""
    return CARRIED + f"{session} {frame}".encode("utf-8", "replace")


def _backoff_seconds(failures: int) -> float:
    """Full jitter, so that the nodes of a service do not come back to Redis all at once."""
    shortest, longest = BACKOFF_SECONDS
    return random.uniform(0, min(longest, shortest * 2**failures))  # noqa: S311 - spreads load, hides nothing


async def _nobody_may(identity: Identity, channel: str, action: str) -> bool:
    """Stand in for the authorizer of a host that has none."""
    return False


async def _no_answer(identity: Identity, method: str, data: object) -> object:
    """Stand in for a host that answers nothing."""
    return None


def _nothing() -> None:
    """The node's own channel has nobody to wake."""
