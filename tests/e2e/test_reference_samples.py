"""The samples of `/docs/` are true: each one is run, as the page shows it, on a real service."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, Page

from notifier.samples import DJANGO, KEY, LANGUAGES
from realtime.http.openapi_methods import DESCRIBED_METHODS
from tests.conftest import SDK
from tests.support.eventually import eventually
from tests.support.pages import PATIENCE, in_browser_loop, own_contexts
from tests.support.redis_server import RedisServer
from tests.support.sample_frames import FILE, SAMPLES, encoded, record, start
from tests.support.service import ROOT, Service

ANSWERS = json.loads(FILE.read_text(encoding="utf-8"))["answers"]
STREAMS = ("websocket", "eventStream", "unidirectional", "httpStream")
LISTENING = [
    ("eventStream", "curl"),
    ("unidirectional", "curl"),
    ("websocket", "python"),
    ("eventStream", "python"),
    ("unidirectional", "python"),
    pytest.param("httpStream", "javascript", marks=pytest.mark.node),
]
"""Samples that listen to `public:news` outside of a page, and print what they receive."""
SECONDS = PATIENCE * 30


@pytest.fixture(scope="module")
def service(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    running = start(redis, tmp_path_factory.mktemp("samples"))
    yield running
    assert "Traceback" not in running.log
    running.stop()


@pytest.fixture(scope="module")
def shown(service: Service) -> dict[str, str]:
    """The code on the page by the id of its tab: ``publish-curl``."""
    page = httpx.get(f"{service.http}/docs/", timeout=60).text
    pattern = r'<div class="sample" id="([\w-]+)"(.*?)</div>\s*</div>|<p class="sample-note">'
    return {
        name: unescape(code[1])
        for name, text in re.findall(pattern, page, re.DOTALL)
        if (code := re.search(r"<code>(.*?)</code>", text, re.DOTALL))
    }


def command(language: str, code: str) -> list[str]:
    """Return how a person would run a sample."""
    if language == "curl":
        return ["sh", "-c", f"exec {code}"]
    if language == "javascript":
        return ["node", "--input-type=module", "--eval", code]
    return [sys.executable, "-c", code]


def environment() -> dict[str, str]:
    return {**os.environ, KEY: SAMPLES["NOTIFIER_API_KEY"]}


# --- what was recorded ---


async def test_the_answers_and_frames_are_those_of_a_running_service(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    """To record them anew: ``python -m tests.support.sample_frames``."""
    service = await asyncio.to_thread(start, own_redis, tmp_path)
    try:
        recorded = await record(service)
    finally:
        await asyncio.to_thread(service.stop)
    assert json.loads(encoded(recorded)) == json.loads(FILE.read_text(encoding="utf-8"))


def test_each_method_and_each_stream_has_samples(shown: dict[str, str]) -> None:
    of_methods = {f"{name}-{language}" for name in DESCRIBED_METHODS for language in LANGUAGES}
    without = {f"{name}-django" for name in DESCRIBED_METHODS if name not in DJANGO}
    of_streams = {name for name in shown if name.startswith("stream-")}
    assert set(shown) - of_streams == of_methods - without
    assert {name.split("-")[1] for name in of_streams} == {*STREAMS, "htmx"}


# --- requests ---


def shape(value: Any) -> Any:
    """Return the names in a JSON value, without what differs between two requests."""
    if isinstance(value, dict):
        # A channel's name is a key, too. CloudEvents are recognized when they come again.
        names = [name for name in value if ":" not in name and name != "repeated"]
        return {name: shape(value[name]) for name in names}
    return [shape(value[0])] if isinstance(value, list) and value else type(value)


@pytest.mark.parametrize(
    "language", ["curl", "python", pytest.param("javascript", marks=pytest.mark.node)]
)
def test_the_sample_of_each_method_is_answered_as_shown(
    shown: dict[str, str], language: str
) -> None:
    # These list who is connected, and nobody is.
    depends = {"presence", "channels", "connections", "info"}
    for name in DESCRIBED_METHODS:
        ran = subprocess.run(
            command(language, shown[f"{name}-{language}"]),
            capture_output=True, text=True, timeout=SECONDS, env=environment(),
        )  # fmt: skip
        assert ran.returncode == 0, (name, ran.stderr)
        answer = READ[language](ran.stdout)
        if name in depends:
            assert answer["result"].keys() == ANSWERS[name]["result"].keys(), name
        else:
            assert shape(answer) == shape(ANSWERS[name]), name


READ: dict[str, Callable[[str], Any]] = {
    "curl": json.loads,
    "python": ast.literal_eval,
    "javascript": json.loads,
}
"""Reads what a sample of each language prints."""


def test_the_samples_for_django_run_in_a_project(redis: RedisServer, shown: dict[str, str]) -> None:
    samples = [shown[f"{name}-django"] for name in DJANGO]
    printed = run_in_django(redis, "\n\n".join(samples))
    assert re.match(r"\d+ [0-9a-f]{16}\n", printed), "publish prints the position"
    assert "Position(epoch=" in printed
    assert "Headcount(clients=0" in printed


def run_in_django(redis: RedisServer, code: str) -> str:
    """Run code in a project that has the app, next to the service; return what it prints."""
    env = {**os.environ, **SAMPLES, "REDIS_URL": redis.url}
    setup = "import django\ndjango.setup()\n"
    ran = subprocess.run(
        [sys.executable, "-c", setup + code],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


# --- streams ---


async def publish_until(service: Service, is_received: Callable[[], Any]) -> None:
    """Publish again and again, until a client that has just started receives one of them."""

    async def received() -> bool:
        await asyncio.to_thread(
            service.publish, "public:news", {"number": 1042}, event="order.shipped"
        )
        found = is_received()
        return bool(await found if asyncio.iscoroutine(found) else found)

    await eventually(received, SECONDS)


@pytest.mark.parametrize(("stream", "language"), LISTENING)
async def test_the_sample_of_a_stream_receives_a_publication(
    service: Service, shown: dict[str, str], tmp_path: Path, stream: str, language: str
) -> None:
    printed = tmp_path / "printed"
    with printed.open("wb") as file:
        client = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            command(language, shown[f"stream-{stream}-{language}"]),
            stdout=file, stderr=subprocess.STDOUT, env=environment(), cwd=SDK.parent,
        )  # fmt: skip
    try:
        await publish_until(service, lambda: "1042" in printed.read_text(encoding="utf-8"))
    except AssertionError:
        raise AssertionError(printed.read_text(encoding="utf-8")) from None
    finally:
        client.kill()
        client.wait()


def test_the_curl_command_of_http_streaming_opens_a_stream(
    shown: dict[str, str],
) -> None:
    client = subprocess.Popen(
        command("curl", shown["stream-httpStream-curl"]), stdout=subprocess.PIPE, text=True
    )
    try:
        assert client.stdout
        assert json.loads(client.stdout.readline())["connect"]["session"]
    finally:
        client.kill()
        client.communicate()


@pytest.mark.browser
@in_browser_loop
@pytest.mark.parametrize("stream", ["websocket", "eventStream"])
async def test_the_sample_for_a_page_receives_a_publication(
    service: Service, shown: dict[str, str], chromium: Browser, stream: str
) -> None:
    code = shown[f"stream-{stream}-javascript"]
    async with own_contexts(chromium) as browser:
        page: Page = await (await browser.new_context()).new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        await page.route(
            "**/sample.js", lambda route: route.fulfill(body=code, content_type="text/javascript")
        )
        await page.goto(f"{service.http}/docs/")
        await page.evaluate("import('/sample.js').then(() => null)")
        await publish_until(service, lambda: any("1042" in text for text in said))


def test_the_templates_render(redis: RedisServer, shown: dict[str, str]) -> None:
    for stream, wanted in (("websocket", "public:news"), ("htmx", "/htmx/orders")):
        source = shown[f"stream-{stream}-django"]
        render = f"print(engines['django'].from_string({source!r}).render())"
        code = f"from django.template import engines\n{render}"
        assert wanted in run_in_django(redis, code)
