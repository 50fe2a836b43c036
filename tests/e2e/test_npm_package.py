"""The npm package of client.js: packed, installed, compiled, bundled, and run as its README shows.

Each block of code of npm/README.md is used as it is, but for the address of the service.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import tarfile
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from tests.support.eventually import eventually
from tests.support.http_server import Quiet, serving
from tests.support.machine import in_time
from tests.support.pages import PATIENCE, in_browser_loop, own_contexts
from tests.support.redis_server import RedisServer
from tests.support.service import ROOT, Service
from tests.support.tokens import token

NAME = "django-realtime-notifier"
STATIC = "realtime/static/realtime"
FILES = ("client.js", "client.d.ts", "shared.js", "fill.js")
"""Of the app, in the package."""
PROGRAMS = ROOT / "tests/e2e/sdk/node_modules/.bin"
"""Of the packages that `make setup` installs."""
README = (ROOT / "npm/README.md").read_text(encoding="utf-8")
ADDRESS = "https://notify.example.com/connection/websocket"
"""The service, in the README."""
GAP = "missed: unknown"
"""Printed after a restart of Redis: its counters are lost, so the end of the gap is unknown."""

needs_node = pytest.mark.node


def blocks(heading: str) -> list[str]:
    """Return the blocks of code below a heading of the README."""
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", README, re.M | re.S)
    assert found is not None, heading
    return re.findall(r"^```\w+\n(.*?)^```$", found[1], re.M | re.S)


def block(heading: str) -> str:
    """Return the only block of code below a heading."""
    [found] = blocks(heading)
    return found


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command in a directory; return its output."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def npm(*arguments: str | Path, cwd: Path) -> str:
    """Run npm without a network, without a cache of others, and without scripts of dependencies."""
    options = ("--offline", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")
    return run("npm", *arguments, *options, f"--cache={cwd / '.npm'}", cwd=cwd)


# --- the package ---


@pytest.fixture(scope="module")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pack in a copy: `prepack` puts the files of the app beside package.json."""
    copy = tmp_path_factory.mktemp("pack")
    for path in ("LICENSE", *(f"{STATIC}/{name}" for name in FILES)):
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, copy / path)
    folder = copy / "npm"
    folder.mkdir()
    for name in ("package.json", "README.md"):
        shutil.copy(ROOT / "npm" / name, folder / name)
    npm("pack", cwd=folder)
    assert {path.name for path in folder.iterdir()} - {".npm"} == {
        "package.json", "README.md", f"{NAME}-{package()['version']}.tgz",
    }, "postpack removes what prepack has copied"  # fmt: skip
    [packed] = folder.glob("*.tgz")
    return packed


def package() -> dict[str, Any]:
    """Return package.json."""
    found: dict[str, Any] = json.loads((ROOT / "npm/package.json").read_text(encoding="utf-8"))
    return found


def python_project() -> dict[str, Any]:
    """Return the table `project` of pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found: dict[str, Any] = tomllib.loads(text)["project"]
    return found


def test_both_packages_have_one_name_one_version_and_one_license() -> None:
    shared = ("name", "version", "license")
    project = python_project()
    assert {key: package()[key] for key in shared} == {key: project[key] for key in shared}


def test_both_packages_name_the_same_repository() -> None:
    """Where pyproject.toml names one; npm resolves the links of the README by it."""
    urls = {name.lower(): url for name, url in python_project().get("urls", {}).items()}
    repository = urls.get("repository") or urls.get("source")
    said = package().get("repository")
    assert said == (
        {"type": "git", "url": f"git+{repository}.git", "directory": "npm"} if repository else None
    )


def test_the_repository_has_no_copy_of_the_client() -> None:
    """`prepack` makes one, which git must not take."""
    tracked = run("git", "ls-files", cwd=ROOT).splitlines()
    assert [path for path in tracked if path.endswith("/client.js")] == [f"{STATIC}/client.js"]
    made = [f"npm/{name}" for name in (*FILES, "LICENSE")]
    assert run("git", "check-ignore", *made, cwd=ROOT).splitlines() == made


@needs_node
def test_the_tarball_has_exactly_these_files(tarball: Path) -> None:
    with tarfile.open(tarball) as archive:
        assert sorted(archive.getnames()) == [
            "package/LICENSE",
            "package/README.md",
            "package/client.d.ts",
            "package/client.js",
            "package/fill.js",
            "package/package.json",
            "package/shared.js",
        ]
        for name in FILES:
            packed = archive.extractfile(f"package/{name}")
            assert packed is not None
            assert packed.read() == (ROOT / STATIC / name).read_bytes()


# --- a project that installs it ---


@pytest.fixture(scope="module")
def project(tarball: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty project, with what the README says to install, and with a page."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    assert README.partition("```sh\n")[2].startswith(f"npm install {NAME}\n")
    npm("install", tarball, ROOT / "tests/e2e/sdk/node_modules/ws", cwd=folder)
    (folder / "orders.json").write_text('["an order"]')
    return folder


@needs_node
def test_it_brings_no_dependency(project: Path) -> None:
    installed = json.loads((project / "package-lock.json").read_text())["packages"]
    assert not installed[f"node_modules/{NAME}"].keys() & {"dependencies", "peerDependencies"}


@needs_node
@pytest.mark.parametrize(
    ("resolution", "module"), [("bundler", "esnext"), ("nodenext", "nodenext")]
)
def test_typescript_finds_the_types(project: Path, resolution: str, module: str) -> None:
    strict = (
        *("--strict", "--noEmit", "--skipLibCheck", "false", "--lib", "es2022,dom"),
        *("--module", module, "--moduleResolution", resolution),
    )
    (project / "right.ts").write_text(block("With TypeScript"))
    run(PROGRAMS / "tsc", *strict, "right.ts", cwd=project)

    wrong = block("With TypeScript").replace("number: number", "number: string")
    (project / "wrong.ts").write_text(f"{wrong}\nlive.subscribe(42);\n")
    with pytest.raises(AssertionError, match="not assignable to parameter of type 'string'"):
        run(PROGRAMS / "tsc", *strict, "wrong.ts", cwd=project)


@needs_node
def test_a_bundle_contains_only_what_is_used(project: Path) -> None:
    entry = project / "unused.js"
    entry.write_text(f'import {{ connect }} from "{NAME}";\nconsole.log("nothing");\n')
    assert len(bundle(entry).read_text()) < 100


def bundle(entry: Path) -> Path:
    """Bundle a module for browsers."""
    out = entry.parent / f"{entry.stem}.bundle.js"
    esbuild = (PROGRAMS / "esbuild", entry.name, "--bundle", "--format=esm", f"--outfile={out}")
    run(*esbuild, "--log-level=warning", cwd=entry.parent)
    return out


# --- a service that it connects to ---


class Handler(Quiet, SimpleHTTPRequestHandler):
    """Serves the project's files, and the address of tokens that the README names."""

    def do_GET(self) -> None:
        if self.path != "/live/connection/token":
            return super().do_GET()
        body = json.dumps({"token": token("42", seconds=600)}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return None


@pytest.fixture(scope="module")
def site(project: Path) -> Iterator[str]:
    """The site of the project; yields its origin."""
    with serving(partial(Handler, directory=str(project))) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def service(redis: RedisServer, site: str) -> Iterator[Service]:
    service = Service(redis.url, TEST_ALLOWED_ORIGINS=site).start()
    yield service
    service.stop()


def addressed(code: str, service: Service) -> str:
    """Return code of the README with the address of a service."""
    assert ADDRESS in code
    return code.replace(ADDRESS, f"{service.http}/connection/websocket")


async def restart(redis: RedisServer, service: Service) -> None:
    """Restart Redis, which loses its counters; return when the service is live again."""
    await asyncio.to_thread(redis.kill)
    await eventually(lambda: not service.is_live())
    await asyncio.to_thread(redis.start)
    await eventually(service.is_live)


@asynccontextmanager
async def node(*arguments: str, cwd: Path) -> AsyncIterator[asyncio.StreamReader]:
    """Run Node, and yield its output."""
    process = await asyncio.create_subprocess_exec(
        "node", *arguments, cwd=cwd, stdout=asyncio.subprocess.PIPE, env=os.environ
    )
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def read_until(lines: asyncio.StreamReader, wanted: str) -> list[str]:
    """Return the lines up to one."""
    read: list[str] = []
    while wanted not in read:
        line = await in_time(lines.readline(), 30)
        assert line, f"it ended before {wanted!r}: {read}"
        read.append(line.decode().strip())
    return read


@needs_node
@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="as it is"),
        # As in Node 18, which Debian 12 has.
        pytest.param(
            ("--import", "data:text/javascript,delete globalThis.CustomEvent"), id="no CustomEvent"
        ),
    ],
)
async def test_node_receives_a_publication_and_a_gap(
    project: Path, redis: RedisServer, service: Service, options: tuple[str, ...]
) -> None:
    (project / "node.js").write_text(addressed(block("In Node"), service))
    async with node(*options, "node.js", cwd=project) as lines:
        await read_until(lines, "subscribed")
        await asyncio.to_thread(service.publish, "public:news", "before")
        await read_until(lines, "received: before")
        await restart(redis, service)
        await asyncio.to_thread(service.publish, "public:news", "after")
        assert GAP in await read_until(lines, "received: after")


class Console:
    """What a page writes to the console."""

    def __init__(self, page: Page) -> None:
        self.lines: list[str] = []
        page.on("console", lambda message: self.lines.append(message.text))
        page.on("pageerror", lambda error: self.lines.append(f"error: {error}"))

    async def has(self, line: str) -> None:
        await eventually(lambda: line in self.lines, PATIENCE * 10)


@needs_node
@pytest.mark.browser
@in_browser_loop
async def test_browsers_receive_publications_and_gaps_with_a_bundler_and_without(
    project: Path, site: str, redis: RedisServer, service: Service, chromium: Browser
) -> None:
    """Four pages at once: of the three modules that the README shows, and of its HTML."""
    pages = {"plain": addressed(block("Without a bundler"), service)}
    for name, heading in (("news", "Connect and subscribe"), ("orders", "Gaps"), ("user", "Users")):
        entry = project / f"{name}.js"
        entry.write_text(addressed(block(heading), service))
        pages[name] = f'<script type="module" src="{bundle(entry).name}"></script>'
    consoles: dict[str, Console] = {}
    async with own_contexts(chromium) as browser:
        for name, html in pages.items():
            (project / f"{name}.html").write_text(f"<!doctype html><title>{name}</title>\n{html}")
            page = await browser.new_page()
            consoles[name] = Console(page)
            await page.goto(f"{site}/{name}.html")
        await consoles["news"].has("state: live")

        async def publish_until_heard(channel: str, name: str, line: str, data: str) -> None:
            """The HTML of the README does not say when it is subscribed."""

            def heard() -> bool:
                service.publish(channel, data)
                return line in consoles[name].lines

            await eventually(lambda: asyncio.to_thread(heard), PATIENCE * 10)

        await publish_until_heard("user:#42", "user", "for you: one", "one")
        for name in ("news", "plain"):
            await publish_until_heard("public:news", name, "received: before", "before")
        await eventually(lambda: subscribers(service, "public:orders"), PATIENCE * 10)
        await restart(redis, service)
        await asyncio.to_thread(service.publish, "public:news", "after")
        for name in ("news", "plain"):
            await consoles[name].has("received: after")
            lines = consoles[name].lines
            assert lines.index(GAP) < lines.index("received: after")
        await consoles["orders"].has("orders: [an order]")
    said = [line for console in consoles.values() for line in console.lines]
    assert not [line for line in said if "rror" in line and "net::ERR" not in line]


def subscribers(service: Service, channel: str) -> int:
    """Return how many nodes receive a channel: a publication says so."""
    return int(service.publish(channel, {})["nodes"])
