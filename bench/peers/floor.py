"""The floor: the bare cost of writing an encoded frame to many sockets in asyncio.

A WebSocket server in name only. The line `PUBLISH` makes it write one frame to every client; after
`TO 3 7`, only the fourth and the eighth client that connected get one.

    python -m bench.peers.floor PORT
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import sys

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
PAYLOAD = (
    b'{"push":{"channel":"public:bench","pub":{"data":{"text":"' + b"x" * 100 + b'"},"offset":1}}}'
)
FRAME = b"\x81\x7e" + len(PAYLOAD).to_bytes(2, "big") + PAYLOAD
clients: list[asyncio.Transport] = []


class Client(asyncio.Protocol):
    """One socket: a client or the publisher."""

    _is_client = False
    _begun = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET"):
            key = data.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
            accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
            self._transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
            )
            clients.append(self._transport)
            self._is_client = True
        elif not self._is_client:
            *lines, self._begun = (self._begun + data).split(b"\n")
            for line in lines:
                command, *numbers = line.split()
                chosen = [clients[int(n)] for n in numbers] if command == b"TO" else clients
                for transport in chosen:
                    transport.write(FRAME)

    def connection_lost(self, error: Exception | None) -> None:
        if self._is_client:
            clients.remove(self._transport)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Client, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
