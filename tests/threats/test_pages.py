"""Data that pretends to be markup, in a real Chromium; and what pages show of a request."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.support.client import Client
from tests.support.database import migrate
from tests.support.pages import SERVICE, Visitor, in_browser_loop, own_contexts
from tests.support.raw import asked, request, status_of
from tests.support.redis_server import RedisServer
from tests.support.service import Service
from tests.threats.conftest import TOKEN_SECRET, Target

PAYLOADS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg/onload=alert(1)>',
    "'><svg><animate onbegin=alert(1) attributeName=x>",
    "<iframe srcdoc='<script>parent.alert(1)</script>'></iframe>",
    "<iframe src=javascript:alert(1)></iframe>",
    "<a href=javascript:alert(1) id=evil>x</a>",
    "<body onload=alert(1)>",
    "<details open ontoggle=alert(1)>x</details>",
    "<style>@import'//evil.example/x'</style><b>",
    "<link rel=stylesheet href=//evil.example/x>",
    "<base href=//evil.example/>",
    "<form action=//evil.example><input autofocus onfocus=alert(1)>",
    "<math><mtext><table><mglyph><style><!--</style><img src=x onerror=alert(1)>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<!--><script>alert(1)//-->",
    "{{constructor.constructor('alert(1)')()}}${alert(1)}#{alert(1)}",
    "javascript:alert(1)//",
    "</textarea></title></script><script>alert(1)</script>",
    "\u202e\u2066<b>\u2028\ufeff&lt;script&gt;alert(1)&lt;/script&gt;",
]
WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.violations.push(event.violatedDirective + " " + event.blockedURI));
"""
FOREIGN = (
    "main :is(script, iframe, img, style, link, base, math, table, #evil), "
    "[onerror], [onload], [ontoggle], [onfocus], [onbegin], body > script:not([src])"
)

# Markup with effects that need no script: HTMX's attributes, navigation, forms, styles, URLs. An
# element that a page creates from it has the class `evil`.
ACTING = [
    "<button class=evil hx-post='/logout/' hx-trigger='load'>x</button>",
    "<b class=evil data-hx-post='/logout/' data-hx-trigger='load'>x</b>",
    "<b class=evil hx-get='/htmx/gap?missed=666' hx-target='main' hx-trigger='load'>x</b>",
    "<b class=evil hx-on:load='fetch(`/logout/`)' hx-on--after-swap='alert(1)'>x</b>",
    "<b class=evil hx-ext=sse sse-connect='/connection/sse?channel=a:b' sse-swap=message>x</b>",
    "<b class=evil hx-swap-oob='true' id=main>x</b>",
    "<b class=evil hx-boost=true><a class=evil href='/logout/'>x</a></b>",
    "<meta class=evil http-equiv=refresh content='0;url=/login/?next=/docs/'>",
    "<form class=evil action=/logout/ method=post><input name=password autofocus>Log in</form>",
    "<form class=evil action=/login/ method=post id=order-form><input name=username></form>",
    "<input class=evil form=order-form name=what value=evil><button formaction=/logout/>x",
    "<base class=evil href='//evil.example/'>",
    "<a class=evil href='javascript:alert(1)' autofocus>x</a>",
    "<style class=evil>main{display:none}</style><b class=evil style='position:fixed'>x</b>",
    "<svg class=evil><a xlink:href='javascript:alert(1)'>x</a><use href='data:,x#a'/></svg>",
    "<svg class=evil><set attributeName=href to=/logout/ /><foreignObject><form></form></svg>",
    "<dialog class=evil open>Log in again</dialog><template hx-post=/logout/></template>",
    "<iframe class=evil src=/logout/></iframe><object class=evil data=/logout/></object>",
    "<link class=evil rel=prefetch href=/logout/><img class=evil src=/logout/>",
]
EVENTS = [
    None,
    "order",
    "message",
    "error",
    "open",
    "realtime.gap",
    "realtime.state",
    "htmx:sseOpen",
]
USERS = """
from django.contrib.auth.models import User
User.objects.create_user('ada', password='a password')
"""
Open = Callable[..., Any]


@pytest_asyncio.fixture(loop_scope="session")
async def visit(chromium: Browser) -> AsyncIterator[Open]:
    """Open a page that records policy violations and dialogs."""
    async with own_contexts(chromium) as browser:

        async def open_page(service: Service, path: str) -> tuple[Visitor, list[str]]:
            context = await browser.new_context()
            await context.add_init_script(WATCH)
            visitor = Visitor(await context.new_page(), service)
            dialogs: list[str] = []
            visitor.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
            await visitor.page.goto(service.http + path)
            await visitor.sees("#main[data-listening]")
            return visitor, dialogs

        yield open_page


@pytest.mark.browser
@in_browser_loop
async def test_a_publication_is_a_script(
    redis_server: RedisServer, serve: Callable[..., Service], visit: Open
) -> None:
    service = serve(redis_server.url, **SERVICE, NOTIFIER_TOKEN_SECRET=TOKEN_SECRET)
    news, news_dialogs = await visit(service, "/")
    chat, chat_dialogs = await visit(service, "/chat/evil/")
    for number, text in enumerate(PAYLOADS):
        data = {"title": text, "text": text, "level": text, "url": text, "id": text}
        await asyncio.to_thread(service.publish, "public:news", data)
        await news.sees(".notification-title", text.split("\u2028")[0])
        said = {"name": f"{number} {text}", "user": text, "text": f"{number} {text}", "id": text}
        await asyncio.to_thread(service.publish, "chat:evil", said)
        await chat.sees(".message-text", f"{number} {text}".split("\u2028")[0])
    await _speak_as_a_script(service)
    await chat.sees(".message-text", "said by a name")
    for visitor, dialogs in ((news, news_dialogs), (chat, chat_dialogs)):
        assert await visitor.page.locator(FOREIGN).count() == 0
        assert await visitor.page.evaluate("window.violations") == []
        assert visitor.complaints == []
        assert dialogs == []


@pytest.mark.browser
@in_browser_loop
@pytest.mark.parametrize("path", ["/htmx/", "/", "/chat/evil/", "/jobs/"])
async def test_markup_in_a_publication_acts(
    redis_server: RedisServer,
    serve: Callable[..., Service],
    chromium: Browser,
    tmp_path: Path,
    path: str,
) -> None:
    """Issue 15, A3: HTMX swapped publications in, and `hx-post='/logout/'` was executed."""
    database = await asyncio.to_thread(migrate, f"sqlite:///{tmp_path}/db.sqlite3", USERS)
    service = await asyncio.to_thread(
        serve, redis_server.url, **{**SERVICE, "DATABASE_URL": database}
    )
    async with own_contexts(chromium) as browser:
        page = await browser.new_page()
        await page.goto(f"{service.http}/login/?next={path}")
        await page.fill("[name=username]", "ada")
        await page.fill("[name=password]", "a password")
        await page.click("main [type=submit]")
        visitor = Visitor(page, service)
        await visitor.sees("#main[data-listening]")
        forms = await page.locator("form").count()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(f"{request.method} {request.url}"))
        for channel in ("public:orders", "public:news", "chat:evil", "jobs:all"):
            for number, markup in enumerate(ACTING):
                event = EVENTS[number % len(EVENTS)]
                for data in (markup, {"title": markup, "text": markup, "name": markup}, None):
                    await asyncio.to_thread(service.publish, channel, data, event=event)
        await SEEN_AFTERWARDS[path](visitor)
        await page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        assert page.url == service.http + path
        assert await page.locator(".evil").count() == 0
        assert await page.locator("form").count() == forms
        assert await visitor.text_of("#account-button") == "ada"
        harmless = re.compile(
            r"(GET|POST) \S+/(htmx/(orders|changes|create)|jobs/state|static/[\w/]+\.svg)(\?\S*)?"
        )
        assert visitor.complaints == []
        assert [one for one in asked if not harmless.fullmatch(one)] == []


async def _order_something(visitor: Visitor) -> None:
    await visitor.page.fill("#what", "the last word")
    await visitor.page.click("#order-form button")
    await visitor.sees(".happened", "the last word")


async def _post_an_event(visitor: Visitor) -> None:
    await asyncio.to_thread(visitor.service.publish, "public:news", {"title": "the last word"})
    await visitor.sees(".notification-title", "the last word")


async def _say_something(visitor: Visitor) -> None:
    data = {"name": "ben", "text": "the last word"}
    await asyncio.to_thread(visitor.service.publish, "chat:evil", data)
    await visitor.sees(".message-text", "the last word")


async def _start_a_job(visitor: Visitor) -> None:
    await visitor.sees("#connection[data-state=live]")


SEEN_AFTERWARDS = {
    "/htmx/": _order_something,
    "/": _post_an_event,
    "/chat/evil/": _say_something,
    "/jobs/": _start_a_job,
}


async def _speak_as_a_script(service: Service) -> None:
    """Log in as a user whose name is a script, and send a message."""
    claims = {"sub": PAYLOADS[1], "info": {"name": PAYLOADS[0]}, "exp": 2**33}
    client = await Client.open(service.ws, connect=False)
    await client.ask(connect={"token": jwt.encode(claims, TOKEN_SECRET, "HS256")})
    await client.ask(subscribe={"channel": "chat:evil"})
    data = {"name": PAYLOADS[0], "text": "said by a name"}
    assert "error" not in await client.ask(publish={"channel": "chat:evil", "data": data})
    await client.close()


@pytest.mark.browser
@in_browser_loop
async def test_an_address_is_a_script(
    redis_server: RedisServer, serve: Callable[..., Service], visit: Open
) -> None:
    """No page shows the text after `?` or `#`, and the name of a room consists of plain letters."""
    service = serve(redis_server.url, **SERVICE)
    for tail in ("?q=<script>alert(1)</script>", "#<img src=x onerror=alert(1)>", "?room=a'><b>"):
        visitor, dialogs = await visit(service, f"/chat/tea/{tail}")
        assert await visitor.page.locator(FOREIGN).count() == 0
        assert await visitor.page.evaluate("window.violations") == []
        assert dialogs == []


REFLECTED = [
    "/<script>alert(1)</script>",
    "/%3Cscript%3Ealert(1)%3C/script%3E",
    "/chat/%3Cscript%3E/",
    "/?next=//evil.example",
    "//evil.example/%2e%2e",
    "/chat?x=<script>",
    "/static/<script>.js",
    "/\\evil.example",
    "/%0d%0aSet-Cookie:%20a=b",
    "/api/<script>",
]


@pytest.mark.parametrize("path", REFLECTED)
def test_an_error_or_a_redirect_reflects_the_request(target: Target, path: str) -> None:
    given = ("Referer: <script>", "X-Forwarded-Host: evil.example", "User-Agent: <script>")
    answer = asked(target.port, request("GET", path, *given))
    head, _, body = answer.partition(b"\r\n\r\n")
    # The URL to return to after login: quoted, and checked again there
    # (tests/e2e/test_accounts.py).
    body = re.sub(rb'href="/login/\?next=[\w/.%-]*"', b"", body)
    assert status_of(answer) < 500
    assert b"evil" not in body
    assert b"<script>" not in body.lower()
    assert b"set-cookie: a" not in head.lower()
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b": ")
        if name.lower() == b"location":
            assert value.startswith(b"/")
            assert not value.startswith((b"//", b"/\\"))


POLICY = ["default-src 'none'", "script-src 'self'", "base-uri 'none'", "frame-ancestors 'none'"]


@pytest.mark.parametrize("path", ["/", "/chat/", "/nowhere", "/static/notifier/page.js"])
def test_a_page_comes_without_its_policy(target: Target, path: str) -> None:
    headers = httpx.get(target.http + path).headers
    assert headers["x-content-type-options"] == "nosniff"
    with suppress(KeyError):
        assert "unsafe" not in headers["content-security-policy"]
    if not path.startswith("/static"):
        for part in POLICY:
            assert part in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "same-origin"
