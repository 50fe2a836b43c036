"""Which session cookie a request has, without Django's decoding of quoted values."""

from __future__ import annotations

import pytest

from realtime.auth.sessions import session_cookie


@pytest.mark.parametrize(
    ("cookies", "found"),
    [
        ("", ""),
        ("sessionid=abc123", "abc123"),
        ("theme=dark; sessionid=abc123;csrftoken=x", "abc123"),
        ("theme=dark;sessionid = abc123 ", "abc123"),
        ("sessionid=first; sessionid=last", "last"),
        ("sessionid=eyJhIjoxfQ:1abc:s-g_", "eyJhIjoxfQ:1abc:s-g_"),  # signed cookies
        ("sessionid=", ""),
        ("sessionid", ""),
        ("xsessionid=a; sessionidx=b; SESSIONID=c", ""),
        (r'sessionid="\000aaaaaaaa"', ""),
        ('sessionid="abc123"', ""),
        ("sessionid=a b", ""),
        ("sessionid=\xff", ""),
        (r'a="\a\a\a"; sessionid=abc123', "abc123"),
    ],
)
def test_the_session_cookie_is_found_as_django_sends_it(cookies: str, found: str) -> None:
    assert session_cookie(cookies) == found
