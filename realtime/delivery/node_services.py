"""The interface of a node that its connections use."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from realtime.connection.hostcode import of_host
from realtime.core.identity import Identity
from realtime.core.publication import Publication, Receipt
from realtime.delivery.slow_log import timed_call

if TYPE_CHECKING:
    from realtime.core.limits import LimitCounts, Limits, PublicationBudgets, Subscriptions
    from realtime.delivery.fanout import Fanout
    from realtime.delivery.presence_announcer import PresenceAnnouncer
    from realtime.delivery.subscriber import Subscriber
    from realtime.protocols import WireProtocol

AUTHORIZE_SECONDS = 5.0
"""The timeout for the host's decision."""

PublishFunction = Callable[[Publication], Awaitable[Receipt]]
Authorize = Callable[[Identity, str, str], Awaitable[bool]]
"""Decides whether an identity may "subscribe" to or "publish" on a channel."""
Rpc = Callable[[Identity, str, object], Awaitable[object]]
"""Returns the host's answer to a method and its data; both are JSON values."""


class NodeServices(Protocol):
    """See the module; `realtime.delivery.hub.Hub` implements it."""

    limits: Limits
    reached: LimitCounts
    subscriptions: Subscriptions
    """The budget of new subscriptions, by address."""
    publications: PublicationBudgets
    """The budgets of publications, which connections of an address take over."""
    grace_seconds: int
    fanout: Fanout
    presence: PresenceAnnouncer
    subscriber: Subscriber
    authorize: Authorize
    rpc: Rpc
    publish: PublishFunction

    @property
    def live(self) -> bool:
        """Whether every publication reaches this node."""


def state_push(protocol: WireProtocol, *, live: bool, channel: str = "") -> str:
    """Return the push that tells whether a node, or only a channel, is live."""
    return protocol.encode_state(channel, live=live, reason=None if live else "broker")


async def is_allowed(node: NodeServices, identity: Identity, channel: str, action: str) -> bool:
    """Ask the host whether a client may do something.

    Raises:
        Exception: The host has raised it.
        TimeoutError: The host does not answer in time.
    """
    with timed_call("REALTIME_AUTHORIZER", f"{action} {channel}"):
        async with asyncio.timeout(AUTHORIZE_SECONDS):
            return bool(await of_host(node.authorize(identity, channel, action)))
