"""A TCP proxy in front of Valkey that forwards commands and can withhold replies."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from tests.support.redis_server import RedisServer


class ReplyProxy:
    """Forwards replies until a test calls `cut` or `hold`."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        self._cutting = False
        self._holding = threading.Event()
        self._released = threading.Event()
        self.lost = 0
        """Number of replies that the client has not received, or not yet."""
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def cut(self) -> None:
        """From now on, discard each reply and close the connection instead."""
        self._cutting = True

    def hold(self) -> None:
        """Hold each reply from now on, until `heal`; the client receives nothing."""
        self._holding.set()

    def heal(self) -> None:
        """Forward replies again, starting with those that were held."""
        self._cutting = False
        self._holding.clear()
        self._released.set()

    def close(self) -> None:
        self.heal()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for peer in self._sockets:
            _end(peer)
        for thread in self._threads:
            thread.join(timeout=60)
        for peer in self._sockets:
            peer.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self._server.socket))
                self._sockets += [client, server]
                self._start(self._commands, client, server)
                self._start(self._replies, server, client)

    def _start(self, what: object, source: socket.socket, target: socket.socket) -> None:
        thread = threading.Thread(target=what, args=(source, target))  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _commands(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65_536):
                server.sendall(data)
        _end(server)

    def _replies(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65_536):
                if self._cutting:
                    self.lost += 1
                    break
                if self._holding.is_set():
                    self.lost += 1
                    self._released.wait()
                client.sendall(data)
        _end(client)


def _end(peer: socket.socket) -> None:
    with suppress(OSError):
        peer.shutdown(socket.SHUT_RDWR)
