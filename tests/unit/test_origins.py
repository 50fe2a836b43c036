"""Which pages may connect (CWE-1385)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.origins import may_connect

APP = "https://app.example.com"


def test_a_client_without_an_origin_is_no_browser_and_may_connect():
    assert may_connect([], "notifier.example", [])
    assert may_connect([], None, [])


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://a.example", "a.example"),
        ("http://a.example", "a.example"),
        ("https://a.example", "A.Example"),
        ("https://a.example:443", "a.example"),
        ("https://a.example", "a.example:443"),
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://[::1]:8000", "[::1]:8000"),
    ],
)
def test_our_own_pages_may_connect(origin, host):
    assert may_connect([origin], host, [])


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://evil.example", "a.example"),
        ("https://a.example:8443", "a.example"),
        ("http://a.example:8001", "a.example:8000"),
        ("https://a.example.evil.example", "a.example"),
        ("https://evil-a.example", "a.example"),
        ("https://a.example@evil.example", "a.example"),
        ("https://a.example", "a.example@evil.example"),
        ("https://a.example", ""),
        ("https://a.example", "a.example/"),
        ("https://a.example", "["),
        ("https://a.example", "a.example:port"),
    ],
)
def test_foreign_pages_may_not(origin, host):
    assert not may_connect([origin], host, [])


def test_a_page_on_a_foreign_name_for_our_address_may_not():
    """DNS rebinding: the caller passes None for a host that is not ours."""
    assert not may_connect(["https://rebound.example"], None, [])


@pytest.mark.parametrize(
    "allowed", [[APP], ["https://b.example", APP + ":443"], ["HTTPS://APP.EXAMPLE.COM"]]
)
def test_pages_that_are_allowed_may_connect(allowed):
    assert may_connect([APP], "a.example", allowed)
    assert may_connect([APP], None, allowed)


@pytest.mark.parametrize("other", ["http://app.example.com", APP + ":444", "https://example.com"])
def test_scheme_host_and_port_must_all_be_those_that_are_allowed(other):
    assert not may_connect([other], "a.example", [APP])


@pytest.mark.parametrize(
    "allowed", ["nonsense", "null", "https://[", "https://app.example.com/path"]
)
def test_an_allowed_origin_that_is_none_allows_nobody(allowed):
    assert not may_connect([APP], "a.example", [allowed])


@pytest.mark.parametrize("origin", ["https://anybody.example", "capacitor://localhost", "null"])
def test_a_star_allows_every_page_and_every_app(origin):
    assert may_connect([origin], None, ["*"])


def test_an_app_with_a_scheme_of_its_own_can_be_allowed():
    assert may_connect(["capacitor://localhost"], None, [APP, "capacitor://localhost"])
    assert not may_connect(["capacitor://localhost"], None, [APP])


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "*",
        "file://",
        "about:blank",
        "ws://a.example",
        "//a.example",
        "https://",
        "https:///a.example",
        "https://a.example/",
        "https://a.example?a",
        "https://a.example#a",
        "https://a.example?",
        "https://a.example#",
        "https://a.exa\tmple",
        "\x01https://a.example",
        "https://u@a.example",
        "https://a.example:x",
        "https://a.example:65536",
        "https://[a.example",
        "https://a.example, https://b.example",
    ],
)
@pytest.mark.parametrize("allowed", [[], [APP]])
def test_what_is_no_origin_of_a_page_may_not_connect(origin, allowed):
    assert not may_connect([origin], "a.example", allowed)


@pytest.mark.parametrize("allowed", [[], [APP], ["*"]])
def test_two_origins_are_an_attack(allowed):
    assert not may_connect([APP, APP], "app.example.com", allowed)


def nearly_origins() -> st.SearchStrategy[str]:
    pieces = [
        "http",
        "https",
        "://",
        "a.example",
        ":",
        "443",
        "@",
        "/",
        "[",
        "]",
        "::1",
        "\\",
        "\t",
    ]
    return st.lists(st.sampled_from(pieces), max_size=6).map("".join) | st.text(max_size=12)


@given(nearly_origins(), st.none() | nearly_origins(), nearly_origins())
def test_no_header_makes_the_rule_fail(origin, host, allowed):
    may_connect([origin], host, [allowed])


@given(nearly_origins())
def test_only_our_own_host_and_port_pass_as_our_own(origin):
    if may_connect([origin], "a.example", []):
        cleaned = origin.lower().translate(dict.fromkeys(map(ord, "\t\r\n")))
        plain = {"http://a.example", "https://a.example"}
        assert cleaned.strip() in plain | {o + ":" for o in plain} | {"https://a.example:443"}
