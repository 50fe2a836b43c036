"""A client of the running service, in Python: what `manage.py listen` does without its printing.

It speaks Centrifugo's JSON protocol over one WebSocket, comes back with full jitter, and says what
it missed. The twin of client.js in what it promises, for scripts instead of pages.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urlsplit, urlunsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidStatus,
    InvalidURI,
)

from realtime.errors import RealtimeError
from realtime.gaps import Gap, Position
from realtime.tracker import Missed, Tracker

DEFAULT_URL = "ws://127.0.0.1:8000/connection/websocket"
RETRY_FIRST_SECONDS = 0.5  # client.js and centrifuge-js: 0.5 s and 20 s too
RETRY_MOST_SECONDS = 20.0
STABLE_SECONDS = 5.0  # a connection that lived so long starts the back-off anew
ANSWER_SECONDS = 10.0  # until the service has answered a handshake or a command
GRACE_SECONDS = 10.0  # silence beyond the service's ping interval, after which it counts as dead
PING_SECONDS = 25.0  # what Centrifugo sends, until the connect reply names it


class ListeningError(RealtimeError):
    """The service does not let us listen; trying again would not change that."""

    code = "listening"


class Published(NamedTuple):
    """A publication arrived."""

    channel: str
    position: Position
    data: Any
    tags: dict[str, str]


class GapFound(NamedTuple):
    """Publications did not arrive."""

    channel: str
    missed: Missed


class Live(NamedTuple):
    """From here on all that is published on the channels arrives, or is announced as missed."""

    positions: dict[str, Position]


class NotLive(NamedTuple):
    """The service does not hear from Redis; nothing arrives until it does."""

    reason: str


class Reconnecting(NamedTuple):
    """The connection is gone; the next attempt starts in so many seconds."""

    reason: str
    seconds: float


Event = Published | GapFound | Live | NotLive | Reconnecting


def websocket_url(text: str) -> str:
    """Return where the WebSocket is; from a service's plain address, its usual place.

    Raises:
        ListeningError: It is no such address.
    """
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise ListeningError(f"{text!a} is not a URL: {error}") from None
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.hostname:
        raise ListeningError(f"{text!a} is not a URL that begins with ws://, wss:// or http(s)://")
    path = parts.path if parts.path not in ("", "/") else urlsplit(DEFAULT_URL).path
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))


class Listener:
    """Listens on channels until it is cancelled or refused."""

    def __init__(
        self,
        url: str,
        channels: list[str],
        tell: Callable[[Event], None],
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Prepare.

        Args:
            url: As `websocket_url` takes it.
            channels: Their names.
            tell: Called with each event, in order.
            jitter: Draws 0 ≤ x < 1 for the time until the next attempt.
        """
        self._url = websocket_url(url)
        self._trackers = {channel: Tracker() for channel in channels}
        self._tell = tell
        self._jitter = jitter
        self._attempt = 0

    async def run(self) -> NoReturn:
        """Listen.

        Raises:
            ListeningError: The service refuses, for good.
        """
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            reason = await self._attempted()
            if loop.time() - started >= STABLE_SECONDS:
                self._attempt = 0
            seconds = self._backoff(self._attempt)
            self._attempt += 1
            self._tell(Reconnecting(reason, seconds))
            await asyncio.sleep(seconds)

    async def _attempted(self) -> str:
        """Connect and listen until the connection is gone; return why it is."""
        try:
            socket = await connect(
                self._url,
                compression=None,
                ping_interval=None,  # the service pings, and we answer: one heartbeat is enough
                open_timeout=ANSWER_SECONDS,
                close_timeout=1,
            )
        except InvalidStatus as error:
            return _refused(self._url, error.response.status_code)
        except InvalidURI as error:
            raise ListeningError(str(error)) from error
        except (OSError, InvalidHandshake, TimeoutError) as error:
            return str(error) or type(error).__name__
        # Not within the try above: an OSError of `tell`, a broken pipe, is none of the network.
        async with socket:
            try:
                await _Session(socket, self._trackers, self._tell, self._backoff).run()
            except ConnectionClosed as error:
                return _closed(error)
            except _Lost as lost:
                return str(lost)

    def _backoff(self, attempt: int) -> float:
        """Full jitter: anything between nothing and a limit that doubles (AWS, 2015)."""
        most = min(RETRY_MOST_SECONDS, RETRY_FIRST_SECONDS * 2.0 ** min(attempt, 30))
        return self._jitter() * most


class _Lost(Exception):
    """This connection is of no use any more."""


def _refused(url: str, status: int) -> str:
    if 400 <= status < 500 and status not in (408, 429):
        raise ListeningError(f"{url} answers {status}: is it the address of the WebSocket?")
    return f"the service answers {status}"


def _closed(error: ConnectionClosed) -> str:
    """Say why, or give up where the code's range says so (Centrifugo's; 1009 is final too)."""
    close = error.rcvd
    if close is None:
        return "connection lost"
    why = f"{ascii(close.reason)[1:-1] or 'closed by the service'} ({close.code})"
    if close.code == 1009 or 3500 <= close.code < 4000 or 4500 <= close.code < 5000:
        raise ListeningError(f"the service ended the connection: {why}")
    return why


class _Session:
    """One connection, from the greeting to its end."""

    def __init__(
        self,
        socket: ClientConnection,
        trackers: dict[str, Tracker],
        tell: Callable[[Event], None],
        backoff: Callable[[int], float],
    ) -> None:
        self._socket = socket
        self._trackers = trackers
        self._tell = tell
        self._backoff = backoff
        self._now = asyncio.get_running_loop().time
        self._asked: dict[int, str] = {}
        self._retries: dict[str, float] = {}
        self._failures = 0
        self._subscribed: set[str] = set()
        self._server_lives: bool | None = None
        self._told: Live | NotLive | None = None
        self._silence = PING_SECONDS + GRACE_SECONDS
        self._heard_at = self._now()
        self._id = 1

    async def run(self) -> NoReturn:
        await self._send(['{"id":1,"connect":{"name":"manage.py listen"}}', *self._subscribes()])
        while True:
            frame = await self._frame()
            if frame is None:
                await self._ask_again()
                continue
            self._heard_at = self._now()
            for line in frame.split("\n"):
                if line == "{}":
                    await self._socket.send("{}")  # at once: it measures what is under way to us
                elif line:
                    self._message(line)
            await self._ask_again()

    async def _frame(self) -> str | None:
        """Return the next frame, or None when it is time to ask for something again."""
        dead_at = self._heard_at + self._silence
        due_at = min(self._retries.values(), default=dead_at)
        try:
            async with asyncio.timeout_at(min(dead_at, due_at)):
                frame = await self._socket.recv()
        except TimeoutError:
            if self._now() >= dead_at:
                raise _Lost("the service is silent") from None
            return None
        if isinstance(frame, bytes):
            raise _Lost("the service sends what we cannot read")
        return frame

    async def _send(self, lines: list[str]) -> None:
        await self._socket.send("\n".join(lines))

    def _subscribes(self) -> list[str]:
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
        if self._retries and (lines := self._subscribes()):
            await self._send(lines)

    def _message(self, line: str) -> None:
        try:
            message = msgspec.json.decode(line, type=_Message)
            self._handle(message)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise _Lost(f"the service sends what we cannot read: {error}") from None

    def _handle(self, message: _Message) -> None:
        if message.push is not None:
            self._push(message.push)
        elif message.connect is not None:
            self._silence = (message.connect.ping or PING_SECONDS) + GRACE_SECONDS
        elif (channel := self._asked.pop(message.id, None)) is not None:
            self._answered(channel, message)
        elif message.error is not None:
            raise _Lost(f"the service refuses: {message.error.message!a}")

    def _answered(self, channel: str, message: _Message) -> None:
        if message.error is not None:
            self._refused(channel, message.error)
        elif message.subscribe is not None:
            reply = message.subscribe
            self._subscribed.add(channel)
            self._failures = 0
            missed = self._trackers[channel].subscribed(Position(reply.epoch, reply.offset))
            self._report(channel, missed)
            self._tell_state()

    def _refused(self, channel: str, error: _Error) -> None:
        if not (error.temporary or error.code < 100):
            why = f"{ascii(error.message)[1:-1]} ({error.code})"
            raise ListeningError(f"the service refuses to let us listen on {channel}: {why}")
        self._retries[channel] = self._now() + self._backoff(self._failures)
        self._failures += 1

    def _push(self, push: _Push) -> None:
        if push.state is not None and push.channel is None:
            self._state(push.state)
        elif push.disconnect is not None:
            raise _Lost(ascii(push.disconnect.reason)[1:-1])
        elif push.channel in self._subscribed:
            self._news(push.channel, push)

    def _state(self, state: _State) -> None:
        self._server_lives = state.live
        if state.live:
            self._retries = dict.fromkeys(self._retries, 0.0)  # no need to wait any longer
        self._tell_state(state.reason)

    def _tell_state(self, reason: str | None = None) -> None:
        """Say that we are live when each channel is, and that we are not as soon as it is known."""
        event: Live | NotLive
        if self._server_lives is False:
            event = NotLive(reason or "broker")
        elif self._subscribed == set(self._trackers) and self._server_lives:
            event = Live({c: p for c, t in self._trackers.items() if (p := t.position)})
        else:
            return
        if type(event) is not type(self._told):
            self._told = event
            self._tell(event)

    def _news(self, channel: str, push: _Push) -> None:
        tracker = self._trackers[channel]
        if push.gap is not None:
            gap = Gap(push.gap.epoch, push.gap.first, push.gap.to)
            self._report(channel, tracker.gap(gap, push.gap.reason))
        elif push.pub is not None:
            fresh, missed = tracker.publication(push.pub.offset, push.pub.epoch)
            self._report(channel, missed)
            position = tracker.position
            if fresh and position is not None:
                self._tell(Published(channel, position, push.pub.data, push.pub.tags))
        elif push.unsubscribe is not None:
            self._unsubscribed(channel, push.unsubscribe)

    def _unsubscribed(self, channel: str, why: _Reason) -> None:
        if why.code < 2500:
            raise ListeningError(f"the service ended the subscription of {channel} ({why.code})")
        self._subscribed.discard(channel)
        self._told = None
        self._retries[channel] = self._now() + self._backoff(0)

    def _report(self, channel: str, missed: list[Missed]) -> None:
        for one in missed:
            self._tell(GapFound(channel, one))


# --- what the service says, as far as it concerns us ---


class _Error(msgspec.Struct):
    code: int
    message: str = ""
    temporary: bool = False


class _Connected(msgspec.Struct):
    ping: int = 0


class _Subscribed(msgspec.Struct):
    epoch: str
    offset: int = 0


class _Publication(msgspec.Struct):
    data: Any
    offset: int
    epoch: str | None = None
    tags: dict[str, str] = {}


class _Gap(msgspec.Struct):
    epoch: str
    to: int | None
    first: int = msgspec.field(name="from")
    reason: str = "unknown"


class _State(msgspec.Struct):
    live: bool
    reason: str | None = None


class _Reason(msgspec.Struct):
    code: int
    reason: str = ""


class _Push(msgspec.Struct):
    channel: str | None = None
    pub: _Publication | None = None
    gap: _Gap | None = None
    state: _State | None = None
    unsubscribe: _Reason | None = None
    disconnect: _Reason | None = None


class _Message(msgspec.Struct):
    id: int = 0
    error: _Error | None = None
    connect: _Connected | None = None
    subscribe: _Subscribed | None = None
    push: _Push | None = None
