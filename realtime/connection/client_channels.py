"""The subscriptions of one client, and its permissions on channels.

A subscription counts from `ClientChannels.start_subscription` to `end_subscription`, so no
permission depends on a pending step (ADR-0022). docs/protocol.md#permissions describes the
permissions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from realtime.connection.decisions import Join
from realtime.core.codes import (
    ALREADY_SUBSCRIBED,
    LIMIT_EXCEEDED,
    NOT_AVAILABLE,
    NOT_SUBSCRIBED,
    PERMISSION_DENIED,
    SUBSCRIPTION_EXPIRED,
    TOKEN_EXPIRED,
    Refusal,
    SubscriptionEnd,
)
from realtime.core.names import users_of
from realtime.core.namespaces import Namespace, Namespaces
from realtime.protocols import SubRefresh, Subscribe, WantedChannel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from realtime.connection.authentication import Authentication
    from realtime.core.identity import Grant
    from realtime.core.positions import Position

NO_NAMESPACE = Namespace()


class ClientChannels:
    """See the module. Belongs to one `realtime.connection.client_state.ClientState`."""

    __slots__ = ("_auth", "_has_authorizer", "_joins", "_limit", "_namespaces")

    def __init__(
        self,
        namespaces: Namespaces,
        auth: Authentication,
        limit: int,
        has_authorizer: bool,
    ) -> None:
        """Start without subscriptions.

        Args:
            namespaces: The permissions of clients.
            auth: The authentication of the client.
            limit: The maximum number of subscriptions.
            has_authorizer: Whether the host decides if no permission rule applies.
        """
        self._namespaces = namespaces
        self._auth = auth
        self._limit = limit
        self._has_authorizer = has_authorizer
        self._joins: dict[str, Join] = {}  # subscriptions, and reserved server-side ones

    @property
    def names(self) -> list[str]:
        """All subscribed channels, and those of pending server-side subscriptions."""
        return list(self._joins)

    def fits_another(self, coming: int = 0) -> bool:
        """Tell whether one more subscription fits the limit, in addition to ``coming`` ones."""
        return len(self._joins) + coming < self._limit

    def is_subscribed(self, channel: str) -> bool:
        """Tell whether the client is subscribed to a channel; a pending join does not count."""
        join = self._joins.get(channel)
        return join is not None and join.is_done

    def info_of(self, channel: str) -> str:
        """Return the info about the client in the grant of a subscription, for other members."""
        join = self._joins.get(channel)
        return "" if join is None or join.grant is None else join.grant.info

    # ------------------------------------------------------------ subscriptions

    def check(self, command: Subscribe, token_grant: Grant | Refusal | None) -> Join | Refusal:
        """Return the join for a subscribe, or the reason for refusing it; changes nothing.

        Args:
            command: The client's command.
            token_grant: The result of verifying the token of the command; its expiry is checked
                here, on every call.
        """
        known = self._joins.get(command.channel)
        if known is not None and known.is_done and not known.is_served:
            return ALREADY_SUBSCRIBED
        if known is not None and self._is_granted(known):
            return self._take_over(known, command)
        if isinstance(token_grant, Refusal):
            return token_grant
        if token_grant is not None and self._auth.has_expired(token_grant):
            return TOKEN_EXPIRED
        namespace = self._namespaces.get(command.channel)
        allowed = self._namespaces.may_subscribe(command.channel, self._auth.identity, token_grant)
        is_refused_anyway = token_grant is None and self.asks_although_refused(command.channel)
        if is_refused_anyway:
            namespace, allowed = NO_NAMESPACE, None
        if namespace is None or self._is_forbidden(allowed):
            why = self._namespaces.why_not_subscribe(
                command.channel, self._auth.identity, token_grant
            )
            return PERMISSION_DENIED._replace(because=why)
        if known is None and not self.fits_another():
            return LIMIT_EXCEEDED
        return Join(
            command.channel,
            namespace,
            token_grant,
            must_ask=allowed is None,
            is_refused_anyway=is_refused_anyway,
            hears_joins=self._hears_joins(command.channel, namespace, command, known),
            since=_since(command, known),
        )

    def serve(self, channel: str) -> Join | None:
        """Return the join for a server-side subscription.

        None if the client is subscribed already or has too many subscriptions, or if the namespace
        does not exist.
        """
        namespace = self._namespaces.get(channel)
        if namespace is None or channel in self._joins or not self.fits_another():
            return None
        join = self._joins[channel] = Join(
            channel, namespace, is_served=True, hears_joins=self._hears_joins(channel, namespace)
        )
        return join

    def serve_all(self) -> list[Join]:
        """Return the joins for all server-side subscriptions that the client has from the start."""
        names = self._namespaces.server_side_channels(self._auth.identity)
        return list(filter(None, map(self.serve, names)))

    def unknown_channels(self) -> Sequence[str]:
        """Return the channels of the client's token that do not exist."""
        named = self._auth.identity.channels
        return [channel for channel in named if self._namespaces.get(channel) is None]

    def subscribe_at_connect(self, wanted: WantedChannel) -> Join | SubscriptionEnd | None:
        """Validate a channel named in a `Connect` with the rules for a `Subscribe`."""
        if (served := self._joins.get(wanted.channel)) is not None:
            served.since = wanted.position
            served.hears_joins = self._hears_joins(wanted.channel, served.namespace, wanted)
            return None  # a server-side subscription exists already
        command = Subscribe(0, wanted.channel, wanted.token, wanted.join_leave, wanted.position)
        judged = self.check(command, self._auth.grant_of(wanted))
        if isinstance(judged, Join):
            judged.is_served = True
            self._joins[wanted.channel] = judged
            return judged
        if judged is TOKEN_EXPIRED:
            return SUBSCRIPTION_EXPIRED
        return SubscriptionEnd(NOT_SUBSCRIBED.code, judged.message, judged.because)

    def start_subscription(self, join: Join) -> int | None:
        """Start a subscription; return the seconds until it expires, if it does.

        Nothing else makes a client subscribed; until then, commands that need it are refused.
        """
        self._joins[join.channel] = join
        join.is_done = True
        return None if join.grant is None else join.grant.ttl_seconds(self._auth.wall_seconds())

    def end_subscription(self, channel: str) -> None:
        """Remove a subscription that has ended."""
        self._joins.pop(channel, None)

    def cancel_join(self, join: Join) -> None:
        """Remove a join that failed."""
        if self._joins.get(join.channel) is join:
            del self._joins[join.channel]

    def why_end(self, join: Join) -> SubscriptionEnd | None:
        """Return the reason to end a server-side join that was allowed before; None to keep it."""
        has_expired = join.grant is not None and self._auth.has_expired(join.grant)
        return SUBSCRIPTION_EXPIRED if has_expired else None

    def renew(self, command: SubRefresh) -> Grant | Refusal:
        """Replace the grant of a subscription and return it, or return why it is refused."""
        join = self._joins.get(command.channel)
        if join is None or not join.is_done:
            return PERMISSION_DENIED
        grant = self._auth.grant_of(command) or PERMISSION_DENIED
        if isinstance(grant, Refusal):
            return grant
        if not self._namespaces.may_subscribe(command.channel, self._auth.identity, grant):
            return PERMISSION_DENIED
        join.grant = grant._replace(info="" if join.grant is None else join.grant.info)
        return grant

    def _take_over(self, served: Join, command: Subscribe) -> Join:
        """Return the join for a subscribe to a served channel: same grant, same expiry."""
        return Join(
            command.channel,
            served.namespace,
            served.grant,
            hears_joins=self._hears_joins(command.channel, served.namespace, command, served),
            since=_since(command, served),
            began=served.began,
        )

    def _is_granted(self, served: Join) -> bool:
        """Tell whether a server-side subscription is permitted: the host may still be asked."""
        return served.is_done or not (served.must_ask or self.why_end(served))

    def _hears_joins(
        self,
        channel: str,
        namespace: Namespace,
        command: Subscribe | WantedChannel | None = None,
        known: Join | None = None,
    ) -> bool:
        """Tell whether a subscription receives joins and leaves.

        A join names a user, as a reply to `presence` does, so a client that requests joins needs
        the presence permission of a subscriber, as in Centrifugo 6 (`OnSubscribe`). With
        `force_push_join_leave`, the operator sends joins and leaves to all subscribers.

        Args:
            channel: The channel of the subscription.
            namespace: The namespace of the channel.
            command: The client's request, if there is one.
            known: The server-side subscription, if there is one; it keeps a request in `Connect`.
        """
        if known is not None and known.hears_joins:
            return True
        if not namespace.join_leave:
            return False
        if namespace.force_push_join_leave:
            return True
        wished = command is not None and command.join_leave
        return wished and self._namespaces.may_see_members(
            channel, self._auth.identity, subscribed=True
        )

    # -------------------------------------------------------- other permissions

    def may_publish(self, channel: str) -> bool | None:
        """Tell whether the client may publish to a channel; None if the host decides."""
        allowed = self._namespaces.may_publish(
            channel, self._auth.identity, subscribed=self.is_subscribed(channel)
        )
        if self.asks_although_refused(channel):
            return None
        return False if self._is_forbidden(allowed) else allowed

    def why_not_query_presence(self, channel: str) -> Refusal | None:
        """Return the refusal of a request for the members of a channel; None if it is permitted."""
        namespace = self._namespaces.get(channel)
        may_look = self._namespaces.may_see_members(
            channel, self._auth.identity, subscribed=self.is_subscribed(channel)
        )
        if namespace is None or not may_look:
            return PERMISSION_DENIED
        return None if namespace.presence else NOT_AVAILABLE

    def asks_although_refused(self, channel: str) -> bool:
        """Tell whether the host must be asked although the channel is refused in any case.

        If the host is asked about channels in configured namespaces, it is also asked about others.
        Otherwise the delay of a refusal would reveal which namespaces exist.
        """
        unknown = self._namespaces.get(channel) is None and users_of(channel) is None
        return self._has_authorizer and unknown

    def _is_forbidden(self, allowed: bool | None) -> bool:
        """Tell whether an action is refused without asking the host."""
        return allowed is False or (allowed is None and not self._has_authorizer)


def _since(command: Subscribe, known: Join | None) -> Position | None:
    """Return the position that the client sent in the command, or earlier in `Connect`.

    Once the server-side subscription has started, the position in `Connect` no longer applies.
    """
    if command.position is not None or known is None or known.is_done:
        return command.position
    return known.since
