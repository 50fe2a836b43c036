"""What a Django developer takes for granted: checks, lazy text, mailers, Django's own policy."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from copy import copy
from pathlib import Path

import django
import httpx
import pytest
from playwright.async_api import Browser
from websockets import Origin
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.e2e.test_howtos import text_of
from tests.support.eventually import eventually_sync
from tests.support.host import Host, files_of
from tests.support.pages import becomes_true, in_browser_loop, own_contexts
from tests.support.redis_server import RedisServer
from tests.support.service import ROOT

HAS_POLICY = django.VERSION >= (6, 0)
HAS_MAILERS = django.VERSION >= (6, 1)

SETTINGS = """
import json
LANGUAGES = [("en", "English"), ("de", "Deutsch")]
MIDDLEWARE += ["django.middleware.locale.LocaleMiddleware"]
globals().update(json.loads(os.environ.get("MORE_SETTINGS", "{}")))
"""
TESTS = """
import decimal
import json

from django.db import transaction
from django.http import HttpResponse
from django.test import TestCase, override_settings
from django.urls import path
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from realtime import publish, publish_on_commit
from realtime.testing import PublicationsMixin

SAVED = _("Yes")


def view(request):
    with transaction.atomic():
        publish_on_commit("orders:all", {"answer": SAVED, "list": [_("No")]}, tags={"t": SAVED})
        found = [repr(function) for _, function, _ in transaction.get_connection().run_on_commit]
    return HttpResponse("\\n".join(found))


urlpatterns = [path("", view)]


@override_settings(ROOT_URLCONF="orders.tests")
class DjangoWays(PublicationsMixin, TestCase):
    def test_lazy_text_is_in_the_language_of_the_request(self):
        for language, words in (("de", ["Ja", "Nein"]), ("en", ["Yes", "No"])):
            with self.captureOnCommitCallbacks(execute=True):
                self.client.get("/", headers={"Accept-Language": language})
            publication = self.published[-1]
            self.assertEqual(publication.data, {"answer": words[0], "list": words[1:]})
            self.assertEqual(publication.tags, {"t": words[0]})

    def test_a_plural_is_text_as_well(self):
        days = ngettext_lazy("%(count)d day", "%(count)d days", "count") % {"count": 2}
        publish("orders:all", days)
        self.assertEqual(self.published[-1].data, "2 days")

    def test_what_is_no_json_is_named_by_its_path(self):
        for value, where in (
            ({"rows": [{"price": object()}]}, "data.rows[0].price"),
            ({"rows": [1, open]}, "data.rows[1]"),
            ([{"a": 1j}], "data[0].a"),
        ):
            with self.assertRaises(Exception) as raised:
                publish("orders:all", value)
            self.assertIn(where, str(raised.exception))
        self.assertEqual(self.published, [])

    def test_a_callback_after_the_commit_says_what_it_is(self):
        with self.captureOnCommitCallbacks() as callbacks:
            answer = self.client.get("/").content.decode()
        self.assertIn("orders:all", answer)
        self.assertEqual(repr(callbacks[0]), answer)
        self.assertIn("orders:all", callbacks[0].__qualname__)
"""
UNCAPTURED = """
from django.test import SimpleTestCase

from realtime import publish


class Uncaptured(SimpleTestCase):
    def test_it(self):
        publish("orders:all", 1, fallback="email", fallback_when="always")
"""
NESTED = """
from django.urls import include, path

urlpatterns = [path("a/", include(([path("b/", include("realtime.urls"))], "shop")))]
"""
BARE = """
from django.core.asgi import get_asgi_application

application = get_asgi_application()
"""
POLICY = {
    "SECURE_CSP": {
        "default-src": ["'none'"],
        "script-src": ["<CSP_NONCE_SENTINEL>", "'strict-dynamic'"],
        "connect-src": ["'self'"],
        "img-src": ["data:"],
    },
}
POLICY_SETTINGS = """
MIDDLEWARE += ["django.middleware.csp.ContentSecurityPolicyMiddleware"]
TEMPLATES[0]["OPTIONS"]["context_processors"] += ["django.template.context_processors.csp"]
ROOT_URLCONF = "mysite.pages"
"""
PAGES = """
from django.http import HttpResponse
from django.template import RequestContext, engines
from django.urls import path

from mysite.urls import urlpatterns as others

TEXT = (
    "{% load realtime %}<!doctype html><title>A page</title><link rel=icon href=data:,>"
    "{% realtime importmap=True %}{% realtime_client 'orders:all' %}"
    "<script nonce={{ csp_nonce }}>window.heard = [];"
    "document.addEventListener('realtime:subscribed', (e) => heard.push(e.detail.channel));"
    "</script>"
)


def page(request):
    template = engines["django"].from_string(TEXT).template
    return HttpResponse(template.render(RequestContext(request)))


urlpatterns = [path("page", page), *others]
"""
SERVER = ("manage.py", "runserver", "--noreload")
CONTACT = """
from django.contrib.auth import get_user_model
get_user_model().objects.create_user("ada", email="ada@example.com")
"""
PUBLISH = """
from django.contrib.auth import get_user_model
from realtime import personal_channel, publish
ada = get_user_model().objects.get()
print(publish(personal_channel(ada), {"title": "Shipped", "text": "Order 7"}, fallback="email"))
"""
SHELL = ("manage.py", "shell", "-v", "0", "-c")


@pytest.fixture(scope="module")
def project(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Host:
    folder = tmp_path_factory.mktemp("ways")
    project = Host(folder, f"{folder}:{ROOT}", redis.url)
    project.write(files_of(text_of("django-host")))
    with (folder / "mysite/settings.py").open("a", encoding="utf-8") as settings:
        settings.write(SETTINGS)
    (folder / "orders/tests.py").write_text(TESTS, encoding="utf-8")
    return project


def with_settings(project: Host, **more: object) -> Host:
    """Return the project with some more settings; a value must be JSON."""
    one = copy(project)
    one.env = {**project.env, "MORE_SETTINGS": json.dumps(more)}
    return one


def test_publications_are_as_django_writes_text(project: Host) -> None:
    """Lazy text, plurals, the path to what is no JSON, the name of what runs after the commit."""
    output = project.run("manage.py", "test")
    assert re.search(r"Ran 4 tests.*\nOK\n", output, re.S), output


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"REALTIME_REDIS_URL": ""}, r"\(realtime\.W010\).*\n.*memory://"),
        (
            {"REALTIME_REDIS_URL": "redis://:50%off@127.0.0.1/0"},
            r"\(realtime\.W011\).*\n.*Percent-enc",
        ),
        ({"ROOT_URLCONF": "mysite.nested"}, r"\(realtime\.W012\).* the namespace 'shop'"),
        (
            {"ASGI_APPLICATION": "mysite.bare.application"},
            r"\(realtime\.W015\).*\n.*websocket_urlp",
        ),
        ({"REALTIME_PING_SECOND": 20}, r"\(realtime\.W001\).*\n.*REALTIME_PING_SECONDS\?"),
    ],
    ids=["no Redis", "a password", "nested", "no WebSockets", "misspelt"],
)
def test_check_says_what_is_wrong(project: Host, more: dict[str, object], told: str) -> None:
    (project.folder / "mysite/nested.py").write_text(NESTED, encoding="utf-8")
    (project.folder / "mysite/bare.py").write_text(BARE, encoding="utf-8")
    output = with_settings(project, **more).run("manage.py", "check")
    assert re.search(told, output), output
    assert output.count("(realtime.") == 1, output


def test_a_server_without_a_redis_says_so_once_and_refuses_its_clients(
    project: Host, tmp_path: Path
) -> None:
    """Each handshake wrote a traceback of forty lines, and buried the warning of `check`."""
    log = tmp_path / "log"
    host = with_settings(project, REALTIME_REDIS_URL="")
    with host.served(log, *SERVER, probe="/live/livez") as url:
        for _ in range(3):
            with pytest.raises(InvalidStatus) as refused:
                connect(f"{url.replace('http', 'ws')}/connection/websocket", origin=Origin(url))
            assert refused.value.response.status_code == 403  # Daphne has no other
            answer = httpx.get(f"{url}/connection/sse?channel=orders:all")
            assert answer.status_code == 404  # the project does not mount it
    said = log.read_text(encoding="utf-8")
    assert said.count("cannot serve clients: REALTIME_REDIS_URL: is not set. It names your") == 1


def test_tests_are_kept_from_the_redis_of_the_site_that_runs(
    own_redis: RedisServer, project: Host, tmp_path: Path
) -> None:
    """The tests of a project queued five mails for the real users of its developers' database."""
    host = with_settings(project, REALTIME_REDIS_URL=own_redis.url)
    (host.folder / "mysite/uncaptured.py").write_text(UNCAPTURED, encoding="utf-8")
    with (
        host.served(tmp_path / "log", *SERVER),
        pytest.raises(AssertionError, match="under which a service"),
    ):
        host.run("manage.py", "test", "mysite.uncaptured")
    with own_redis.client() as client:
        kept = [key for key in client.scan_iter() if b"fallback" in key or b":pos:" in key]
    assert kept == []


def test_mail_goes_out_by_the_mailer_that_the_handler_names(
    own_redis: RedisServer, project: Host, tmp_path: Path
) -> None:
    """Django 6.1's MAILERS; before, a handler that names one is an error that says so."""
    handler = {"use": "email", "mailer": "shop"}
    backend = "django.core.mail.backends.filebased.EmailBackend"
    folders = {name: str(tmp_path / name) for name in ("default", "shop")}
    mailers = {
        name: {"BACKEND": backend, "OPTIONS": {"file_path": folder}}
        for name, folder in folders.items()
    }
    host = with_settings(
        project,
        REALTIME_REDIS_URL=own_redis.url,
        REALTIME_FALLBACKS={"email": handler},
        **({"MAILERS": mailers} if HAS_MAILERS else {}),
    )
    if not HAS_MAILERS:
        with pytest.raises(AssertionError, match="mailer 'shop' is not in MAILERS"):
            host.run("manage.py", "check")
        return
    host.run("manage.py", "migrate", "-v", "0")
    host.run(*SHELL, CONTACT)
    host.run(*SHELL, PUBLISH)
    worker = subprocess.Popen(
        [sys.executable, "manage.py", "runfallback"],
        cwd=host.folder, env=host.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        sent = Path(folders["shop"])
        eventually_sync(lambda: [each for each in sent.glob("*") if each.stat().st_size], 20)
    finally:
        worker.terminate()
        worker.wait(60)
    [mail] = list(sent.iterdir())
    assert "To: ada@example.com" in mail.read_text(encoding="utf-8")
    assert not Path(folders["default"]).exists()


@pytest.mark.browser
@pytest.mark.skipif(not HAS_POLICY, reason="Django has a policy of its own since 6.0")
@in_browser_loop
async def test_the_tags_carry_the_nonce_of_django_s_own_policy(
    project: Host, tmp_path: Path, chromium: Browser
) -> None:
    host = with_settings(project, **POLICY)
    (host.folder / "mysite/pages.py").write_text(PAGES, encoding="utf-8")
    settings = (host.folder / "mysite/settings.py").read_text(encoding="utf-8")
    (host.folder / "mysite/with_policy.py").write_text(settings + POLICY_SETTINGS, encoding="utf-8")
    host.env["DJANGO_SETTINGS_MODULE"] = "mysite.with_policy"
    with host.served(tmp_path / "log", *SERVER) as url:
        answer = await asyncio.to_thread(httpx.get, f"{url}/page")
        [nonce] = re.findall(r"'nonce-([^']+)'", answer.headers["content-security-policy"])
        loading = re.findall(r"<(?:script|link rel=.?modulepreload)\b[^>]*>", answer.text)
        loading = [tag for tag in loading if "application/json" not in tag]
        assert len(loading) >= 4
        assert all(re.search(f' nonce="?{re.escape(nonce)}\\b', tag) for tag in loading), loading
        complaints: list[str] = []
        async with own_contexts(chromium) as browser:
            page = await browser.new_page()
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            await page.goto(f"{url}/page")
            await becomes_true(page, "window.heard?.includes('orders:all')")
        assert complaints == []
