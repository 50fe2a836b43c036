"""A node that lists its channels or connections can still do everything else."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from realtime.core import connection_survey, survey
from realtime.core.connection_survey import PAGE_LIMIT, ConnectionQuery, page_of
from realtime.core.namespaces import Namespace
from realtime.core.node_report import NodeReport
from realtime.core.survey import SLICE
from realtime.delivery.connection_lister import ConnectionLister
from realtime.delivery.hub import Hub
from realtime.delivery.listeners import Listener
from realtime.delivery.registry import Registry
from realtime.delivery.survey_responder import SurveyResponder
from realtime.wiring import Node

CHANNELS = 20 * SLICE


def no_report(seconds: int) -> NodeReport:
    raise AssertionError


@pytest.fixture
def responder(node: Node) -> SurveyResponder:
    """Answers for a node with many channels, whose names have the maximum length."""
    registry: Registry[Listener] = Registry()
    for number in range(CHANNELS):
        channel = registry.want(f"{number:05d}".ljust(255, "a"), Namespace(), 1, lambda: None)
        channel.listeners[object()] = None  # type: ignore[index]
    lister = ConnectionLister("00", lambda: [], time.time)
    return SurveyResponder(node.broker, "00", registry, lambda: (1, 1), lister, no_report)


async def turns_during(work: asyncio.Task[object]) -> int:
    """Count the turns of the loop that others get until a task has ended."""
    turns = 0
    while not work.done():
        turns += 1
        await asyncio.sleep(0)
    return turns


async def test_a_pattern_stops_the_loop_of_a_node(responder: SurveyResponder) -> None:
    """`*a*a*a*a*b` blocked each node for 0.7 to 3 s; now it may take only a slice of names."""
    work = asyncio.ensure_future(responder._channels("*a" * 127 + "b"))
    assert await turns_during(work) >= CHANNELS // SLICE
    assert work.result() == {}
    info = asyncio.ensure_future(responder._info())
    assert await turns_during(info) >= CHANNELS // SLICE
    assert info.result().num_subs == CHANNELS


async def test_the_number_of_listed_channels_is_limited(
    responder: SurveyResponder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "CHANNELS_LIMIT", 7)
    assert len(await responder._channels("*")) == 8


async def test_connections_are_listed_in_slices(hub: Hub) -> None:
    """Sorting and describing all of them at once would stop the loop of a large node."""
    task = asyncio.current_task()
    assert task is not None

    async def send(message: dict[str, Any]) -> None: ...

    conversations = [hub.connections.attach(send, task) for _ in range(5 * SLICE)]
    for conversation in conversations:
        conversation.receive('{"id":1,"connect":{}}')
    lister = ConnectionLister("00", hub.connections.all_connected, time.time)
    query = ConnectionQuery(limit=PAGE_LIMIT, names=True)
    work = asyncio.ensure_future(lister.answer(query, "web-1"))
    assert await turns_during(work) >= 5 + PAGE_LIMIT // connection_survey.SLICE
    page = page_of([work.result()], PAGE_LIMIT)
    expected = sorted(each.client for each in conversations)
    assert [each.connection.client for each in page.connections] == expected[:PAGE_LIMIT]
    assert page.has_more
    for conversation in conversations:
        conversation.end(None)
