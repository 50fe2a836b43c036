"""Who is on a channel, for a host's code: a view that shows who is here, a task that waits."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from realtime import wiring
from realtime.errors import InvalidData
from realtime.membership import Headcount
from realtime.names import checked_channel
from realtime.shortcuts import refuse_event_loop

AWAIT = "this would block the event loop here: await the function with an a before"


class Present(NamedTuple):
    """One connection on a channel. Several tabs of one user are several."""

    client: str
    """The id of the connection."""
    user: str
    """The id of its user; empty is nobody."""
    info: Any
    """What the site says about the user (`REALTIME_USER_INFO`, the token's ``info``), or None."""


def presence(channel: str) -> list[Present]:
    """Return who is on a channel, over all nodes.

    Args:
        channel: Its name; its namespace has the option ``presence`` or ``join_leave``.

    Raises:
        InvalidName: There can be no such channel.
        InvalidData: Nobody writes down who is on it.
        TooManyMembers: There are more than 10,000: ask `presence_stats`.
        BrokerUnavailable: Nobody knows now.
        SynchronousOnlyOperation: An event loop runs in this thread; await `apresence` there.
    """
    refuse_event_loop(AWAIT)
    return _listed(wiring.sync_broker().members(counted(channel)))


async def apresence(channel: str) -> list[Present]:
    """Do it from async code; everything else as `presence`."""
    return _listed(await wiring.node().broker.presence.members(counted(channel)))


def presence_stats(channel: str) -> Headcount:
    """Return how many connections (``clients``) and different ``users`` are on a channel.

    Arguments and errors as for `presence`, without a limit.
    """
    refuse_event_loop(AWAIT)
    return wiring.sync_broker().headcount(counted(channel))


async def apresence_stats(channel: str) -> Headcount:
    """Do it from async code; everything else as `presence_stats`."""
    [found] = await wiring.node().broker.presence.headcounts([counted(channel)])
    return found


def counted(channel: object) -> str:
    """Return the name of a channel whose members are written down; errors as for `presence`."""
    name = checked_channel(channel)
    if not wiring.namespaces().for_publishing(name).counts_members:
        raise InvalidData("its namespace has neither presence nor join_leave", field="channel")
    return name


def _listed(infos: dict[str, str]) -> list[Present]:
    said = (json.loads(info) for info in infos.values())
    return [Present(each["client"], each["user"], each.get("conn_info")) for each in said]
