"""Other servers in common use, each run as its own documentation says.

Their programs and settings, with sources, are in bench/peers. All of them deliver live only, as the
service does, and carry the same publications. Publishers run beside the load generator, never on
the server's CPU.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import redis
from channels_redis.pubsub import RedisPubSubChannelLayer

from bench import identities
from bench.crowd import Dialect
from bench.servers import (
    API_KEY,
    DATA,
    HTTP,
    OTHERS_CPU,
    WEBSOCKETS,
    Fleet,
    Server,
    use_all_processors,
)

PEERS = Path(__file__).parent / "peers"
CENTRIFUGE = PEERS / "centrifuge" / "build" / "centrifuge-peer"
NODE = PEERS / "node"
SET_UP = "python -m bench.peers.setup"
# Some distributions install nginx outside of an ordinary user's PATH.
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])


class Rival(Server):
    """A server of another project."""

    def send(self, channels: Sequence[str], data: str) -> None:
        """Publish JSON text once to each channel, by the server's bulk method."""
        raise NotImplementedError

    def publish(self, count: int) -> None:
        self.send([self.channel] * count, _json(DATA))

    def publish_timed(self, size: int) -> None:
        self.send([self.channel], _json({"t": time.monotonic_ns(), "text": "x" * (size - 40)}))

    def publish_to(self, channels: list[str]) -> None:
        """Publish once to each of the channels."""
        self.send(channels, _json(DATA))


class Centrifuge(Rival):
    """Centrifugo's engine, the library `centrifuge`, on one core."""

    pipelined_rounds = 3000
    batch_options: Mapping[str, object] = {
        "parallel": True
    }  # otherwise each waits for the previous response
    scenarios = WEBSOCKETS | HTTP
    engine = ""

    @classmethod
    def missing(cls) -> str:
        return "" if CENTRIFUGE.exists() else f"centrifuge: install Go 1.26 or newer, then {SET_UP}"

    def command(self) -> list[str]:
        return [str(CENTRIFUGE), "serve", str(self.port), self.engine]

    def environment(self) -> dict[str, str]:
        return {"API_KEY": API_KEY, "GOMAXPROCS": "1"}


class CentrifugeRedis(Centrifuge):
    """Centrifugo's library on Redis; the publisher is a back end on the same library."""

    name = "centrifuge, Redis"
    engine = "redis"

    def start(self) -> None:
        super().start()
        command = [str(CENTRIFUGE), "publish"]
        self._publisher = LinePublisher(command, {"REDIS_URL": self.redis_url, "GOMAXPROCS": "1"})

    def send(self, channels: Sequence[str], data: str) -> None:
        self._publisher.send(channels, data)

    def stop(self) -> None:
        self._publisher.stop()
        super().stop()


class OverHttp(Centrifuge):
    """Publishers use its HTTP API, with batches where possible."""

    def start(self) -> None:
        super().start()
        self._http = HttpPublisher(self.port)

    def send(self, channels: Sequence[str], data: str) -> None:
        publications = [f'{{"channel":"{channel}","data":{data}}}' for channel in channels]
        if len(publications) == 1:
            self._http.post("/api/publish", publications)
        else:
            commands = ",".join(f'{{"publish":{each}}}' for each in publications)
            options = _json(self.batch_options)[1:]
            self._http.post("/api/batch", [f'{{"commands":[{commands}],{options}'])

    def stop(self) -> None:
        self._http.close()
        super().stop()


class CentrifugeMemory(OverHttp):
    """The same without Redis; publishers use its HTTP API, with batches where possible."""

    name = "centrifuge, memory"
    engine = "memory"


class Centrifugo(OverHttp):
    """Centrifugo itself on Redis, one core: the binary that CENTRIFUGO=path names."""

    scenarios = OverHttp.scenarios | {"joins"}

    @classmethod
    def missing(cls) -> str:
        path = os.environ.get("CENTRIFUGO", "")
        return "" if shutil.which(path) else "Centrifugo: set CENTRIFUGO to the path of its binary"

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name with the version of the module, which Go writes into the binary."""
        path = shutil.which(os.environ["CENTRIFUGO"]) or ""
        module = rb"mod\tgithub\.com/centrifugal/centrifugo/v\d+\t(v[\d.]+)"
        version = re.search(module, Path(path).read_bytes())
        return f"Centrifugo {version[1].decode()}" if version else "Centrifugo"

    def command(self) -> list[str]:
        self._folder = tempfile.TemporaryDirectory(prefix="bench-centrifugo-")
        settings = (PEERS / "centrifugo.json").read_text(encoding="utf-8")
        given = {
            **{"@PORT@": self.port, "@REDIS@": self.redis_url, "@KEY@": API_KEY},
            "@SECRET@": identities.HS256_SECRET,
            "@PUBLIC_KEY@": json.dumps(identities.es256_public_key()),
        }
        for name, value in given.items():
            settings = settings.replace(name, str(value))
        path = Path(self._folder.name) / "config.json"
        path.write_text(settings, encoding="utf-8")
        return [os.environ["CENTRIFUGO"], "--config", str(path)]

    def environment(self) -> dict[str, str]:
        return {"GOMAXPROCS": "1"}

    def stop(self) -> None:
        super().stop()
        self._folder.cleanup()


class CentrifugoOnTwo(Centrifugo):
    """Centrifugo itself on two cores."""

    scenarios = Fleet.scenarios

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{super().name}, 2 cores"

    def start(self) -> None:
        super().start()
        use_all_processors(self.pid)

    def environment(self) -> dict[str, str]:
        return {"GOMAXPROCS": "2"}


class Nchan(Rival):
    """Nchan in nginx, one worker; publishers post to it."""

    name = "Nchan"
    dialect = Dialect(path="/sub/{channel}", marker=b'"text":')
    pipelined_rounds = 1000

    @classmethod
    def missing(cls) -> str:
        if _nchan_module() is not None:
            return ""
        return "nginx with Nchan: apt-get install nginx libnginx-mod-nchan"

    def command(self) -> list[str]:
        self._folder = Path(tempfile.mkdtemp(prefix="bench-nchan-"))
        settings = (PEERS / "nchan" / "nginx.conf").read_text(encoding="utf-8")
        for name, value in {"@PORT@": self.port, "@MODULE@": _nchan_module()}.items():
            settings = settings.replace(name, str(value))
        (self._folder / "nginx.conf").write_text(settings, encoding="utf-8")
        return [_nginx(), "-p", f"{self._folder}/", "-c", "nginx.conf", "-e", "stderr"]

    def start(self) -> None:
        super().start()
        while not self._workers():
            time.sleep(0.02)
        self._http = HttpPublisher(self.port)

    def _workers(self) -> list[int]:
        assert self._process is not None
        master = self._process.pid
        return [
            int(pid)
            for pid in Path(f"/proc/{master}/task/{master}/children")
            .read_text(encoding="utf-8")
            .split()
        ]

    def send(self, channels: Sequence[str], data: str) -> None:
        for channel in dict.fromkeys(channels):
            self._http.post(f"/pub/{channel}", [data] * channels.count(channel))

    @property
    def pid(self) -> int:
        """The worker's process: the master only waits for signals."""
        (worker,) = self._workers()
        return worker

    def stop(self) -> None:
        self._http.close()
        workers = self._workers()
        super().stop()  # the master first, which would start another worker
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)


class OnNode(Rival):
    """A program on Node."""

    program = ""

    @classmethod
    def missing(cls) -> str:
        if shutil.which("node") and (NODE / "node_modules").exists():
            return ""
        return f"{cls.name}: install Node 20 or newer and npm, then {SET_UP}"

    def command(self) -> list[str]:
        return ["node", str(NODE / self.program), str(self.port)]

    def environment(self) -> dict[str, str]:
        return {"NODE_ENV": "production"}


class Ws(OnNode):
    """A custom server on `ws` and Redis; publishers send to Redis."""

    name = "ws"
    program = "ws_server.js"
    dialect = Dialect(
        path="/", marker=b'"text":', hello='{{"subscribe":"{channel}"}}', joined=b'"joined":'
    )
    pipelined_rounds = 1000

    def start(self) -> None:
        super().start()
        self._redis = redis.Redis.from_url(self.redis_url)

    def send(self, channels: Sequence[str], data: str) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for channel in channels:
            pipeline.publish(channel, data)
        pipeline.execute()

    def stop(self) -> None:
        self._redis.close()
        super().stop()


class SocketIo(OnNode):
    """Socket.IO with its Redis adapter; a back end publishes with its Redis emitter."""

    name = "Socket.IO"
    program = "socketio_server.js"
    # Socket.IO 5 in Engine.IO 4 in WebSocket: 2 is a ping, 3 its answer, 40 connects, 42 is an
    # event (socket.io/docs/v4/socket-io-protocol and engine-io-protocol).
    dialect = Dialect(
        path="/socket.io/?EIO=4&transport=websocket",
        marker=b'42["message",',
        hello='40{{"channel":"{channel}"}}',
        joined=b'42["joined"]',
        ping=b"2",
        pong=b"3",
    )
    pipelined_rounds = 500

    def start(self) -> None:
        super().start()
        command = ["node", str(NODE / "socketio_publish.js")]
        variables = {"REDIS_URL": self.redis_url, "NODE_ENV": "production"}
        self._publisher = LinePublisher(command, variables)

    def send(self, channels: Sequence[str], data: str) -> None:
        self._publisher.send(channels, data)

    def stop(self) -> None:
        self._publisher.stop()
        super().stop()


class Tutorial(Server):
    """The Channels tutorial (pub/sub layer) on uvicorn."""

    name = "Channels tutorial, uvicorn"
    dialect = Dialect(path="/ws/chat/{channel}/", marker=b'{"message"')
    channel = "bench"
    pipelined_rounds = 100
    scenarios = frozenset({"closed", "pipelined", "crowds", "storm", "idle"})
    server = "uvicorn"

    def command(self) -> list[str]:
        app = "bench.peers.tutorial:application"
        if self.server == "daphne":
            return [sys.executable, "-m", "daphne", "-p", str(self.port), app]
        return [
            *(sys.executable, "-m", "uvicorn", app, "--port", str(self.port), "--no-access-log"),
            *("--log-level", "warning", "--lifespan", "off", "--backlog", "4096"),
        ]

    def start(self) -> None:
        super().start()
        self._runner = asyncio.Runner()
        self._layer = RedisPubSubChannelLayer(hosts=[self.redis_url])

    def publish(self, count: int) -> None:
        self._runner.run(self._publish(count))

    async def _publish(self, count: int) -> None:
        for _ in range(count):
            message = {"type": "chat.message", "message": DATA["text"]}
            await self._layer.group_send(self.channel, message)

    def stop(self) -> None:
        self._runner.run(self._layer.flush())
        self._runner.close()
        super().stop()


class TutorialOnDaphne(Tutorial):
    """The same on Daphne."""

    name = "Channels tutorial, Daphne"
    server = "daphne"


RIVALS: dict[str, type[Server]] = {
    "tutorial": Tutorial,
    "tutorial-daphne": TutorialOnDaphne,
    "centrifugo": Centrifugo,
    "centrifugo-2": CentrifugoOnTwo,
    "centrifuge": CentrifugeRedis,
    "centrifuge-memory": CentrifugeMemory,
    "nchan": Nchan,
    "ws": Ws,
    "socketio": SocketIo,
}


class LinePublisher:
    """A back end in its own process that publishes what it reads: channel, tab, data."""

    def __init__(self, command: list[str], variables: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=lambda: os.sched_setaffinity(0, {OTHERS_CPU}),
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._lines = self._process.stdin
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{command} did not start")

    def send(self, channels: Sequence[str], data: str) -> None:
        """Publish once to each of the channels."""
        self._lines.write("".join(f"{channel}\t{data}\n" for channel in channels).encode())
        self._lines.flush()

    def stop(self) -> None:
        """Stop the process."""
        self._process.kill()
        self._process.communicate()


class HttpPublisher:
    """A connection that pipelines posts, and reads the responses before it posts again."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def post(self, path: str, bodies: Sequence[str]) -> None:
        """Post the bodies, one request each, in one write."""
        self._discard_answers()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {API_KEY}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        )
        requests = "".join(f"{head}{len(body)}\r\n\r\n{body}" for body in bodies)
        self._socket.sendall(requests.encode())

    def _discard_answers(self) -> None:
        while True:
            try:
                answers = self._socket.recv(1 << 20, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            if not answers or re.search(rb"HTTP/1.1 [345]|\"error\"", answers):
                raise ConnectionError(answers.decode(errors="replace")[:500] or "hung up")

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def _json(data: Mapping[str, object]) -> str:
    return json.dumps(data, separators=(",", ":"))


def _nginx() -> str:
    return shutil.which("nginx", path=PATH) or ""


def _nchan_module() -> Path | None:
    """Return the module's file, from the directory that nginx was built with."""
    if not _nginx():
        return None
    built = subprocess.run(
        [_nginx(), "-V"], capture_output=True, encoding="utf-8", check=True
    ).stderr
    folder = re.search(r"--modules-path=(\S+)", built)
    module = Path(folder[1]) / "ngx_nchan_module.so" if folder else None
    return module if module is not None and module.exists() else None
