"""The connections of a node by user: applies commands to them and checks them periodically.

Commands arrive over the hub's own subscription. Each periodic check reads commands that were missed
from the broker's log, and asks the site whether the connected users may stay. Ended sessions are
remembered, even by a node that starts later, and their tokens are refused (ADR-0017). `user_blocks`
knows blocked users.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from realtime.brokers import NODE_COMMANDS_PAGE, Broker
from realtime.brokers.node_messages import Moment, UserCommand
from realtime.connection.hostcode import of_host
from realtime.core.codes import EXPIRED, FORCE_DISCONNECT, Close
from realtime.core.identity import Identity
from realtime.core.node_commands import (
    BlockUser,
    DisconnectUser,
    NodeCommand,
    RecheckUser,
    RefreshUser,
    SendToUser,
    SubscribeUser,
    UnsubscribeUser,
    decode_command,
)
from realtime.core.tally import Tally
from realtime.delivery.user_blocks import UserBlocks
from realtime.errors import BrokerError
from realtime.identity.ended_sessions import EndedSessions

if TYPE_CHECKING:
    from realtime.core.limits import LimitCounts

logger = logging.getLogger(__name__)

RECHECK_SECONDS = 10.0
"""The longest time until a missed command or a revoked permission takes effect."""
CHUNK = 500
"""Identities in one query to the site."""
ENTITLED_SECONDS = 30.0
"""The timeout for the site's answer about so many."""
BEGINNING = Moment(0, 0)
"""Before all commands."""

Entitled = Callable[[Sequence[Identity]], Awaitable[Sequence[bool]]]
"""Returns for each identity, in order, whether it may stay connected."""


class UserConnection(Protocol):
    """The interface of a user's connection."""

    began: float
    """The start of the connection, by the clock of the loop."""

    @property
    def identity(self) -> Identity:
        """The identity of the client."""

    @property
    def client(self) -> str:
        """The id of the connection."""

    def end(self, close: Close | None) -> None:
        """Close the connection."""

    def serve(self, name: str) -> None:
        """Subscribe the connection to a channel."""

    def unserve(self, name: str) -> None:
        """End a subscription, or all with an empty name."""

    def message(self, data: str) -> None:
        """Send data that belongs to no channel, as compact JSON."""

    def prolong(self, expire_at: float | None) -> None:
        """Set when the connection expires, in seconds since 1970; None means never."""


class Users:
    """See the module. Belongs to one hub, which starts and stops its checks."""

    def __init__(
        self,
        broker: Broker,
        entitled: Entitled | None,
        reached: LimitCounts,
        *,
        wall_seconds: Callable[[], float],
        recheck_seconds: float = RECHECK_SECONDS,
    ) -> None:
        """Start without connections.

        Args:
            broker: Keeps the log of commands.
            entitled: Asks the site; None if the site never revokes permissions.
            reached: Counts the ended sessions that were evicted to make room.
            wall_seconds: Returns the seconds since 1970.
            recheck_seconds: The interval between two checks of all users.
        """
        self.ended_sessions = EndedSessions()
        """The sessions whose tokens are refused."""
        self.blocks = UserBlocks(broker.blocks, wall_seconds)
        """The users whose connections are refused."""
        self._broker = broker
        self._entitled = entitled
        self._reached = reached
        self._recheck_seconds = recheck_seconds
        self._connections: dict[str, dict[UserConnection, None]] = {}
        self._suspects: dict[str, None] | None = None  # None: all users
        self._due = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._nonsense = Tally()
        self._until: Moment | None = None  # all commands up to it were applied
        self._heard: dict[Moment, None] = {}  # commands applied since then

    def add(self, connection: UserConnection) -> None:
        """Register a client that has completed its connect command."""
        identity = connection.identity
        if identity.user:
            self._connections.setdefault(identity.user, {})[connection] = None
            # A token may be older than a change of password. A session was looked up for the
            # handshake, perhaps seconds ago, and this connection missed a command since then.
            if identity.can_be_checked:
                self._suspect(identity.user)

    def discard(self, connection: UserConnection) -> None:
        """Remove a connection that has ended."""
        user = connection.identity.user
        of_user = self._connections.get(user)
        if of_user is not None:
            of_user.pop(connection, None)
            if not of_user:
                del self._connections[user]

    def __len__(self) -> int:
        """Return the number of distinct users with connections."""
        return len(self._connections)

    def count(self, user: str) -> int:
        """Return the number of connections of a user at this node."""
        return len(self._connections.get(user, ()))

    def hear(self, sent: UserCommand) -> None:
        """Apply a command from the channel of all nodes, unless it was applied already."""
        is_new = self._until is None or sent.at > self._until
        if is_new and sent.at not in self._heard:
            self._heard[sent.at] = None
            self._obey(sent.raw)

    def look_again(self) -> None:
        """Check all users soon, because commands may have been missed."""
        self.blocks.note_outdated()
        self._suspects = None
        self._due.set()

    def start(self) -> None:
        """Start the periodic checks."""
        self._watcher = asyncio.get_running_loop().create_task(self._watch())
        self._watcher.add_done_callback(self._note_failure)

    def stop(self) -> asyncio.Task[None] | None:
        """Stop the checks; return their task, which ends soon, if there is one."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
        return watcher

    def _note_failure(self, watcher: asyncio.Task[None]) -> None:
        """Restart the checks; only the site's code can raise here, or cancel them."""
        if watcher is self._watcher:
            if not watcher.cancelled():  # a loop that ends cancels it, too
                logger.error("checking the connected users failed", exc_info=watcher.exception())
            asyncio.get_running_loop().call_later(RECHECK_SECONDS, self._start_again, watcher)

    def _start_again(self, watcher: asyncio.Task[None]) -> None:
        if watcher is self._watcher:
            self.start()

    async def _watch(self) -> None:
        """Check all users periodically, and suspects immediately; never returns."""
        loop = asyncio.get_running_loop()
        next_recheck = loop.time()
        while True:
            # Reset first: a request from now on needs a check after this one.
            suspects, self._suspects = self._suspects, {}
            self._due.clear()
            if suspects is None or loop.time() >= next_recheck:
                next_recheck = loop.time() + self._recheck_seconds
                suspects = None
                await self._catch_up()
                await self._refresh_blocks()
            await self._check(suspects)
            try:
                async with asyncio.timeout_at(next_recheck):
                    await self._due.wait()
            except TimeoutError:
                self._suspects = None

    async def _refresh_blocks(self) -> None:
        if await self.blocks.refresh():
            for user in filter(self.blocks.is_blocked, list(self._connections)):
                self._close_all_of(user)

    def _close_all_of(self, user: str) -> None:
        for connection in list(self._connections.get(user, ())):
            connection.end(FORCE_DISCONNECT)

    def _suspect(self, user: str) -> None:
        if self._suspects is not None:
            self._suspects[user] = None
        self._due.set()

    def _obey(self, sent: bytes, before: float | None = None) -> None:
        """Apply a command to the connections that existed when it was sent."""
        command = _read(sent)
        if command is None:
            count = self._nonsense.add("control", asyncio.get_running_loop().time())
            if count is not None:
                logger.warning("ignored an unreadable node command (%d so far)", count)
        elif isinstance(command, RecheckUser):
            self._suspect(command.user)
        elif isinstance(command, BlockUser):
            self._block(command, is_late=before is not None)
        elif isinstance(command, DisconnectUser) and command.ends_session:
            self._end_session(command, before)
        else:
            for connection in list(self._connections.get(command.user, ())):
                if before is None or connection.began < before:
                    _apply(command, connection)

    def _block(self, command: BlockUser, *, is_late: bool) -> None:
        if is_late:  # perhaps it was replaced since then; the broker has the blocks as they are now
            self.blocks.note_outdated()
            return
        self.blocks.apply(command)
        if self.blocks.is_blocked(command.user):
            self._close_all_of(command.user)

    def _end_session(self, command: DisconnectUser, before: float | None) -> None:
        """Close the connections of a session, and refuse its tokens from now on."""
        ended_at = asyncio.get_running_loop().time() if before is None else before
        if not self.ended_sessions.add(command.session, ended_at):
            self._reached.count("ended_sessions")
        for connection in list(self._connections.get(command.user, ())):
            was_here = before is None or connection.began < before
            # A token does not reflect the log-out, whenever it was presented. A session that was
            # looked up after the log-out does, so the site decides.
            if was_here or connection.identity.proof is None:
                _apply(command, connection)
            elif connection.identity.session == command.session:
                self._suspect(command.user)

    async def _catch_up(self) -> None:
        """Apply the commands that this node missed, page by page.

        From another Redis than before, it only learns which sessions have ended: it may have
        applied the commands already, under other times.
        """
        known, self._heard = self._heard, {}
        is_new, read_until = self._until is None, self._until or BEGINNING
        while True:
            try:
                now, entries = await self._broker.read_node_commands(read_until)
                # Compares milliseconds: `now` has no sequence number, and two commands may share a
                # millisecond.
                is_behind = not is_new and now.milliseconds < read_until.milliseconds
                is_other = is_behind and not await self._still_has(read_until)
            except BrokerError:  # the hub reports the outage; the next check asks again
                self._heard = known | self._heard
                return
            if is_other:  # else its clock was set back
                is_new, read_until = True, BEGINNING
                continue
            loop_now = asyncio.get_running_loop().time()
            for read_until, raw in entries:
                told_at = loop_now - max(0, now.milliseconds - read_until.milliseconds) / 1000
                if is_new and self._until is not None:
                    self._learn(raw, told_at)
                elif read_until not in known and read_until not in self._heard:
                    self._obey(raw, before=told_at)
            if not is_new:
                self._until = read_until
            if len(entries) < NODE_COMMANDS_PAGE:
                break
        self._until = read_until
        self.ended_sessions.forget_expired(loop_now)

    async def _still_has(self, moment: Moment) -> bool:
        """Tell whether Redis still has the command of this moment, so that it is the same Redis."""
        _, entries = await self._broker.read_node_commands(moment.just_before())
        return bool(entries) and entries[0].at == moment

    def _learn(self, sent: bytes, before: float) -> None:
        """Record the end of a session from a command that is older than this node."""
        command = _read(sent)
        if isinstance(command, DisconnectUser) and command.ends_session:
            self._end_session(command, before)

    async def _check(self, users: dict[str, None] | None) -> None:
        """Ask the site about these or all users; close connections that may not stay."""
        if self._entitled is None:
            return
        asked = [each for each in self._of(users) if each.identity.can_be_checked]
        for start in range(0, len(asked), CHUNK):
            chunk = asked[start : start + CHUNK]
            identities = [connection.identity for connection in chunk]
            async with asyncio.timeout(ENTITLED_SECONDS):
                answers = await of_host(self._entitled(identities))
            for connection, is_entitled in zip(chunk, answers, strict=True):
                if not is_entitled:
                    connection.end(FORCE_DISCONNECT)

    def _of(self, users: dict[str, None] | None) -> Iterator[UserConnection]:
        for user in list(self._connections if users is None else users):
            yield from list(self._connections.get(user, ()))


def _read(sent: bytes) -> NodeCommand | None:
    try:
        return decode_command(msgspec.json.decode(sent))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def _apply(command: NodeCommand, connection: UserConnection) -> None:
    if getattr(command, "client", "") not in ("", connection.client):
        return
    match command:
        case DisconnectUser():
            if command.session in ("", connection.identity.session):
                connection.end(Close(command.code, command.reason))
        case SubscribeUser():
            connection.serve(command.channel)
        case UnsubscribeUser():
            connection.unserve(command.channel)
        case SendToUser():
            connection.message(command.data)
        case RefreshUser(expired=True):
            connection.end(EXPIRED)
        case RefreshUser():
            connection.prolong(command.expire_at)
