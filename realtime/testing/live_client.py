"""A client for async tests: it connects to the hub of the running event loop and waits.

There is no server and no socket in between. The session, the Origin and the limits of the
transports are not tested this way; permissions, tokens and delivery are.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from realtime import wiring
from realtime.auth.user_info import info_of
from realtime.core.identity import Identity
from realtime.core.publication import EVENT_TAG
from realtime.host.user_tokens import id_of

if TYPE_CHECKING:
    from realtime.delivery.conversation import Conversation
    from realtime.delivery.hub import Hub

WAIT_SECONDS = 5.0


class ReceivedPublication(NamedTuple):
    """A publication that a client has received."""

    channel: str
    data: Any
    event: str | None
    tags: dict[str, str]
    """Without the event."""
    offset: int


class RefusedCommand(AssertionError):
    """The server answered a command with an error: its ``code`` and message."""

    def __init__(self, command: str, code: int, message: str) -> None:
        super().__init__(f"{command} was refused: {message} ({code})")
        self.code = code


class ClientClosed(AssertionError):
    """The server closed the connection, with a ``code`` and a ``reason``."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the server closed the connection: {reason} ({code})")
        self.code = code
        self.reason = reason


class LiveClient:
    """A connected client; `connect` opens one."""

    def __init__(self, hub: Hub, identity: Identity) -> None:
        self.received: list[ReceivedPublication] = []
        """All publications so far, on all channels."""
        self.pushes: list[dict[str, Any]] = []
        """Everything else that the server sent unasked, such as gaps, joins and leaves."""
        self._hub = hub
        self._identity = identity
        self._seen = 0
        self._ids = 0
        self._replies: dict[int, dict[str, Any]] = {}
        self._closed: ClientClosed | None = None
        self._changed = asyncio.Event()
        self._conversation: Conversation | None = None
        self._task = asyncio.get_running_loop().create_task(self._serve(), name="realtime test")

    async def command(self, name: str, **fields: Any) -> dict[str, Any]:
        """Send a command of the protocol, such as ``rpc``; return its result.

        Raises:
            RefusedCommand: The server answered with an error.
            ClientClosed: The server closed the connection.
            TimeoutError: No answer came within five seconds.
        """
        self._ids += 1
        number = self._ids
        await self._until(lambda: self._conversation)
        self._say({"id": number, name: fields})
        await self._until(lambda: number in self._replies)
        reply = self._replies.pop(number)
        if "error" in reply:
            raise RefusedCommand(name, reply["error"]["code"], reply["error"]["message"])
        result: dict[str, Any] = reply.get(name, {})
        return result

    async def subscribe(self, channel: str, **fields: Any) -> None:
        """Subscribe to a channel: publications from now on are received. Errors as above."""
        await self.command("subscribe", channel=channel, **fields)

    async def unsubscribe(self, channel: str) -> None:
        """End the subscription to a channel."""
        await self.command("unsubscribe", channel=channel)

    async def next(self, seconds: float = WAIT_SECONDS) -> ReceivedPublication:
        """Return the next publication, and wait for it if necessary.

        Raises:
            TimeoutError: None came within so many seconds.
            ClientClosed: The server closed the connection.
        """
        await self._until(lambda: len(self.received) > self._seen, seconds)
        self._seen += 1
        return self.received[self._seen - 1]

    async def until_subscribed(self) -> None:
        """Wait until the server has subscribed a user to their personal channel, if they have one.

        Errors are those of `next`.
        """
        own = set(wiring.namespaces().server_side_channels(self._identity))
        await self._until(
            lambda: own <= {push.get("channel") for push in self.pushes if "subscribe" in push}
        )

    async def until_closed(self, seconds: float = WAIT_SECONDS) -> ClientClosed:
        """Wait until the server closes the connection; return its code and reason.

        Raises:
            TimeoutError: It did not.
        """
        await self._until(lambda: self._closed, seconds, is_open=False)
        assert self._closed is not None  # noqa: S101 - it was waited for
        return self._closed

    async def aclose(self) -> None:
        """Close the connection."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _serve(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is a task
        conversation = self._hub.connections.attach(self._send, task, identity=self._identity)
        self._conversation = conversation
        self._changed.set()
        try:
            await asyncio.Event().wait()  # the hub cancels the task at the end of the connection
        finally:
            conversation.end(None)

    def _say(self, command: dict[str, Any]) -> None:
        if self._conversation is not None:
            self._conversation.receive(json.dumps(command))

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        """Take what the server sends, as an ASGI server does."""
        if message["type"] == "websocket.close":
            self._closed = ClientClosed(message["code"], message.get("reason", ""))
        for line in message.get("text", "").splitlines():
            self._take(json.loads(line))
        self._changed.set()

    def _take(self, said: dict[str, Any]) -> None:
        if not said:
            self._say({})  # a ping
        elif "id" in said:
            self._replies[said["id"]] = said
        elif "pub" in (push := said["push"]):
            tags = dict(push["pub"].get("tags", {}))
            event = tags.pop(EVENT_TAG, None)
            data, offset = push["pub"]["data"], push["pub"].get("offset", 0)
            self.received.append(
                ReceivedPublication(push.get("channel", ""), data, event, tags, offset)
            )
        else:
            self.pushes.append(push)

    async def _until(
        self, true: Callable[[], Any], seconds: float = WAIT_SECONDS, *, is_open: bool = True
    ) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not true():
                    if is_open and self._closed is not None:
                        raise self._closed
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(
                f"nothing within {seconds:g} s; received so far: {self.received!r:.500}"
            ) from None


@asynccontextmanager
async def connect(user: Any = "") -> AsyncIterator[LiveClient]:
    """Open a client of the running event loop, and close it at the end of the block.

    Args:
        user: A Django user, or a user id as a string; anonymous by default. The user's personal
            channel is subscribed to, if `REALTIME_PERSONAL_CHANNEL` names one.
    """
    info = "" if isinstance(user, str) else await info_of(user, wiring.user_info())
    hub = wiring.node().hub
    is_first = not hub.is_started
    if is_first:
        hub.start()
    client = LiveClient(hub, Identity(id_of(user), info=info))
    try:
        await client.command("connect")
        await client.until_subscribed()
        yield client
    finally:
        await client.aclose()
        if is_first:
            await wiring.aclose()
