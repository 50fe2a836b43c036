"""The connections of a node: let in, attached, counted, pinged, expired and closed."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any

from realtime import __version__
from realtime.codes import SHUTDOWN, TOO_MANY_REQUESTS
from realtime.connection import Connection
from realtime.conversation import Conversation, ConversationNode
from realtime.driver import Driver, Send, Wire
from realtime.fanout import Fanout, Listener
from realtime.heartbeat import Heartbeat
from realtime.identity import ANONYMOUS, Identity
from realtime.limits import Crowd, Limits, Reached
from realtime.namespaces import Namespace, Namespaces
from realtime.protocols import WireProtocol
from realtime.registry import Channel
from realtime.tokens import Tokens
from realtime.users import Users

logger = logging.getLogger(__name__)

DRAIN_PER_SECOND = 200
"""Connections closed in a second while a node drains; more only if the time would not do."""

_address: ContextVar[str] = ContextVar("address", default="")
"""As whom the connection is counted that this task serves: `place` sets it, `attach` reads it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionOptions:
    """What all connections of a node have in common; `realtime.hub.Hub` explains the fields."""

    protocol: WireProtocol
    namespaces: Namespaces
    tokens: Tokens
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
        node: ConversationNode,
        uid: str,
        options: ConnectionOptions,
        users: Users,
        fanout: Fanout,
        reached: Reached,
        *,
        ticked: Callable[[float], None],
    ) -> None:
        """Begin with nobody.

        Args:
            node: What a conversation knows of its hub.
            uid: The name of the node.
            options: What all connections have in common.
            users: The connections by user.
            fanout: Delivers what all connections are told.
            reached: Counts how often which limit was reached.
            ticked: Called each second with the time of the loop.
        """
        self._node = node
        self._uid = uid
        self._options = options
        self._limits = options.limits
        self._users = users
        self._fanout = fanout
        self._reached = reached
        self._crowd = Crowd(options.limits)
        self._conversations: dict[Conversation, tuple[int, Listener] | None] = {}
        self._expiring: dict[Conversation, None] = {}
        self._sessions: dict[str, Conversation] = {}
        self._everyone: Channel[Listener] = Channel("", Namespace())
        self._ticked = ticked
        self._heartbeat = Heartbeat(
            options.ping_seconds,
            options.limits.connect_seconds,
            on_stale=partial(reached.count, "connect_seconds"),
            on_tick=self._tick,
        )

    def __len__(self) -> int:
        """Return how many clients are attached."""
        return len(self._conversations)

    def start(self) -> None:
        """Begin to ping."""
        self._heartbeat.start()

    def stop(self) -> None:
        """Stop pinging."""
        self._heartbeat.stop()

    @contextmanager
    def place(self, address: str) -> Iterator[str | None]:
        """Give a connection its place for as long as it is served, however that ends.

        Yields:
            The limit that leaves none for it, which it does not get to know; or None.
        """
        limit = self._crowd.enter(address)
        if limit is not None:
            self._reached.count(limit)
            yield limit
            return
        token = _address.set(address)
        try:
            yield None
        finally:
            _address.reset(token)
            self._crowd.leave(address)

    def attach(
        self,
        send: Send,
        task: asyncio.Task[Any],
        wire: Wire | None = None,
        identity: Identity = ANONYMOUS,
        *,
        session: str = "",
    ) -> Conversation:
        """Take over an accepted connection; from now on only the hub sends.

        Args:
            send: The ASGI send of the connection.
            task: The one that reads from it, which must be the current one.
            wire: The server's own way for ready frames, if it offers one.
            identity: Whom the transport knows the client to be.
            session: By which the client says what it says, where that comes not with its stream.
        """
        options = self._options
        connection = Connection(
            options.protocol,
            options.namespaces,
            client=str(uuid.uuid4()),
            version=__version__,
            ping_seconds=options.ping_seconds,
            tokens=options.tokens,
            wall_seconds=options.wall_seconds,
            identity=identity,
            has_authorizer=options.has_authorizer,
            has_rpc=options.has_rpc,
            channels_limit=self._limits.channels_per_connection,
            emulated_by=(session, self._uid) if session else None,
        )
        driver = Driver(
            send,
            options.protocol,
            task=task,
            context=copy_context(),
            outbox_bytes=options.outbox_bytes,
            window_bytes=options.window_bytes,
            watch=self._heartbeat.watch,
            wire=wire,
        )
        conversation = Conversation(
            self._node, connection, options.protocol, driver, _address.get()
        )
        driver.on_end = conversation.release
        self._conversations[conversation] = None
        if session:
            self._sessions[session] = conversation
        self._heartbeat.expect(driver)
        return conversation

    def emulated(self, session: str, frame: str) -> None:
        """Take what a client says beside its stream; nothing, where that has ended."""
        conversation = self._sessions.get(session)
        if conversation is None or conversation.ended:
            return
        if conversation.is_full:  # a request waits for nothing, so nothing holds this client up
            self._reached.count("commands_waiting")
            conversation.end(TOO_MANY_REQUESTS)
        else:
            conversation.receive(frame)

    def admits(self, user: str) -> bool:
        """Tell whether there is room for one more connection of this user."""
        limit = self._limits.connections_per_user
        if not limit or not user or self._users.count(user) < limit:
            return True
        self._reached.count("connections_per_user")
        return False

    def welcome(self, conversation: Conversation) -> None:
        """Count in a client that has introduced itself."""
        listener = Listener(conversation.driver)
        self._fanout.seal(self._everyone)  # what was announced before is not news to this one
        self._everyone.listeners[listener] = None
        self._conversations[conversation] = (self._heartbeat.welcome(conversation.driver), listener)
        self._users.add(conversation)

    def forget(self, conversation: Conversation) -> None:
        """Count out a connection that has ended."""
        self._expiring.pop(conversation, None)
        self._sessions.pop(conversation.session, None)
        self._users.discard(conversation)
        bucket, listener = self._conversations.pop(conversation) or (None, None)
        self._heartbeat.forget(conversation.driver, bucket)
        if listener is not None:
            listener.active = False
            del self._everyone.listeners[listener]

    def look_after(self, conversation: Conversation) -> None:
        """Watch a connection of which something expires."""
        self._expiring[conversation] = None

    def announce(self, text: str) -> None:
        """Tell every client that has introduced itself."""
        self._fanout.announce(self._everyone, text)

    def close_all(self) -> None:
        """Close all connections with 3001."""
        for conversation in list(self._conversations):
            conversation.end(SHUTDOWN)

    async def drain(self, seconds: float) -> None:
        """Close all connections with 3001, spread over at most ``seconds``.

        So they do not all come back at once. Few connections take less: a node restarts as fast as
        its clients allow.
        """
        loop = asyncio.get_running_loop()
        leaving = list(self._conversations)
        pause = min(seconds / max(1, len(leaving)), 1 / DRAIN_PER_SECOND)
        start = loop.time()
        for number, conversation in enumerate(leaving):
            ahead = start + number * pause - loop.time()
            await asyncio.sleep(max(ahead, pause / 2))  # what is late is caught up, not at once
            conversation.end(SHUTDOWN)
        self.close_all()  # those whose handshake was under way

    def _tick(self) -> None:
        now = asyncio.get_running_loop().time()
        for name, times in self._reached.news(now):
            logger.warning(
                "the limit %s was reached %d times", name, times,
                extra={"limit": name, "reached": times},
            )  # fmt: skip
        for conversation in list(self._expiring):
            if not conversation.expire(now):
                self._expiring.pop(conversation, None)
        self._ticked(now)
