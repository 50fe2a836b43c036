"""What one client may do next, and what follows from what it says.

The machine of one connection: *new → connected*, until somebody does what an `End` says. It decides
command by command, in the order in which they came, as if each had already been done;
`Conversation` carries the decisions out in the same order. No socket, no clock. Clients are
anonymous until identity is built, so the namespaces alone decide (docs/protocol.md#permissions).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from realtime.codes import (
    ALREADY_SUBSCRIBED,
    BAD_COMMAND,
    BAD_REQUEST,
    LIMIT_EXCEEDED,
    PERMISSION_DENIED,
    Close,
    Refusal,
)
from realtime.errors import RequestError
from realtime.namespaces import Namespace, Namespaces
from realtime.protocols import (
    BadFrame,
    Command,
    Connect,
    Ping,
    Pong,
    Publish,
    Subscribe,
    Unsubscribe,
    WireProtocol,
)
from realtime.publication import Publication, decoded

CHANNELS_LIMIT = 128  # per connection; Centrifugo 128
STRIKES = 3  # unreadable frames until the connection is closed; one may be a mistake


class Greet(NamedTuple):
    """The client has introduced itself: say this, and how things stand."""

    text: str


class Reply(NamedTuple):
    """Say this."""

    text: str


@dataclass(slots=True, eq=False)
class Join:
    """Listen to the channel, then reply with its position."""

    id: int
    channel: str
    namespace: Namespace


class Leave(NamedTuple):
    """Stop listening, then say this."""

    channel: str
    text: str


@dataclass(slots=True, eq=False)
class Say:
    """Publish, then reply with what became of it."""

    command: Publish
    publication: Publication


class End(NamedTuple):
    """Close the connection."""

    close: Close


Decision = Greet | Reply | Join | Leave | Say | End


class Connection:
    """The rules for one client."""

    __slots__ = (
        "_channels",
        "_channels_limit",
        "_greeting",
        "_namespaces",
        "_protocol",
        "_strikes",
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
        channels_limit: int = CHANNELS_LIMIT,
    ) -> None:
        """Start as new.

        Args:
            protocol: Writes the replies.
            namespaces: Say what is allowed.
            client: The id that this connection is told it has.
            version: Of the server.
            ping_seconds: How often the client will hear a ping at the latest.
            channels_limit: How many channels it may listen to.
        """
        self._protocol = protocol
        self._namespaces = namespaces
        self._channels_limit = channels_limit
        self._greeting = (client, version, ping_seconds)
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
            return End(BAD_REQUEST)
        match command:
            case Subscribe():
                return self._subscribe(command)
            case Unsubscribe():
                self._channels.pop(command.channel, None)
                return Leave(command.channel, self._protocol.done(command))
            case Publish():
                return self._publish(command)
            case Ping():
                return Reply(self._protocol.done(command))
        return self._refuse(command.id, command.refusal)

    def bad_frame(self, error: BadFrame) -> Decision:
        """Return what is to be done about a frame that cannot be read."""
        self._strikes += 1
        if self._strikes >= STRIKES or not self.connected:
            return End(BAD_REQUEST)
        return self._refuse(0, BAD_COMMAND._replace(message=f"bad request: {error.reason}"))

    def join_failed(self, join: Join) -> None:
        """Forget a join that could not be done."""
        if self._channels.get(join.channel) is join:
            del self._channels[join.channel]

    def _connect(self, command: Connect) -> Decision:
        if self.connected:
            return End(BAD_REQUEST)
        self.connected = True
        return Greet(self._protocol.connected(command.id, *self._greeting))

    def _subscribe(self, command: Subscribe) -> Decision:
        if command.channel in self._channels:
            return self._refuse(command.id, ALREADY_SUBSCRIBED)
        namespace = self._namespaces.get(command.channel)
        if namespace is None or not self._namespaces.may_subscribe(command.channel):
            return self._refuse(command.id, PERMISSION_DENIED)
        if len(self._channels) >= self._channels_limit:
            return self._refuse(command.id, LIMIT_EXCEEDED)
        join = self._channels[command.channel] = Join(command.id, command.channel, namespace)
        return join

    def _publish(self, command: Publish) -> Decision:
        subscribed = command.channel in self._channels
        if not self._namespaces.may_publish(command.channel, subscribed=subscribed):
            return self._refuse(command.id, PERMISSION_DENIED)
        try:
            publication = Publication.of(command.channel, decoded(command.data))
        except RequestError as error:
            return self._refuse(command.id, BAD_COMMAND._replace(message=str(error)))
        # The publication has the data now; while it waits, it should not be here twice.
        return Say(command._replace(data=b""), publication)

    def _refuse(self, command_id: int, refusal: Refusal) -> Reply:
        return Reply(self._protocol.refused(command_id, refusal))
