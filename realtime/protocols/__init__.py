"""Wire protocols: what clients say and hear, apart from how it is written.

A protocol is one module: text of a frame to commands, replies and pushes to text. The commands
stand here, so that the rules of a connection never see bytes. A new protocol is finished when
`tests/contract/test_wire_protocol.py` passes with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from realtime.codes import Close, Refusal, SubscriptionEnd
from realtime.gaps import Gap, Position
from realtime.membership import Headcount


class Connect(NamedTuple):
    """The client introduces itself; must come first."""

    id: int
    token: str = ""
    """Says who it is; empty is nobody, or whom the transport knows."""
    subs: tuple[Wanted, ...] = ()
    """Channels that it wants to listen to without a `Subscribe` for each."""


class Wanted(NamedTuple):
    """A channel that a `Connect` names."""

    channel: str
    token: str = ""
    """Says that it may."""
    join_leave: bool = False
    """Whether the client wants to hear who comes and who goes."""
    position: Position | None = None
    """Where the client stands; it wants to know what it missed since."""


class Subscribe(NamedTuple):
    """The client wants what is published on the channel from now on."""

    id: int
    channel: str
    token: str = ""
    """Says that it may."""
    join_leave: bool = False
    """Whether it wants to hear who comes and who goes."""
    position: Position | None = None
    """Where it stands; it wants to know what it missed since."""


class Unsubscribe(NamedTuple):
    """The client has had enough of the channel."""

    id: int
    channel: str


class Publish(NamedTuple):
    """The client says something on the channel; ``data`` is a JSON value, still encoded."""

    id: int
    channel: str
    data: bytes


class Refresh(NamedTuple):
    """The client shows a new token before the one of its connection expires."""

    id: int
    token: str


class SubRefresh(NamedTuple):
    """The client shows a new token before the one of a subscription expires."""

    id: int
    channel: str
    token: str


class History(NamedTuple):
    """The client asks where a channel stands, and for no publications: there are none."""

    id: int
    channel: str


class Presence(NamedTuple):
    """The client asks who is on a channel."""

    id: int
    channel: str


class PresenceStats(NamedTuple):
    """The client asks how many are on a channel."""

    id: int
    channel: str


class Call(NamedTuple):
    """The client asks the host something; ``data`` is a JSON value, still encoded.

    Without an id it only says it, and gets no answer.
    """

    id: int
    method: str
    data: bytes


class Ping(NamedTuple):
    """The client asks for a sign of life."""

    id: int


class Pong(NamedTuple):
    """The client answers our oldest unanswered ping."""


class Refused(NamedTuple):
    """A command that can be told from others but not be done, whatever the connection's state."""

    id: int
    refusal: Refusal


Command = (
    Connect
    | Subscribe
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


@dataclass(slots=True)
class BadFrame(Exception):
    """A frame that cannot be read; ``good`` are the commands before the bad one."""

    reason: str
    good: tuple[Command, ...] = ()
    limit: str = ""
    """The limit that was reached, if that is why."""


class WireProtocol(Protocol):
    """What a protocol module offers.

    All functions are pure; text is one line of UTF-8 without a newline. Lines joined by newlines
    make a frame, in both directions. ``read`` never raises anything but `BadFrame`, whatever it is
    given. Pushes to all subscribers of a channel are the same text.
    """

    PING: str
    PONG: str
    """A frame that is nothing but the answer to a ping; `read` knows it among other lines, too."""

    def read(self, frame: str, frame_bytes: int = ..., frame_commands: int = ...) -> list[Command]:
        """Return the commands of a frame of at most so many bytes and commands, in order.

        Raises:
            BadFrame: Some of it is not a command.
        """

    def connected(
        self,
        command_id: int,
        client: str,
        version: str,
        ping_seconds: int,
        ttl_seconds: int | None,
        emulated_by: tuple[str, str] | None = None,
    ) -> str:
        """Return the reply to `Connect`.

        Args:
            command_id: Of the command.
            client: The id of the connection.
            version: Of the server.
            ping_seconds: How often the client will hear a ping at the latest.
            ttl_seconds: When a `Refresh` is due, if ever.
            emulated_by: Session and node that the client names with what it says beside a stream.
        """

    def subscribed(
        self,
        command_id: int,
        position: Position | None,
        ttl_seconds: int | None,
        *,
        has_all: bool | None = None,
    ) -> str:
        """Return the reply to `Subscribe`: the next push of the channel is at ``position`` + 1.

        Args:
            command_id: Of the command.
            position: None where the client listens already and knows how far it is.
            ttl_seconds: When a `SubRefresh` is due, if ever.
            has_all: Whether the client, which said where it stands, has missed nothing.
        """

    def served(self, channel: str, position: Position) -> str:
        """Return the push that says: you listen to this now, the next push is at the next one."""

    def refreshed(
        self, command: Refresh | SubRefresh, client: str, version: str, ttl_seconds: int | None
    ) -> str:
        """Return the reply to a token that was good."""

    def done(self, command: Command) -> str:
        """Return the reply to a command that has no answer of its own."""

    def stands(self, command_id: int, position: Position) -> str:
        """Return the reply to `History`."""

    def present(self, command_id: int, members: str) -> str:
        """Return the reply to `Presence`; ``members`` is a JSON object of infos by client."""

    def counted(self, command_id: int, headcount: Headcount) -> str:
        """Return the reply to `PresenceStats`."""

    def answered(self, command_id: int, data: str) -> str:
        """Return the reply to `Call`; ``data`` is compact JSON on one line."""

    def refused(self, command_id: int, refusal: Refusal) -> str:
        """Return the reply that says no."""

    def publication(
        self, channel: str, position: Position, body: str, *, first_of_epoch: bool
    ) -> str:
        """Return the push of a publication.

        Args:
            channel: Its name.
            position: Its position.
            body: What an opened envelope carries, see `realtime.envelope.Envelope`.
            first_of_epoch: Whether to name the epoch in it.
        """

    def disconnected(self, why: Close) -> str:
        """Return the push that says why the connection ends, where the server would not."""

    def unsubscribed(self, channel: str, why: SubscriptionEnd) -> str:
        """Return the push that ends a subscription."""

    def gap(self, channel: str, gap: Gap, reason: str) -> str:
        """Return the push that says what was missed."""

    def joined(self, channel: str, info: str) -> str:
        """Return the push that says who came; for ``info`` see `realtime.membership.Member`."""

    def left(self, channel: str, info: str) -> str:
        """Return the push that says who went."""

    def headcount(self, channel: str, headcount: Headcount, untold: int | None) -> str:
        """Return the push that says how many are there, after joins and leaves that were not told.

        How many these were; None where nobody knows.
        """

    def message(self, data: str) -> str:
        """Return the push of something that is for this client and on no channel; JSON."""

    def prolonged(self, ttl_seconds: int | None) -> str:
        """Return the push that says until when the connection is good now."""

    def state(self, *, live: bool, reason: str | None) -> str:
        """Return the push that says whether this node hears from the broker."""
