"""Which pages may connect, and whose session counts (CWE-1385, CWE-352)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.errors import ConfigurationError
from realtime.identity.origins import (
    AllowedOrigins,
    Origin,
    OriginHeaders,
    OriginTrust,
    OwnSite,
    judge,
    read_origin,
)

APP = "https://app.example.com"
NOBODY = AllowedOrigins([])
HTTP, HTTPS = OwnSite("a.example"), OwnSite("a.example", is_https=True)
UNTOLD = OwnSite("a.example", sends_secure_cookies=True)
"""A proxy terminates TLS without reporting it, and the session cookie is Secure."""
REFUSED, ANONYMOUS, OWN = OriginTrust


def standing(origin, host, allowed=()):
    return judge(OriginHeaders([origin]), OwnSite(host), AllowedOrigins(allowed))


def test_a_client_without_an_origin_is_anonymous():
    assert judge(OriginHeaders([]), HTTP, NOBODY) is ANONYMOUS
    assert judge(OriginHeaders([]), OwnSite(None), NOBODY) is ANONYMOUS


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
def test_our_own_pages_have_their_session(origin, host):
    assert standing(origin, host) is OWN


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
        ("https://a.example", "a.example:8443"),
        ("https://*.example", "*.example"),
        ("https://a.example", ""),
        ("https://a.example", "a.example/"),
        ("https://a.example", "["),
        ("https://a.example", "a.example:port"),
    ],
)
def test_foreign_pages_may_not_connect(origin, host):
    assert standing(origin, host) is REFUSED


def test_a_page_on_a_foreign_name_for_our_address_is_refused():
    """DNS rebinding: the caller passes None for a host that is not ours."""
    assert standing("https://rebound.example", None) is REFUSED
    same_origin = OriginHeaders([], "same-origin", "cors", "empty")
    assert judge(same_origin, OwnSite(None), NOBODY) is ANONYMOUS


# --- the scheme of our own pages ---


@pytest.mark.parametrize(
    ("own", "by_https", "by_http"),
    [(HTTPS, OWN, REFUSED), (UNTOLD, OWN, ANONYMOUS), (HTTP, OWN, OWN)],
)
def test_an_http_page_has_no_session_on_an_https_host(own, by_https, by_http):
    """An attacker between browser and server can forge the page, but cannot read the cookie."""
    assert judge(OriginHeaders(["https://a.example"]), own, NOBODY) is by_https
    assert judge(OriginHeaders(["http://a.example"]), own, NOBODY) is by_http


@pytest.mark.parametrize("own", [HTTP, HTTPS, UNTOLD])
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_the_browser_marks_a_page_of_another_scheme_as_cross_site(own, site):
    """Even if the server cannot tell: it sees no TLS, and cookies are not Secure."""
    assert judge(OriginHeaders(["http://a.example"], site, "cors"), own, NOBODY) is REFUSED


# --- fetch metadata ---


@pytest.mark.parametrize("mode", ["cors", "same-origin", "websocket"])
@pytest.mark.parametrize("origins", [[], ["https://a.example"]])
def test_a_script_of_our_own_page_has_its_session(origins, mode):
    head = OriginHeaders(
        origins, "same-origin", mode, "websocket" if mode == "websocket" else "empty"
    )
    assert judge(head, HTTPS, NOBODY) is OWN


@pytest.mark.parametrize("origins", [[], ["https://a.example"], ["https://evil.example"], ["null"]])
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize(
    ("mode", "destination", "purpose"),
    [
        ("navigate", "document", ""),
        ("navigate", "document", "prefetch"),
        ("navigate", "iframe", ""),
        ("no-cors", "image", ""),
        ("no-cors", "script", ""),
        ("no-cors", "empty", ""),
        ("no-cors", "empty", "prefetch"),
        ("cors", "empty", ""),
        ("cors", "image", ""),
        ("", "", ""),
    ],
)
def test_a_link_or_an_image_on_another_site_is_refused(origins, site, mode, destination, purpose):
    head = OriginHeaders(origins, site, mode, destination, purpose)
    assert judge(head, HTTPS, NOBODY) is REFUSED
    if mode in ("navigate", "no-cors"):
        assert judge(head, HTTPS, AllowedOrigins(["*", "https://evil.example"])) is REFUSED


@pytest.mark.parametrize(
    "head",
    [
        OriginHeaders([], "none", "navigate", "document"),
        OriginHeaders([], "none", "cors", "empty"),
        OriginHeaders([], "same-origin", "navigate", "document"),
        OriginHeaders([], "same-origin", "no-cors", "image"),
        OriginHeaders([], "same-origin", "cors", "image"),
        OriginHeaders([], "same-origin", "no-cors", "empty"),
        OriginHeaders([], "same-origin", "cors", "empty", "prefetch"),
        OriginHeaders([], "same-origin"),
        OriginHeaders([], "same-origin,cross-site", "cors", "empty"),
        OriginHeaders([], "SAME-ORIGIN", "cors", "empty"),
        OriginHeaders(["https://a.example"], "none", "navigate", "document"),
        OriginHeaders(["https://a.example"], "same-origin", "navigate", "document"),
        OriginHeaders(["https://a.example"], "same-origin", "no-cors", "empty"),
    ],
)
def test_a_request_not_made_by_our_script_is_anonymous(head):
    """A link in a mail, an image in a chat message: users also write these on our own pages."""
    assert judge(head, HTTPS, NOBODY) is ANONYMOUS


def test_an_allowed_page_is_anonymous_on_any_site():
    for site in ("", "same-site", "cross-site"):
        for mode in ("cors", "websocket"):
            assert (
                judge(OriginHeaders([APP], site, mode), HTTPS, AllowedOrigins([APP])) is ANONYMOUS
            )


# --- the setting ---


@pytest.mark.parametrize(
    "allowed", [[APP], ["https://b.example", APP + ":443"], ["HTTPS://APP.EXAMPLE.COM"]]
)
def test_allowed_pages_may_connect(allowed):
    assert standing(APP, "a.example", allowed) is ANONYMOUS
    assert standing(APP, None, allowed) is ANONYMOUS


@pytest.mark.parametrize("other", ["http://app.example.com", APP + ":444", "https://example.com"])
def test_scheme_host_and_port_must_all_match(other):
    assert standing(other, "a.example", [APP]) is REFUSED


@pytest.mark.parametrize("origin", ["https://anybody.example", "capacitor://localhost", "null"])
def test_a_star_allows_every_page_and_every_app(origin):
    assert standing(origin, None, ["*"]) is ANONYMOUS


@pytest.mark.parametrize(
    "app",
    [
        "capacitor://localhost",
        "ionic://localhost",
        "tauri://localhost",
        "chrome-extension://ponmlkjihgfedcbaponmlkjihgfedcba",
        "moz-extension://0f8fad5b-d9cb-469f-a165-70867728950e",
    ],
)
def test_an_app_with_a_custom_scheme_can_be_allowed(app):
    # mezzio/mezzio-cors#40 (Capacitor), youssofal/MTPLX#473 (Tauri: refused both as a request's
    # origin and in the setting), vert-x3/vertx-web#2556 (browser extensions).
    assert standing(app, None, [APP, app]) is ANONYMOUS
    assert standing(app, None, [APP]) is REFUSED


@pytest.mark.parametrize(
    ("origin", "may"),
    [
        ("https://a.example.com", True),
        ("https://b.a.example.com", True),
        ("https://A.EXAMPLE.com:443", True),
        ("https://example.com", False),
        ("https://.example.com", False),
        ("https://evilexample.com", False),
        ("https://a.example.com.evil.example", False),
        ("http://a.example.com", False),
        ("https://a.example.com:8443", False),
        ("capacitor://a.example.com", False),
        ("https://*.example.com", False),
    ],
)
def test_a_wildcard_allows_only_subdomains(origin, may):
    # As in Centrifugo (`allowed_origins`). reearth/ygo#129: such entries never matched, silently.
    expected = ANONYMOUS if may else REFUSED
    assert standing(origin, "a.example", ["https://*.example.com"]) is expected


def test_a_wildcard_may_have_a_port():
    assert standing("http://a.localhost:3000", None, ["http://*.localhost:3000"]) is ANONYMOUS
    assert standing("http://a.localhost:3001", None, ["http://*.localhost:3000"]) is REFUSED


@pytest.mark.parametrize(
    "wrong",
    [
        "nonsense",
        "null",
        "https://[",
        "https://app.example.com/",
        "https://app.example.com/path",
        "https://user@app.example.com",
        "https://app.example.com:65536",
        "https://app.example.com:0",
        "https://app.example.com:00",
        "wss://app.example.com",
        "file://",
        "https://*",
        "https://*.*.example.com",
        "https://a.*.example.com",
        "*.example.com",
        "https://app.*",
        "capacitor://*.localhost",
        "https://*.127.0.0.1",
        "https://*.[::1]",
        "https://bücher.example",
        " https://app.example.com",
        "https://app.example.com\n",
        None,
    ],
)
def test_an_entry_that_can_never_match_is_refused_by_the_name_of_the_setting(wrong):
    with pytest.raises(ConfigurationError) as caught:
        AllowedOrigins([APP, wrong])
    assert caught.value.setting == "REALTIME_ALLOWED_ORIGINS"
    assert repr(wrong) in caught.value.problem


@pytest.mark.parametrize("given", [APP, None, {APP: True}])
def test_the_setting_is_a_list(given):
    with pytest.raises(ConfigurationError, match="must be a list"):
        AllowedOrigins(given)


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
        "https://a.example\n",
        "https://u@a.example",
        "https://a.example:x",
        "https://a.example:65536",
        "https://[a.example",
        "https://a.example, https://b.example",
    ],
)
@pytest.mark.parametrize("allowed", [[], [APP]])
def test_an_invalid_origin_may_not_connect(origin, allowed):
    assert standing(origin, "a.example", allowed) is REFUSED


@pytest.mark.parametrize("allowed", [[], [APP], ["*"]])
def test_two_origins_are_an_attack(allowed):
    head = OriginHeaders([APP, APP], "same-origin", "cors", "empty")
    assert judge(head, OwnSite("app.example.com"), AllowedOrigins(allowed)) is REFUSED


def nearly_origins() -> st.SearchStrategy[str]:
    pieces = [
        "http",
        "https",
        "://",
        "*.",
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
def test_no_header_raises_an_exception(origin, host, said):
    judge(OriginHeaders([origin], said, said, said, said), OwnSite(host), AllowedOrigins([APP]))


@given(nearly_origins())
def test_only_our_own_host_and_port_pass_as_our_own(origin):
    if standing(origin, "a.example") is not REFUSED:
        plain = {"http://a.example", "https://a.example"}
        ports = {"http://a.example:80", "https://a.example:443"}
        assert origin.lower() in plain | {o + ":" for o in plain} | ports


@given(nearly_origins())
def test_the_setting_accepts_exactly_the_origins_that_pages_can_send(text):
    """Both use one parser: no entry passes the check at startup and then fails each handshake."""
    try:
        allowed = AllowedOrigins([text])
    except ConfigurationError:
        return
    if text != "*" and "*." not in text:
        assert allowed.allows(text)
        assert isinstance(read_origin(text), Origin)


heads = st.builds(
    OriginHeaders,
    st.lists(st.sampled_from(["https://a.example", "http://a.example", APP, "null"]), max_size=2),
    st.sampled_from(["", "none", "same-origin", "same-site", "cross-site", "odd"]),
    st.sampled_from(["", "navigate", "no-cors", "cors", "same-origin", "websocket", "odd"]),
    st.sampled_from(["", "empty", "document", "image", "websocket"]),
    st.sampled_from(["", "prefetch"]),
)


@given(heads, st.sampled_from([HTTP, HTTPS, UNTOLD]), st.sampled_from([[], [APP], ["*"]]))
def test_a_session_requires_our_origin_or_a_same_origin_fetch(head, own, allowed):
    if judge(head, own, AllowedOrigins(allowed)) is OWN:
        assert head.origins in ([], ["https://a.example"], ["http://a.example"])
        assert head.origins or head.site == "same-origin"
        assert head.site in ("", "same-origin")
        assert head.mode not in ("navigate", "no-cors")
        assert head.purpose == ""
        assert own is HTTP or head.origins != ["http://a.example"]
