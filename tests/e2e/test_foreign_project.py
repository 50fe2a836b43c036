"""Pages of a foreign project with hashed static files and a strict policy, and their errors."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from playwright.async_api import Browser, ConsoleMessage, Page

from tests.e2e.test_howtos import text_of
from tests.support.host import Host, files_of
from tests.support.pages import becomes_true, in_browser_loop, own_contexts
from tests.support.redis_server import RedisServer
from tests.support.service import ROOT

SETTINGS = """
from csp.constants import NONCE, NONE, SELF, STRICT_DYNAMIC

MIDDLEWARE += ["whitenoise.middleware.WhiteNoiseMiddleware", "csp.middleware.CSPMiddleware"]
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [NONCE, STRICT_DYNAMIC],
        "connect-src": [SELF],
        "img-src": ["data:"],
    }
}
ROOT_URLCONF = "mysite.pages"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1"]
STATIC_ROOT = BASE_DIR / os.environ.get("STATIC_FOLDER", "collected")
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": os.environ.get(
            "STATIC_STORAGE", "whitenoise.storage.CompressedManifestStaticFilesStorage"
        )
    },
}
WHITENOISE_KEEP_ONLY_HASHED_FILES = True
"""
STORAGES = """
from django.contrib.staticfiles.storage import ManifestStaticFilesStorage

class Rewriting(ManifestStaticFilesStorage):
    support_js_module_import_aggregation = True
"""
PAGES = """
from django.http import HttpResponse
from django.template import engines
from django.urls import path

from mysite.urls import urlpatterns as others

HEAD = "{% load static realtime %}<!doctype html><title>A page</title><link rel=icon href=data:,>"
TEXTS = {
    "tag": HEAD + "{% realtime_client 'nwes:today' 'orders:all' %}",
    "module": HEAD + "{% realtime importmap=True %}<ul id=shipped></ul>"
    "<script type=module src={% static 'orders/live.js' %} nonce={{ request.csp_nonce }}></script>",
    "plain": HEAD + "{% realtime %}",
    "bell": HEAD + "{% realtime_bell 'orders:all' %}",
}


def page(request, name):
    return HttpResponse(engines["django"].from_string(TEXTS[name]).render({}, request))


urlpatterns = [path("page/<str:name>", page), *others]
"""
COLLECT = """
import json, os
import django
os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
django.setup()
from django.core.management import call_command
from django.test import Client
call_command("collectstatic", interactive=False, verbosity=0, ignore_patterns=["admin"])
get = Client(headers={"Host": "127.0.0.1"}).get
print(json.dumps({name: get(f"/page/{name}").text for name in ("tag", "module", "plain", "bell")}))
"""
SERVER = ("-m", "uvicorn", "mysite.asgi:application", "--ws", "websockets-sansio")


class Collected(NamedTuple):
    """The files that `collectstatic` has created, and the pages that refer to them."""

    folder: Path
    pages: dict[str, str]

    def named(self, pattern: str) -> Path:
        [found] = self.folder.glob(pattern)
        return found


@pytest.fixture(scope="module")
def host(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Host:
    folder = tmp_path_factory.mktemp("foreign")
    host = Host(folder, f"{folder}:{ROOT}", redis.url)
    host.write(files_of(text_of("django-host")))
    with (folder / "mysite/settings.py").open("a") as file:
        file.write(SETTINGS)
    for name, text in (("storages", STORAGES), ("pages", PAGES)):
        (folder / f"mysite/{name}.py").write_text(text)
    return host


def collect(host: Host, storage: str, folder: str) -> Collected:
    one = copy(host)
    one.env = {**host.env, "STATIC_STORAGE": storage, "STATIC_FOLDER": folder}
    return Collected(host.folder / folder, json.loads(one.run("-c", COLLECT).splitlines()[-1]))


@pytest.fixture(scope="module")
def only_hashed(host: Host) -> Collected:
    return collect(host, "whitenoise.storage.CompressedManifestStaticFilesStorage", "collected")


@pytest.fixture(scope="module")
def log(tmp_path_factory: Any) -> Path:
    """Return the project's log file; the project does not set LOGGING."""
    return Path(tmp_path_factory.mktemp("served")) / "log"


@pytest.fixture(scope="module")
def url(host: Host, only_hashed: Collected, log: Path) -> Iterator[str]:
    with host.served(log, *SERVER) as url:
        yield url


def test_a_storage_that_rewrites_imports_leads_every_module_to_the_same_file(host: Host) -> None:
    """A comment in client.js looked like an import of itself, so `collectstatic` never ended."""
    done = collect(host, "mysite.storages.Rewriting", "rewritten")
    source = (ROOT / "realtime/static/realtime/client.js").read_text(encoding="utf-8")
    client = done.named("realtime/client.*.js")
    rewritten = source
    for name in ("shared", "fill"):
        assert source.count(f'import("./{name}.js")') == 1
        hashed = done.named(f"realtime/{name}.*.js").name
        rewritten = rewritten.replace(f'import("./{name}.js")', f'import("./{hashed}")')
    assert client.read_text(encoding="utf-8") == rewritten
    assert f'import("./{client.name}")' in done.named("realtime/page.*.js").read_text()
    assert f"/{client.name}" in done.named("orders/live.*.js").read_text()
    imported = done.named("realtime/page.*.js").name
    assert f'import("./{imported}")' in done.named("realtime/bell.*.js").read_text()
    for page in ("tag", "module", "plain", "bell"):
        [preloaded] = re.findall(r'modulepreload" href="([^"]+)"', done.pages[page])
        assert preloaded == f"/static/realtime/{client.name}"
    assert "#" not in done.pages["tag"] + done.pages["bell"], "the name stands in the file"


def test_where_imports_are_not_rewritten_the_tag_names_the_file(only_hashed: Collected) -> None:
    assert not (only_hashed.folder / "realtime/client.js").exists()
    client = only_hashed.named("realtime/client.*.js").name
    assert f"#%2Fstatic%2Frealtime%2F{client}" in only_hashed.pages["tag"]
    plain, real = "/static/realtime/client.js", f"/static/realtime/{client}"
    fill = only_hashed.named("realtime/fill.*.js").name
    loaded = {"/static/realtime/fill.js": f"/static/realtime/{fill}"}
    mapped = json.dumps({"imports": {plain: real, **loaded}})
    assert f">{mapped}</script>" in only_hashed.pages["module"]
    assert "importmap" not in only_hashed.pages["plain"], "a page can have only one"


def test_all_that_loads_code_carries_a_nonce_that_was_not_made_before(
    only_hashed: Collected,
) -> None:
    """The tag tested whether the nonce was true, but it is false until it has been written."""
    for page in only_hashed.pages.values():
        loading = [
            tag
            for tag in re.findall(r"<(?:script|link)\b[^>]*>", page)
            if "application/json" not in tag and "icon" not in tag
        ]
        assert loading
        assert all(re.search(r" nonce=\"?[\w+/]{22}==\"?>", tag) for tag in loading), loading


def test_plain_http_at_the_address_of_the_websocket_is_told_about_the_proxy(url: str) -> None:
    answer = httpx.get(f"{url}/connection/websocket")
    assert answer.status_code == 426
    assert answer.headers["upgrade"] == "websocket"
    assert "proxy" in answer.text
    head = httpx.head(f"{url}/connection/websocket")
    assert (head.status_code, head.content) == (426, b"")


def test_a_websocket_at_an_unknown_address_is_closed_without_a_traceback(url: str) -> None:
    """Channels' URLRouter used to raise; the fixture checks the log for tracebacks."""
    key = {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
    assert httpx.get(f"{url}/nowhere", headers=upgrade | key).status_code == 404


class Watched:
    """A page, with everything that its browser loads and logs."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.modules: set[str] = set()
        self.warnings: list[str] = []
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._note)
        page.on("request", self._loads)

    def _note(self, message: ConsoleMessage) -> None:
        {"warning": self.warnings, "error": self.errors}.get(message.type, []).append(message.text)

    def _loads(self, request: Any) -> None:
        if "/realtime/client" in request.url:
            self.modules.add(request.url)


LISTEN = """
window.heard = [];
for (const name of ["error", "subscribed"]) {
  document.addEventListener(`realtime:${name}`, (event) => {
    const { channel, code = "" } = event.detail;
    window.heard.push(`${name} ${channel} ${code} ${event.target.id}`);
    if (location.hash === "#handled") event.preventDefault();
  });
}
"""


@pytest.mark.browser
@in_browser_loop
async def test_a_page_shows_what_was_refused_and_loads_its_modules_once(
    url: str, only_hashed: Collected, log: Path, chromium: Browser
) -> None:
    """The page said "live" and received nothing."""
    client = only_hashed.named("realtime/client.*.js").name
    async with own_contexts(chromium) as browser:
        for fragment in ("", "#handled"):
            seen = Watched(await browser.new_page())
            await seen.page.add_init_script(LISTEN)
            await seen.page.goto(f"{url}/page/tag{fragment}")
            await becomes_true(seen.page, "window.heard.length === 2")
            assert sorted(await seen.page.evaluate("window.heard")) == [
                "error nwes:today 103 realtime-config",
                "subscribed orders:all  realtime-config",
            ]
            assert [text for text in seen.warnings if '"nwes:today" was refused' in text] == (
                seen.warnings
            )
            assert len(seen.warnings) == (0 if fragment else 1)
            assert seen.errors == []
            assert seen.modules == {f"{url}/static/realtime/{client}"}
            await seen.page.close()
        seen = Watched(await browser.new_page())
        async with seen.page.expect_websocket(timeout=60_000):
            await seen.page.goto(f"{url}/page/module")
        assert (seen.errors, seen.modules) == ([], {f"{url}/static/realtime/{client}"})
    said = await asyncio.to_thread(log.read_text, encoding="utf-8")
    assert said.count("refused a subscription to 'nwes:today': its namespace is not in") == 1


@pytest.mark.browser
@in_browser_loop
async def test_a_bell_finds_its_modules_under_a_policy_without_styles(
    url: str, only_hashed: Collected, chromium: Browser
) -> None:
    client = only_hashed.named("realtime/client.*.js").name
    async with own_contexts(chromium) as browser:
        seen = Watched(await browser.new_page())
        await seen.page.goto(f"{url}/page/bell")
        await seen.page.locator("realtime-bell button.button:not(.off)").wait_for(timeout=60_000)
        assert (seen.errors, seen.modules) == ([], {f"{url}/static/realtime/{client}"})
