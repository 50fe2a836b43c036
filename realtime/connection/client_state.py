"""The rules and the state of one client: decides what each of its commands does.

The state machine of one connection: *new → connected*, until an `End` is executed. A command is
decided in its turn, never earlier. The module uses no socket and reads no clock. `authentication`
holds the identity of the client, `client_channels` its subscriptions and its permissions.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import TYPE_CHECKING

from realtime.connection.authentication import Authentication
from realtime.connection.client_channels import ClientChannels
from realtime.connection.decisions import (
    CallHost,
    Decision,
    End,
    Greet,
    Join,
    Leave,
    QueryPosition,
    QueryPresence,
    Renew,
    Reply,
    SendPublication,
)
from realtime.core.codes import (
    BAD_COMMAND,
    BAD_REQUEST,
    EXPIRED,
    INVALID_TOKEN,
    NOT_AVAILABLE,
    PERMISSION_DENIED,
    TOKEN_EXPIRED,
    UNAUTHORIZED,
    Refusal,
)
from realtime.core.identity import ANONYMOUS, Grant, Identity
from realtime.core.json_text import decode_json
from realtime.core.members import Member
from realtime.core.publication import Publication, client_info
from realtime.errors import InvalidToken, RequestError, TokenExpired
from realtime.protocols import (
    BadFrame,
    Call,
    Command,
    Connect,
    Credentials,
    History,
    Immediate,
    Ping,
    Pong,
    Presence,
    PresenceStats,
    Publish,
    Refresh,
    SubRefresh,
    Subscribe,
    Subscription,
    Unsubscribe,
    WireProtocol,
)

if TYPE_CHECKING:
    from realtime.core.namespaces import Namespaces

STRIKES = 3  # invalid frames until the connection is closed; a single one may be an accident


class ClientState:
    """The rules for one client, and what they remember of it."""

    __slots__ = (
        "_auth",
        "_emulated_by",
        "_has_rpc",
        "_is_refused",
        "_ping_seconds",
        "_protocol",
        "_sizes",
        "_strikes",
        "_version",
        "channels",
        "client",
        "connected",
    )

    def __init__(
        self,
        protocol: WireProtocol,
        namespaces: Namespaces,
        *,
        client: str,
        version: str,
        ping_seconds: int,
        credentials: Credentials,
        wall_seconds: Callable[[], float],
        channels_limit: int,
        identity: Identity = ANONYMOUS,
        ended_sessions: Container[str] = frozenset(),
        has_authorizer: bool = False,
        has_rpc: bool = False,
        emulated_by: tuple[str, str] | None = None,
    ) -> None:
        """Start as new.

        Args:
            protocol: Encodes the replies.
            namespaces: The permissions of clients.
            client: The id of this connection.
            version: The version of the server.
            ping_seconds: The longest interval between pings.
            credentials: Verifies the client's tokens.
            wall_seconds: Returns the seconds since 1970, the clock of tokens.
            channels_limit: The maximum number of subscriptions.
            identity: The identity established by the transport; a token in `Connect` replaces it.
            ended_sessions: Sessions that ended by a log-out; their tokens are refused.
            has_authorizer: Whether the host decides if no permission rule applies.
            has_rpc: Whether the host answers RPCs.
            emulated_by: The session and the node that an emulated client names in its requests.
        """
        self._protocol = protocol
        self._sizes = namespaces.sizes
        self._version = version
        self._ping_seconds = ping_seconds
        self._has_rpc = has_rpc
        self._emulated_by = emulated_by
        self._auth = Authentication(client, credentials, identity, wall_seconds, ended_sessions)
        self._is_refused = False  # temporarily, because its token has expired
        self._strikes = 0
        self.client = client
        """The id of this connection."""
        self.channels = ClientChannels(namespaces, self._auth, channels_limit, has_authorizer)
        """The subscriptions and permissions of the client."""
        self.connected = False
        """Whether the client has completed its connect command."""

    @property
    def identity(self) -> Identity:
        """The identity of the client."""
        return self._auth.identity

    @property
    def session(self) -> str:
        """The secret of an emulated client's separate requests; empty on other transports."""
        return self._emulated_by[0] if self._emulated_by else ""

    def decide(self, command: Immediate) -> Decision | None:
        """Decide a command; None if it requires no action. `subscribe` decides a subscribe.

        Call this in the command's turn: all earlier commands are done or refused.
        """
        match command:
            case Pong():
                return None
            case Connect():
                return self._connect(command)
        if (premature := self._premature()) is not None:
            return premature if isinstance(premature, End) else self._refuse(command, premature)
        match command:
            case Unsubscribe():
                self.channels.end_subscription(command.channel)
                return Leave(command.channel, self._protocol.encode_empty_reply(command))
            case Publish():
                return self._publish(command)
            case Refresh():
                return self._refresh(command)
            case SubRefresh():
                return self._sub_refresh(command)
            case History():
                if not self.channels.is_subscribed(command.channel):
                    return self._refuse(command, PERMISSION_DENIED)
                return QueryPosition(command)
            case Presence() | PresenceStats():
                return self._query_presence(command)
            case Call():
                return self._call(command)
            case Ping():
                return Reply(self._protocol.encode_empty_reply(command))
        return self._refuse(command, command.refusal)

    def bad_frame(self, error: BadFrame) -> Decision:
        """Decide how to answer a frame that cannot be parsed."""
        self._strikes += 1
        if self._strikes >= STRIKES or not self.connected:
            return End(BAD_REQUEST)
        return self._refuse(None, BAD_COMMAND._replace(message=f"bad request: {error.reason}"))

    def check_subscribe(
        self, command: Subscribe, token_grant: Grant | Refusal | None
    ) -> Join | Refusal | End:
        """Return the join for a subscribe, or the reason for refusing it; changes nothing.

        Args:
            command: The client's command.
            token_grant: The result of `grant_of` for its token. The expiry is checked here, on
                every call.
        """
        return self._premature() or self.channels.check(command, token_grant)

    def grant_of(self, command: Subscription) -> Grant | Refusal | None:
        """Verify the token of a command and return its grant; None if it has no token."""
        return self._auth.grant_of(command) if self.connected else None

    def prolong(self, expire_at: float | None) -> int | None:
        """Set the expiry of the identity on behalf of the server; return the TTL in seconds."""
        return self._auth.prolong(expire_at)

    def member_of(self, channel: str) -> Member:
        """Return the client as a member of a channel."""
        info = self._client_info(channel).decode()
        return Member(self.client, self.identity.user, info)

    def _premature(self) -> Refusal | End | None:
        """Return the answer to a command before a successful `Connect`; None after it."""
        if self.connected:
            return None
        # SDKs send subscribes in the frame of a connect, which may be refused temporarily.
        return UNAUTHORIZED if self._is_refused else End(BAD_REQUEST)

    def _connect(self, command: Connect) -> Decision:
        if self.connected:
            return End(BAD_REQUEST)
        now = self._auth.wall_seconds()
        if command.token:
            try:
                self._auth.identity = self._auth.verify(command.token, now)
            except TokenExpired:
                self._is_refused = True
                return self._refuse(command, TOKEN_EXPIRED)
            except InvalidToken:
                return End(INVALID_TOKEN)
        self.connected = True
        ttl = self.identity.ttl_seconds(now)
        joins = self.channels.serve_all()
        refused = []
        for wanted in command.subs:
            decision = self.channels.subscribe_at_connect(wanted)
            if isinstance(decision, Join):
                joins.append(decision)
            elif decision is not None:
                refused.append((wanted.channel, decision))
        text = self._protocol.encode_connect_reply(
            command, self.client, self._version, self._ping_seconds, ttl, self._emulated_by
        )
        return Greet(text, ttl, tuple(joins), tuple(refused), self.channels.unknown_channels())

    def _refresh(self, command: Refresh) -> Decision:
        now = self._auth.wall_seconds()
        try:
            identity = self._auth.verify(command.token, now)
        except TokenExpired:
            return End(EXPIRED)
        except InvalidToken:
            return End(INVALID_TOKEN)
        if identity.user != self.identity.user:
            return End(INVALID_TOKEN)
        self._auth.identity = identity
        ttl = identity.ttl_seconds(now)
        text = self._protocol.encode_refresh_reply(command, self.client, self._version, ttl)
        return Renew("", text, ttl)

    def _sub_refresh(self, command: SubRefresh) -> Decision:
        grant = self.channels.renew(command)
        if isinstance(grant, Refusal):
            return self._refuse(command, grant)
        ttl = grant.ttl_seconds(self._auth.wall_seconds())
        text = self._protocol.encode_refresh_reply(command, self.client, self._version, ttl)
        return Renew(command.channel, text, ttl)

    def _publish(self, command: Publish) -> Decision:
        allowed = self.channels.may_publish(command.channel)
        if allowed is False:
            return self._refuse(command, PERMISSION_DENIED)
        try:
            publication = Publication.of(
                command.channel,
                decode_json(command.data),
                event=command.event,
                info=self._client_info(command.channel),
                sizes=self._sizes,
                is_decoded=True,
            )
        except RequestError as error:
            return self._refuse(command, BAD_COMMAND._replace(message=str(error)))
        must_ask = allowed is None
        is_refused_anyway = must_ask and self.channels.asks_although_refused(command.channel)
        return SendPublication(
            command, publication, must_ask=must_ask, is_refused_anyway=is_refused_anyway
        )

    def _query_presence(self, command: Presence | PresenceStats) -> Decision:
        refusal = self.channels.why_not_query_presence(command.channel)
        return QueryPresence(command) if refusal is None else self._refuse(command, refusal)

    def _call(self, command: Call) -> Decision | None:
        if not self._has_rpc:
            # 108 as in centrifuge (`handleRPC` without a handler); 104 is for unknown commands.
            return self._refuse(command, NOT_AVAILABLE) if command.wants_answer else None
        try:
            data = decode_json(command.data)
        except RequestError as error:
            return self._refuse(command, BAD_COMMAND._replace(message=str(error)))
        return CallHost(command, data)

    def _client_info(self, channel: str) -> bytes:
        identity = self.identity
        channel_info = self.channels.info_of(channel)
        return client_info(identity.user, self.client, identity.info, channel_info)

    def _refuse(self, command: Command | None, refusal: Refusal) -> Reply:
        return Reply(self._protocol.encode_refusal(command, refusal))
