"""A TCP proxy with faults on demand: between the service and Redis, or between client and service.

Runs in the test's own event loop. Both directions use the same `Fault`s; a change of behaviour also
applies to connections that were accepted before.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

RESET = struct.pack("ii", 1, 0)  # SO_LINGER 0: closing sends RST instead of FIN
CHUNK = 64 * 1024
Target = Path | tuple[str, int]


@dataclass(frozen=True)
class Behaviour:
    """What happens to the bytes; by default, nothing."""

    delay: float = 0.0
    """Seconds by which each chunk is delayed; delays overlap, as on a link with high latency."""
    bytes_per_second: float = 0.0
    """0 is unlimited."""
    chunk: int = CHUNK
    """Maximum chunk size; 1 is one byte at a time."""
    blackhole: bool = False
    """Accept all bytes and forward none, without closing anything."""
    cut_after: int = 0
    """Reset the connection after this many bytes in one direction; 0 is never."""
    only: bytes = b""
    """Affect only connections that have sent this; all others pass."""


async def finish_accepting() -> None:
    """Let a server that was closed take the connections that asyncio is accepting already.

    Services reconnect until the end of their tests. A connection that the end of the loop finds
    between the two would be left open, and the warning would fail the next test.
    """
    for _ in range(5):  # a task, and two callbacks
        await asyncio.sleep(0)


class FaultProxy:
    """See the module docstring. `async with` opens and closes it."""

    def __init__(self, target: Target) -> None:
        self.target = target
        """The target of new connections; a failover changes it."""
        self._behaviour = Behaviour()
        self._changed = asyncio.Event()
        self._pairs: dict[asyncio.Task[None], _Pair] = {}
        self._server: asyncio.Server | None = None
        self.port = 0
        self.accepted = 0
        """Number of connections accepted so far."""

    async def __aenter__(self) -> FaultProxy:
        await self._listen()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.refuse()
        await finish_accepting()
        for task in list(self._pairs):
            task.cancel()
        pairs = list(self._pairs.values())
        await asyncio.gather(*self._pairs, return_exceptions=True)
        for pair in pairs:
            for writer in pair.writers:
                writer.transport.abort()  # a peer that does not read would keep it open
        await finish_accepting()

    def behave(self, **fault: float | bool | bytes) -> None:
        """Set the behaviour from now on; faults that are not named are as after `heal`."""
        self._behaviour = replace(Behaviour(), **fault)  # type: ignore[arg-type]
        self._changed.set()
        self._changed = asyncio.Event()

    async def heal(self) -> None:
        """Forward everything; bytes in a blackhole stay lost, so their connections never heal."""
        self.behave()
        if self._server is None:
            await self._listen()

    async def refuse(self) -> None:
        """Refuse connections: the port is closed until `heal`."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def reset(self) -> None:
        """Reset all current connections."""
        for pair in self._pairs.values():
            _reset(*pair.writers)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: asyncio reports an error for each of its own that is cancelled.
        self.accepted += 1
        pair = _Pair(writer)
        task = asyncio.create_task(self._carry(reader, pair))
        self._pairs[task] = pair
        task.add_done_callback(self._pairs.pop)

    async def _carry(self, reader: asyncio.StreamReader, pair: _Pair) -> None:
        [writer] = pair.writers
        try:
            far_reader, far_writer = await self._connect()
            pair.writers.append(far_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(pair, reader, far_writer))
                group.create_task(self._pump(pair, far_reader, writer))
        except* (OSError, _Cut):
            _reset(*pair.writers)
        finally:
            for each in pair.writers:
                each.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.target, Path):
            return await asyncio.open_unix_connection(self.target)
        return await asyncio.open_connection(*self.target)

    async def _pump(
        self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Forward one direction until its end."""
        passed, late = 0, _Late(writer)
        while data := await reader.read(self._behaviour.chunk):
            if writer is not pair.writers[0] and len(pair.asked) < CHUNK:
                pair.asked += data
            behaviour = self._behaviour if self._behaviour.only in pair.asked else Behaviour()
            if behaviour.blackhole:
                continue
            passed += len(data)
            if 0 < behaviour.cut_after < passed:
                raise _Cut
            if behaviour.delay:
                late.write(data, behaviour.delay)
                continue
            await late.drain()
            writer.write(data)
            await writer.drain()
            if behaviour.bytes_per_second:
                with suppress(TimeoutError):  # a change of behaviour ends the wait
                    seconds = len(data) / behaviour.bytes_per_second
                    await asyncio.wait_for(self._changed.wait(), seconds)
        await late.drain()
        with suppress(OSError, RuntimeError):
            writer.write_eof()


class _Pair:
    """Both sides of a connection, and its first bytes."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.writers = [client]
        self.asked = b""


class _Cut(Exception):
    """The connection has passed the number of bytes after which it is reset."""


class _Late:
    """Writes chunks after a delay, in order."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._due = 0.0
        self._idle = asyncio.Event()
        self._idle.set()
        self._waiting = 0

    def write(self, data: bytes, delay: float) -> None:
        loop = asyncio.get_running_loop()
        self._due = max(self._due, loop.time() + delay)  # never before its predecessor
        self._waiting += 1
        self._idle.clear()
        loop.call_at(self._due, self._write, data)

    def _write(self, data: bytes) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._idle.set()
        if not self._writer.is_closing():
            self._writer.write(data)

    async def drain(self) -> None:
        """Wait until no chunk is waiting."""
        await self._idle.wait()


def _reset(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        peer = writer.get_extra_info("socket")
        if peer is not None and peer.fileno() != -1 and peer.family != socket.AF_UNIX:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()
