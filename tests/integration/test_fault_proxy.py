"""The proxy of the fault tests causes exactly the faults that it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.eventually import eventually
from tests.support.fault_proxy import FaultProxy
from tests.support.machine import allowed, in_time


@pytest.fixture
async def echo() -> AsyncIterator[tuple[str, int]]:
    """A server that sends back what it receives."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()
    server.close()


@pytest.fixture
async def proxy(echo: tuple[str, int]) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(echo) as proxy:
        yield proxy


async def connect(proxy: FaultProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def said(reader: asyncio.StreamReader, count: int, seconds: float = 5.0) -> bytes:
    return await in_time(reader.readexactly(count), seconds)


async def test_the_proxy_forwards_everything(proxy: FaultProxy) -> None:
    reader, writer = await connect(proxy)
    data = bytes(range(256)) * 4096
    writer.write(data)
    assert await said(reader, len(data)) == data
    writer.write_eof()
    assert await in_time(reader.read(), 5) == b""
    writer.close()


async def test_a_delay_keeps_the_order_and_does_not_add_up(proxy: FaultProxy) -> None:
    loop = asyncio.get_running_loop()
    reader, writer = await connect(proxy)
    proxy.behave(delay=0.2)
    start = loop.time()
    for number in range(20):
        writer.write(b"%02d" % number)
        await asyncio.sleep(0)
    heard = await said(reader, 40)
    assert heard == b"".join(b"%02d" % number for number in range(20))
    assert 0.4 <= loop.time() - start < allowed(2.0, start)  # there and back, not twenty times
    writer.close()


async def test_delayed_bytes_are_not_overtaken_after_healing(
    proxy: FaultProxy,
) -> None:
    reader, writer = await connect(proxy)
    proxy.behave(delay=0.3)
    writer.write(b"first")
    await asyncio.sleep(0.05)
    await proxy.heal()
    writer.write(b"second")
    assert await said(reader, 11) == b"firstsecond"
    writer.close()


async def test_a_throttle_limits_the_rate_and_a_change_ends_the_wait(proxy: FaultProxy) -> None:
    loop = asyncio.get_running_loop()
    reader, writer = await connect(proxy)
    proxy.behave(bytes_per_second=1000, chunk=100)
    start = loop.time()
    writer.write(b"x" * 500)
    await said(reader, 500)
    assert loop.time() - start >= 0.4
    proxy.behave(bytes_per_second=1)
    writer.write(b"y" * 10)
    await said(reader, 1)
    await proxy.heal()
    await said(reader, 9, 2.0)
    writer.close()


async def test_the_proxy_can_forward_one_byte_at_a_time(proxy: FaultProxy) -> None:
    reader, writer = await connect(proxy)
    proxy.behave(chunk=1)
    writer.write(b"hello")
    assert await said(reader, 5) == b"hello"
    writer.close()


async def test_a_blackhole_drops_everything_silently(proxy: FaultProxy) -> None:
    reader, writer = await connect(proxy)
    writer.write(b"a")
    assert await said(reader, 1) == b"a"
    proxy.behave(blackhole=True)
    writer.write(b"b")
    with pytest.raises(TimeoutError):
        await said(reader, 1, 0.2)
    await proxy.heal()
    writer.write(b"c")
    assert await said(reader, 1) == b"c", "what was swallowed stays lost"
    writer.close()


async def test_a_reset_is_noticed_at_once(proxy: FaultProxy) -> None:
    reader, writer = await connect(proxy)
    writer.write(b"a")
    await said(reader, 1)
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        await said(reader, 1)
    writer.close()


async def test_the_proxy_cuts_after_a_number_of_bytes(proxy: FaultProxy) -> None:
    reader, writer = await connect(proxy)
    proxy.behave(cut_after=3, chunk=1)
    writer.write(b"abcdef")
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await said(reader, 6)
    writer.close()


async def test_the_proxy_refuses_connections_until_healed_on_the_same_port(
    proxy: FaultProxy,
) -> None:
    await proxy.refuse()

    async def refused() -> bool:
        try:
            _, writer = await connect(proxy)
        except ConnectionRefusedError:
            return True
        writer.close()
        return False

    assert await refused()
    await proxy.heal()
    reader, writer = await connect(proxy)
    writer.write(b"a")
    assert await said(reader, 1) == b"a"
    writer.close()


async def test_closing_the_proxy_ends_its_connections(echo: tuple[str, int]) -> None:
    before = asyncio.all_tasks()
    async with FaultProxy(echo) as proxy:
        reader, writer = await connect(proxy)
        writer.write(b"a")
        await said(reader, 1)
    assert await in_time(reader.read(), 5) == b""
    writer.close()
    await eventually(lambda: len(asyncio.all_tasks()) <= len(before) + 1)  # the echo's own
