"""Each page declares what it may load; static files are sent whole, in part, or not at all."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory, override_settings

from notifier.middleware import POLICY_HEADER, ContentSecurityPolicy, StaticFiles, policy

SELF = {"default-src": ["'none'"], "script-src": ["'self'", "https://cdn.example"]}
HEADER = "default-src 'none'; script-src 'self' https://cdn.example"


def respond(status: int = 200, **headers: str) -> HttpResponse:
    def view(_request: HttpRequest) -> HttpResponse:
        return HttpResponse(status=status, headers=headers)

    return ContentSecurityPolicy(view)(RequestFactory().get("/"))


def test_directives_are_joined_according_to_the_standard():
    assert policy(SELF) == HEADER


@override_settings(SECURE_CSP=SELF)
def test_every_response_carries_the_policy():
    assert respond().headers[POLICY_HEADER] == HEADER
    assert respond(404).headers[POLICY_HEADER] == HEADER


@override_settings(SECURE_CSP=SELF)
def test_a_view_may_have_its_own_policy():
    own = respond(**{POLICY_HEADER: "sandbox"})
    assert own.headers[POLICY_HEADER] == "sandbox"


@override_settings(SECURE_CSP=SELF, DEBUG=True)
def test_the_debug_page_of_an_error_keeps_its_inline_style():
    assert POLICY_HEADER not in respond(500).headers
    assert respond(404).headers[POLICY_HEADER] == HEADER


@pytest.fixture
def files(tmp_path):
    (tmp_path / "client.js").write_text("export {}")
    settings = SimpleNamespace(
        DEBUG=False, STATIC_URL="/static/", STATIC_ROOT=None, FORCE_SCRIPT_NAME=None,
        WHITENOISE_ROOT=str(tmp_path), WHITENOISE_USE_FINDERS=False,
    )  # fmt: skip
    return StaticFiles(lambda _request: HttpResponse("page"), settings)


def test_a_static_file_is_sent_in_one_piece(files):
    response = files(RequestFactory().get("/client.js"))
    assert not response.streaming
    assert response.content == b"export {}"
    assert response.headers["Content-Type"].startswith("text/javascript")
    assert "text/html" not in response.headers["Content-Type"]


def test_a_range_of_a_static_file_is_served(files):
    response = files(RequestFactory().get("/client.js", HTTP_RANGE="bytes=0-5"))
    assert (response.status_code, response.content) == (206, b"export")


def test_a_cached_static_file_is_not_sent_again(files):
    etag = files(RequestFactory().get("/client.js")).headers["ETag"]
    response = files(RequestFactory().get("/client.js", HTTP_IF_NONE_MATCH=etag))
    assert (response.status_code, response.content) == (304, b"")


def test_head_sends_no_body(files):
    response = files(RequestFactory().head("/client.js"))
    assert response.content == b""
    assert response.headers["Content-Length"] == "9"


def test_other_paths_are_passed_to_the_views(files):
    assert files(RequestFactory().get("/")).content == b"page"
