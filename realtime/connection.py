"""What one client may do next, and what follows from what it says.

The machine of one connection: *new → connected*, until somebody does what an `End` says. It decides
command by command, in the order in which they came, as if each had already been done;
`Conversation` carries the decisions out in the same order. No socket, no clock of its own. Who may
do what: docs/protocol.md#permissions.
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
from realtime.tokens import Tokens

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
    limit: str = ""
    """The limit that was reached, if that is why."""


@dataclass(slots=True, eq=False)
class Join:
    """Listen to the channel, then reply with its position."""

    id: int
    channel: str
    namespace: Namespace
    ttl_seconds: int | None = None
    """After which the permission has to be shown anew."""
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
    info: str = ""
    """What others on the channel are shown of it, by the token that let it in."""


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
    size: int
    """Bytes of the data."""


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
        self._channels: dict[str, Join] = {}
        self._strikes = 0
        self.connected = False

    def decide(self, command: Command) -> Decision | None:
        """Return what is to be done about a command, or None where nothing is."""
        match command:
            case Pong():
                return None
            case Connect():
                return self._connect(command)
        if not self.connected:
            # SDKs send their subscribes in the frame of a connect that may be refused for now.
            return self._refuse(command.id, UNAUTHORIZED) if self._is_refused else End(BAD_REQUEST)
        match command:
            case Subscribe():
                return self._subscribe(command)
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
                if command.channel not in self._channels:
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
        is_full = len(self._channels) >= self._channels_limit
        if namespace is None or is_full or channel in self._channels:
            return None
        join = self._channels[channel] = Join(
            0, channel, namespace, is_served=True, hears_joins=_hears_joins(namespace)
        )
        return join

    @property
    def channels(self) -> list[str]:
        """What it listens to, or will."""
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
        if wanted.channel in self._channels:
            self._channels[wanted.channel].since = wanted.position
            return None  # it is served anyway
        command = Subscribe(0, wanted.channel, wanted.token, wanted.join_leave, wanted.position)
        judged = self._judged(command)
        if isinstance(judged, Join):
            judged.is_served = True
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
        if command.channel not in self._channels:
            return self._refuse(command.id, PERMISSION_DENIED)
        now = self._wall_seconds()
        grant = self._granted(command.token, now)
        if isinstance(grant, Refusal):
            return self._refuse(command.id, grant)
        if not self._namespaces.may_subscribe(command.channel, self.identity, grant):
            return self._refuse(command.id, PERMISSION_DENIED)
        ttl = grant.ttl_seconds(now)
        client, version, _ = self._greeting
        text = self._protocol.refreshed(command, client, version, ttl)
        return Renew(command.channel, text, ttl)

    def _subscribe(self, command: Subscribe) -> Decision:
        judged = self._judged(command)
        if isinstance(judged, Join):
            return judged
        limit = "channels_per_connection" if judged is LIMIT_EXCEEDED else ""
        return self._refuse(command.id, judged, limit)

    def _judged(self, command: Subscribe) -> Join | Refusal:
        """Return how the client comes to listen to a channel, or why it does not."""
        if (known := self._channels.get(command.channel)) is not None:
            return self._taken_over(known, command) if known.is_served else ALREADY_SUBSCRIBED
        now = self._wall_seconds()
        grant = self._granted(command.token, now) if command.token else None
        if isinstance(grant, Refusal):
            return grant
        namespace = self._namespaces.get(command.channel)
        allowed = self._namespaces.may_subscribe(command.channel, self.identity, grant)
        is_void = grant is None and self._asks_in_vain(command.channel)
        if is_void:
            namespace, allowed = NO_NAMESPACE, None
        if namespace is None or self._is_forbidden(allowed):
            return PERMISSION_DENIED
        if len(self._channels) >= self._channels_limit:
            return LIMIT_EXCEEDED
        join = self._channels[command.channel] = Join(
            command.id,
            command.channel,
            namespace,
            None if grant is None else grant.ttl_seconds(now),
            must_ask=allowed is None,
            is_void=is_void,
            hears_joins=_hears_joins(namespace, command),
            since=command.position,
            info="" if grant is None else grant.info,
        )
        return join

    def _taken_over(self, served: Join, command: Subscribe) -> Join:
        """The client asks itself for what it is served."""
        join = self._channels[command.channel] = Join(
            command.id,
            command.channel,
            served.namespace,
            hears_joins=_hears_joins(served.namespace, command),
            since=command.position,
        )
        return join

    def _granted(self, token: str, now: float) -> Grant | Refusal:
        """Return what a subscription token is worth."""
        try:
            return self._tokens.grant(token, now)
        except TokenExpired:
            return TOKEN_EXPIRED
        except InvalidToken:
            return PERMISSION_DENIED

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
        subscribed = command.channel in self._channels
        allowed = self._namespaces.may_publish(
            command.channel, self.identity, subscribed=subscribed
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
        # The publication has the data now; while it waits, it should not be here twice.
        said = command._replace(data=b"")
        return Say(said, publication, must_ask=is_void or allowed is None, is_void=is_void)

    def _look(self, command: Presence | PresenceStats) -> Decision:
        join = self._channels.get(command.channel)
        if join is None or not join.namespace.allow_presence_for_subscriber:
            return self._refuse(command.id, PERMISSION_DENIED)
        if not join.namespace.presence:
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
        return Ask(command.id, command.method, data, len(command.data))

    def member_of(self, channel: str) -> Member:
        """Return as whom it is on a channel."""
        info = self._client_info(channel).decode()
        return Member(self.client, self.identity.user, info)

    def _client_info(self, channel: str) -> bytes:
        join = self._channels.get(channel)
        told = "" if join is None else join.info
        return client_info(self.identity.user, self.client, self.identity.info, told)

    def _refuse(self, command_id: int, refusal: Refusal, limit: str = "") -> Reply:
        return Reply(self._protocol.refused(command_id, refusal), limit)


def _hears_joins(namespace: Namespace, command: Subscribe | None = None) -> bool:
    """Tell whether a subscription hears who comes and who goes."""
    wished = command is not None and command.join_leave
    return namespace.join_leave and (wished or namespace.force_push_join_leave)
