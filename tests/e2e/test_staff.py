"""Staff users may publish from a page of the site with their session cookie; nobody else may."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from realtime.api.answers import STATUSES
from realtime.core.limits import PUBLISH_BYTES
from tests.support.raw import asked, status_of
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, DEPLOYMENT, KEY, ROOT, Service

USERS = """
import json
import django
django.setup()
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import Client
call_command("migrate", verbosity=0)
cookies = {}
for name, flags in {"ada": {"is_staff": True}, "bob": {}, "eve": {"is_staff": True}}.items():
    user = get_user_model().objects.create_user(name, **flags)
    client = Client()
    client.force_login(user)
    cookies[name] = client.cookies["sessionid"].value
    if name == "eve":
        user.is_active = False
        user.save()
print(json.dumps(cookies))
"""
TOKEN = "t" * 32
KINDS = [
    ("uvicorn", "tests.asgi:application"),
    ("uvicorn", "tests.asgi_endpoint:application"),
    ("daphne", "tests.asgi_endpoint:application"),
    (DEPLOYED, "as it is"),
]


class Site:
    """A project with logged-in users."""

    def __init__(self, folder: Path, redis_url: str, server: str, app: str) -> None:
        self.database = folder / "site.sqlite3"
        env = {
            "DJANGO_SETTINGS_MODULE": "tests.session_settings",
            "TEST_DATABASE": str(self.database),
            "TEST_BODY_SECONDS": "2",
        }
        if server == DEPLOYED:
            database = {"DATABASE_URL": f"sqlite:///{self.database}", "REDIS_URL": redis_url}
            env = {**DEPLOYMENT, **database, "HTTPS": "0"}
        made = subprocess.run(
            [sys.executable, "-c", USERS],
            cwd=ROOT,
            env=os.environ | env,
            capture_output=True,
            text=True,
            check=True,
        )
        self.sessions: dict[str, str] = json.loads(made.stdout)
        self.service = Service(redis_url, server, app=app, **env).start()
        self._client = httpx.Client()

    def stop(self) -> None:
        self._client.close()
        self.service.stop()

    def post(
        self, who: str, method: str = "publish", body: Any = None, **changed: str | bytes | None
    ) -> httpx.Response:
        """Send what a page of the site would send; a header of None is omitted."""
        cookie = f"theme=dark; sessionid={self.sessions.get(who, who)}; csrftoken={TOKEN}"
        given: dict[str, str | bytes | None] = {
            "Origin": self.service.http,
            "Cookie": cookie,
            "X-CSRFToken": TOKEN,
            "Content-Type": "application/json",
        }
        given |= {name.replace("_", "-"): value for name, value in changed.items()}
        content = body if isinstance(body, bytes) else json.dumps(body or PUBLISH).encode()
        self._client.cookies.clear()
        return self._client.post(
            f"{self.service.http}/api/{method}",
            content=content,
            headers={name: value for name, value in given.items() if value is not None},
        )


PUBLISH = {"channel": "public:news", "data": 1}


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: ", ".join(kind))
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    redis = RedisServer().start()
    site = Site(tmp_path_factory.mktemp("site"), redis.url, *request.param)
    try:
        yield site
        log = site.service.log
    finally:
        site.stop()
        redis.stop()
    # Django's own response to an unknown host name, on servers that show what Django logs.
    assert log.count("Traceback") == log.count("DisallowedHost: Invalid HTTP_HOST")
    assert not any(cookie in log for cookie in site.sessions.values())


def refused(response: httpx.Response, reason: str) -> None:
    status, number = STATUSES[reason]
    error = response.json()["error"]
    assert (response.status_code, error["reason"], error["code"]) == (status, reason, number)


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("publish", PUBLISH),
        ("broadcast", {"channels": ["public:news"], "data": 1}),
        ("batch", {"commands": [{"publish": PUBLISH}]}),
    ],
)
def test_a_staff_member_publishes_from_a_page(site: Site, method: str, body: Any) -> None:
    response = site.post("ada", method, body)
    assert response.status_code == 200, response.text
    assert b'"offset":' in response.content
    assert b'"error"' not in response.content


@pytest.mark.parametrize("site", [KINDS[3]], indirect=True)  # the others do not log at this level
def test_what_the_staff_publishes_is_logged_with_the_name_of_the_user(site: Site) -> None:
    site.post("ada", "publish", {"channel": "public:logged", "data": "not in the log"})
    commands = [{"publish": {"channel": f"public:log{number}", "data": 1}} for number in (1, 2)]
    site.post("ada", "batch", {"commands": commands})
    for channel in ("public:logged", "public:log1", "public:log2"):
        assert f"staff member ada: publish on {channel}: offset 1" in site.service.log
    assert "not in the log" not in site.service.log


def test_a_staff_member_mails_an_arbitrary_address(site: Site) -> None:
    mail = {"fallback": "email", "fallback_options": {"to": "eve@example.com"}}
    refused(site.post("ada", "publish", PUBLISH | mail), "forbidden")


def test_staff_and_publishers_share_no_idempotency_keys(site: Site) -> None:
    body = PUBLISH | {"idempotency_key": "squatted"}
    first = site.post("ada", "publish", body).json()["result"]
    assert site.post("ada", "publish", body).json()["result"] == first | {"repeated": True}
    other = body | {"data": "other"}
    theirs = site.service.post("publish", other)
    assert (theirs.status_code, theirs.json()["result"].get("repeated")) == (200, None)


PAGES_OF_OTHERS = {
    "another site": "https://evil.example",
    "another port": "http://127.0.0.1:1",
    "an allowed origin of another host": "https://app.example.com",
    "a sandbox": "null",
    "no page": None,
    "two": "http://127.0.0.1, http://127.0.0.1",
}


@pytest.mark.parametrize("origin", PAGES_OF_OTHERS.values(), ids=PAGES_OF_OTHERS)
def test_a_cookie_is_accepted_only_from_pages_of_the_site(site: Site, origin: str | None) -> None:
    refused(site.post("ada", Origin=origin), "unauthorized")


def test_a_page_on_a_foreign_host_name(site: Site) -> None:
    """DNS rebinding: to the browser and to us, the page belongs to evil.example."""
    response = site.post("ada", Host="evil.example", Origin="http://evil.example")
    assert response.status_code in {400, 401}  # Django's answer, or ours before it


WRONG_TOKENS: dict[str, Any] = {
    "none": {"X_CSRFToken": None},
    "another": {"X_CSRFToken": "u" * 32},
    "an empty one": {"X_CSRFToken": ""},
    "none in the cookie": {"Cookie": None},
    "not ASCII": {"X_CSRFToken": b"\xfc" * 32},
}


@pytest.mark.parametrize("changed", WRONG_TOKENS.values(), ids=WRONG_TOKENS)
def test_cross_site_request_forgery(site: Site, changed: dict[str, str | None]) -> None:
    if "Cookie" in changed:
        changed = {"Cookie": f"sessionid={site.sessions['ada']}"}
    refused(site.post("ada", **changed), "csrf_failed")


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None],
)
def test_form_encoded_requests_are_refused(site: Site, content_type: str | None) -> None:
    body = f"csrfmiddlewaretoken={TOKEN}&channel=public:news&data=1".encode()
    if content_type is not None and "boundary" in content_type:  # Twisted looks into it
        body = b'--x\r\nContent-Disposition: form-data; name="data"\r\n\r\n1\r\n--x--\r\n'
    refused(
        site.post("ada", body=body, Content_Type=content_type, X_CSRFToken=None),
        "unsupported_media_type",
    )


@pytest.mark.parametrize(
    "content_type",
    ["multipart/form-data", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"],
)
def test_an_event_with_a_form_content_type_is_not_parsed_as_a_form(
    site: Site, content_type: str
) -> None:
    """An event may have any content type; Django's search for a CSRF token in it was a 500."""
    event = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t"}
    said = site.post("ada", "events", b"no form", Content_Type=content_type, **event)
    if site.service.server == "daphne" and "multipart" in content_type:
        assert said.status_code == 400, "Twisted looks into it"
        return
    refused(said, "forbidden")
    without = {**event, "X-CSRFToken": None}
    said = site.post("ada", "events", b"no form", Content_Type=content_type, **without)
    refused(said, "csrf_failed")


@pytest.mark.parametrize(
    ("who", "reason"),
    [("bob", "forbidden"), ("eve", "unauthorized"), ("forged", "unauthorized")],
)
def test_users_without_staff_status(site: Site, who: str, reason: str) -> None:
    refused(site.post(who), reason)


def test_a_key_takes_precedence_over_a_session(site: Site) -> None:
    wrong = site.post("ada", X_API_Key="wrong")
    refused(wrong, "unauthorized")
    refused(site.post("ada", X_API_Key=""), "unauthorized")
    assert (
        site.post("bob", **KEY, X_CSRFToken=None, Origin="https://evil.example").status_code == 200
    )


def test_staff_get_the_same_request_errors_as_publishers(site: Site) -> None:
    refused(site.post("ada", body=b"["), "invalid_json")
    refused(site.post("ada", body={"channel": "nowhere:a", "data": 1}), "invalid_channel")
    refused(site.post("ada", "publis"), "method_not_found")
    refused(site.post("forged", "publis"), "method_not_found")
    refused(site.post("ada", body=b" " * (PUBLISH_BYTES + 1)), "too_large")


BODIES = {
    "slow": (b"Content-Length: 100", b'{"channel":', "request_timeout"),
    "large": (
        b"Transfer-Encoding: chunked",
        b"%x\r\n" % (PUBLISH_BYTES + 1) + b" " * (PUBLISH_BYTES + 1),
        "too_large",
    ),
}


def post_raw(site: Site, who: str, head: bytes, body: bytes) -> bytes:
    cookie = f"sessionid={site.sessions.get(who, who)}; csrftoken={TOKEN}"
    lines = [
        *("POST /api/publish HTTP/1.1", f"Host: 127.0.0.1:{site.service.port}"),
        *("Connection: close", "Content-Type: application/json", f"Cookie: {cookie}"),
        *(f"Origin: {site.service.http}", f"X-CSRFToken: {TOKEN}"),
    ]
    said = "\r\n".join(lines).encode() + b"\r\n" + head + b"\r\n\r\n" + body
    return asked(site.service.port, said, seconds=60)


@pytest.mark.parametrize("site", [KINDS[1]], indirect=True)
@pytest.mark.parametrize(("head", "body", "reason"), BODIES.values(), ids=BODIES)
def test_request_bodies_of_staff_are_limited(
    site: Site, head: bytes, body: bytes, reason: str
) -> None:
    """Django reads every body completely before it calls a view, however slowly it arrives."""
    answer = post_raw(site, "ada", head, body)
    assert status_of(answer) == STATUSES[reason][0]
    assert reason.encode() in answer


@pytest.mark.parametrize("site", [KINDS[1]], indirect=True)
@pytest.mark.parametrize(("head", "body", "reason"), BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("who", ["forged", "bob"])
def test_a_session_without_permission_has_no_body_buffered(
    site: Site, who: str, head: bytes, body: bytes, reason: str
) -> None:
    """The session is looked up before the body is read, so the response does not wait for it."""
    answer = post_raw(site, who, head, body)
    expected = {"forged": (401, b"unauthorized"), "bob": (403, b"forbidden")}[who]
    assert (status_of(answer), expected[1] in answer) == (expected[0], True), answer


def test_an_unreachable_database_is_503(tmp_path: Path, redis_server: RedisServer) -> None:
    site = Site(tmp_path, redis_server.url, *KINDS[1])
    try:
        site.database.write_bytes(b"this is no database" * 1000)
        response = site.post("ada")
        refused(response, "session_unavailable")
        assert response.headers["Retry-After"] == "1"
        assert "database" not in response.json()["error"]["message"]
        assert site.service.post("publish", PUBLISH).status_code == 200, "keys need none"
        assert "Traceback" not in site.service.log
    finally:
        site.stop()
