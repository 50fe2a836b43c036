"""What a connection knows of the node that it belongs to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from realtime.fanout import Fanout
from realtime.hostcode import of_host
from realtime.identity import Identity
from realtime.limits import Limits, Reached, Subscriptions
from realtime.publication import Publication, Receipt
from realtime.roster import Roster
from realtime.subscriber import Subscriber

AUTHORIZE_SECONDS = 5.0
"""How long the host may take to decide."""

Publish = Callable[[Publication], Awaitable[Receipt]]
Authorize = Callable[[Identity, str, str], Awaitable[bool]]
"""Whether somebody may "subscribe" or "publish" on a channel."""
Rpc = Callable[[Identity, str, object], Awaitable[object]]
"""What the host answers to a method and its data, any JSON values."""


class Node(Protocol):
    """See the module; `realtime.hub.Hub` is one."""

    limits: Limits
    reached: Reached
    subscriptions: Subscriptions
    """New ones, by address."""
    grace_seconds: int
    fanout: Fanout
    roster: Roster
    subscriber: Subscriber
    authorize: Authorize
    rpc: Rpc
    publish: Publish

    @property
    def live(self) -> bool:
        """Whether everything that is published reaches this node."""

    def admits(self, user: str) -> bool:
        """Tell whether there is room for one more connection of this user."""


async def is_allowed(node: Node, identity: Identity, channel: str, action: str) -> bool:
    """Ask the host whether a client may do something.

    Raises:
        Exception: Whatever the host raises.
        TimeoutError: It takes too long.
    """
    async with asyncio.timeout(AUTHORIZE_SECONDS):
        return bool(await of_host(node.authorize(identity, channel, action)))
