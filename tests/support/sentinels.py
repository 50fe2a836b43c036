"""A master, a replica and three sentinels, to be used and to be broken.

With short timeouts: the sentinels take a master for dead that is silent for half a second.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import redis.asyncio

from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.redis_server import USUAL, RedisServer

DOWN_SECONDS = 0.5
NAME = "mymaster"
QUORUM = 2


class Sentinel:
    """One sentinel process."""

    def __init__(self, master_port: int, *lines: str, password: str = "") -> None:
        self.port = free_port()
        self._password = password
        self.folder = Path(tempfile.mkdtemp(prefix="rt-sentinel-"))
        conf = self.folder / "sentinel.conf"
        settings = {
            "down-after-milliseconds": int(DOWN_SECONDS * 1000),
            "failover-timeout": 2000,  # a master that dies again has to wait twice this long
        }
        text = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {self.folder}",
            f"sentinel monitor {NAME} 127.0.0.1 {master_port} {QUORUM}",
            *(f"sentinel {key} {NAME} {value}" for key, value in settings.items()),
            *lines,
        ]
        conf.write_text("\n".join(text) + "\n")
        self._conf = conf
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Sentinel:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [USUAL, str(self._conf), "--sentinel"], stdout=log, stderr=log
            )
        return self

    def client(self) -> redis.asyncio.Redis:
        """Return a client, which the caller closes."""
        return redis.asyncio.Redis(
            host="127.0.0.1",
            port=self.port,
            password=self._password or None,
            socket_timeout=None,
            decode_responses=True,
            protocol=2,
        )

    async def ask(self, *command: str) -> Any:
        async with self.client() as client:
            return await client.execute_command(*command)

    @property
    def is_up(self) -> bool:
        return self._process is not None

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(timeout=60)
            self._process = None

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)


class SentinelSet:
    """See the module; `sentinel_set` starts one."""

    def __init__(self, servers: list[RedisServer], sentinels: list[Sentinel]) -> None:
        self.servers = servers
        self.sentinels = sentinels

    @property
    def addresses(self) -> str:
        """The addresses of the sentinels, as in a URL."""
        return ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)

    @property
    def url(self) -> str:
        return f"redis+sentinel://{self.addresses}/{NAME}"

    async def master(self) -> RedisServer:
        """Return the server that the majority of the sentinels names."""
        [master] = [each for each in self.servers if await self.is_named(each)]
        return master

    async def replica(self) -> RedisServer:
        master = await self.master()
        [replica] = [each for each in self.servers if each is not master]
        return replica

    async def is_named(self, server: RedisServer) -> bool:
        """Tell whether all sentinels that answer name this server."""

        async def port(sentinel: Sentinel) -> int:
            try:
                _, port = await asyncio.wait_for(
                    sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME), 1
                )
            except (redis.exceptions.RedisError, TimeoutError):
                return server.port
            return int(port)

        return {await port(each) for each in self.sentinels} == {server.port}

    async def is_ready(self) -> bool:
        """Tell whether each sentinel knows the others and the replica, which has caught up."""
        others = str(len(self.sentinels) - 1)
        for sentinel in self.sentinels:
            master = _facts(await sentinel.ask("SENTINEL", "MASTER", NAME))
            if (master["num-other-sentinels"], master["num-slaves"]) != (others, "1"):
                return False
            [replica] = map(_facts, await sentinel.ask("SENTINEL", "REPLICAS", NAME))
            if (replica["flags"], replica["master-link-status"]) != ("slave", "ok"):
                return False
        return True

    @asynccontextmanager
    async def switching(self) -> AsyncIterator[Callable[[], Awaitable[float]]]:
        """Yield a function that waits for the next +switch-master, and returns its time."""
        first: asyncio.Future[float] = asyncio.get_running_loop().create_future()

        async def listen(sentinel: Sentinel) -> None:
            async with sentinel.client() as client, client.pubsub() as pubsub:
                await pubsub.subscribe("+switch-master")
                async for message in pubsub.listen():
                    if message["type"] == "subscribe":
                        ready.release()
                    elif not first.done():
                        first.set_result(time.monotonic())

        ready = asyncio.Semaphore(0)
        listening = [asyncio.create_task(listen(each)) for each in self.sentinels if each.is_up]
        for _ in listening:
            await ready.acquire()

        async def switched() -> float:
            await eventually(first.done, seconds=30)
            return first.result()

        try:
            yield switched
        finally:
            for task in listening:
                task.cancel()
            await asyncio.gather(*listening, return_exceptions=True)

    def stop(self) -> None:
        for each in (*self.sentinels, *self.servers):
            each.stop()


@asynccontextmanager
async def sentinel_set(*lines: str, password: str = "") -> AsyncIterator[SentinelSet]:
    """Start a set, and wait until all of it knows each other.

    Args:
        lines: More lines for the configuration of each sentinel.
        password: The password of the sentinels, which the lines set.
    """
    options = ("--repl-diskless-sync-delay", "0")
    master = RedisServer(*options, port=free_port()).start()
    follow = ("--replicaof", f"127.0.0.1 {master.port}")
    replica = RedisServer(*options, *follow, port=free_port()).start()
    sentinels = [Sentinel(master.port, *lines, password=password).start() for _ in range(3)]
    made = SentinelSet([master, replica], sentinels)
    try:
        await eventually(made.is_ready, seconds=20)
        yield made
    finally:
        made.stop()


def _facts(reply: list[str]) -> dict[str, str]:
    return dict(zip(reply[::2], reply[1::2], strict=True))
