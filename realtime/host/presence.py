"""The members of a channel, for a host's code, such as a view that shows them."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from realtime import wiring
from realtime.core.members import Headcount
from realtime.core.names import checked_channel
from realtime.core.namespaces import UNCOUNTED
from realtime.errors import InvalidData
from realtime.host.publishing import AWAIT_VARIANT, refuse_event_loop


class Present(NamedTuple):
    """One connection on a channel. A user with several tabs has several connections."""

    client: str
    """The connection's id."""
    user: str
    """The user's id; empty is anonymous."""
    info: Any
    """The site's information about the user (`REALTIME_USER_INFO`, the token's ``info``), or None.
    """


def presence(channel: str) -> list[Present]:
    """Return the members of a channel, over all nodes.

    Args:
        channel: Its name; its namespace must have the option ``presence`` or ``join_leave``.

    Raises:
        InvalidName: The name is invalid, or its namespace is not configured.
        InvalidData: The members of this channel are not recorded.
        TooManyMembers: There are more than 10,000: ask `presence_stats`.
        BrokerUnavailable: The broker cannot be reached at present.
        SynchronousOnlyOperation: An event loop runs in this thread; await `apresence` there.
    """
    refuse_event_loop(AWAIT_VARIANT)
    return _parse_infos(wiring.sync_broker().members(check_counts_members(channel)))


async def apresence(channel: str) -> list[Present]:
    """Like `presence`, for async code."""
    return _parse_infos(await wiring.node().broker.presence.members(check_counts_members(channel)))


def presence_stats(channel: str) -> Headcount:
    """Return the number of connections (``clients``) and distinct ``users`` on a channel.

    Arguments and errors are those of `presence`, without a limit.
    """
    refuse_event_loop(AWAIT_VARIANT)
    return wiring.sync_broker().headcount(check_counts_members(channel))


async def apresence_stats(channel: str) -> Headcount:
    """Like `presence_stats`, for async code."""
    counted = await wiring.node().broker.presence.headcounts([check_counts_members(channel)])
    [found] = counted.values()
    return found


def check_counts_members(channel: object) -> str:
    """Return the name of a channel whose members are recorded; errors are those of `presence`."""
    name = checked_channel(channel)
    if not wiring.namespaces().for_publishing(name).counts_members:
        raise InvalidData(UNCOUNTED, field="channel")
    return name


def _parse_infos(infos: dict[str, str]) -> list[Present]:
    said = (json.loads(info) for info in infos.values())
    return [Present(each["client"], each["user"], each.get("conn_info")) for each in said]
