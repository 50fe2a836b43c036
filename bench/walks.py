"""Trace four walks through the code over a real Valkey, and count the code that a reader visits.

A walk is the code of `realtime/` and `notifier/` that runs between a cause and its effect, such as
an HTTP request and the bytes on a WebSocket. It is recorded inside the server (`sys.setprofile`),
across its tasks and threads, without start-up and heartbeats. The columns:

files        modules in which at least one function ran; those of the app are also shown apart
functions    distinct functions; a lambda or comprehension counts as its enclosing function
switches     consecutive calls (or resumed coroutines) that are in different files
returns      switches to a file that was visited before
lines        of all these functions, with signature, docstring and comments

Each walk is repeated. A function that ran in less than 80 % of the rounds is ignored, since a
timer of the server called it; switches are the median, since the order of tasks varies.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from http.client import HTTPConnection, HTTPResponse
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import redis
from websockets.sync.client import ClientConnection, connect

from bench.redis import private_redis
from bench.report import Row, table

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("realtime", "notifier")
WARM_UP = 3  # rounds in which scripts are loaded and caches filled
ROUNDS = 15
USUAL = 0.8  # share of the rounds in which a function of the walk runs
QUIET_SECONDS = 0.01  # a walk ends when no code of ours has run for this long after the effect
PATIENCE_SECONDS = 60.0
CHANNEL = "public:walk"
API_KEY = "bench-key-that-is-long-enough-to-be-taken"
WORKER, SERVER = "worker", "server"
WALKS = {
    "post": "POST → bytes on a WebSocket",
    "subscribe": "subscribe command → reply",
    "cut": "Redis cut → gap → live",
    "queued": "queued publication → fallback handler",
}


class Step(NamedTuple):
    """A function call, or the resumption of a coroutine."""

    file: str
    function: str
    line: int
    """The line of its ``def`` or first decorator."""
    depth: int
    """Number of our functions below it on the stack."""


Walk = Sequence[Step]


class Recorder:
    """A profile function that records the calls of our functions.

    It runs in the thread that installs it and in those that start later. The driver's thread starts
    before and is not recorded, since it publishes through the app itself.
    """

    def __init__(self) -> None:
        self._places: dict[CodeType, tuple[str, str, int] | None] = {}
        self._steps: list[Step] = []
        self._depths: dict[int, int] = {}
        self._last = 0.0
        self._is_on = False

    def install(self) -> None:
        """Profile the calling thread, and all threads that start from now on."""
        threading.setprofile(self)
        sys.setprofile(self)

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Record an event of `sys.setprofile`; for a coroutine, each resumption is a call."""
        if event not in ("call", "return") or not self._is_on:
            return
        code = frame.f_code
        if code not in self._places:
            self._places[code] = _place(code)
        place = self._places[code]
        if place is None:
            return
        thread = threading.get_ident()
        depth = self._depths.get(thread, 0)
        if event == "call":
            self._steps.append(Step(*place, depth))
            self._depths[thread] = depth + 1
        else:
            self._depths[thread] = max(depth - 1, 0)
        self._last = time.monotonic()

    @contextmanager
    def recording(self, rounds: list[Walk]) -> Iterator[None]:
        """Record what happens inside, and what still runs afterwards until it is quiet."""
        self._is_on = True
        self._wait_until_quiet()
        self._steps, self._depths = [], {}
        yield
        self._wait_until_quiet()
        self._is_on = False
        rounds.append(self._steps)

    def _wait_until_quiet(self) -> None:
        self._last = time.monotonic()
        while time.monotonic() - self._last < QUIET_SECONDS:
            time.sleep(QUIET_SECONDS / 4)


def _place(code: CodeType) -> tuple[str, str, int] | None:
    """Return file, name and line of one of our functions; None for all others."""
    path = Path(code.co_filename)
    if code.co_name.startswith("<") or not path.is_relative_to(ROOT):
        return None
    file = path.relative_to(ROOT)
    if file.parts[0] not in PACKAGES:
        return None
    return str(file), code.co_qualname, code.co_firstlineno


# --- in the traced process ---


class Driver:
    """Causes the walks, in a thread of its own, and waits for their effects."""

    def __init__(self, recorder: Recorder, redis_url: str, rounds: int) -> None:
        self._record = recorder.recording
        self._redis_url = redis_url
        self._count = rounds + WARM_UP

    def server_walks(self, port: int) -> dict[str, list[Walk]]:
        """Take the walks of a server that starts on this port."""
        # One connection for all walks: closing it would become part of a walk.
        self._http = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
        self._wait_until_live()
        with _client(port) as client:
            return {
                "post": self._post(client),
                "subscribe": self._subscribe(client),
                "cut": self._cut(client),
            }

    def worker_walks(self, handled: threading.Event) -> dict[str, list[Walk]]:
        """Take the walk of a fallback worker, whose handler ``walk`` sets an event."""
        from realtime import publish

        walks: list[Walk] = []
        for number in range(self._count):
            handled.clear()
            with self._record(walks):
                publish("public:nobody", {"n": number}, fallback="walk")
                if not handled.wait(PATIENCE_SECONDS):
                    raise TimeoutError("the handler was not called")
        return {"queued": walks}

    def _post(self, client: ClientConnection) -> list[Walk]:
        walks: list[Walk] = []
        for number in range(self._count):
            body = json.dumps({"channel": CHANNEL, "data": {"n": number}})
            headers = {"X-API-Key": API_KEY, "Content-Type": "application/json"}
            with self._record(walks):
                self._send_at_once(body, headers)
                _until(client, '"pub"')
                answer = HTTPResponse(self._http.sock, method="POST")
                answer.begin()
                answer.read()
            if answer.status != 200:
                raise RuntimeError(f"a publish was answered with {answer.status}")
        return walks

    def _send_at_once(self, body: str, headers: dict[str, str]) -> None:
        """Send head and body in one write, as curl does; `HTTPConnection` uses two."""
        lines = {"Host": "127.0.0.1", "Content-Length": str(len(body)), **headers}
        head = "".join(f"{name}: {text}\r\n" for name, text in lines.items())
        self._http.sock.sendall(f"POST /api/publish HTTP/1.1\r\n{head}\r\n{body}".encode())

    def _subscribe(self, client: ClientConnection) -> list[Walk]:
        walks: list[Walk] = []
        for number in range(100, 100 + self._count):
            command = {"id": number, "subscribe": {"channel": f"public:{number}"}}
            with self._record(walks):
                client.send(json.dumps(command))
                _until(client, f'"id":{number}')
        return walks

    def _cut(self, client: ClientConnection) -> list[Walk]:
        from realtime import publish

        publish(CHANNEL, {})  # connects
        _until(client, '"pub"')
        walks: list[Walk] = []
        with redis.Redis.from_url(self._redis_url, protocol=2) as admin:
            while len(walks) < self._count:
                with self._record(walks):
                    admin.execute_command("CLIENT", "KILL", "TYPE", "PUBSUB")
                    publish(CHANNEL, {})
                    heard = _until(client, '"live":true')
                if '"gap"' not in heard:  # the node reconnected before the publication
                    walks.pop()
                self._wait_until_live()
        return walks

    def _wait_until_live(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._is_live():
            if time.monotonic() > deadline:
                raise TimeoutError("the server did not start")
            time.sleep(0.02)

    def _is_live(self) -> bool:
        try:
            self._http.request("GET", "/readyz")
            return self._status() == 200
        except OSError:
            self._http.close()
            return False

    def _status(self) -> int:
        answer = self._http.getresponse()
        answer.read()
        return answer.status


@contextmanager
def _client(port: int) -> Iterator[ClientConnection]:
    """Connect, and subscribe to the channel."""
    with connect(f"ws://127.0.0.1:{port}/connection/websocket", compression=None) as client:
        client.send('{"id":1,"connect":{}}')
        _until(client, '"connect"')
        client.send(json.dumps({"id": 2, "subscribe": {"channel": CHANNEL}}))
        _until(client, '"id":2')
        yield client


def _until(client: ClientConnection, wanted: str) -> str:
    """Read frames until one contains this text, and return all of them."""
    heard = ""
    while wanted not in heard:
        frame = client.recv(timeout=PATIENCE_SECONDS)
        assert isinstance(frame, str)
        heard += frame + "\n"
    return heard


def _traced(kind: str, rounds: int, path: str) -> None:
    """Run a server or a worker, take its walks, and write them to a file; does not return."""
    recorder = Recorder()
    driver = Driver(recorder, os.environ["REDIS_URL"], rounds)
    if kind == SERVER:
        _be_server(recorder, driver, path)
    else:
        _be_worker(recorder, driver, path)


def _be_server(recorder: Recorder, driver: Driver, path: str) -> None:
    from notifier.listening import listening_socket
    from notifier.server import main

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    listener = listening_socket("127.0.0.1", port)
    _drive(lambda: driver.server_walks(port), path)
    recorder.install()
    main(["--fd", str(listener.fileno())])


def _be_worker(recorder: Recorder, driver: Driver, path: str) -> None:
    import django
    from django.core.management import call_command

    django.setup()
    from realtime import fallback

    handled = threading.Event()
    fallback("walk")(lambda queued: handled.set())
    _drive(lambda: driver.worker_walks(handled), path)
    recorder.install()
    call_command("runfallback", hands=1)


def _drive(take_walks: Callable[[], dict[str, list[Walk]]], path: str) -> None:
    """Take walks in a thread, write them to a file, and exit the process."""

    def drive() -> None:
        code = 1
        try:
            walks = {name: rounds[WARM_UP:] for name, rounds in take_walks().items()}
            Path(path).write_text(json.dumps(walks), encoding="utf-8")
            code = 0
        finally:
            if code:
                traceback.print_exc()
            os._exit(code)  # the server would keep running

    threading.Thread(target=drive, daemon=True).start()


# --- in the printing process ---


class Figures(NamedTuple):
    """How much a reader of a walk has to visit; the module docstring explains the columns."""

    files: int
    in_realtime: int
    """Files of the app; the others belong to the service."""
    functions: int
    switches: int
    returns: int
    lines: int


def usual(rounds: Sequence[Walk]) -> Walk:
    """Return a typical round: without timers, and with the median number of switches."""
    ran_in = Counter(place for walk in rounds for place in {step[:3] for step in walk})
    walks = [[step for step in walk if ran_in[step[:3]] >= USUAL * len(rounds)] for walk in rounds]
    middle = statistics.median_low(map(_switches, walks))
    return max((walk for walk in walks if _switches(walk) == middle), key=_functions_of)


def figures(walk: Walk) -> Figures:
    """Return the figures of one walk."""
    files = {step.file for step in walk}
    places = {(step.file, step.line) for step in walk}
    switches = _switches(walk)
    return Figures(
        files=len(files),
        in_realtime=sum(file.startswith("realtime/") for file in files),
        functions=len(places),
        switches=switches,
        returns=switches - (len(files) - 1),
        lines=len({(file, line) for file, first in places for line in _lines(file, first)}),
    )


def _switches(walk: Walk) -> int:
    return sum(here.file != there.file for here, there in pairwise(walk))


def _functions_of(walk: Walk) -> int:
    return len({step[:3] for step in walk})


def _lines(file: str, first: int) -> range:
    """Return the lines of the function that starts at a line."""
    return _functions(file).get(first, range(0))


@cache
def _functions(file: str) -> dict[int, range]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            assert node.end_lineno is not None
            found[first] = range(node.lineno, node.end_lineno + 1)
    return found


def visits(walk: Walk) -> list[Row]:
    """Return the files of a walk, ordered by first visit."""
    rows = []
    for file in dict.fromkeys(step.file for step in walk):
        inside = [step for step in walk if step.file == file]
        counted = figures(inside)
        names = ", ".join(dict.fromkeys(step.function for step in inside))
        rows.append({"file": file, "lines": counted.lines, "functions": names})
    return rows


def trace(rounds: int) -> dict[str, Walk]:
    """Take all walks, in two processes over a private Valkey.

    Args:
        rounds: How often to take each.
    """
    walks: dict[str, Walk] = {}
    with private_redis() as redis_url, tempfile.TemporaryDirectory() as folder:
        for kind in (SERVER, WORKER):
            path = Path(folder, kind)
            command = ["--traced", kind, "--rounds", str(rounds), "--output", str(path)]
            subprocess.run(
                [sys.executable, "-m", "bench.walks", *command],
                cwd=ROOT,
                env={**os.environ, **_environment(redis_url)},
                stdout=subprocess.DEVNULL,
                check=True,
            )
            written = json.loads(path.read_text(encoding="utf-8"))
            for name, walked in written.items():
                walks[name] = usual([[Step(*step) for step in walk] for walk in walked])
    return walks


def _environment(redis_url: str) -> dict[str, str]:
    return {
        "REDIS_URL": redis_url,
        "DJANGO_SETTINGS_MODULE": "notifier.settings",
        "DEBUG": "0",
        "HTTPS": "0",
        "SECRET_KEY": "only for measuring, but long enough to be taken for a key",
        "NOTIFIER_API_KEY": API_KEY,
        "ALLOWED_HOSTS": "127.0.0.1",
    }


def main() -> None:
    """Print the figures of the four walks."""
    options = _options()
    if options.traced:
        _traced(options.traced, options.rounds, options.output)
    walks = trace(options.rounds)
    counted = {name: figures(walk)._asdict() for name, walk in walks.items()}
    if options.json:
        print(
            json.dumps({name: {**counted[name], "visits": visits(walks[name])} for name in walks})
        )
        return
    rows = [{"walk": WALKS[name], **counted[name]} for name in walks]
    print(table([{key.replace("_", " "): value for key, value in row.items()} for row in rows]))
    for name, walk in walks.items():
        if options.files:
            print(f"\n## {WALKS[name]}\n")
            for number, visit in enumerate(visits(walk), 1):
                print("{0:3}. {file}, {lines} lines: {functions}".format(number, **visit))
        if options.calls:
            print(f"\n## {WALKS[name]}\n")
            for step in walk:
                print(f"{'  ' * step.depth}{step.file}: {step.function}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.walks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--files", action="store_true", help="list the files in order of the first visit"
    )
    parser.add_argument(
        "--calls", action="store_true", help="list each call, indented by its depth"
    )
    parser.add_argument("--json", action="store_true", help="print figures and files as JSON")
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help=f"rounds of each walk (default: {ROUNDS})"
    )
    parser.add_argument("--traced", choices=(SERVER, WORKER), help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
