"""The delivering side of one node: hears from the broker what its connections want, and tells them.

One hub per event loop. Its parts do the work: the `Subscriber` owns the node's one subscription at
the broker, `Liveness` says whether that can be trusted, the `Connections` are its clients. When
the subscription breaks, connections stay; they are told that the node is not live, and after the
repair what each channel missed.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable
from functools import partial

from realtime.announcer import Announcer
from realtime.attendance import Attendance
from realtime.brokers import ALL_NODES, Broker, Message
from realtime.clerk import Clerk
from realtime.connections import ConnectionOptions, Connections
from realtime.conversation import Conversation
from realtime.envelope import opened
from realtime.errors import EnvelopeError
from realtime.fanout import Fanout, Listener
from realtime.flow import WINDOW_BYTES
from realtime.identity import Identity
from realtime.limits import Limits, Reached, Subscriptions
from realtime.liveness import Liveness
from realtime.membership import Changes
from realtime.namespaces import Namespace, Namespaces
from realtime.neighbours import Neighbours
from realtime.node import Authorize, Publish, Rpc
from realtime.node_messages import (
    Announcement,
    Canary,
    Dispatcher,
    Forwarded,
    UserCommand,
)
from realtime.protocols import WireProtocol, centrifugo
from realtime.registry import Channel, Registry
from realtime.roster import Roster
from realtime.subscriber import Subscriber
from realtime.survey import Question
from realtime.tally import Tally
from realtime.tokens import Tokens
from realtime.users import Entitled, Users

logger = logging.getLogger(__name__)

OUTBOX_BYTES = 1024 * 1024  # Centrifugo 1 MiB, Redis' own pub/sub limit 32 MiB
GRACE_SECONDS = 25  # Centrifugo 25
PING_SECONDS = 25  # Centrifugo 25, Engine.IO 25


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
            tokens: Verifies the tokens of clients; without it, none is accepted.
            grace_seconds: How long a client may take to present a new token after expiry.
            authorize: Asked where no rule of ours says yes or no.
            entitled: Asked now and then who of the clients may still be here.
            rpc: Answers what clients ask the host.
            wall_seconds: Tells the seconds since 1970, in which tokens count.
        """
        protocol: WireProtocol = centrifugo
        self.limits = limits
        self.subscriptions = Subscriptions(limits.subscriptions_per_address)
        """How many new ones each address may still have."""
        self.reached = Reached()
        """How often which limit was reached."""
        self.grace_seconds = grace_seconds
        self.authorize: Authorize = authorize or _nobody_may
        self.rpc: Rpc = rpc or _no_answer
        self.publish = publish
        self.uid = secrets.token_hex(8)
        """The name of this node, as others know it."""
        self.registry: Registry[Listener] = Registry()
        self.fanout = Fanout(protocol)
        self.users = Users(broker, entitled)
        """The connections by user."""
        self._attendance = Attendance(broker)
        self.roster = Roster(broker, self._attendance, self.registry, self.fanout, protocol)
        """Tells clients which members their channels have."""
        self._announcer = Announcer(broker)
        self._clerk = Clerk(
            broker, self.uid, self.registry, lambda: (len(self.connections), len(self.users))
        )
        self.connections: Connections = Connections(
            self,
            self.uid,
            ConnectionOptions(
                protocol=protocol,
                namespaces=namespaces,
                tokens=tokens or Tokens({}),
                limits=limits,
                outbox_bytes=outbox_bytes,
                window_bytes=window_bytes,
                ping_seconds=ping_seconds,
                wall_seconds=wall_seconds,
                has_authorizer=authorize is not None,
                has_rpc=rpc is not None,
            ),
            self.users,
            self.fanout,
            self.reached,
            ticked=self._ticked,
        )
        self._liveness = Liveness(
            is_compared=lambda name: self.subscriber.has_compared(name),
            changed=lambda: self.connections.announce(self._state_text()),
            size=lambda: {"connections": len(self.connections), "channels": len(self.registry)},
        )
        self._node = f"!{self.uid}"  # no client can name this channel
        self.subscriber: Subscriber = Subscriber(
            broker,
            self._node,
            self.registry,
            self.fanout,
            self._liveness,
            hear=self._hear,
            companions=self._companions,
        )
        self._protocol = protocol
        self._for_this_node = Dispatcher(
            {
                Canary: lambda canary: self.subscriber.vigil.back(canary.number),
                Forwarded: lambda said: self.connections.emulated(said.session, said.frame),
            }
        )
        self._for_all_nodes = Dispatcher(
            {
                UserCommand: self.users.hear,
                Question: self._clerk.hear,
                Announcement: lambda announcement: self._announcer.hear(announcement.service),
            }
        )
        self._busy_at = 0.0
        self.passed_over = 0
        """Messages of other nodes that this version does not know."""
        self._unknown = Tally()
        self.dropped_envelopes = 0
        """Messages on channels that were not ours."""
        self.rest_after_seconds: float | None = None
        """After how long without a client to stop; for servers that have no lifespan to tell."""

    # ------------------------------------------------------------------ life

    @property
    def is_started(self) -> bool:
        """Whether it listens to the broker, or tries to."""
        return self.subscriber.is_started

    @property
    def live(self) -> bool:
        """Whether everything that is published reaches this node, as far as it can know."""
        return self._liveness.live

    @property
    def reason(self) -> str | None:
        """Why it is not live, for operators; None while it is."""
        return self._liveness.reason

    @property
    def lag_seconds(self) -> float:
        """How long the way through the broker took last time."""
        return self.subscriber.vigil.lag_seconds

    @property
    def neighbours(self) -> Neighbours:
        """Other services that this node hears, and should not."""
        return self._announcer.neighbours

    def start(self) -> None:
        """Begin to listen to the broker. Returns at once; `live` says when it does."""
        if self.is_started:
            return
        self.registry.want(self._node, Namespace(), self, _nothing)
        self.registry.want(ALL_NODES, Namespace(), self, self.users.look_again)
        self._busy_at = asyncio.get_running_loop().time()
        self._liveness.start()
        self.subscriber.start()
        self.users.start()
        self.connections.start()

    async def stop(self) -> None:
        """Close all connections with 3001 and the subscription."""
        self.connections.close_all()
        tasks = self._rest()
        await asyncio.gather(*tasks, return_exceptions=True)
        if tasks:
            await self._attendance.aclose()

    async def drain(self, seconds: float) -> None:
        """Close all connections with 3001, spread over at most ``seconds``."""
        await self.connections.drain(seconds)

    def _rest(self) -> list[asyncio.Task[None]]:
        """End all tasks, which are returned; a new connection starts them again."""
        self.connections.stop()
        self.roster.stop()
        self._clerk.stop()
        ending = [self.subscriber.stop(), self.users.stop()]
        self._liveness.stop()
        return [task for task in ending if task is not None]

    def _companions(self) -> Iterable[Coroutine[None, None, None]]:
        """Make the tasks that end with a subscription."""
        return (self._attendance.keep(), self.roster.watch(), self._announcer.keep())

    def _ticked(self, now: float) -> None:
        self._liveness.look()
        self.subscriber.renew(now)
        if self.connections:
            self._busy_at = now
        elif self.rest_after_seconds is not None and now - self._busy_at > self.rest_after_seconds:
            self._rest()

    # ------------------------------------------- what conversations ask of it

    def admits(self, user: str) -> bool:
        """Tell whether there is room for one more connection of this user."""
        return self.connections.admits(user)

    def welcome(self, conversation: Conversation) -> str:
        """Count in a client that has introduced itself; return how this node stands."""
        self.connections.welcome(conversation)
        return self._state_text()

    def forget(self, conversation: Conversation) -> None:
        """Count out a connection that has ended."""
        self.connections.forget(conversation)

    def look_after(self, conversation: Conversation) -> None:
        """Watch a connection of which something expires."""
        self.connections.look_after(conversation)

    def _state_text(self) -> str:
        return self._protocol.state(live=self.live, reason=None if self.live else "broker")

    # -------------------------------------------------------------- messages

    def _hear(self, message: Message) -> None:
        if message.channel == self._node:
            self._count(self._for_this_node.take(message.raw))
        elif message.channel == ALL_NODES:
            self._count(self._for_all_nodes.take(message.raw))
        elif (channel := self.registry.get(message.channel)) is not None:
            self._arrived(channel, message.raw)
        # else it was on its way while we left

    def _arrived(self, channel: Channel[Listener], raw: bytes) -> None:
        try:
            envelope = opened(raw)
        except EnvelopeError as error:
            if not Dispatcher({Changes: partial(self.roster.hear, channel)}).take(raw):
                self._drop(channel.name, error)
            return
        if (arrival := channel.arrived(envelope)) is not None:
            self.fanout.add(channel, arrival)

    def _drop(self, channel: str, error: EnvelopeError) -> None:
        self.dropped_envelopes += 1
        count = self.dropped_envelopes
        if count & (count - 1) == 0:  # the 1st, 2nd, 4th, 8th …: never a flood
            logger.warning(
                "dropped what is not an envelope on %s: %s (%d so far)", channel, error, count
            )

    def _count(self, is_known: bool) -> None:
        if is_known:
            return
        self.passed_over += 1
        count = self._unknown.add("message", asyncio.get_running_loop().time())
        if count is not None:
            logger.warning(
                "passed over a message between nodes that this version does not know (%d so far)",
                count,
            )


async def _nobody_may(identity: Identity, channel: str, action: str) -> bool:
    """Stand in for the authorizer of a host that has none."""
    return False


async def _no_answer(identity: Identity, method: str, data: object) -> object:
    """Stand in for a host that answers nothing."""
    return None


def _nothing() -> None:
    """The node's own channel has nobody to wake."""
