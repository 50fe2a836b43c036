"""The lifecycle of a node: the parts that belong to one event loop.

A node is one broker, one publisher and one hub. It is created once per running loop; the server's
lifespan starts and closes it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import msgspec
from django.conf import settings as django_settings

from realtime.auth.sessions import entitlement_check
from realtime.brokers.publisher import Publisher
from realtime.core import metrics
from realtime.core.node_commands import BlockUser, NodeCommand, encode_command
from realtime.core.tally import Tally
from realtime.delivery.hub import Hub
from realtime.delivery.node_reporter import ProcessMeasures
from realtime.errors import BrokerError
from realtime.wiring import brokers, interception, metering, parts, tracing
from realtime.wiring.configured import settings
from realtime.wiring.request_limits import limits

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from realtime.brokers import Broker, Stats
    from realtime.core.metrics import Snapshot
    from realtime.core.positions import Position
    from realtime.core.publication import Publication, Receipt
    from realtime.errors import RealtimeError

logger = logging.getLogger(__name__)

REST_SECONDS = 5.0  # without a lifespan, a hub outlives its last connection by this long
PROBED_SECONDS = 330.0
"""How long it outlives a probe: load balancers probe every 5 to 300 s (AWS ELB), Kubernetes 10."""
_no_lifespan = Tally()
_encode = msgspec.json.Encoder().encode
QUEUE_SECONDS = 5.0
"""How old the metrics of the fallback queue may be; on a cluster they take 64 questions."""
QUEUE_ANSWER_SECONDS = 0.5
"""How long Redis may take to answer about the queue; nodes have a second."""


class Node:
    """The parts of one event loop. The hub does nothing until it is started."""

    def __init__(self) -> None:
        self.published = metering.LockedMeter()
        """Counts what this loop publishes."""
        self._queue: Snapshot = {}
        self._queue_due = 0.0

    @cached_property
    def broker(self) -> Broker:
        """The broker, shared by publisher and hub."""
        return brokers.async_broker()

    @cached_property
    def publisher(self) -> Publisher:
        """The publishing side for clients."""
        return Publisher(parts.namespaces(), partial(self.publish, method=metering.CLIENT))

    @cached_property
    def hub(self) -> Hub:
        """The delivering side."""
        return Hub(
            self.broker,
            parts.namespaces(),
            self.publisher.publish,
            limits=limits(),
            outbox_bytes=settings().outbox_bytes,
            window_bytes=settings().window_bytes,
            ping_seconds=settings().ping_seconds,
            tokens=parts.tokens(),
            grace_seconds=settings().token_grace_seconds,
            authorize=parts.authorizer(),
            entitled=entitlement_check(parts.user_table()),
            rpc=parts.rpc(),
            process=ProcessMeasures(self._read_process, self._count_published),
        )

    def _read_process(self) -> Snapshot:
        """Return the metrics beside those of the hub, for a report to other nodes."""
        return metrics.add_up([metering.read_process(), self.published.read()])

    def _count_published(self) -> int:
        return metering.of_threads.count_published() + self.published.count_published()

    async def publish(self, publication: Publication, method: str) -> Receipt:
        """Publish, and count the outcome; errors as for `realtime.brokers.Broker.publish`."""
        began = time.perf_counter()
        try:
            if (spans := tracing.spans()) is not None:
                receipt = await spans.publish(publication, self.broker.publish)
            else:
                receipt = await self.broker.publish(tracing.stamp(publication))
        except BaseException as error:  # the client has gone, too: its outcome is unknown
            self.published.note(method, (publication,), (error,), time.perf_counter() - began)
            raise
        self.published.note_receipt(method, publication, receipt, time.perf_counter() - began)
        return receipt

    async def publish_many(
        self, publications: Sequence[Publication], method: str
    ) -> list[Receipt | RealtimeError]:
        """Publish, and count the outcomes; see `realtime.brokers.Broker.publish_many`."""
        with metering.Measured(self.published, method, publications) as measured:
            if (spans := tracing.spans()) is not None:
                outcomes = await spans.publish_many(publications, self.broker.publish_many)
            else:
                outcomes = await self.broker.publish_many(tracing.stamp_all(publications))
            measured.outcomes = outcomes
        return outcomes

    def running_hub(self) -> Hub:
        """Return the hub, started; without a lifespan it stops when no client is connected."""
        hub = self.hub
        if not hub.is_started:
            hub.idleness.rest_after_seconds = REST_SECONDS
            hub.start()
            _tell_of_lifespan()
        return hub

    def probed_hub(self) -> Hub:
        """Return the hub, started, and let it run until the next probe, with or without clients.

        Otherwise a node without a lifespan would never be ready: each probe would restart it.
        """
        hub = self.running_hub()
        hub.keep_running(PROBED_SECONDS)
        return hub

    def read_metrics(self) -> Snapshot:
        """Return the metrics of this loop; may be called from other threads."""
        hub = self.hub.read_metrics() if "hub" in self.__dict__ else {}
        return metrics.add_up([self.published.read(), hub])

    async def read_queue_metrics(self) -> Snapshot:
        """Return the metrics of the fallback queue; nothing if Redis does not answer."""
        if (now := time.monotonic()) >= self._queue_due:
            self._queue_due = now + QUEUE_SECONDS
            stats = await self.read_queue()
            self._queue = {} if stats is None else metering.read_queue(stats)
        return self._queue

    async def read_queue(self) -> Stats | None:
        """Return the state of the fallback queue; None if Redis does not answer in time."""
        with suppress(BrokerError, TimeoutError):
            async with asyncio.timeout(QUEUE_ANSWER_SECONDS):
                return await self.broker.queue_stats()
        return None

    async def aclose(self) -> None:
        """Close everything."""
        if "hub" in self.__dict__:
            await self.hub.stop()
        if "broker" in self.__dict__:
            await self.broker.aclose()


def _tell_of_lifespan() -> None:
    if django_settings.DEBUG:  # Daphne's runserver has no lifespan
        return
    if _no_lifespan.add("lifespan", time.monotonic()) is not None:
        logger.warning(
            "no lifespan event: this node starts with its first client or probe; "
            'route "lifespan" in asgi.py (Daphne does not support it)'
        )


_nodes: WeakKeyDictionary[asyncio.AbstractEventLoop, Node] = WeakKeyDictionary()
_ended: Snapshot = {}
"""What nodes have counted whose loops have ended."""
_changing = threading.Lock()
"""Held while `_nodes` changes: threads have loops of their own."""


def node() -> Node:
    """Return the node of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _nodes.get(loop)  # one look-up: a weak dictionary is slow, and each publish asks
    if found is None:
        with _changing:  # another thread may have a new loop, too
            _forget_ended_loops()
            found = _nodes[loop] = Node()
    return found


def _forget_ended_loops() -> None:
    """Drop the nodes of closed event loops, which can no longer be closed themselves.

    A node's connections refer to its loop, so the weak reference alone would keep both forever;
    under WSGI, `async_to_sync` creates a loop for each call.
    """
    for loop in list(_nodes):
        if loop.is_closed():
            _keep_counts(_nodes.pop(loop, None))


def _keep_counts(ended: Node | None) -> None:
    """Keep what a node has counted: the counters of a process must not fall."""
    if ended is not None:
        _ended.update(metrics.add_up([_ended, metrics.without_gauges(ended.read_metrics())]))


async def aclose() -> None:
    """Close the node of the running event loop."""
    with _changing:
        ending = _nodes.pop(asyncio.get_running_loop(), None)
        _keep_counts(ending)
    if ending is not None:
        await ending.aclose()


def limit_reached(name: str) -> None:
    """Count a server limit that was reached, on the node of the running event loop."""
    node().hub.reached.count(name)


async def drain(seconds: float) -> None:
    """Close all connections of the running event loop, spread over up to ``seconds``."""
    ending = _nodes.get(asyncio.get_running_loop())
    if ending is not None and "hub" in ending.__dict__:
        await ending.hub.drain(seconds)


def publish(
    publication: Publication, method: str = metering.PYTHON
) -> Coroutine[Any, Any, Receipt]:
    """Publish, unless a test intercepts; errors as for `realtime.brokers.Broker.publish`.

    Args:
        publication: What to publish.
        method: How it came, for the metrics: one of those in `metering`.
    """
    if (test := interception.current) is None:
        return node().publish(publication, method)
    return _intercept(test, publication)


async def _intercept(test: interception.Interceptor, publication: Publication) -> Receipt:
    return brokers.only(test.publish([publication]))


async def publish_many(
    publications: Sequence[Publication], method: str = metering.PYTHON
) -> list[Receipt | RealtimeError]:
    """Publish, unless a test intercepts; see `realtime.brokers.Broker.publish_many`."""
    if (test := interception.current) is not None:
        return test.publish(publications)
    return await node().publish_many(publications, method)


async def read_positions(channels: Sequence[str]) -> list[Position | BrokerError]:
    """Read positions, unless a test intercepts; see `realtime.brokers.Broker.positions`."""
    if (test := interception.current) is not None:
        return test.positions(channels)
    return await node().broker.positions(channels)


def read_metrics() -> Snapshot:
    """Return the metrics of this process: of its nodes, and of what belongs to none."""
    with _changing:
        running = [each.read_metrics() for each in _nodes.values()]
        return metrics.add_up([metering.read_process(), _ended, *running])


async def read_metrics_and_queue() -> Snapshot:
    """Return the metrics of this process and of the fallback queue."""
    return metrics.add_up([read_metrics(), await node().read_queue_metrics()])


async def send_node_command(command: NodeCommand) -> None:
    """Send all nodes a command about connections that any of them may have.

    A block is also kept for nodes that start later.

    Raises:
        TooManyBlocks: It is a block, and there are too many.
        BrokerUnavailable: It was certainly not sent.
        OutcomeUnknown: It may have been sent.
    """
    broker, raw = node().broker, _encode(encode_command(command))
    if isinstance(command, BlockUser):
        await broker.blocks.change(command.user, command.until, raw)
    else:
        await broker.send_node_command(raw)


def send_node_command_sync(command: NodeCommand) -> None:
    """Like `send_node_command`, for threads."""
    broker, raw = brokers.sync_broker(), _encode(encode_command(command))
    if isinstance(command, BlockUser):
        broker.change_block(command.user, command.until, raw)
    else:
        broker.send_node_command(raw)
