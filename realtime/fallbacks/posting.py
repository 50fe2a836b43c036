"""POSTs to servers that somebody else has named, without contacting our own network by mistake.

Redirects are not followed, and an address in a private network is rejected unless the caller allows
it: otherwise, anyone who names a host could make us contact our neighbours (CWE-918). The address
that was checked is the one that is connected to, whatever its name resolves to by then.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPResponse
from typing import Any, NamedTuple
from urllib.parse import SplitResult

from realtime.core.addresses import is_public

LOOK_UPS_LIMIT = 16
"""Concurrent host look-ups in one process, including those whose caller has given up."""
PORTS = {"https": 443, "http": 80}

LookUp = Callable[..., list[tuple[Any, ...]]]
"""A function like `socket.getaddrinfo`."""
_look_ups = threading.BoundedSemaphore(LOOK_UPS_LIMIT)


class PostFailed(Exception):
    """The server cannot be reached, or does not answer in time; a retry may succeed."""


class PrivateAddress(PostFailed):
    """The host is in a private network."""


class ResponseHead(NamedTuple):
    """The head of a server's answer; its body is not read."""

    status: int
    headers: HTTPMessage


class VettedPost:
    """One POST within a time limit."""

    def __init__(
        self,
        url: SplitResult,
        *,
        seconds: float,
        allow_private: bool = False,
        look_up: LookUp = socket.getaddrinfo,
    ) -> None:
        """Prepare a request.

        Args:
            url: An address with the scheme http or https and a host.
            seconds: For everything together, the look-up of the host included.
            allow_private: Whether the host may be in a private network.
            look_up: Resolves the host.
        """
        self._url = url
        self._seconds = seconds
        self._allow_private = allow_private
        self._look_up = look_up

    def send(self, body: bytes, headers: Mapping[str, str]) -> ResponseHead:
        """Send the request, and return the head of the answer.

        Raises:
            PostFailed: There is none.
        """
        deadline = _Deadline(self._seconds)
        connection = HTTPConnection(self._url.hostname or "", self._port)
        try:
            connection.sock = deadline.guard(self._connect(deadline))
            if self._url.scheme == "https":
                secured = ssl.create_default_context().wrap_socket(
                    connection.sock,
                    server_hostname=self._url.hostname,
                    do_handshake_on_connect=False,  # but below, where the deadline covers it
                )
                connection.sock = secured
                deadline.guard(secured)
                secured.do_handshake()
            connection.request("POST", _path(self._url), body, dict(headers))
            response: HTTPResponse = connection.getresponse()
            if deadline.has_passed:  # a truncated head is indistinguishable from a complete one
                raise TimeoutError
            return ResponseHead(response.status, response.headers)
        except (OSError, HTTPException, ValueError) as error:
            # The socket's own timeout expires at the same moment, and may be first.
            if deadline.has_passed or isinstance(error, TimeoutError):
                raise PostFailed(f"no response within {self._seconds:g} s") from error
            raise PostFailed(f"no response: {type(error).__name__}: {error}"[:300]) from error
        finally:
            deadline.cancel()
            connection.close()

    @property
    def _port(self) -> int:
        return self._url.port or PORTS[self._url.scheme]

    def _connect(self, deadline: _Deadline) -> socket.socket:
        """Connect to a vetted address, not to a name that may resolve differently by now."""
        host, port = self._url.hostname or "", self._port
        try:
            found = _resolve(self._look_up, host, port, deadline)
        except TimeoutError as error:
            raise PostFailed(f"resolving {host} took longer than {self._seconds:g} s") from error
        addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        if not self._allow_private:
            addresses = [address for address in addresses if is_public(address)]
            if not addresses:
                raise PrivateAddress(
                    f"{host} is in a private network: set allow_private to permit it"
                )
        return _connect_any(addresses, port, deadline)


class _Deadline:
    """Shuts down a socket when its time is over, wherever a thread is blocked on it.

    A socket timeout applies to each read alone: sending one byte a second would evade it.
    """

    def __init__(self, seconds: float) -> None:
        self.socket: socket.socket | None = None
        self.has_passed = False
        self._at = time.monotonic() + seconds
        self._timer = threading.Timer(seconds, self._pass)
        self._timer.daemon = True
        self._timer.start()

    @property
    def left(self) -> float:
        """Seconds until it passes; never 0, which a socket takes for non-blocking."""
        return max(0.001, self._at - time.monotonic())

    def guard(self, guarded: socket.socket) -> socket.socket:
        """Apply the deadline to this socket.

        Raises:
            TimeoutError: It has already passed, and would no longer end the socket.
        """
        guarded.settimeout(self.left)
        self.socket = guarded
        if self.has_passed:
            guarded.close()
            raise TimeoutError
        return guarded

    def cancel(self) -> None:
        self._timer.cancel()

    def _pass(self) -> None:
        self.has_passed = True
        with contextlib.suppress(OSError):  # it is closed already
            if self.socket is not None:
                self.socket.shutdown(socket.SHUT_RDWR)


def _path(url: SplitResult) -> str:
    return (url.path or "/") + (f"?{url.query}" if url.query else "")


def _resolve(look_up: LookUp, host: str, port: int, deadline: _Deadline) -> list[tuple[Any, ...]]:
    """Resolve a host in a thread of its own: `getaddrinfo` has no timeout and cannot be cancelled.

    Hung threads are daemons, so that the process can exit, and there are at most `LOOK_UPS_LIMIT`;
    beyond that, callers wait for one of them until their own deadline.

    Raises:
        TimeoutError: The deadline passed first.
        OSError: The host does not exist, or cannot be resolved at present.
    """
    found: Future[list[tuple[Any, ...]]] = Future()

    def run() -> None:
        try:
            found.set_result(look_up(host, port, type=socket.SOCK_STREAM))
        except (OSError, ValueError) as error:  # ValueError: no name by IDNA
            found.set_exception(error)
        finally:
            _look_ups.release()

    if not _look_ups.acquire(timeout=deadline.left):
        raise TimeoutError
    try:
        threading.Thread(target=run, name="realtime resolver", daemon=True).start()
    except RuntimeError:  # the machine has no threads left
        _look_ups.release()
        raise
    return found.result(deadline.left)


def _connect_any(addresses: list[str], port: int, deadline: _Deadline) -> socket.socket:
    """Connect to the first address that answers; each gets its share of the remaining time."""
    errors: list[OSError] = []
    for number, address in enumerate(addresses):
        try:
            seconds = deadline.left / (len(addresses) - number)
            return socket.create_connection((address, port), timeout=seconds)
        except OSError as error:
            errors.append(error)
    raise errors[-1]
