"""What one client may do next, and what follows from what it says.

The machine of one connection: *new → connected*, until an `End` is carried out. It is asked about a
command when that command's turn has come, and never before: a subscription counts from `joined` to
`left`, so no permission rests on a step that is still under way (ADR-0022). No socket, no clock of
its own. Who may do what: docs/protocol.md#permissions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from realtime.codes import (
    ALREADY_SUBSCRIBED,
    BAD_COMMAND,
    BAD_REQUEST,
    EXPIRED,
    INVALID_TOKEN,
    LIMIT_EXCEEDED,
    NOT_AVAILABLE,
    NOT_SUBSCRIBED,
    PERMISSION_DENIED,
    SUBSCRIPTION_EXPIRED,
    TOKEN_EXPIRED,
    UNAUTHORIZED,
    Close,
    Refusal,
    SubscriptionEnd,
)
from realtime.errors import InvalidToken, RequestError, TokenExpired
from realtime.gaps import Position
from realtime.identity import ANONYMOUS, Grant, Identity
from realtime.membership import Member
from realtime.names import users_of
from realtime.namespaces import Namespace, Namespaces
from realtime.protocols import (
    BadFrame,
    Call,
    Command,
    Connect,
    History,
    Ping,
    Pong,
    Presence,
    PresenceStats,
    Publish,
    Refresh,
    SubRefresh,
    Subscribe,
    Unsubscribe,
    Wanted,
    WireProtocol,
)
from realtime.publication import Publication, client_info, decoded
from realtime.tokens import LEEWAY_SECONDS, Tokens

NO_NAMESPACE = Namespace()
STRIKES = 3  # unreadable frames until the connection is closed; one may be a mistake


class Greet(NamedTuple):
    """The client has introduced itself: say this, and how things stand."""

    text: str
    ttl_seconds: int | None
    """After which its identity has to be shown anew."""
    joins: Sequence[Join] = ()
    """What it listens to without asking."""
    refused: Sequence[str] = ()
    """Pushes that say what it does not listen to although it asked."""


class Reply(NamedTuple):
    """Say this."""

    text: str


@dataclass(slots=True, eq=False)
class Join:
    """Listen to the channel, then reply with its position; it counts once it is `joined`."""

    id: int
    channel: str
    namespace: Namespace
    grant: Grant | None = None
    """What its token allows, if it came with one."""
    must_ask: bool = False
    """Whether the host's authorizer decides."""
    is_void: bool = False
    """Whether it is refused whatever the host says: there is no such namespace."""
    is_served: bool = False
    """Whether the client is told by a push, whenever it is done, since no reply waits for it."""
    hears_joins: bool = False
    """Whether it is told who comes and who goes."""
    since: Position | None = None
    """Where the client stands; it is told what it missed since."""
    began: Position | None = None
    """Where serving began; a client that takes it over has heard everything after that."""
    is_done: bool = False
    """Whether the client listens. Until then it is only a reserved place, and permits nothing."""


class Renew(NamedTuple):
    """A new token was good: say this; ``channel`` is of a subscription, empty of the connection."""

    channel: str
    text: str
    ttl_seconds: int | None


class Leave(NamedTuple):
    """Stop listening, then say this."""

    channel: str
    text: str


@dataclass(slots=True, eq=False)
class Say:
    """Publish, then reply with what became of it."""

    command: Publish
    publication: Publication
    must_ask: bool = False
    """Whether the host's authorizer decides."""
    is_void: bool = False
    """Whether it is refused whatever the host says: there is no such namespace."""


class Look(NamedTuple):
    """Reply with who is on a channel that the client listens to."""

    id: int
    channel: str
    only_count: bool


class Where(NamedTuple):
    """Reply with where a channel stands that the client listens to."""

    id: int
    channel: str


@dataclass(slots=True, eq=False)
class Ask:
    """Let the host answer, then reply with that; without an id, with nothing."""

    id: int
    method: str
    data: object


class End(NamedTuple):
    """Close the connection."""

    close: Close


Decision = Greet | Reply | Join | Renew | Leave | Say | Look | Where | Ask | End


class Connection:
    """The rules for one client."""

    __slots__ = (
        "_channels",
        "_channels_limit",
        "_emulated_by",
        "_greeting",
        "_has_authorizer",
        "_has_rpc",
        "_is_refused",
        "_namespaces",
        "_protocol",
        "_strikes",
        "_tokens",
        "_wall_seconds",
        "connected",
        "identity",
    )

    def __init__(
        self,
        protocol: WireProtocol,
        namespaces: Namespaces,
        *,
        client: str,
        version: str,
        ping_seconds: int,
        tokens: Tokens,
        wall_seconds: Callable[[], float],
        channels_limit: int,
        identity: Identity = ANONYMOUS,
        has_authorizer: bool = False,
        has_rpc: bool = False,
        emulated_by: tuple[str, str] | None = None,
    ) -> None:
        """Start as new.

        Args:
            protocol: Writes the replies.
            namespaces: Say what is allowed.
            client: The id that this connection is told it has.
            version: Of the server.
            ping_seconds: How often the client will hear a ping at the latest.
            tokens: Say what the tokens that it shows are worth.
            wall_seconds: Tells the seconds since 1970, in which tokens count.
            channels_limit: How many channels it may listen to.
            identity: Whom the transport knows it to be; a token in its `Connect` says it anew.
            has_authorizer: Whether there is somebody to ask where no rule of ours applies.
            has_rpc: Whether the host answers what clients ask it.
            emulated_by: Session and node by which the client speaks beside its stream.
        """
        self._emulated_by = emulated_by
        self._protocol = protocol
        self._namespaces = namespaces
        self._channels_limit = channels_limit
        self._greeting = (client, version, ping_seconds)
        self._tokens = tokens
        self._wall_seconds = wall_seconds
        self.identity = identity
        self._has_authorizer = has_authorizer
        self._has_rpc = has_rpc
        self._is_refused = False  # for now: its token has expired
        self._channels: dict[str, Join] = {}  # subscriptions, and reserved places of served ones
        self._strikes = 0
        self.connected = False

    def decide(self, command: Command) -> Decision | None:
        """Return what is to be done about a command now, or None where nothing is.

        Call it when the turn of the command has come: everything before it is done or refused.
        """
        match command:
            case Pong():
                return None
            case Connect():
                return self._connect(command)
        if (premature := self._premature()) is not None:
            return self._answered(command.id, premature)
        match command:
            case Subscribe():
                return self._answered(
                    command.id, self.subscribe(command, self.grant_of(command.token))
                )
            case Unsubscribe():
                self._channels.pop(command.channel, None)
                return Leave(command.channel, self._protocol.done(command))
            case Publish():
                return self._publish(command)
            case Refresh():
                return self._refresh(command)
            case SubRefresh():
                return self._sub_refresh(command)
            case History():
                if not self._is_subscribed(command.channel):
                    return self._refuse(command.id, PERMISSION_DENIED)
                return Where(command.id, command.channel)
            case Presence() | PresenceStats():
                return self._look(command)
            case Call():
                return self._call(command)
            case Ping():
                return Reply(self._protocol.done(command))
        return self._refuse(command.id, command.refusal)

    def bad_frame(self, error: BadFrame) -> Decision:
        """Return what is to be done about a frame that cannot be read."""
        self._strikes += 1
        if self._strikes >= STRIKES or not self.connected:
            return End(BAD_REQUEST)
        return self._refuse(0, BAD_COMMAND._replace(message=f"bad request: {error.reason}"))

    def serve(self, channel: str) -> Join | None:
        """Return how the client comes to listen to a channel that it did not ask for.

        None where it listens already, listens to too many, or there is no such namespace.
        """
        namespace = self._namespaces.get(channel)
        if namespace is None or channel in self._channels or not self.has_room():
            return None
        join = self._channels[channel] = Join(
            0, channel, namespace, is_served=True, hears_joins=_hears_joins(namespace)
        )
        return join

    def subscribe(self, command: Subscribe, shown: Grant | Refusal | None) -> Join | Refusal | End:
        """Return how the client may listen to a channel now, or why it may not; changes nothing.

        Args:
            command: What the client asks for.
            shown: What its token was found to be by `grant_of`; whether it has expired is judged
                here, as often as this is asked.
        """
        return self._premature() or self._judge(command, shown)

    def _premature(self) -> Refusal | End | None:
        """Return what follows from a command before `Connect` was granted; None after it."""
        if self.connected:
            return None
        # SDKs send their subscribes in the frame of a connect that may be refused for now.
        return UNAUTHORIZED if self._is_refused else End(BAD_REQUEST)

    def _answered(self, command_id: int, judged: Join | Refusal | End) -> Decision:
        return self._refuse(command_id, judged) if isinstance(judged, Refusal) else judged

    def _judge(self, command: Subscribe, shown: Grant | Refusal | None) -> Join | Refusal:
        known = self._channels.get(command.channel)
        if known is not None and known.is_done and not known.is_served:
            return ALREADY_SUBSCRIBED
        if known is not None and self._is_granted(known):
            return self._take_over(known, command)
        if isinstance(shown, Refusal):
            return shown
        if shown is not None and self._has_expired(shown):
            return TOKEN_EXPIRED
        namespace = self._namespaces.get(command.channel)
        allowed = self._namespaces.may_subscribe(command.channel, self.identity, shown)
        is_void = shown is None and self._asks_in_vain(command.channel)
        if is_void:
            namespace, allowed = NO_NAMESPACE, None
        if namespace is None or self._is_forbidden(allowed):
            return PERMISSION_DENIED
        if known is None and not self.has_room():
            return LIMIT_EXCEEDED
        return Join(
            command.id,
            command.channel,
            namespace,
            shown,
            must_ask=allowed is None,
            is_void=is_void,
            hears_joins=_hears_joins(namespace, command, known),
            since=_since(command, known),
        )

    def grant_of(self, token: str) -> Grant | Refusal | None:
        """Verify a subscription token and return what it allows; None where there is none."""
        if not token or not self.connected:
            return None
        try:
            return self._tokens.grant(token, self._wall_seconds())
        except TokenExpired:
            return TOKEN_EXPIRED
        except InvalidToken:
            return PERMISSION_DENIED

    def joined(self, join: Join) -> int | None:
        """Count a subscription from now on; return after how many seconds it expires, if it does.

        The only way to a subscription: whatever needs one is refused until this was called.
        """
        self._channels[join.channel] = join
        join.is_done = True
        return None if join.grant is None else join.grant.ttl_seconds(self._wall_seconds())

    def end_of(self, join: Join) -> SubscriptionEnd | None:
        """Return why a served join that was allowed may not be done any more, if it may not."""
        has_expired = join.grant is not None and self._has_expired(join.grant)
        return SUBSCRIPTION_EXPIRED if has_expired else None

    def has_room(self, coming: int = 0) -> bool:
        """Tell whether the client may listen to one more channel, beside so many that may come."""
        return len(self._channels) + coming < self._channels_limit

    @property
    def channels(self) -> list[str]:
        """What it listens to, and what it will be served."""
        return list(self._channels)

    @property
    def client(self) -> str:
        """The id of this connection."""
        return self._greeting[0]

    @property
    def session(self) -> str:
        """By which the client speaks beside its stream; empty where it speaks in it."""
        return self._emulated_by[0] if self._emulated_by else ""

    def prolong(self, expire_at: float | None) -> int | None:
        """Somebody else than the client says until when its identity is known; return the ttl."""
        self.identity = self.identity._replace(expires_at=expire_at)
        return self.identity.ttl_seconds(self._wall_seconds())

    def left(self, channel: str) -> None:
        """Forget a subscription that has ended without the client's wish."""
        self._channels.pop(channel, None)

    def join_failed(self, join: Join) -> None:
        """Forget a join that could not be done."""
        if self._channels.get(join.channel) is join:
            del self._channels[join.channel]

    def _connect(self, command: Connect) -> Decision:
        if self.connected:
            return End(BAD_REQUEST)
        now = self._wall_seconds()
        if command.token:
            try:
                self.identity = self._tokens.identity(command.token, now)
            except TokenExpired:
                self._is_refused = True
                return self._refuse(command.id, TOKEN_EXPIRED)
            except InvalidToken:
                return End(INVALID_TOKEN)
        self.connected = True
        ttl = self.identity.ttl_seconds(now)
        served = list(filter(None, map(self.serve, self._namespaces.served(self.identity))))
        refused = []
        for wanted in command.subs:
            decision = self._wanted(wanted)
            if isinstance(decision, Join):
                served.append(decision)
            elif decision is not None:
                refused.append(self._protocol.unsubscribed(wanted.channel, decision))
        text = self._protocol.connected(command.id, *self._greeting, ttl, self._emulated_by)
        return Greet(text, ttl, tuple(served), tuple(refused))

    def _wanted(self, wanted: Wanted) -> Join | SubscriptionEnd | None:
        """Judge a channel that a `Connect` names as a `Subscribe` is judged."""
        if (served := self._channels.get(wanted.channel)) is not None:
            served.since = wanted.position
            served.hears_joins = _hears_joins(served.namespace, wanted)
            return None  # it is served anyway
        command = Subscribe(0, wanted.channel, wanted.token, wanted.join_leave, wanted.position)
        judged = self._judge(command, self.grant_of(wanted.token))
        if isinstance(judged, Join):
            judged.is_served = True
            self._channels[wanted.channel] = judged
            return judged
        if judged is TOKEN_EXPIRED:
            return SUBSCRIPTION_EXPIRED
        return SubscriptionEnd(NOT_SUBSCRIBED.code, judged.message)

    def _refresh(self, command: Refresh) -> Decision:
        now = self._wall_seconds()
        try:
            identity = self._tokens.identity(command.token, now)
        except TokenExpired:
            return End(EXPIRED)
        except InvalidToken:
            return End(INVALID_TOKEN)
        if identity.user != self.identity.user:
            return End(INVALID_TOKEN)
        self.identity = identity
        ttl = identity.ttl_seconds(now)
        client, version, _ = self._greeting
        return Renew("", self._protocol.refreshed(command, client, version, ttl), ttl)

    def _sub_refresh(self, command: SubRefresh) -> Decision:
        join = self._channels.get(command.channel)
        if join is None or not join.is_done:
            return self._refuse(command.id, PERMISSION_DENIED)
        grant = self.grant_of(command.token) or PERMISSION_DENIED
        if isinstance(grant, Refusal):
            return self._refuse(command.id, grant)
        if not self._namespaces.may_subscribe(command.channel, self.identity, grant):
            return self._refuse(command.id, PERMISSION_DENIED)
        join.grant = grant._replace(info="" if join.grant is None else join.grant.info)
        ttl = grant.ttl_seconds(self._wall_seconds())
        client, version, _ = self._greeting
        text = self._protocol.refreshed(command, client, version, ttl)
        return Renew(command.channel, text, ttl)

    def _take_over(self, served: Join, command: Subscribe) -> Join:
        """The client asks itself for what it is served: with the same grant, and no longer."""
        return Join(
            command.id,
            command.channel,
            served.namespace,
            served.grant,
            hears_joins=_hears_joins(served.namespace, command, served),
            since=_since(command, served),
            began=served.began,
        )

    def _is_granted(self, served: Join) -> bool:
        """Tell whether a served channel is permitted by now: the host may still have to decide."""
        return served.is_done or not (served.must_ask or self.end_of(served))

    def _is_subscribed(self, channel: str) -> bool:
        """Tell whether the client listens to a channel now, and not only soon."""
        join = self._channels.get(channel)
        return join is not None and join.is_done

    def _has_expired(self, grant: Grant) -> bool:
        expires_at = grant.expires_at
        return expires_at is not None and self._wall_seconds() > expires_at + LEEWAY_SECONDS

    def _is_forbidden(self, allowed: bool | None) -> bool:
        """Tell whether the answer is no, without asking anybody."""
        return allowed is False or (allowed is None and not self._has_authorizer)

    def _asks_in_vain(self, channel: str) -> bool:
        """Tell whether the host is asked although nothing can come of it.

        Where it would be asked about a channel that exists, it is asked about one that does not, or
        the time of the refusal would tell which namespaces there are.
        """
        unknown = self._namespaces.get(channel) is None and users_of(channel) is None
        return self._has_authorizer and unknown

    def _publish(self, command: Publish) -> Decision:
        allowed = self._namespaces.may_publish(
            command.channel, self.identity, subscribed=self._is_subscribed(command.channel)
        )
        is_void = self._asks_in_vain(command.channel)
        if self._is_forbidden(None if is_void else allowed):
            return self._refuse(command.id, PERMISSION_DENIED)
        try:
            publication = Publication.of(
                command.channel,
                decoded(command.data),
                info=self._client_info(command.channel),
                sizes=self._namespaces.sizes,
            )
        except RequestError as error:
            return self._refuse(command.id, BAD_COMMAND._replace(message=str(error)))
        return Say(command, publication, must_ask=is_void or allowed is None, is_void=is_void)

    def _look(self, command: Presence | PresenceStats) -> Decision:
        namespace = self._namespaces.get(command.channel)
        may_look = self._namespaces.may_see_members(
            command.channel, self.identity, subscribed=self._is_subscribed(command.channel)
        )
        if namespace is None or not may_look:
            return self._refuse(command.id, PERMISSION_DENIED)
        if not namespace.presence:
            return self._refuse(command.id, NOT_AVAILABLE)
        return Look(command.id, command.channel, isinstance(command, PresenceStats))

    def _call(self, command: Call) -> Decision | None:
        if not self._has_rpc:
            # 108 as in centrifuge (`handleRPC` without a handler); 104 is for unknown commands.
            return self._refuse(command.id, NOT_AVAILABLE) if command.id else None
        try:
            data = decoded(command.data)
        except RequestError as error:
            return self._refuse(command.id, BAD_COMMAND._replace(message=str(error)))
        return Ask(command.id, command.method, data)

    def member_of(self, channel: str) -> Member:
        """Return as whom it is on a channel."""
        info = self._client_info(channel).decode()
        return Member(self.client, self.identity.user, info)

    def _client_info(self, channel: str) -> bytes:
        join = self._channels.get(channel)
        told = "" if join is None or join.grant is None else join.grant.info
        return client_info(self.identity.user, self.client, self.identity.info, told)

    def _refuse(self, command_id: int, refusal: Refusal) -> Reply:
        return Reply(self._protocol.refused(command_id, refusal))


def _hears_joins(
    namespace: Namespace, command: Subscribe | Wanted | None = None, known: Join | None = None
) -> bool:
    """Tell whether a subscription hears who comes and who goes.

    Args:
        namespace: Of the channel.
        command: What the client asks for, if it asks.
        known: What the client is served, or will be; a wish in `Connect` counts here, too.
    """
    if known is not None and known.hears_joins:
        return True
    wished = command is not None and command.join_leave
    return namespace.join_leave and (wished or namespace.force_push_join_leave)


def _since(command: Subscribe, known: Join | None) -> Position | None:
    """Return where the client stands by its own word, here or before in `Connect`.

    What it said in `Connect` has been answered when serving has begun.
    """
    if command.position is not None or known is None or known.is_done:
        return command.position
    return known.since
