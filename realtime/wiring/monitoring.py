"""Collects what a page shows that monitors all nodes: their reports, Redis, the fallback queue.

Each part is bounded in time, and one that is away leaves out only itself.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, NamedTuple

from realtime.api.control import read_client_id, read_user
from realtime.core.connection_survey import (
    ConnectionAtNode,
    ConnectionQuery,
    encode_query,
    page_of,
)
from realtime.core.history import KEPT_SECONDS
from realtime.core.node_report import NodeReport, reports_of
from realtime.core.redis_url import MEMORY_URL
from realtime.core.survey import Question
from realtime.errors import BrokerError
from realtime.wiring.configured import settings
from realtime.wiring.nodes import node

if TYPE_CHECKING:
    from realtime.brokers import Stats
    from realtime.core.redis_facts import RedisFacts, ServerDiagnosis

HISTORY_SECONDS = KEPT_SECONDS
"""How much of the past a node keeps."""
SERVERS_SECONDS = 2.0
"""How long the masters of a cluster may take; each has a second."""


class NodeSurvey(NamedTuple):
    """The reports of the nodes."""

    reports: list[NodeReport]
    silent: int
    """Nodes that did not answer in time, or that are of a version which has no reports."""
    is_complete: bool
    """Whether the other nodes could be asked; otherwise there is only the node of this loop."""


async def survey_nodes(seconds: int) -> NodeSurvey:
    """Ask all nodes for their numbers, and for so many seconds of their past.

    A node that is not subscribed to Redis does not hear the question. If that is the node of this
    loop, its report is added here.
    """
    hub = node().running_hub()
    question = Question(secrets.token_hex(8), "metrics", str(seconds))
    try:
        answers, silent = await node().broker.survey(question)
    except BrokerError:
        return NodeSurvey([hub.reporter.report(seconds)], 0, is_complete=False)
    reports = reports_of(answers)
    silent += len(answers) - len(reports)
    if hub.uid not in {report.facts.uid for report in reports}:
        own = hub.reporter.report(seconds)
        if hub.live:  # it has heard the question, and answers too late
            silent = max(0, silent - 1)
        return NodeSurvey([own, *reports], silent, is_complete=hub.live)
    return NodeSurvey(reports, silent, is_complete=True)


class ConnectionSurvey(NamedTuple):
    """Some connections of a user, on all nodes."""

    connections: list[ConnectionAtNode]
    """Sorted by client id."""
    has_more: bool
    silent: int
    """Nodes that did not answer in time, whose connections are missing."""


async def survey_connections(user: str, *, after: str = "", limit: int) -> ConnectionSurvey:
    """Ask all nodes for the connections of a user, and for the channels of each.

    Args:
        user: The id of the user.
        after: The last client id of the previous page.
        limit: At most so many, `realtime.core.connection_survey.PAGE_LIMIT`.

    Raises:
        InvalidData: An id is invalid.
        BrokerError: Redis cannot be reached, so the other nodes cannot be asked.
    """
    given = {"user": user, "after": after}
    query = ConnectionQuery(
        read_user(given), after=read_client_id(given, "after"), limit=limit, names=True
    )
    question = Question(secrets.token_hex(8), "connections", encode_query(query))
    answers, silent = await node().broker.survey(question)
    page = page_of(answers, limit)
    return ConnectionSurvey(page.connections, page.has_more, silent)


async def read_servers() -> list[RedisFacts] | None:
    """Return the state of each Redis; none with ``memory://``, and None if Redis does not answer.

    Of a cluster these are the masters, and one that does not answer is marked.
    """
    try:
        async with asyncio.timeout(SERVERS_SECONDS):
            return await node().broker.read_servers()
    except (BrokerError, TimeoutError):
        return None


async def read_queue() -> Stats | None:
    """Return the state of the fallback queue; None if Redis does not answer."""
    return await node().read_queue()


def heard_channels(namespace: str) -> list[str]:
    """Return the channels of a namespace that somebody listens to on the node of this loop.

    Costs a look at each of the node's channels, if it has one of this namespace.
    """
    hub = node().running_hub()
    if not hub.meters.channels_of(namespace):
        return []
    start = f"{namespace}:"
    return [each.name for each in hub.registry if each.name.startswith(start) and each.listeners]


def send_to_listeners(channel: str, data: str) -> None:
    """Send JSON to those who listen to a channel on the node of this loop, without Redis.

    It is a message, no publication: it has no position, nobody counts it, and those who are behind
    do not get it.
    """
    found = node().running_hub().registry.get(channel)
    for listener in list(found.listeners) if found else ():
        text = listener.writer.protocol.encode_message(data)
        listener.writer.write_ephemeral(text, len(text.encode()))


def diagnose_redis() -> list[ServerDiagnosis]:
    """Examine each Redis of the settings, from outside of an event loop; none with ``memory://``.

    That of the jobs follows, if it is another one; whether it can be reached is all that is asked.

    Raises:
        ConfigurationError: A URL is invalid.
    """
    from realtime.brokers.diagnosis import diagnose_servers  # loads redis-py

    given = settings()
    found = []
    if given.redis_url not in ("", MEMORY_URL):
        found += diagnose_servers(given.redis_url, given.redis_prefix)
    if given.jobs_redis_url not in ("", MEMORY_URL, given.redis_url):
        found += diagnose_servers(given.jobs_redis_url, given.redis_prefix, tries_commands=False)
    return found
