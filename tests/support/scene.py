"""What the fault tests break: a Redis, the connection to it, one or more nodes, and their load.

In the size that fits `make test`; `make test-faults` has 500 clients and 500 publications a second,
and breaks each thing more often (NOTIFIER_FAULTS=full).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.support.fault_proxy import FaultProxy
from tests.support.ledger import Summary, Told
from tests.support.listener import Listener
from tests.support.load import Load
from tests.support.redis_server import RedisServer
from tests.support.scrape import scrape
from tests.support.service import DEPLOYED, Service

FULL = os.environ.get("NOTIFIER_FAULTS") == "full"
SIZE: dict[str, Any] = (
    {"clients": 500, "per_second": 500, "channels": 50}
    if FULL
    else {"clients": 60, "per_second": 120, "channels": 12}
)
TIMES = 20 if FULL else 1
SOMETIMES = 5 if FULL else 1
"""How often to repeat faults that take long."""
PAUSE_SECONDS = 0.5  # between two faults
SENTENCES = 20
LINES_PER_FAULT = 12
"""Maximum log lines per fault: a few changes of state, whatever the number of clients."""

METRICS_KEY = "key-of-the-scraper"
DEPLOYMENT = {"server": DEPLOYED, "NOTIFIER_METRICS_KEY": METRICS_KEY}

Serve = Callable[..., Service]
Account = Callable[[int, Summary], None]
Ask = Callable[..., Awaitable[object]]


@dataclass
class Scene:
    """See the module docstring."""

    redis: RedisServer
    road: FaultProxy
    nodes: list[Service]
    load: Load
    may_close: set[int] = field(default_factory=set)
    """Close codes that this test expects its clients to see."""

    @asynccontextmanager
    async def inside(self) -> AsyncIterator[Ask]:
        """Bypass the proxy to Redis, on one connection that is opened before the fault."""
        with self.redis.client() as client:
            await asyncio.to_thread(client.ping)
            yield lambda *command: asyncio.to_thread(client.execute_command, *command)

    async def ask(self, *command: object) -> None:
        """Send Redis one command."""
        async with self.inside() as ask:
            await ask(*command)

    async def again_and_again(self, break_it: Break, times: int = TIMES) -> None:
        """Break it, wait until every client is live again, and let the load run for a moment."""
        for _ in range(times):
            await break_it(self)
            await self.load.recovered()
            await self.load.run(PAUSE_SECONDS)

    def check_metrics(self) -> None:
        """Compare the metrics of the nodes with what the clients have received and were told.

        Only if no client was ever disconnected, and no node restarted: what was on its way then is
        in no number.
        """
        if self.may_close or any(each.ended for each in self.load.listeners):
            return
        scraped = [
            scrape(f"{node.http}/metrics", headers={"Authorization": f"Bearer {METRICS_KEY}"})
            for node in self.nodes
        ]

        def total(name: str, **labels: str) -> float:
            return sum(each.value(name, namespace="public", **labels) for each in scraped)

        told, slow = self.load.ledger.summary(), "realtime_missed_publications_total"
        delivered = total("realtime_deliveries_total") - total(slow, reason="slow")
        assert delivered == told.received
        missed = total("realtime_missed_publications_total")
        open_gaps = total("realtime_gaps_total", end="open")
        if told.open_gaps:
            # A client leaves out what an open gap covers already, when its epoch comes back.
            assert missed >= told.announced
            assert open_gaps >= told.open_gaps
        else:
            assert missed == told.announced
            assert not open_gaps

    def check_logs(self, faults: int) -> None:
        """Check that no exception was logged, and that lines are per node, not per client."""
        for node in self.nodes:
            log = node.log
            for sign in ("Traceback", "never awaited", "never retrieved", "was destroyed"):
                assert sign not in log, log
            assert len(log.splitlines()) <= LINES_PER_FAULT * (faults + 1), log


Break = Callable[[Scene], Awaitable[None]]


def told_nothing(listeners: Sequence[Listener]) -> None:
    """Check that these clients received nothing but publications since they connected."""
    for listener in listeners:
        assert listener.journal is not None
        told = [entry for entry in listener.journal.entries if isinstance(entry, Told)]
        assert not told, f"{listener.name} was told of {told[:3]}"
        assert not listener.ended, f"{listener.name} was disconnected: {listener.ended}"
        assert [live for _, live in listener.states] == [True]


@asynccontextmanager
async def scene_of(
    redis: RedisServer,
    serve: Serve,
    account: Account,
    *,
    nodes: int = 1,
    posted_to: slice = slice(None),
    runs: int = TIMES,
    how: Mapping[str, str] | None = None,
    url: str = "",
    **size: Any,
) -> AsyncIterator[Scene]:
    """Put load on nodes; after the test, check the ledger.

    Args:
        redis: The nodes' Redis, to be broken.
        serve: Starts a node.
        account: Receives the ledger's totals.
        nodes: The number of nodes.
        posted_to: The nodes that publishers use.
        runs: How often the test breaks something.
        how: Options of the nodes that differ from a deployment.
        url: The nodes' URL for Redis; usually that of a proxy.
        size: Differences from `SIZE`.
    """
    start = partial(serve, **(how or DEPLOYMENT))
    async with AsyncExitStack() as stack:
        road = await stack.enter_async_context(FaultProxy(redis.socket))
        url = url or f"redis://127.0.0.1:{road.port}"
        services = await asyncio.gather(*(asyncio.to_thread(start, url) for _ in range(nodes)))
        load = Load(services, posted_to=services[posted_to], **{**SIZE, **size})
        await stack.enter_async_context(load)
        await load.run(PAUSE_SECONDS)
        scene = Scene(redis, road, services, load)
        yield scene
        await load.balance()
        account(runs, load.ledger.summary())
        verdict = load.verdict()
        assert not verdict, "\n".join(verdict[:SENTENCES])
        unexpected = {code for each in load.listeners for _, code in each.ended} - scene.may_close
        assert not unexpected, f"clients were disconnected: {unexpected}"
        scene.check_logs(runs)
        if how is None:
            await asyncio.to_thread(scene.check_metrics)
        for node in services:
            if node.server == DEPLOYED:
                node.drop()
