"""The listening socket, and how long a worker takes to leave it.

Apart from `notifier.server`, so that the launcher, which only opens the socket and waits, need not
load a server (60 of its 270 ms).
"""

from __future__ import annotations

import socket

# How long a proxy has to notice that /readyz fails before the port closes.
LINGER_SECONDS = 1.0
# Clients are disconnected one by one over this period, so that they do not all return at once.
DRAIN_SECONDS = 10.0
# Whatever is left after that (a hung request) gets this long before it is cancelled.
GRACEFUL_SECONDS = 3
# The sum of the above and some slack; after it, the process exits whatever it is doing.
STOP_SECONDS = LINGER_SECONDS + DRAIN_SECONDS + GRACEFUL_SECONDS + 4.0

# The only way to drop a client that has stopped reading: `websocket.close` waits behind the data.
# Longer than flow control's patience (10 s and 1 MiB at 16 KiB/s): the kernel cuts the connection
# silently, and a client that stalls for half a minute must be told what it missed.
UNACKNOWLEDGED_SECONDS = 80
# Every client of a restarted node returns within seconds. The kernel caps it (net.core.somaxconn).
BACKLOG = 2048


def listening_socket(host: str, port: int) -> socket.socket:
    """Bind and listen; connections made from now on wait for a worker.

    Raises:
        OSError: The address is not available.
    """
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    # "localhost" may be both. Browsers fall back from ::1 to 127.0.0.1, but not every client does.
    family, _, _, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _set_user_timeout(listener)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _set_user_timeout(listener: socket.socket) -> None:
    # Linux only; accepted sockets inherit it (tested). Elsewhere the pong deadline remains.
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        milliseconds = UNACKNOWLEDGED_SECONDS * 1000
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
