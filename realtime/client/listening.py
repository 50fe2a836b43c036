"""A Python client for scripts, the counterpart of client.js; `manage.py listen` prints its events.

It speaks Centrifugo's JSON protocol over one WebSocket, reconnects with full jitter, and reports
gaps. It gives the same guarantees as client.js. Needs the package websockets, which is an extra:
``pip install 'django-realtime-notifier[listen]'``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import NoReturn
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidStatus,
    InvalidURI,
)

from realtime.client.events import Event, ListeningError, Reconnecting
from realtime.client.session import ConnectionLost, Session
from realtime.client.tracker import Tracker
from realtime.client.wire import DEFAULT_URL
from realtime.core.codes import Close
from realtime.errors import BrokerError

RETRY_FIRST_SECONDS = 0.5  # client.js and centrifuge-js: 0.5 s and 20 s too
RETRY_MOST_SECONDS = 20.0
STABLE_SECONDS = 5.0  # a connection that lasted this long resets the back-off
ANSWER_SECONDS = 10.0  # the timeout for the handshake


def websocket_url(text: str) -> str:
    """Return the URL of the WebSocket; a URL without a path gets the default one.

    Raises:
        ListeningError: It is not a URL of a WebSocket or of a site.
    """
    try:
        parts = urlsplit(text)
        if parts.port == 0:
            raise ValueError("port 0")
    except ValueError as error:
        raise ListeningError(f"{text!a} is not a URL: {error}") from None
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.hostname:
        raise ListeningError(f"{text!a} is not a URL that begins with ws://, wss:// or http(s)://")
    path = parts.path if parts.path not in ("", "/") else urlsplit(DEFAULT_URL).path
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))


class ListeningClient:
    """A client that listens to channels until it is cancelled or refused."""

    def __init__(
        self,
        url: str,
        channels: list[str],
        tell: Callable[[Event], None],
        *,
        identify: Callable[[], Awaitable[tuple[str, list[str]]]] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Create a client; `run` connects.

        Args:
            url: The URL of the service, as accepted by `websocket_url`.
            channels: The names of the channels.
            tell: Called with each event, in order.
            identify: Returns a token and the channels to which the service will subscribe its
                client; called for each connection. Without it, the client is anonymous.
            jitter: Returns 0 ≤ x < 1, the fraction of the longest pause before the next attempt.
        """
        self._url = websocket_url(url)
        self._trackers = {channel: Tracker() for channel in channels}
        self._tell = tell
        self._identify = identify
        self._jitter = jitter
        self._attempt = 0
        self._socket: ClientConnection | None = None
        self._left_because = ""

    @property
    def channels(self) -> list[str]:
        """The channels that it listens to, or is about to."""
        return list(self._trackers)

    async def reconnect(self, reason: str) -> None:
        """Identify again, on another connection; the events show the reason."""
        if self._socket is not None:
            self._left_because = reason
            await self._socket.close()

    async def run(self) -> NoReturn:
        """Listen, and reconnect whenever the connection breaks.

        Raises:
            ListeningError: The service refuses permanently.
        """
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            reason = await self._listen_once()
            if loop.time() - started >= STABLE_SECONDS:
                self._attempt = 0
            seconds = self._backoff(self._attempt)
            self._attempt += 1
            self._tell(Reconnecting(reason, seconds))
            await asyncio.sleep(seconds)

    async def _listen_once(self) -> str:
        """Connect and listen until the connection ends; return the reason."""
        token = ""
        if self._identify is not None:
            try:
                token, channels = await self._identify()
            except BrokerError as error:
                return str(error)
            self._trackers = {name: self._trackers.get(name) or Tracker() for name in channels}
        try:
            socket = await connect(
                self._url,
                compression=None,
                ping_interval=None,  # the service sends pings, so one heartbeat is enough
                open_timeout=ANSWER_SECONDS,
                close_timeout=1,
            )
        except InvalidStatus as error:
            return _read_status(self._url, error.response.status_code)
        except InvalidURI as error:
            raise ListeningError(str(error)) from error
        except (OSError, InvalidHandshake, TimeoutError) as error:
            return str(error) or type(error).__name__
        # Outside the try above: an OSError from `tell` (a broken pipe) is not a network error.
        async with socket:
            self._socket, self._left_because = socket, ""
            try:
                await Session(socket, self._trackers, self._tell, self._backoff, token).run()
            except ConnectionClosed as error:
                return self._left_because or _read_close(error)
            except ConnectionLost as lost:
                return str(lost)
            finally:
                self._socket = None

    def _backoff(self, attempt: int) -> float:
        """Draw a pause between 0 and a limit that doubles: full jitter (AWS, 2015)."""
        most = min(RETRY_MOST_SECONDS, RETRY_FIRST_SECONDS * 2.0 ** min(attempt, 30))
        return self._jitter() * most


def _read_status(url: str, status: int) -> str:
    if 400 <= status < 500 and status not in (408, 429):
        raise ListeningError(
            f"{url} answered with status {status}; check that it is the URL of the WebSocket"
        )
    return f"the service answered with status {status}"


def _read_close(error: ConnectionClosed) -> str:
    """Return the reason of a close; raise if its code is final (Centrifugo's ranges, and 1009)."""
    close = error.rcvd
    if close is None:
        return "connection lost"
    why = f"{ascii(close.reason)[1:-1] or 'closed by the service'} ({close.code})"
    if close.code == 1009 or not Close(close.code, close.reason).reconnect:
        raise ListeningError(f"the service closed the connection: {why}")
    return why
