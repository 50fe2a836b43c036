"""The decisions about one client: the results of checking its commands, made by `client_state`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from realtime.core.codes import Close, SubscriptionEnd
    from realtime.core.identity import Grant
    from realtime.core.namespaces import Namespace
    from realtime.core.positions import Position
    from realtime.core.publication import Publication
    from realtime.protocols import Call, History, Presence, PresenceStats, Publish


class Greet(NamedTuple):
    """Accept the connection: send the text and the state of the node."""

    text: str
    ttl_seconds: int | None
    """Seconds until the client's identity must be renewed."""
    joins: Sequence[Join] = ()
    """Subscriptions that start without a subscribe command."""
    refused: Sequence[tuple[str, SubscriptionEnd]] = ()
    """Requested subscriptions that were refused: the channel, and why."""
    unserved: Sequence[str] = ()
    """Channels of the client's token that do not exist."""


class Reply(NamedTuple):
    """Send the text."""

    text: str


@dataclass(slots=True, eq=False)
class Join:
    """Subscribe to the channel, then reply with its position.

    Takes effect with `realtime.connection.client_channels.ClientChannels.start_subscription`.
    """

    channel: str
    namespace: Namespace
    grant: Grant | None = None
    """The permission granted by its token, if it has one."""
    must_ask: bool = False
    """Whether the host's authorizer decides."""
    is_refused_anyway: bool = False
    """Whether it is refused regardless of the host's answer: the namespace does not exist."""
    is_served: bool = False
    """Whether it is server-side: the client is informed by a push instead of a reply."""
    hears_joins: bool = False
    """Whether the client receives joins and leaves."""
    since: Position | None = None
    """The client's own position; gaps since then are reported."""
    began: Position | None = None
    """The start of a server-side subscription; the client receives everything after it."""
    is_done: bool = False
    """Whether the client is subscribed. Until then it only holds a slot and permits nothing."""


class Renew(NamedTuple):
    """Send the text: a new token renews the subscription, or without a channel the connection."""

    channel: str
    text: str
    ttl_seconds: int | None


class Leave(NamedTuple):
    """Unsubscribe, then send the text."""

    channel: str
    text: str


@dataclass(slots=True, eq=False)
class SendPublication:
    """Publish, then reply with the outcome."""

    command: Publish
    publication: Publication
    must_ask: bool = False
    """Whether the host's authorizer decides."""
    is_refused_anyway: bool = False
    """Whether it is refused regardless of the host's answer: the namespace does not exist."""


class QueryPresence(NamedTuple):
    """Reply with the members of a channel, or their number."""

    command: Presence | PresenceStats


class QueryPosition(NamedTuple):
    """Reply with the position of a channel that the client is subscribed to."""

    command: History


@dataclass(slots=True, eq=False)
class CallHost:
    """Ask the host, then reply with its answer if the client wants one."""

    command: Call
    data: object


class End(NamedTuple):
    """Close the connection."""

    close: Close


Decision = (
    Greet | Reply | Renew | Leave | SendPublication | QueryPresence | QueryPosition | CallHost | End
)
