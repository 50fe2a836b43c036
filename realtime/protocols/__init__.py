"""The contract of a wire protocol, and the commands of clients independent of their encoding.

A protocol module parses the text of a frame into commands, and encodes replies and pushes as text.
The commands are defined here, so the rules of a connection never see bytes. A new protocol is
finished when `tests/contract/test_wire_protocol.py` passes with it.

* `centrifugo`: The protocol of the stock SDKs; encodes replies and pushes.
* `centrifugo_commands`: Parses its commands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from realtime.core.codes import Close, Refusal, SubscriptionEnd
    from realtime.core.identity import Grant, Identity
    from realtime.core.members import Headcount
    from realtime.core.positions import Gap, Position

JOINED_FRAME_BYTES = 64 * 1024
"""The size limit for texts joined to one frame. Stock clients never accept more than 1 MiB."""


class Connect(NamedTuple):
    """The first command of a client: it identifies itself."""

    id: int
    token: str = ""
    """The connection token; empty if the client is anonymous or identified by the transport."""
    subs: tuple[WantedChannel, ...] = ()
    """Channels to subscribe to without a `Subscribe` for each."""


class WantedChannel(NamedTuple):
    """A channel that is named in a `Connect`."""

    channel: str
    token: str = ""
    """The subscription token; empty if there is none."""
    join_leave: bool = False
    """Whether the client requests joins and leaves."""
    position: Position | None = None
    """The client's last position, if it has one; gaps since then are reported."""


class Subscribe(NamedTuple):
    """The client requests the publications of a channel from now on."""

    id: int
    channel: str
    token: str = ""
    """The subscription token; empty if there is none."""
    join_leave: bool = False
    """Whether the client requests joins and leaves."""
    position: Position | None = None
    """The client's last position, if it has one; gaps since then are reported."""


class Unsubscribe(NamedTuple):
    """The client unsubscribes from a channel."""

    id: int
    channel: str


class Publish(NamedTuple):
    """The client publishes to a channel; ``data`` is an encoded JSON value."""

    id: int
    channel: str
    data: bytes
    event: str | None = None
    """The name of the event, if the protocol has a field for it."""


class Refresh(NamedTuple):
    """The client presents a new connection token before the current one expires."""

    id: int
    token: str


class SubRefresh(NamedTuple):
    """The client presents a new subscription token before the current one expires."""

    id: int
    channel: str
    token: str


class History(NamedTuple):
    """The client requests the position of a channel; publications are not kept."""

    id: int
    channel: str


class Presence(NamedTuple):
    """The client requests the members of a channel."""

    id: int
    channel: str


class PresenceStats(NamedTuple):
    """The client requests the number of members of a channel."""

    id: int
    channel: str


class Call(NamedTuple):
    """The client calls a method of the host (RPC); ``data`` is an encoded JSON value."""

    id: int
    method: str
    data: bytes
    wants_answer: bool = True
    """Whether the client expects a reply; otherwise the answer of the host is discarded."""


class Ping(NamedTuple):
    """The client requests a reply, to check the connection."""

    id: int


class Pong(NamedTuple):
    """The client answers the oldest unanswered ping of the node."""


class Refused(NamedTuple):
    """A command that was recognised, but is refused in any state of the connection."""

    id: int
    refusal: Refusal


Immediate = (
    Connect
    | Unsubscribe
    | Publish
    | Refresh
    | SubRefresh
    | History
    | Presence
    | PresenceStats
    | Call
    | Ping
    | Pong
    | Refused
)
"""Commands that can be decided immediately; a subscribe may wait for the host and the broker."""
Command = Immediate | Subscribe


@dataclass(slots=True)
class BadFrame(Exception):
    """A frame that cannot be parsed; ``good`` contains the commands before the invalid one."""

    reason: str
    good: tuple[Command, ...] = ()
    limit: str = ""
    """The limit that the frame exceeds; empty if the reason is another one."""


Subscription = Subscribe | WantedChannel | SubRefresh
"""The commands that may carry a subscription token."""


class Credentials(Protocol):
    """Verifies the tokens of clients; `realtime.identity.tokens.Tokens` verifies Centrifugo's."""

    def verify_identity(self, token: str, now: float) -> Identity:
        """Return the identity in a connection token, at a time in seconds since 1970.

        Raises:
            TokenExpired: The token has expired.
            InvalidToken: The token is invalid or not valid yet.
        """

    def verify_subscription(self, client: str, command: Subscription, now: float) -> Grant | None:
        """Return the grant in the token of a command of this client, at that time.

        None if the command has no token and needs none: the rules of the namespace apply.

        Raises:
            TokenExpired: The token has expired.
            InvalidToken: The token is invalid or not valid yet, or the channel requires one.
        """


class WireProtocol(Protocol):
    """The interface of a protocol module.

    All functions are pure. A text is one line of UTF-8 without a newline; `frames` converts lines
    joined by newlines to frames. `read` raises nothing but `BadFrame`, whatever its input. All
    subscribers of a channel get the same text of a push. A reply is created from the command that
    it answers; only the protocol reads the ``id`` of a command. If the protocol has no such reply,
    the text is empty, and nothing is sent.

    Many methods because each reply and each push has its own, ``encode_`` and its name.
    """

    def client_id(self, bits: int) -> str:
        """Return the id of a connection, created from 128 random bits."""

    def opening(self) -> Sequence[Command]:
        """Return the commands that the protocol implies when a connection opens."""

    def refuse_after_accept(self, status: int, reason: str) -> tuple[str, Close] | None:
        """Return the text and the close that refuse a client after accept.

        None if the handshake is refused instead, with that HTTP status and reason.
        """

    PING: str
    PONG: str
    """A frame that only answers a ping; `read` also accepts it as one of several lines."""

    def frames(self, lines: str) -> Sequence[str]:
        """Return the frames for lines that are joined by newlines."""

    def wire_frames(self, lines: str) -> bytes:
        """Return these frames encoded (RFC 6455 §5.2), for a server that takes encoded frames."""

    def read(self, frame: str, frame_bytes: int = ..., frame_commands: int = ...) -> list[Command]:
        """Parse the commands of a frame within these limits, in order.

        Raises:
            BadFrame: The frame exceeds a limit, or a line is not a command.
        """

    def encode_connect_reply(
        self,
        command: Connect,
        client: str,
        version: str,
        ping_seconds: int,
        ttl_seconds: int | None,
        emulated_by: tuple[str, str] | None = None,
    ) -> str:
        """Encode the reply to `Connect`.

        Args:
            command: The command that is answered.
            client: The id of the connection.
            version: The version of the server.
            ping_seconds: The longest interval between pings.
            ttl_seconds: Seconds until a `Refresh` is due; None if the identity does not expire.
            emulated_by: Session and node that an emulated client names in its separate requests.
        """

    def encode_subscribe_reply(
        self,
        command: Subscribe,
        position: Position | None,
        ttl_seconds: int | None,
        *,
        has_all: bool | None = None,
    ) -> str:
        """Encode the reply to `Subscribe`.

        Args:
            command: The command that is answered.
            position: The position of the channel; the next push has the offset after it. None if
                the client was subscribed already and knows its position.
            ttl_seconds: Seconds until a `SubRefresh` is due; None if the grant does not expire.
            has_all: Whether the client has missed nothing since the position in its command; None
                if the command had no position.
        """

    def encode_subscribe_push(self, channel: str, position: Position) -> str:
        """Encode the push that starts a server-side subscription at ``position``."""

    def encode_refresh_reply(
        self, command: Refresh | SubRefresh, client: str, version: str, ttl_seconds: int | None
    ) -> str:
        """Encode the reply to a `Refresh` or `SubRefresh` with a valid token."""

    def encode_empty_reply(self, command: Command) -> str:
        """Encode the reply to a command that succeeded and has no result."""

    def encode_history_reply(self, command: History, position: Position) -> str:
        """Encode the reply to `History`: the position of the channel."""

    def encode_presence_reply(self, command: Presence, members: str) -> str:
        """Encode the reply to `Presence`; ``members`` is a JSON object of infos by client."""

    def encode_presence_stats_reply(self, command: PresenceStats, headcount: Headcount) -> str:
        """Encode the reply to `PresenceStats`."""

    def encode_call_reply(self, command: Call, data: str) -> str:
        """Encode the reply to `Call`; ``data`` is compact JSON on one line."""

    def encode_refusal(self, command: Command | None, refusal: Refusal) -> str:
        """Encode the reply that refuses a command; None stands for one that cannot be parsed."""

    def encode_publication(
        self, channel: str, position: Position, body: str, *, first_of_epoch: bool
    ) -> str:
        """Encode the push of a publication.

        Args:
            channel: The name of the channel.
            position: The position of the publication.
            body: The body of its envelope, see `realtime.core.envelope.Envelope`.
            first_of_epoch: Whether the push must name the epoch.
        """

    def encode_goodbye(self, why: Close, *, reason_arrives: bool) -> tuple[str, Close]:
        """Return the last text before a connection is closed, and the close to use.

        Args:
            why: Why the connection is closed.
            reason_arrives: Whether the server surely writes code and reason of a close frame.
        """

    def encode_unsubscribe_push(self, channel: str, why: SubscriptionEnd) -> str:
        """Encode the push that ends a subscription."""

    def encode_gap(self, channel: str, gap: Gap, reason: str) -> str:
        """Encode the push that reports a gap."""

    def encode_join(self, channel: str, info: str) -> str:
        """Encode the push of a join; for ``info`` see `realtime.core.members.Member`."""

    def encode_leave(self, channel: str, info: str) -> str:
        """Encode the push of a leave."""

    def encode_headcount(self, channel: str, headcount: Headcount, untold: int | None) -> str:
        """Encode the push with the number of members.

        It replaces ``untold`` joins and leaves that were not sent; None if the number is unknown.
        """

    def encode_message(self, data: str) -> str:
        """Encode the push of data that belongs to no channel; ``data`` is JSON."""

    def encode_refresh_push(self, ttl_seconds: int | None) -> str:
        """Encode the push that tells in how many seconds the connection expires; None for never."""

    def encode_state(self, channel: str, *, live: bool, reason: str | None) -> str:
        """Encode the push that tells whether a channel is live, or with "" whether this node is.

        What was said of channels before does not hold any more after a push about the node.
        """
