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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.eventually import eventually, eventually_sync
from tests.support.ports import free_port
from tests.support.redis_server import USUAL, RedisServer

DOWN_SECONDS = 1.0
"""On a busy machine, sentinels gave up healthy masters after half a second."""
NAME = "mymaster"
QUORUM = 2


def watch(port: int, quorum: int = QUORUM) -> list[str]:
    """Return the lines that make a sentinel watch a master on this port."""
    return [
        f"sentinel monitor {NAME} 127.0.0.1 {port} {quorum}",
        f"sentinel down-after-milliseconds {NAME} {int(DOWN_SECONDS * 1000)}",
        # A master that dies again has to wait twice this long.
        f"sentinel failover-timeout {NAME} 2000",
    ]


class Sentinel:
    """One sentinel process."""

    def __init__(self, *lines: str, username: str = "", password: str = "") -> None:
        """Configure a sentinel without starting it.

        Args:
            lines: Its configuration, except for what each process needs for itself.
            username: The name of a user who may do everything that tests ask for.
            password: The password of that user, or of all.
        """
        self.port = free_port()
        self._address: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.port,
            "username": username or None,
            "password": password or None,
            "decode_responses": True,
            "protocol": 2,
        }
        self.folder = Path(tempfile.mkdtemp(prefix="rt-sentinel-"))
        self.socket = self.folder / "sentinel.sock"
        conf = self.folder / "sentinel.conf"
        own = [f"port {self.port}", "bind 127.0.0.1"]
        own += [f"dir {self.folder}", f"unixsocket {self.socket}"]
        conf.write_text("\n".join([*own, *lines, ""]))
        self._conf = conf
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Sentinel:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [USUAL, str(self._conf), "--sentinel"], stdout=log, stderr=log
            )
        return self

    def ask(self, *command: str) -> Any:
        with redis.Redis(**self._address, socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
            return client.execute_command(*command)

    async def switch(self, ready: Callable[[], None]) -> float:
        """Wait for the next +switch-master, and return its time."""
        async with redis.asyncio.Redis(**self._address) as client, client.pubsub() as pubsub:
            await pubsub.subscribe("+switch-master")
            async for message in pubsub.listen():
                if message["type"] != "subscribe":
                    break
                ready()
        return time.monotonic()

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.port}/{NAME}"

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def is_up(self) -> bool:
        """Tell whether it answers."""
        try:
            return bool(self.ask("PING"))
        except redis.RedisError:
            return False

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

    @property
    def master(self) -> RedisServer:
        """The server that all sentinels name."""
        [master] = [each for each in self.servers if self.is_named(each)]
        return master

    def have_left(self, server: RedisServer) -> bool:
        """Tell whether all sentinels name the same other server."""
        return any(each is not server and self.is_named(each) for each in self.servers)

    def is_named(self, server: RedisServer) -> bool:
        """Tell whether all sentinels that run name this server."""
        named = {
            int(sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)[1])
            for sentinel in self.sentinels
            if sentinel.is_running
        }
        return named == {server.port}

    def is_up(self) -> bool:
        """Tell whether all sentinels answer."""
        return all(each.is_up() for each in self.sentinels)

    def switches(self) -> int:
        """Return the number of the last switch that any sentinel knows of."""
        masters = [_facts(each.ask("SENTINEL", "MASTER", NAME)) for each in self.sentinels]
        return max(int(each["config-epoch"]) for each in masters)

    def is_ready(self) -> bool:
        """Tell whether each sentinel knows the others and the replicas, which have caught up."""
        others, replicas = str(len(self.sentinels) - 1), str(len(self.servers) - 1)
        for sentinel in self.sentinels:
            master = _facts(sentinel.ask("SENTINEL", "MASTER", NAME))
            if (master["num-other-sentinels"], master["num-slaves"]) != (others, replicas):
                return False
            for replica in map(_facts, sentinel.ask("SENTINEL", "REPLICAS", NAME)):
                if (replica["flags"], replica["master-link-status"]) != ("slave", "ok"):
                    return False
        return True

    @asynccontextmanager
    async def switching(self) -> AsyncIterator[Callable[[], Awaitable[float]]]:
        """Yield a function that waits for the next +switch-master, and returns its time."""
        ready = asyncio.Semaphore(0)
        up = [each for each in self.sentinels if each.is_running]
        listening = [asyncio.create_task(each.switch(ready.release)) for each in up]
        for _ in listening:
            await ready.acquire()

        async def switched() -> float:
            await eventually(lambda: any(task.done() for task in listening), seconds=30)
            return min(task.result() for task in listening if task.done())

        try:
            yield switched
        finally:
            for task in listening:
                task.cancel()
            await asyncio.gather(*listening, return_exceptions=True)

    def __enter__(self) -> SentinelSet:
        """Start all of it, and wait until each knows the others."""
        try:
            for each in (*self.servers, *self.sentinels):
                each.start()
            eventually_sync(self.is_up)
            eventually_sync(self.is_ready, seconds=20)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        for each in (*self.sentinels, *self.servers):
            each.stop()


@contextmanager
def sentinel_set(
    *lines: str, sentinels: int = 3, replicas: int = 1, password: str = ""
) -> Iterator[SentinelSet]:
    """Start a set, and wait until all of it knows each other.

    Args:
        lines: More lines for the configuration of each sentinel.
        sentinels: How many.
        replicas: How many.
        password: The password of the sentinels, which the lines set.
    """
    options = ("--repl-diskless-sync-delay", "0")
    master = RedisServer(*options, port=free_port())
    follow = ("--replicaof", f"127.0.0.1 {master.port}")
    servers = [master, *(RedisServer(*options, *follow, port=free_port()) for _ in range(replicas))]
    lines = (*watch(master.port), *lines)
    made = SentinelSet(servers, [Sentinel(*lines, password=password) for _ in range(sentinels)])
    with made:
        yield made


def _facts(reply: list[str]) -> dict[str, str]:
    return dict(zip(reply[::2], reply[1::2], strict=True))
