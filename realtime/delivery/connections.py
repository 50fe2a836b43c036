"""Manages the connections of a node: admission, limits, pings, expiry and shutdown."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Hashable
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from realtime._version import __version__
from realtime.connection.backlog import backlog_of
from realtime.connection.client_state import ClientState
from realtime.connection.heartbeat import Heartbeat
from realtime.connection.writer import Writer
from realtime.core.codes import (
    CONNECTION_LIMIT,
    FORCE_DISCONNECT,
    SHUTDOWN,
    TOO_MANY_REQUESTS,
    Close,
)
from realtime.core.congestion import BEHIND_PART, CongestedChannels
from realtime.core.identity import ANONYMOUS, Identity
from realtime.core.limits import ConnectionCounter, LimitCounts, Limits
from realtime.core.namespaces import Namespace, Namespaces
from realtime.delivery.conversation import Conversation
from realtime.delivery.listeners import Listener
from realtime.delivery.registry import Channel

if TYPE_CHECKING:
    from realtime.connection.sinks import Send, Wire
    from realtime.core.meters import NodeMeters
    from realtime.delivery.batch import Encode
    from realtime.delivery.fanout import Fanout
    from realtime.delivery.node_services import NodeServices
    from realtime.delivery.users import Users
    from realtime.protocols import Credentials, WireProtocol

logger = logging.getLogger(__name__)

DRAIN_PER_SECOND = 200
"""Connections closed per second while a node drains; more only if the time is too short."""

_address: ContextVar[str] = ContextVar("address", default="")
"""The client address of this task's connection; `place` sets it, `attach` reads it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionOptions:
    """Options shared by all connections of a node; `hub.Hub` explains the fields."""

    protocol: WireProtocol
    namespaces: Namespaces
    credentials: Credentials
    limits: Limits
    outbox_bytes: int
    window_bytes: int
    ping_seconds: int
    wall_seconds: Callable[[], float]
    has_authorizer: bool
    has_rpc: bool


class Connections:
    """See the module. Belongs to one hub."""

    def __init__(
        self,
        node: NodeServices,
        uid: str,
        options: ConnectionOptions,
        users: Users,
        fanout: Fanout,
        reached: LimitCounts,
        *,
        meters: NodeMeters,
        ticked: Callable[[float], None],
    ) -> None:
        """Start without connections.

        Args:
            node: The hub's services for conversations.
            uid: The name of the node.
            options: Options shared by all connections.
            users: The connections by user.
            fanout: Delivers announcements to all connections.
            reached: Counts how often each limit was reached.
            meters: Those of the node.
            ticked: Called every second with the time of the loop.
        """
        self._node = node
        self._uid = uid
        self._options = options
        self._limits = options.limits
        self._users = users
        self._fanout = fanout
        self._reached = reached
        self._crowd = ConnectionCounter(options.limits)
        self._conversations: dict[Conversation, tuple[int, Listener] | None] = {}
        self._expiring: dict[Conversation, None] = {}
        self._sessions: dict[str, Conversation] = {}
        self._meters = meters
        self.by_transport: Counter[str] = Counter()
        """How many clients each transport has at present."""
        self._everyone: Channel[Listener] = Channel("", Namespace())
        self._ticked = ticked
        self._heartbeat = Heartbeat(
            options.ping_seconds,
            options.limits.connect_seconds,
            on_stale=partial(reached.count, "connect_seconds"),
            on_tick=self._tick,
        )
        self._watch = self._heartbeat.watch  # bound once, not once for each connection
        self._congested = CongestedChannels()

    def __len__(self) -> int:
        """Return how many clients are attached."""
        return len(self._conversations)

    @property
    def is_unused(self) -> bool:
        """Whether no client is attached or being admitted."""
        return not self._conversations and self._crowd.is_empty

    @property
    def tick_late_seconds(self) -> float:
        """How late the last tick of the heartbeat was."""
        return self._heartbeat.late_seconds

    def all_connected(self) -> list[Conversation]:
        """Return the connections that have completed their connect command."""
        return [each for each, place in self._conversations.items() if place is not None]

    def start(self) -> None:
        """Start pinging."""
        self._heartbeat.start()

    def stop(self) -> None:
        """Stop pinging."""
        self._heartbeat.stop()

    def enter(self, address: str) -> str | None:
        """Count a connection against the limits; its task must call `leave` at its end.

        Returns:
            The limit that rejects the connection, which then is not counted, or None. Clients are
            not told which one it is.
        """
        limit = self._crowd.enter(address)
        if limit is None:
            _address.set(address)  # for `attach`, in the context of the connection's task
        else:
            self._reached.count(limit)
        return limit

    def leave(self, address: str) -> None:
        """Count a connection no longer."""
        self._crowd.leave(address)

    def attach(
        self,
        send: Send,
        task: asyncio.Task[Any],
        wire: Wire | None = None,
        identity: Identity = ANONYMOUS,
        *,
        session: str = "",
        transport: str = "websocket",
        protocol: WireProtocol | None = None,
        credentials: Credentials | None = None,
    ) -> Conversation:
        """Take over an accepted connection; from now on only the hub sends.

        Args:
            send: The ASGI send of the connection.
            task: The task that reads from it; must be the current task.
            wire: The server's direct path for encoded frames, if it offers one.
            identity: The client's identity, as established by the transport.
            session: The secret of an emulated client's separate requests; empty if its commands
                arrive on the connection itself.
            transport: How the client is connected; one of our own names, for operators.
            protocol: The client's wire protocol; None for the node's default.
            credentials: Verifies the client's tokens; None for the node's default.
        """
        options = self._options
        protocol = protocol or options.protocol
        self._fanout.expect(protocol)
        state = ClientState(
            protocol,
            options.namespaces,
            client=protocol.client_id(secrets.randbits(128)),
            version=__version__,
            ping_seconds=options.ping_seconds,
            credentials=credentials or options.credentials,
            wall_seconds=options.wall_seconds,
            identity=identity,
            ended_sessions=self._users.ended_sessions,
            has_authorizer=options.has_authorizer,
            has_rpc=options.has_rpc,
            channels_limit=self._limits.channels_per_connection,
            emulated_by=(session, self._uid) if session else None,
        )
        writer = Writer(
            send,
            protocol,
            task=task,
            context=copy_context(),
            outbox_bytes=options.outbox_bytes,
            window_bytes=options.window_bytes,
            watch=self._watch,
            wire=wire,
            meters=self._meters,
        )
        conversation = Conversation(
            self, self._node, state, protocol, writer, _address.get(), transport
        )
        writer.on_end = conversation.release
        self.by_transport[transport] += 1
        self._conversations[conversation] = None
        if session:
            self._sessions[session] = conversation
        self._heartbeat.expect(writer)
        conversation.begin()
        return conversation

    def receive_emulated(self, session: str, frame: str) -> None:
        """Process a frame that a client sent in a separate request; ignore it after the end."""
        conversation = self._sessions.get(session)
        if conversation is None or conversation.ended:
            return
        if (
            conversation.is_full
        ):  # requests return immediately, so back-pressure cannot slow this client
            self._reached.count("commands_waiting")
            conversation.end(TOO_MANY_REQUESTS)
        else:
            conversation.receive(frame)

    def why_refuse(self, user: str) -> Close | None:
        """Return why one more connection of this user is refused; None if it is not."""
        if self._users.blocks.is_blocked(user):
            return FORCE_DISCONNECT
        limit = self._limits.connections_per_user
        if not limit or not user or self._users.count(user) < limit:
            return None
        self._reached.count("connections_per_user")
        return CONNECTION_LIMIT

    def welcome(self, conversation: Conversation) -> None:
        """Register a client that has completed its connect command."""
        listener = Listener(conversation.writer)
        self._fanout.seal(self._everyone)  # earlier announcements are not for this client
        self._everyone.listeners[listener] = None
        self._conversations[conversation] = (self._heartbeat.welcome(conversation.writer), listener)
        self._users.add(conversation)

    def forget(self, conversation: Conversation) -> None:
        """Remove a connection that has ended."""
        self.by_transport[conversation.transport] -= 1
        self._expiring.pop(conversation, None)
        self._sessions.pop(conversation.session, None)
        self._users.discard(conversation)
        bucket, listener = self._conversations.pop(conversation) or (None, None)
        self._heartbeat.forget(conversation.writer, bucket)
        if listener is not None:
            listener.active = False
            del self._everyone.listeners[listener]

    def look_after(self, conversation: Conversation) -> None:
        """Check a connection every second for expired permissions."""
        self._expiring[conversation] = None

    def send_to_all(self, encode: Encode) -> None:
        """Send a text to every client that has completed its connect command."""
        self._fanout.send_notice(self._everyone, encode)

    def close_all(self) -> None:
        """Close all connections with 3001."""
        for conversation in list(self._conversations):
            conversation.end(SHUTDOWN)

    async def drain(self, seconds: float) -> None:
        """Close all connections with 3001, spread over at most ``seconds``.

        This prevents all clients from reconnecting at once. With few connections it takes less
        time, so that the node restarts quickly.
        """
        loop = asyncio.get_running_loop()
        leaving = list(self._conversations)
        pause = min(seconds / max(1, len(leaving)), 1 / DRAIN_PER_SECOND)
        start = loop.time()
        for number, conversation in enumerate(leaving):
            ahead = start + number * pause - loop.time()
            await asyncio.sleep(max(ahead, pause / 2))  # catches up gradually when late
            conversation.end(SHUTDOWN)
        self.close_all()  # connections that were accepted meanwhile

    def _tick(self) -> None:
        now = asyncio.get_running_loop().time()
        for name, times in self._reached.news(now):
            logger.warning(
                "the limit %s was reached %d times", name, times,
                extra={"limit": name, "reached": times},
            )  # fmt: skip
        for name, behind, total in self._congested.observe(self._find_behind(), now):
            logger.warning(
                "publications on %s wait for %d clients that read too slowly (%d so far)",
                *(ascii(name)[1:-1][:100], behind, total),
                extra={"channel": name, "behind": behind},
            )
        for conversation in list(self._expiring):
            if not conversation.expire(now):
                self._expiring.pop(conversation, None)
        self._ticked(now)

    def _find_behind(self) -> dict[Hashable, str]:
        """Return the connections for which much waits, with the channel of the oldest part."""
        least = self._options.outbox_bytes // BEHIND_PART
        # A client that does not read owes a pong.
        found = {writer: backlog_of(writer) for writer in self._heartbeat.watched}
        return {writer: channel for writer, (size, channel) in found.items() if size >= least}
