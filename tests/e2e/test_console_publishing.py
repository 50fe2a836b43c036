"""The form of the console that publishes, in Chromium: outcomes, retries, and requests to copy."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from typing import Any

import pytest
from playwright.async_api import Page, Route

from tests.e2e.test_console import PUBLICATION, open_console
from tests.support.client import Client
from tests.support.pages import Open, in_browser_loop
from tests.support.redis_server import RedisServer
from tests.support.service import ROOT, Service

pytestmark = [pytest.mark.browser, in_browser_loop]

OUTCOME = "#publish-outcome[data-outcome='{}']"


async def write(page: Page, body: Any) -> None:
    await page.fill("#publish-body", body if isinstance(body, str) else json.dumps(body))


async def test_templates_are_published_with_the_session(
    page_service: Service, open_page: Open
) -> None:
    page = await open_console(open_page, "public:news")
    for template in ("plain", "event", "tags"):
        key = await page.input_value("#publish-key")
        await page.click(f"[data-template={template}]")
        await page.click("#publish-go")
        await page.wait_for_selector(OUTCOME.format("published"))
        assert ", offset" in await page.inner_text("#publish-outcome")
        assert await page.input_value("#publish-key") != key, "the next one is another publication"
        await page.evaluate("document.getElementById('publish-outcome').dataset.outcome = ''")
    published = page.locator(PUBLICATION.format("public:news"))
    await published.nth(2).wait_for(timeout=60_000)
    assert '"tags":{' in await published.first.inner_text()
    assert "staff member ada: publish on public:news: offset 1" in page_service.log


async def test_a_fallback_needs_a_key(open_page: Open) -> None:
    page = await open_console(open_page)
    assert not await page.is_visible("#fallback-note")
    await page.click("[data-template=fallback]")
    assert "A login may not name a fallback" in await page.inner_text("#fallback-note")
    await page.click("#publish-go")
    outcome = page.locator(OUTCOME.format("not-published"))
    await outcome.wait_for(timeout=60_000)
    assert "Certainly not published" in await outcome.inner_text()
    assert "403 forbidden" in await outcome.inner_text()


WRONG = {
    "{": "not JSON",
    "[]": "must be an object",
    '{"data": 1}': "channel is missing",
    '{"channel": "public:news"}': "data is missing",
    '{"channel": "public:news", "data": 1, "tag": 1}': "no field tag",
    '{"channel": "public:news", "data": 1, "idempotency_key": "x"}': "Remove idempotency_key",
}


async def test_a_mistake_is_explained_before_anything_is_sent(open_page: Open) -> None:
    page = await open_console(open_page)
    for text, problem in WRONG.items():
        await write(page, text)
        assert problem in await page.inner_text("#publish-problem")
        await page.click("#publish-go")
        assert await page.evaluate("document.activeElement.id") == "publish-body"
    assert await page.inner_text("#publish-outcome") == ""
    await write(page, {"channel": "nowhere:a", "data": 1})
    assert await page.inner_text("#publish-problem") == ""
    await page.click("#publish-go")
    await page.locator(OUTCOME.format("not-published"), has_text="400").wait_for(timeout=60_000)


async def test_a_retry_with_the_same_key_publishes_once(
    page_service: Service, open_page: Open
) -> None:
    """The service publishes, and the page does not get the answer."""
    page = await open_console(open_page, "public:once")
    sent: list[str] = []

    async def lose(route: Route) -> None:
        sent.append(route.request.headers["idempotency-key"])
        if len(sent) > 1:
            await route.continue_()
            return
        await route.fetch()
        await route.abort()

    await page.route("**/api/publish", lose)
    await write(page, {"channel": "public:once", "data": "only once"})
    key = await page.input_value("#publish-key")
    await page.click("#publish-go")
    unknown = page.locator(OUTCOME.format("unknown"))
    await unknown.wait_for(timeout=60_000)
    assert "Outcome unknown" in await unknown.inner_text()
    await page.click("#publish-again")
    await page.wait_for_selector(OUTCOME.format("published"))
    assert "nothing was published twice" in await page.inner_text("#publish-outcome")
    assert sent == [key, key]
    assert not await page.is_visible("#publish-again")
    assert await page.evaluate("document.activeElement.id") == "publish-go"
    await asyncio.to_thread(page_service.publish, "public:once", "the last word")
    last = page.locator(PUBLICATION.format("public:once"), has_text="the last word")
    await last.wait_for(timeout=60_000)
    assert await page.locator(PUBLICATION.format("public:once")).count() == 2
    assert "publish on public:once: offset 1, repeated" in page_service.log


ANSWERS = {
    "the API, that Redis did not answer": (
        504,
        {"error": {"reason": "outcome_unknown", "message": "x"}},
        "unknown",
    ),
    "a proxy, that the service did not answer": (502, "<h1>Bad Gateway</h1>", "unknown"),
    "a proxy, with a page of its own": (200, "<h1>Welcome</h1>", "unknown"),
    "a proxy, that the service is away": (503, "<h1>Unavailable</h1>", "unknown"),
    "the API, that Redis is away": (
        503,
        {"error": {"reason": "broker_unavailable", "message": "x"}},
        "not-published",
    ),
    "a proxy, that the body is too large": (413, "<h1>Too large</h1>", "not-published"),
}


@pytest.mark.parametrize(("status", "body", "outcome"), ANSWERS.values(), ids=ANSWERS)
async def test_an_outcome_is_never_guessed(
    open_page: Open, status: int, body: Any, outcome: str
) -> None:
    page = await open_console(open_page)

    async def answer(route: Route) -> None:
        text = body if isinstance(body, str) else json.dumps(body)
        await route.fulfill(status=status, body=text)

    await page.route("**/api/publish", answer)
    await page.click("#publish-go")
    await page.wait_for_selector(OUTCOME.format(outcome))


HOSTILE = {
    "'quotes'": "\"double\" and 'single' and `backticks` and $HOME $(id) ${x} \\ !",
    "lines": "one\ntwo\r\n\tthree\x00\x1f\x7f",
    "markup": "</script><!--<script>alert(1)</script>",
    "unicode": "Zoë שלום 🚀 \u2028\u2029\u202e\ufeff\u200b",
    "numbers": [0, -1.5, 1e3, 12345678901234567890, True, False, None],
    "__proto__": {"nested": {"true": "null", "a:b": [["{", "}"], ","]}},
}
BODY = {
    "channel": "public:hostile",
    "data": HOSTILE,
    "event": "order.shipped",
    "tags": {"name": "'\"\\\n"},
    "fallback": None,
}


def command_of(kind: str, snippet: str) -> list[str]:
    if kind == "curl":
        return ["sh", "-c", snippet]
    if kind == "javascript":
        return ["node", "--input-type=module", "--eval", snippet]
    if kind == "django":
        snippet = f"import django; django.setup()\n{snippet}"
    return [sys.executable, "-c", snippet]


KINDS = ["curl", "python", "django", pytest.param("javascript", marks=pytest.mark.node)]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_copied_request_publishes_the_same_for_hostile_texts(
    page_service: Service, redis: RedisServer, open_page: Open, kind: str
) -> None:
    if kind == "curl" and not shutil.which("curl"):
        pytest.skip("curl is not installed")
    channel = f"public:hostile-{kind}"
    listener = await Client.open(page_service.ws)
    await listener.subscribe(channel)
    page = await open_console(open_page)
    await write(page, json.dumps(BODY | {"channel": channel}, ensure_ascii=False, indent=1))
    assert await page.inner_text("#publish-problem") == ""
    await page.click(".console-copy summary")
    await page.select_option("#snippet-kind", kind)
    snippet = await page.evaluate("document.getElementById('snippet').textContent")
    assert "test-key" not in snippet
    assert not set("\u2028\u2029\u202e\ufeff\u200b") & set(snippet), "what nobody can see"
    if kind == "javascript":
        assert "</script" not in snippet
    env = {
        **os.environ,
        "NOTIFIER_API_KEY": "test-key",
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "TEST_REDIS_URL": redis.url,
    }
    command = command_of(kind, snippet)
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=env, stdout=-1, stderr=-1
    )
    said, errors = await process.communicate()
    assert process.returncode == 0, (snippet, said, errors)
    pub = await listener.push("pub", 30)
    await listener.close()
    assert pub["data"] == HOSTILE
    assert pub["tags"] == {"event": "order.shipped", **BODY["tags"]}  # type: ignore[dict-item]
