"""The delivering side of one node: receives publications from the broker for its connections.

One hub per event loop. Its parts do the work: the `Subscriber` owns the node's one subscription at
the broker, `Liveness` tells whether the subscription is reliable, `Connections` holds the clients.
When the subscription breaks, connections stay open. Clients are told that the node is not live, and
once it works again, which publications each channel has missed.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING

from realtime.brokers import ALL_NODES, Broker
from realtime.brokers.node_messages import (
    Announcement,
    CanaryMessage,
    Dispatcher,
    ForwardedFrame,
    UserCommand,
)
from realtime.connection.flow import WINDOW_BYTES
from realtime.core import metrics
from realtime.core.callbacks import do_nothing
from realtime.core.idleness import IdleRule
from realtime.core.limits import LimitCounts, Limits, PublicationBudgets, Subscriptions
from realtime.core.meters import NodeMeters
from realtime.core.namespaces import Namespace, Namespaces
from realtime.core.survey import Question
from realtime.delivery.announcer import Announcer
from realtime.delivery.connection_lister import ConnectionLister
from realtime.delivery.connections import ConnectionOptions, Connections
from realtime.delivery.fanout import Fanout
from realtime.delivery.liveness import Liveness
from realtime.delivery.lost_channels import LostChannels
from realtime.delivery.node_reporter import NodeReporter, ProcessMeasures
from realtime.delivery.node_services import (
    Authorize,
    PublishFunction,
    Rpc,
    state_push,
)
from realtime.delivery.presence_announcer import PresenceAnnouncer
from realtime.delivery.presence_writer import PresenceWriter
from realtime.delivery.registry import Registry
from realtime.delivery.subscriber import Receiver, Subscriber
from realtime.delivery.survey_responder import SurveyResponder
from realtime.delivery.users import Entitled, Users
from realtime.identity.tokens import Tokens
from realtime.protocols import centrifugo

if TYPE_CHECKING:
    from realtime.brokers.neighbours import Neighbours
    from realtime.core.identity import Identity
    from realtime.core.metrics import Snapshot
    from realtime.delivery.listeners import Listener

OUTBOX_BYTES = 1024 * 1024  # Centrifugo 1 MiB, Redis' own pub/sub limit 32 MiB
GRACE_SECONDS = 25  # Centrifugo 25
PING_SECONDS = 25  # Centrifugo 25, Engine.IO 25


class Hub:
    """See the module. Call `start` and `stop` in the loop that created the hub."""

    def __init__(
        self,
        broker: Broker,
        namespaces: Namespaces,
        publish: PublishFunction,
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
        process: ProcessMeasures | None = None,
        wall_seconds: Callable[[], float] = time.time,
    ) -> None:
        """Create a hub that is not started yet.

        Args:
            broker: The source of publications.
            namespaces: The permissions of clients.
            publish: Called with the publications of clients.
            limits: The limits for clients.
            outbox_bytes: Bytes that may wait for one connection.
            window_bytes: Bytes that may be in flight to one client.
            ping_seconds: The interval between pings of a connection.
            tokens: Verifies the tokens of clients; without it, no token is accepted.
            grace_seconds: How long a client may take to present a new token after expiry.
            authorize: Decides if no permission rule applies.
            entitled: Asked periodically which clients may stay connected.
            rpc: Answers the RPCs of clients.
            process: Reads the metrics of the process, for reports.
            wall_seconds: Returns the seconds since 1970, the clock of tokens.
        """
        self.limits = limits
        self.subscriptions = Subscriptions(limits.subscriptions_per_address)
        """The budget of new subscriptions, by address."""
        self.publications = PublicationBudgets(limits.publications)
        """The budgets of publications, which connections of an address take over."""
        self.reached = LimitCounts()
        """How often each limit was reached."""
        self.grace_seconds = grace_seconds
        self.authorize: Authorize = authorize or _nobody_may
        self.rpc: Rpc = rpc or _no_answer
        self.publish = publish
        self.uid = secrets.token_hex(8)
        """The name of this node for other nodes."""
        self.meters = NodeMeters()
        """Count what this node delivers."""
        self.registry: Registry[Listener] = Registry(self.meters)
        self.fanout = Fanout()
        self.users = Users(broker, entitled, self.reached, wall_seconds=wall_seconds)
        """The connections by user."""
        self._presence_writer = PresenceWriter(broker)
        self.presence = PresenceAnnouncer(broker, self._presence_writer, self.registry, self.fanout)
        """Tells clients about the members of their channels."""
        self._announcer = Announcer(broker)
        self.reporter = NodeReporter(self, self.meters, process or ProcessMeasures(), wall_seconds)
        """Reports the numbers of this node, and their past."""
        self._survey_responder = SurveyResponder(
            broker,
            self.uid,
            self.registry,
            lambda: (len(self.connections), len(self.users)),
            ConnectionLister(self.uid, lambda: self.connections.all_connected(), wall_seconds),
            self.reporter.report,
        )
        self.connections: Connections = Connections(
            self,
            self.uid,
            ConnectionOptions(
                protocol=centrifugo,
                namespaces=namespaces,
                credentials=tokens or Tokens({}),
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
            meters=self.meters,
            ticked=self._tick,
        )
        self._lost = LostChannels(
            self.registry,
            lambda channel, live: self.fanout.send_notice(
                channel, partial(state_push, live=live, channel=channel.name)
            ),
            is_live=lambda: self.live,
        )
        self._liveness = Liveness(
            is_compared=lambda name: self.subscriber.has_compared(name) or name in self._lost,
            changed=self._tell_state,
            size=lambda: {"connections": len(self.connections), "channels": len(self.registry)},
        )
        self._node_channel = f"!{self.uid}"  # no client can name this channel
        self.receiver = Receiver(
            self.registry,
            self.fanout,
            {
                self._node_channel: Dispatcher(
                    {
                        CanaryMessage: lambda canary: self.subscriber.watchdog.note_return(
                            canary.number
                        ),
                        ForwardedFrame: lambda message: self.connections.receive_emulated(
                            message.session, message.frame
                        ),
                    }
                ),
                ALL_NODES: Dispatcher(
                    {
                        UserCommand: self.users.hear,
                        Question: self._survey_responder.hear,
                        Announcement: self._announcer.hear,
                    }
                ),
            },
            members_changed=self.presence.hear,
        )
        """Processes the messages of the subscription, and counts invalid ones."""
        self.subscriber: Subscriber = Subscriber(
            broker,
            self._node_channel,
            self.registry,
            self.fanout,
            self._liveness,
            self._lost,
            self.receiver,
            companions=self._companions,
        )
        self.idleness = IdleRule()
        """When to stop, on servers without lifespan events."""

    # ------------------------------------------------------------------ life

    @property
    def is_started(self) -> bool:
        """Whether the hub is subscribed to the broker, or is trying to subscribe."""
        return self.subscriber.is_started

    @property
    def live(self) -> bool:
        """Whether every publication reaches this node, to the best of its knowledge."""
        return self._liveness.live

    @property
    def reason(self) -> str | None:
        """Why the node is not live, without confidential details; None while it is live."""
        return self._liveness.reason

    @property
    def lost_channels(self) -> int:
        """The number of channels that do not arrive although the node is live."""
        return len(self._lost)

    @property
    def lag_seconds(self) -> float:
        """The latest round-trip time through the broker."""
        return self.subscriber.lag_seconds

    @property
    def neighbours(self) -> Neighbours:
        """Other services whose messages reach this node by mistake."""
        return self._announcer.neighbours

    def read_metrics(self) -> Snapshot:
        """Return the metrics of this node; may be called from other threads."""
        limits = dict(self.reached.counts)
        return {
            **self.meters.read(),
            metrics.NODES.name: metrics.one(int(self.is_started)),
            metrics.NODES_LIVE.name: metrics.one(int(self.live)),
            metrics.LOST_CHANNELS.name: metrics.one(self.lost_channels),
            metrics.OUTAGES.name: metrics.one(self._liveness.outages),
            metrics.REDIS_CONNECTIONS.name: metrics.one(self.subscriber.connections),
            metrics.LAG.name: metrics.one(self.lag_seconds),
            metrics.LOOP_LAG.name: metrics.one(self.connections.tick_late_seconds),
            metrics.CONNECTIONS.name: metrics.by_label(dict(self.connections.by_transport)),
            metrics.USERS.name: metrics.one(len(self.users)),
            metrics.MEMBERS.name: metrics.one(self._presence_writer.members),
            metrics.DROPPED.name: metrics.one(self.receiver.dropped_envelopes),
            metrics.LIMITS.name: metrics.by_label(limits),
        }

    def start(self) -> None:
        """Start subscribing at the broker. Returns immediately; `live` tells when it succeeded."""
        if not self.is_started:
            # Without a lifespan, a request starts the hub. Its context has the thread in which
            # asgiref runs the host's sync code, and that ends with the request (Django adapts a
            # sync middleware so): the host could never be asked again.
            Context().run(self._start)

    def _start(self) -> None:
        self.registry.want(self._node_channel, Namespace(), self, do_nothing)
        self.registry.want(ALL_NODES, Namespace(), self, self.users.look_again)
        self.idleness.note_use(asyncio.get_running_loop().time())
        self._liveness.start()
        self.subscriber.start()
        self.users.start()
        self.connections.start()

    def keep_running(self, seconds: float) -> None:
        """Stay started for a time, even if no client comes: something else needs the hub."""
        self.idleness.keep(asyncio.get_running_loop().time() + seconds)

    async def stop(self) -> None:
        """Close all connections with 3001, and end the subscription."""
        self.connections.close_all()
        tasks = self._rest()
        await asyncio.gather(*tasks, return_exceptions=True)
        if tasks:
            await self._presence_writer.aclose()

    async def drain(self, seconds: float) -> None:
        """Close all connections with 3001, spread over at most ``seconds``."""
        await self.connections.drain(seconds)

    def _rest(self) -> list[asyncio.Task[None]]:
        """Cancel all tasks and return them; the next connection starts the hub again."""
        self.connections.stop()
        self.presence.stop()
        self._survey_responder.stop()
        ending = [self.subscriber.stop(), self.users.stop()]
        self._liveness.stop()
        return [task for task in ending if task is not None]

    def _companions(self) -> Iterable[Coroutine[None, None, None]]:
        """Return coroutines for the tasks that run as long as a subscription."""
        return (self._presence_writer.keep(), self.presence.watch(), self._announcer.keep())

    def _tell_state(self) -> None:
        self.reporter.note_state()
        # The state now: the text may be encoded later, behind a backlog.
        self.connections.send_to_all(partial(state_push, live=self.live))
        if self.live:
            self._lost.tell_again()

    def _tick(self, now: float) -> None:
        self._lost.forget_unneeded()
        self._liveness.look()
        self.reporter.tick()
        self.subscriber.renew(now)
        if not self.connections.is_unused:
            self.idleness.note_use(now)
        elif self.idleness.may_stop(now):
            self._rest()


async def _nobody_may(identity: Identity, channel: str, action: str) -> bool:
    """Stand in for the authorizer of a host that has none."""
    return False


async def _no_answer(identity: Identity, method: str, data: object) -> object:
    """Stand in for a host without RPC."""
    return None
