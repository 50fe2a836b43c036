"""The OpenAPI and AsyncAPI descriptions match a running service."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator, validate
from openapi_spec_validator import validate as validate_openapi
from playwright.async_api import Browser

from realtime.api import keys
from realtime.api.answers import STATUSES
from realtime.api.methods import METHODS as API_METHODS
from realtime.http.asyncapi import document as asyncapi_document
from realtime.http.openapi import document as openapi_document
from realtime.http.openapi_methods import DESCRIBED_METHODS
from realtime.wiring import shape
from tests.conftest import SDK
from tests.support.losing import publish_while_cut
from tests.support.machine import within
from tests.support.pages import SERVICE, in_browser_loop, own_contexts
from tests.support.redis_server import RedisServer
from tests.support.service import ROOT, Service
from tests.support.tokens import token

Serve = Callable[..., Service]
ENDPOINT = {"app": "tests.asgi_endpoint:application"}
DOCUMENTS = ["openapi.json", "asyncapi.json"]


@pytest.fixture(scope="module", params=["endpoint", "views"])
def service(redis: RedisServer, request: pytest.FixtureRequest) -> Iterator[Service]:
    running = Service(redis.url, **(ENDPOINT if request.param == "endpoint" else {})).start()
    yield running
    assert "Traceback" not in running.log
    running.stop()


# --- the documents ---


def test_each_method_is_described() -> None:
    assert set(DESCRIBED_METHODS) == set(API_METHODS) == set(keys.KEY_METHODS)
    for method in DESCRIBED_METHODS.values():
        assert set(method.reasons) <= set(STATUSES)


def test_the_descriptions_are_valid_openapi_and_asyncapi() -> None:
    validate_openapi(openapi_document(shape()))


@pytest.mark.node
def test_the_streams_are_described_in_asyncapi() -> None:
    rules = json.loads((SDK / "@asyncapi/specs/schemas/3.0.0.json").read_text())
    validate(asyncapi_document(shape()), rules)


@pytest.mark.parametrize("name", DESCRIBED_METHODS)
def test_the_examples_are_valid(name: str) -> None:
    document = openapi_document(shape())
    content = document["paths"][f"/api/{name}"]["post"]["requestBody"]["content"]
    for media in content.values():
        schema = _in(document, media["schema"])
        for example in schema.get("examples", []):
            _validator(document, schema).validate(example)
        for field in schema.get("properties", {}).values():
            for example in field.get("examples", []):
                _validator(document, field).validate(example)


def test_a_lower_site_limit_is_described() -> None:
    given = shape()
    small = given._replace(channel_characters=20, sizes=given.sizes._replace(tags=2))
    fields = openapi_document(small)["components"]["schemas"]["PublishRequest"]["properties"]
    assert (fields["channel"]["maxLength"], fields["tags"]["maxProperties"]) == (20, 2)


def _in(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    found: Any = document
    for part in schema["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    result: dict[str, Any] = found
    return result


def _validator(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": document["components"]})


# --- served ---


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_descriptions_are_public(service: Service, name: str) -> None:
    url = f"{service.http}/api/{name}"
    answer = httpx.get(url)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["cache-control"] == "public, max-age=300"
    assert answer.json()["info"]["version"]
    again = httpx.get(url, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert httpx.head(url).status_code == 200
    refused = httpx.post(url, json={})
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")


def test_the_service_does_what_its_description_says(service: Service, tmp_path: Path) -> None:
    """Schemathesis sends valid and invalid requests, and checks the responses."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli"),
            *("--config-file", str(Path(__file__).parent / "schemathesis.toml")),
            *("run", f"{service.http}/api/openapi.json", "--no-color"),
            *("--header", "X-API-Key: test-key"),
        ],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=tmp_path,  # it leaves notes there
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    said = re.search(r"Test cases:\s+(\d+) generated, (\d+) passed", done.stdout)
    assert said, done.stdout
    assert int(said[1]) > 500


# --- the messages actually sent on a stream ---


class Frames:
    """Compares messages with those in the AsyncAPI document."""

    def __init__(self) -> None:
        document = asyncapi_document(shape())
        self.seen: set[str] = set()
        self._validators = {
            name: _validator(document, message["payload"])
            for name, message in document["components"]["messages"].items()
            if name.endswith(("Command", "Reply", "Push"))
        }

    @property
    def names(self) -> set[str]:
        return set(self._validators)

    def check(self, line: str, *, said_by_client: bool = False) -> None:
        """Check that a line matches exactly one of the messages."""
        if line == "{}":
            return
        kinds = ("Command",) if said_by_client else ("Reply", "Push")
        value = json.loads(line)
        found = [
            name
            for name, validator in self._validators.items()
            if name.endswith(kinds) and validator.is_valid(value)
        ]
        assert len(found) == 1, (line, found)
        self.seen.update(found)


def test_the_protocol_examples_match_the_description() -> None:
    """tests/contract compares these bytes with the service.

    This test compares them with the description.
    """
    page = (ROOT / "docs" / "protocol.md").read_text()
    frames = Frames()
    for line in re.findall(r"^< (\{.*)$", page, re.MULTILINE):
        frames.check(line)
    for line in re.findall(r"^> (\{.*)$", page, re.MULTILINE):
        frames.check(line, said_by_client=True)
    rare = {"historyReply", "historyCommand", "rpcReply", "rpcCommand", "sendCommand"}
    assert frames.names - frames.seen <= rare


async def until_heard(client: Any, frames: Frames, wanted: set[str]) -> None:
    """Check the messages that come until each of these kinds has come."""
    async with within(10):
        while not wanted <= frames.seen:
            frames.check(json.dumps(await client.next()))


async def test_a_running_service_sends_only_described_messages(
    own_redis: RedisServer, serve: Serve, attach: Callable[..., Any]
) -> None:
    service = await asyncio.to_thread(serve, own_redis.url, **ENDPOINT)
    frames = Frames()
    ada, ben = [await attach(service, connect=False) for _ in range(2)]
    for client, name in ((ada, "ada"), (ben, "ben")):
        frames.check(json.dumps(await client.ask(connect={"token": token(name)})))
    for client in (ada, ben):
        reply = await client.ask(subscribe={"channel": "chat:described", "join_leave": True})
        frames.check(json.dumps(reply))
    for command in (
        {"publish": {"channel": "chat:described", "data": {"text": "hi"}}},
        {"presence": {"channel": "chat:described"}},
        {"presence_stats": {"channel": "chat:described"}},
        {"history": {"channel": "chat:described"}},
        {"history": {"channel": "chat:described", "limit": 1}},
        {"refresh": {"token": token("ada")}},
        {"ping": {}},
        {"unknown": {}},
        {"rpc": {"method": "x", "data": 1}},
        {"unsubscribe": {"channel": "chat:described"}},
    ):
        frames.check(json.dumps(await ada.ask(**command)))
    await until_heard(ben, frames, {"joinPush", "leavePush"})  # the cut may lose these
    await asyncio.to_thread(publish_while_cut, own_redis, "chat:described", 2)
    await asyncio.to_thread(service.publish, "chat:described", 1, event="e", tags={"a": "b"})
    await until_heard(ben, frames, {"pubPush", "gapPush", "statePush", "subscribePush"})
    assert {"connectReply", "presenceReply", "refreshReply", "errorReply"} <= frames.seen


# --- the page ---


@pytest_asyncio.fixture(loop_scope="session")
async def page(redis: RedisServer, serve: Serve, chromium: Browser) -> AsyncIterator[Any]:
    service = await asyncio.to_thread(serve, redis.url, **SERVICE)
    async with own_contexts(chromium) as browser:
        opened = await (
            await browser.new_context(viewport={"width": 390, "height": 844})
        ).new_page()
        complaints: list[str] = []
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        await opened.goto(f"{service.http}/docs/")
        await opened.wait_for_selector("#main[data-ready]")
        yield opened
        # The browser itself logs a line for each error response; the tests provoke them.
        assert [text for text in complaints if "status of 4" not in text] == []


@pytest.mark.browser
@in_browser_loop
async def test_the_page_describes_and_calls_each_method(page: Any) -> None:
    shown = await page.locator("form.trial").evaluate_all(
        "forms => forms.map(f => f.dataset.method)"
    )
    assert set(shown) == set(DESCRIBED_METHODS)
    for name in DESCRIBED_METHODS:
        form = page.locator(f"#{name} form")
        await form.locator("[type=submit]").click()
        status = form.locator(".trial-status", has_text=re.compile(r" in \d+"))
        await status.wait_for()
        assert (await status.inner_text()).startswith("200 OK"), name
        assert "result" in await form.locator(".trial-answer").inner_text() or name == "batch"
    width = await page.evaluate("document.documentElement.scrollWidth")
    assert width == 390, "nothing to scroll sideways"


@pytest.mark.browser
@in_browser_loop
async def test_the_page_shows_errors(page: Any) -> None:
    form = page.locator("#publish form")
    await form.locator("textarea").fill('{"channel": "no channel", "data": 1}')
    await form.locator("[type=submit]").click()
    await form.locator(".trial-status", has_text="400").wait_for()
    assert "invalid_channel" in await form.locator(".trial-answer").inner_text()


@pytest.mark.browser
@in_browser_loop
async def test_a_typed_key_stays_out_of_the_curl_command(
    redis: RedisServer, serve: Serve, chromium: Browser
) -> None:
    service = await asyncio.to_thread(serve, redis.url, **{**SERVICE, "NOTIFIER_DEMO_KEY": "0"})
    async with own_contexts(chromium) as browser:
        context = await browser.new_context(permissions=["clipboard-read", "clipboard-write"])
        page = await context.new_page()
        await page.goto(f"{service.http}/docs/")
        await page.wait_for_selector("#main[data-ready]")
        form = page.locator("#publish form")
        await form.locator("[type=submit]").click()
        await form.locator(".trial-status", has_text="Enter an API key first").wait_for()
        await page.locator("#api-key").fill("test-key")
        await form.locator("[type=submit]").click()
        await form.locator(".trial-status", has_text="200 OK").wait_for()
        await form.locator(".copy").click()
        await form.locator(".copy-word", has_text="Copied").wait_for()
        line = await page.evaluate("navigator.clipboard.readText()")
        assert "$NOTIFIER_API_KEY" in line
        assert "test-key" not in line
        stored = await page.evaluate(
            "JSON.stringify([localStorage, sessionStorage, document.cookie])"
        )
        assert "test-key" not in stored
