"""What a page about all nodes shows when a part of it is missing."""

from __future__ import annotations

from typing import Any

from realtime.brokers import ALL_NODES
from realtime.delivery.hub import Hub
from realtime.wiring import Node, aclose, monitoring, node
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer


async def test_a_redis_that_forbids_info_is_shown_without_numbers(
    own_redis: RedisServer, settings: Any
) -> None:
    with own_redis.client() as client:
        commands = ["+@all", "-info", "-config"]
        client.acl_setuser(
            "web", enabled=True, passwords=["+SECRET"], keys=["*"], channels=["*"],
            commands=commands,
        )  # fmt: skip
    settings.REALTIME_REDIS_URL = f"unix://web:SECRET@{own_redis.socket}"
    try:
        servers = await monitoring.read_servers()
    finally:
        await aclose()
    assert servers is not None
    [facts] = servers
    assert facts.refused == ("INFO", "CONFIG GET")
    assert facts.used_bytes is None
    assert facts.address == "unix socket"


async def test_a_redis_that_is_away_leaves_the_own_node(
    own_redis: RedisServer, settings: Any
) -> None:
    settings.REALTIME_REDIS_URL = own_redis.url
    try:
        hub = node().running_hub()
        await eventually(lambda: hub.live)
        own_redis.kill()
        await eventually(lambda: not hub.live)
        survey = await monitoring.survey_nodes(60)
        assert not survey.is_complete
        [report] = survey.reports
        assert report.facts.uid == hub.uid
        assert not report.facts.live
        assert [change.live for change in report.changes] == [True, False]
        assert await monitoring.read_servers() is None
        assert await monitoring.read_queue() is None
    finally:
        await aclose()


async def test_a_node_without_reports_is_silent(hub: Hub, node: Node) -> None:
    """Nodes of older versions do not know the question."""
    subscription = await node.broker.subscription()
    await subscription.send([ALL_NODES], [])
    try:
        survey = await monitoring.survey_nodes(60)
    finally:
        await subscription.aclose()
    assert [report.facts.uid for report in survey.reports] == [hub.uid]
    assert survey.silent == 1
    assert survey.is_complete
