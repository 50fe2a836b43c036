"""Secrets do not belong into URLs."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

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


COMMANDS = {
    "of the connection": {"token": "x"},
    "in a command with an id": {"id": 1, "connect": {"token": "x"}},
    "of a subscription": {"subs": {"public:a": {"token": "x"}}},
    "in the data for the server": {"connect": {"data": {"auth": [{"access_token": "x"}]}}},
    "in a header that a client emulates": {"connect": {"headers": {"Authorization": "x"}}},
    "as an object": {"token": {"value": "x"}},
    "in a list": [{"token": "x"}],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
@pytest.mark.parametrize("encoded", [json.dumps, lambda it: json.dumps(it).replace("t", r"\u0074")])
@pytest.mark.parametrize("name", ["cf_connect", "anything"])
def test_a_token_hides_in_a_command(command: Any, encoded: Any, name: str) -> None:
    text = encoded(command)
    assert has_secret(f"a=1&{urlencode({name: text})}")
    assert has_secret(f"{name}={quote(text)}")
    assert has_secret(urlencode({name: '{"id":1}\n' + text}))
    assert has_secret(urlencode({name: text.replace(": ", ":\n")}))


@pytest.mark.parametrize(
    "text",
    ['{"token":""}', '{"subs":{"token":{}}}', '{"name":"token"}', '{"token":"x"', "{" * 9000, "{}"],
)
def test_a_command_without_a_token_is_let_through(text: str) -> None:
    """A channel may be called `token`; what is no JSON is refused as such, by whoever reads it."""
    assert not has_secret(urlencode({"cf_connect": text}))


@given(st.text())
def test_whatever_a_query_is_it_is_read(query: str) -> None:
    assert has_secret(f"{query}&token=x")
    has_secret(query)
