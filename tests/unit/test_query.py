"""Secrets do not belong into URLs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.query import has_secret


@pytest.mark.parametrize(
    "query",
    [
        *("token=x", "a=1&token=x", "TOKEN=", "token", "tok%65n=x", "+token=x", "access_token=x"),
        *("api_key=x", "api-key=x", "apikey=x", "X-API-Key=x", "jwt=x", "Authorization=Bearer+x"),
    ],
)
def test_a_secret_in_a_query_is_found_by_its_name(query: str) -> None:
    assert has_secret(query)


@pytest.mark.parametrize("query", ["", "a=token", "tokens=1", "page=2&sort=api_key", "channel=a"])
def test_other_queries_are_nobody_s_business(query: str) -> None:
    assert not has_secret(query)


@given(st.text())
def test_whatever_a_query_is_it_is_read(query: str) -> None:
    assert has_secret(f"{query}&token=x")
    has_secret(query)
