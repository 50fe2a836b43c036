"""The connections of a node by user: does to them what nodes were told, and looks at them again.

A command comes over the hub's own subscription. One that did not come is found where the broker
keeps it, at each look; and a look asks the site whether those who are here may still be.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from realtime.brokers import Broker, Moment, moment_of
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
from realtime.tally import Tally

if TYPE_CHECKING:
    from realtime.conversation import Conversation

logger = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
"""How long a command can stay unheard, and a right that has ended unnoticed."""
CHUNK = 500
"""Identities that the site is asked about at once."""

Entitled = Callable[[Sequence[Identity]], Awaitable[Sequence[bool]]]
"""Which of these may still be here, in their order."""


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
        self._conversations: dict[str, dict[Conversation, None]] = {}
        self._suspects: dict[str, None] | None = None  # None: everybody
        self._due = asyncio.Event()
        self._nonsense = Tally()
        self._until: Moment | None = None  # everything up to it was done
        self._heard: dict[Moment, None] = {}  # since

    def add(self, conversation: Conversation) -> None:
        """A client has introduced itself."""
        identity = conversation.identity
        if identity.user:
            self._conversations.setdefault(identity.user, {})[conversation] = None
            # A session was looked up a moment ago; a token may be from before the password changed.
            if identity.stamp and identity.proof is None:
                self._suspect(identity.user)

    def discard(self, conversation: Conversation) -> None:
        """A connection has ended."""
        user = conversation.identity.user
        of_user = self._conversations.get(user)
        if of_user is not None:
            of_user.pop(conversation, None)
            if not of_user:
                del self._conversations[user]

    def __len__(self) -> int:
        """Return how many different users are here."""
        return len(self._conversations)

    def count(self, user: str) -> int:
        """Return how many connections a user has at this node."""
        return len(self._conversations.get(user, ()))

    def hear(self, raw: bytes) -> None:
        """Take what came on the channel of all nodes; what is no command of ours is passed over."""
        head, _, told = raw.partition(b" ")
        try:
            moment = moment_of(head)
        except ValueError:
            return
        if self._until is not None and moment > self._until and moment not in self._heard:
            self._heard[moment] = None
            self._obey(told)

    def look_again(self) -> None:
        """Perhaps something was not heard: look at everybody soon."""
        self._suspects = None
        self._due.set()

    async def watch(self) -> None:
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
            for conversation in list(self._conversations.get(command.user, ())):
                if before is None or conversation.began < before:
                    _apply(command, conversation)

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
            identities = [conversation.identity for conversation in chunk]
            answers = await of_host(self._entitled(identities))
            for conversation, is_entitled in zip(chunk, answers, strict=True):
                if not is_entitled:
                    conversation.end(FORCE_DISCONNECT)

    def _of(self, users: dict[str, None] | None) -> Iterator[Conversation]:
        for user in list(self._conversations if users is None else users):
            yield from list(self._conversations.get(user, ()))


def _apply(command: Command, conversation: Conversation) -> None:
    if getattr(command, "client", "") not in ("", conversation.client):
        return
    match command:
        case Disconnect():
            if command.session in ("", conversation.identity.session):
                conversation.end(Close(command.code, command.reason))
        case Subscribe():
            conversation.serve(command.channel)
        case Unsubscribe():
            conversation.unserve(command.channel)
        case Message():
            conversation.message(command.data)
        case Refresh(expired=True):
            conversation.end(EXPIRED)
        case Refresh():
            conversation.prolong(command.expire_at)
