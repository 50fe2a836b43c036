"""One connection of a `ListeningClient`: subscribes, reads frames, and reports events.

`realtime.client.tracker` detects which publications are new and which are missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import msgspec
from websockets.asyncio.client import ClientConnection

from realtime.client.events import (
    Event,
    GapFound,
    ListeningError,
    Live,
    MessageReceived,
    NotLive,
    Published,
)
from realtime.client.tracker import Tracker
from realtime.client.wire import (
    EndReason,
    ErrorReply,
    Push,
    ServerMessage,
    StatePush,
    SubscribeReply,
)
from realtime.core.codes import Close
from realtime.core.positions import Gap, Position

if TYPE_CHECKING:
    from realtime.client.tracker import MissedPublications

GRACE_SECONDS = 10.0  # after a ping was due; then the connection counts as dead
PING_SECONDS = 25.0  # Centrifugo's default; the reply to connect contains the interval


class ConnectionLost(Exception):
    """The connection is no longer usable; the message contains the reason."""


class Session:
    """One connection, from its connect command to its end."""

    def __init__(
        self,
        socket: ClientConnection,
        trackers: dict[str, Tracker],
        tell: Callable[[Event], None],
        backoff: Callable[[int], float],
        token: str = "",
    ) -> None:
        """Start without subscriptions.

        Args:
            socket: The connection.
            trackers: By channel. With a token, the channels to which the service subscribes the
                client; it may add others.
            tell: Called with each event.
            backoff: Returns the pause before an attempt.
            token: Says which user this is; empty for an anonymous client, which subscribes itself.
        """
        self._socket = socket
        self._token = token
        self._trackers = trackers
        self._tell = tell
        self._backoff = backoff
        self._now = asyncio.get_running_loop().time
        self._asked: dict[int, str] = {}
        self._retries: dict[str, float] = {}
        self._failures = 0
        self._subscribed: set[str] = set()
        self._server_lives: bool | None = None
        self._lost: set[str] = set()
        self._told: Live | NotLive | None = None
        self._silence = PING_SECONDS + GRACE_SECONDS
        self._heard_at = self._now()
        self._id = 1

    async def run(self) -> NoReturn:
        """Listen until the connection ends.

        Raises:
            ConnectionLost: The service is silent, refuses for now, or has sent an invalid message.
            ConnectionClosed: The connection is closed.
            ListeningError: The service refuses a channel permanently.
        """
        identity = {"token": self._token} if self._token else {}
        connect = {"id": 1, "connect": {"name": "manage.py listen", **identity}}
        subscribes = [] if self._token else self._make_subscribes()
        await self._send([msgspec.json.encode(connect).decode(), *subscribes])
        while True:
            frame = await self._read_frame()
            if frame is None:
                await self._ask_again()
                continue
            self._heard_at = self._now()
            for line in frame.split("\n"):
                if line == "{}":
                    await self._socket.send("{}")  # now: the service measures the round trip
                elif line:
                    self._read_line(line)
            await self._ask_again()

    async def _read_frame(self) -> str | None:
        """Return the next frame, or None if a subscribe must be retried first."""
        dead_at = self._heard_at + self._silence
        due_at = min(self._retries.values(), default=dead_at)
        try:
            async with asyncio.timeout_at(min(dead_at, due_at)):
                frame = await self._socket.recv()
        except TimeoutError:
            if self._now() >= dead_at:
                raise ConnectionLost("the service stopped responding") from None
            return None
        if isinstance(frame, bytes):
            raise ConnectionLost("the service sent a binary frame")
        return frame

    async def _send(self, lines: list[str]) -> None:
        await self._socket.send("\n".join(lines))

    def _make_subscribes(self) -> list[str]:
        lines = []
        for channel in self._trackers:
            if channel not in self._subscribed and self._retries.get(channel, 0) <= self._now():
                self._retries.pop(channel, None)
                if channel not in self._asked.values():
                    self._id += 1
                    self._asked[self._id] = channel
                    command = {"id": self._id, "subscribe": {"channel": channel}}
                    lines.append(msgspec.json.encode(command).decode())
        return lines

    async def _ask_again(self) -> None:
        if self._retries and (lines := self._make_subscribes()):
            await self._send(lines)

    def _read_line(self, line: str) -> None:
        try:
            message = msgspec.json.decode(line, type=ServerMessage)
            self._handle_message(message)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise ConnectionLost(f"the service sent an invalid message: {error}") from None

    def _handle_message(self, message: ServerMessage) -> None:
        if message.push is not None:
            self._handle_push(message.push)
        elif message.connect is not None:
            self._silence = (message.connect.ping or PING_SECONDS) + GRACE_SECONDS
        elif (channel := self._asked.pop(message.id, None)) is not None:
            self._handle_reply(channel, message)
        elif message.error is not None:
            raise ConnectionLost(f"the service refused the connection: {message.error.message!a}")

    def _handle_reply(self, channel: str, message: ServerMessage) -> None:
        if message.error is not None:
            self._handle_refusal(channel, message.error)
        elif message.subscribe is not None:
            reply = message.subscribe
            self._subscribed.add(channel)
            self._lost.discard(channel)
            self._failures = 0
            missed = self._trackers[channel].note_subscribed(Position(reply.epoch, reply.offset))
            self._report(channel, missed)
            self._tell_state()

    def _handle_refusal(self, channel: str, error: ErrorReply) -> None:
        if not (error.temporary or error.code < 100):
            why = f"{ascii(error.message)[1:-1]} ({error.code})"
            raise ListeningError(f"the service refused the subscription to {channel}: {why}")
        self._retries[channel] = self._now() + self._backoff(self._failures)
        self._failures += 1

    def _handle_push(self, push: Push) -> None:
        if push.state is not None:
            self._handle_state(push.channel, push.state)
        elif push.disconnect is not None:
            self._handle_disconnect(push.disconnect)
        elif push.message is not None:
            self._tell(MessageReceived(push.message.data))
        elif push.subscribe is not None and push.channel and self._token:
            self._handle_served(push.channel, push.subscribe)
        elif push.channel in self._subscribed:
            self._handle_channel_push(push.channel, push)

    def _handle_disconnect(self, why: EndReason) -> NoReturn:
        reason = ascii(why.reason)[1:-1]
        if not Close(why.code, reason).reconnect:
            raise ListeningError(f"the service closed the connection: {reason} ({why.code})")
        raise ConnectionLost(reason)

    def _handle_served(self, channel: str, start: SubscribeReply) -> None:
        """Process a subscription that the service has started, now or later."""
        tracker = self._trackers.setdefault(channel, Tracker())
        self._subscribed.add(channel)
        self._report(channel, tracker.note_subscribed(Position(start.epoch, start.offset)))
        self._told = None  # it is live with one more channel
        self._tell_state()

    def _handle_state(self, channel: str | None, state: StatePush) -> None:
        if channel is None:
            self._server_lives = state.live
            self._lost.clear()
            if state.live:
                self._retries = dict.fromkeys(self._retries, 0.0)  # subscribe immediately
        elif state.live:
            self._lost.discard(channel)
        elif channel in self._trackers:
            self._lost.add(channel)
        self._tell_state(state.reason)

    def _tell_state(self, reason: str | None = None) -> None:
        """Report a change: live once all channels are, not live as soon as the service says so."""
        event: Live | NotLive
        if self._server_lives is False or self._lost:
            event = NotLive(reason or "broker")
        elif self._subscribed and self._subscribed == set(self._trackers) and self._server_lives:
            event = Live({c: p for c, t in self._trackers.items() if (p := t.position)})
        else:
            return
        if type(event) is not type(self._told):
            self._told = event
            self._tell(event)

    def _handle_channel_push(self, channel: str, push: Push) -> None:
        tracker = self._trackers[channel]
        if push.gap is not None:
            gap = Gap(push.gap.epoch, push.gap.first, push.gap.to)
            self._report(channel, tracker.note_gap(gap, push.gap.reason))
        elif push.pub is not None:
            fresh, missed = tracker.note_publication(push.pub.offset, push.pub.epoch)
            self._report(channel, missed)
            position = tracker.position
            if fresh and position is not None:
                self._tell(Published(channel, position, push.pub.data, push.pub.tags))
        elif push.unsubscribe is not None:
            self._handle_unsubscribe(channel, push.unsubscribe)

    def _handle_unsubscribe(self, channel: str, why: EndReason) -> None:
        if self._token:
            self._handle_served_end(channel, why)
            return
        if why.code < 2500:
            raise ListeningError(f"the service ended the subscription to {channel} ({why.code})")
        self._subscribed.discard(channel)
        self._told = None
        self._retries[channel] = self._now() + self._backoff(0)

    def _handle_served_end(self, channel: str, why: EndReason) -> None:
        if why.code >= 2500:  # for now: another connection gets it again
            raise ConnectionLost(f"the service interrupted {channel}: {ascii(why.reason)[1:-1]}")
        self._subscribed.discard(channel)
        del self._trackers[channel]

    def _report(self, channel: str, missed: list[MissedPublications]) -> None:
        for one in missed:
            self._tell(GapFound(channel, one))
