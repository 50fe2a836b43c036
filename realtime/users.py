"""The connections of a node by user: does to them what nodes were told, and looks at them again.

A command comes over the hub's own subscription. One that did not come is found where the broker
keeps it, at each look; and a look asks the site whether those who are here may still be.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Protocol

import msgspec

from realtime.brokers import Broker
from realtime.codes import EXPIRED, FORCE_DISCONNECT, Close
from realtime.control import (
    Command,
    Disconnect,
    Message,
    Recheck,
    Refresh,
    Subscribe,
    Unsubscribe,
    opened,
)
from realtime.errors import BrokerError
from realtime.hostcode import of_host
from realtime.identity import Identity
from realtime.node_messages import Moment, UserCommand
from realtime.tally import Tally

logger = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
"""How long a command can stay unheard, and a right that has ended unnoticed."""
CHUNK = 500
"""Identities that the site is asked about at once."""

Entitled = Callable[[Sequence[Identity]], Awaitable[Sequence[bool]]]
"""Which of these may still be here, in their order."""


class UserConnection(Protocol):
    """What can be done to a connection of a user."""

    began: float
    """When it began, by the clock of the loop."""

    @property
    def identity(self) -> Identity:
        """Who the client is."""

    @property
    def client(self) -> str:
        """The id of the connection."""

    def end(self, close: Close | None) -> None:
        """Close it."""

    def serve(self, name: str) -> None:
        """Subscribe it to a channel."""

    def unserve(self, name: str) -> None:
        """End a subscription; with an empty name all."""

    def message(self, data: str) -> None:
        """Send data that belongs to no channel, as compact JSON."""

    def prolong(self, expire_at: float | None) -> None:
        """Set when it expires, in seconds since 1970; None is never."""


class Users:
    """See the module. Belongs to one hub; its `watch` is a task of that hub's."""

    def __init__(
        self, broker: Broker, entitled: Entitled | None, *, look_seconds: float = LOOK_SECONDS
    ) -> None:
        """Know nobody yet.

        Args:
            broker: Keeps what nodes were told.
            entitled: The site; None where nothing that it knows can end a right.
            look_seconds: Between two looks at everybody.
        """
        self._broker = broker
        self._entitled = entitled
        self._look_seconds = look_seconds
        self._connections: dict[str, dict[UserConnection, None]] = {}
        self._suspects: dict[str, None] | None = None  # None: everybody
        self._due = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._nonsense = Tally()
        self._until: Moment | None = None  # everything up to it was done
        self._heard: dict[Moment, None] = {}  # since

    def add(self, connection: UserConnection) -> None:
        """A client has introduced itself."""
        identity = connection.identity
        if identity.user:
            self._connections.setdefault(identity.user, {})[connection] = None
            # A session was looked up a moment ago; a token may be from before the password changed.
            if identity.stamp and identity.proof is None:
                self._suspect(identity.user)

    def discard(self, connection: UserConnection) -> None:
        """A connection has ended."""
        user = connection.identity.user
        of_user = self._connections.get(user)
        if of_user is not None:
            of_user.pop(connection, None)
            if not of_user:
                del self._connections[user]

    def __len__(self) -> int:
        """Return how many different users are here."""
        return len(self._connections)

    def count(self, user: str) -> int:
        """Return how many connections a user has at this node."""
        return len(self._connections.get(user, ()))

    def hear(self, told: UserCommand) -> None:
        """Take what came on the channel of all nodes, unless it was done already."""
        if self._until is not None and told.at > self._until and told.at not in self._heard:
            self._heard[told.at] = None
            self._obey(told.raw)

    def look_again(self) -> None:
        """Perhaps something was not heard: look at everybody soon."""
        self._suspects = None
        self._due.set()

    def start(self) -> None:
        """Begin to look at the users."""
        self._watcher = asyncio.get_running_loop().create_task(self._watch())
        self._watcher.add_done_callback(self._failed)

    def stop(self) -> asyncio.Task[None] | None:
        """Stop looking; return the task that ends soon, if there is one."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
        return watcher

    def _failed(self, watcher: asyncio.Task[None]) -> None:
        """Look again; only the site's own code can have failed here."""
        if watcher is self._watcher and not watcher.cancelled():
            logger.error("looking at the users failed", exc_info=watcher.exception())
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self._start_again, watcher)

    def _start_again(self, watcher: asyncio.Task[None]) -> None:
        if watcher is self._watcher:
            self.start()

    async def _watch(self) -> None:
        """Look at everybody now and then, and at whom somebody names at once; never ends."""
        loop = asyncio.get_running_loop()
        next_look = loop.time()
        while True:
            # First of all: whoever asks for a look from now on wants another one than this.
            suspects, self._suspects = self._suspects, {}
            self._due.clear()
            if suspects is None or loop.time() >= next_look:
                next_look = loop.time() + self._look_seconds
                suspects = None
                await self._catch_up()
            await self._check(suspects)
            try:
                async with asyncio.timeout_at(next_look):
                    await self._due.wait()
            except TimeoutError:
                self._suspects = None

    def _suspect(self, user: str) -> None:
        if self._suspects is not None:
            self._suspects[user] = None
        self._due.set()

    def _obey(self, told: bytes, before: float | None = None) -> None:
        """Do what a command says to those connections that were here then."""
        try:
            command = opened(msgspec.json.decode(told))
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            command = None
        if command is None:
            count = self._nonsense.add("control", asyncio.get_running_loop().time())
            if count is not None:
                logger.warning(
                    "passed over a command to nodes that is none of ours (%d so far)", count
                )
        elif isinstance(command, Recheck):
            self._suspect(command.user)
        else:
            for connection in list(self._connections.get(command.user, ())):
                if before is None or connection.began < before:
                    _apply(command, connection)

    async def _catch_up(self) -> None:
        """Do what this node was told and did not hear."""
        try:
            now, entries = await self._broker.told_since(self._until or Moment(2**53, 0))
        except BrokerError:
            return  # the hub says that the broker is away; the next look asks again
        if self._until is None or now < self._until:  # a new node, or another Redis
            entries = []
            self._until = now
        loop_now = asyncio.get_running_loop().time()
        heard, self._heard = self._heard, {}
        for at, raw in entries:
            if at not in heard:
                age = max(0.0, (now.milliseconds - at.milliseconds) / 1000)
                self._obey(raw, before=loop_now - age)
            self._until = at

    async def _check(self, users: dict[str, None] | None) -> None:
        """Ask the site about these users, or everybody, and close whom it knows no more."""
        if self._entitled is None:
            return
        asked = [each for each in self._of(users) if each.identity.can_be_checked]
        for start in range(0, len(asked), CHUNK):
            chunk = asked[start : start + CHUNK]
            identities = [connection.identity for connection in chunk]
            answers = await of_host(self._entitled(identities))
            for connection, is_entitled in zip(chunk, answers, strict=True):
                if not is_entitled:
                    connection.end(FORCE_DISCONNECT)

    def _of(self, users: dict[str, None] | None) -> Iterator[UserConnection]:
        for user in list(self._connections if users is None else users):
            yield from list(self._connections.get(user, ()))


def _apply(command: Command, connection: UserConnection) -> None:
    if getattr(command, "client", "") not in ("", connection.client):
        return
    match command:
        case Disconnect():
            if command.session in ("", connection.identity.session):
                connection.end(Close(command.code, command.reason))
        case Subscribe():
            connection.serve(command.channel)
        case Unsubscribe():
            connection.unserve(command.channel)
        case Message():
            connection.message(command.data)
        case Refresh(expired=True):
            connection.end(EXPIRED)
        case Refresh():
            connection.prolong(command.expire_at)
