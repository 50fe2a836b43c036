"""Secrets do not belong in URLs."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from realtime.identity.url_secrets import has_secret


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
def test_other_query_parameters_are_ignored(query: str) -> None:
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
    [
        *('{"token":""}', '{"token" : "" , "a":1}', '{"token":null}', '{"name":"token"}', "{}"),
        *('{"tokens":"x"}', '{"a":["token","jwt"]}', "{" * 9000, '"' * 9000, "token", '"token"'),
        *('{"data":"{\\"token\\":\\"x\\"}"}', r'{"data":"{\u0022token\u0022:\u0022x\u0022}"}'),
    ],
)
def test_a_command_without_a_token_is_let_through(text: str) -> None:
    assert not has_secret(urlencode({"cf_connect": text}))


HIDDEN = {
    "before a member of the same name": '{"token":"x","token":""}',
    "in an object before one of the same name": '{"connect":{"token":"x"},"connect":{}}',
    "behind a byte order mark": '\ufeff{"token":"x"}',
    "before a vertical tab": '{"token":"x"}\v',
    "before a tab of another kind in the member": '{"token"\v:\f"x"}',
    "in a text that is cut off": '{"connect":{"token":"x',
    "in a text that is cut off before it": '{"connect":{"token":',
    "behind an odd quote": '" {"token":"x"}',
    "among what is no JSON": "{'a': 1, \"token\": 'x'}",
    "with another case": '{"Access-Token":"x"}',
    "with blanks in its name": '{" token\t":"x"}',
    "with an escape in what is no JSON": r'{"tok\u0065n":"x",}',
    "with a lone surrogate beside it": r'{"a":"\ud800","token":"x"}',
    "with an empty value that is none": '{"token":""x}',
    "with a null that is none": '{"token":nullx}',
}


@pytest.mark.parametrize("text", HIDDEN.values(), ids=HIDDEN.keys())
def test_a_token_hides_in_invalid_json_or_a_duplicate_member(text: str) -> None:
    """The parser used the last of two members, and gave up on a byte order mark or `%0B`."""
    assert has_secret(urlencode({"cf_connect": text}))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["token", '"token":1']),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("jwt "), inner),
    max_leaves=8,
)


def _has_member(value: Any) -> bool:
    """Search a value like a parser does."""
    if isinstance(value, dict):
        said = [one for name, one in value.items() if name.strip() in ("token", "jwt")]
        is_said = any(one is not None and one is not False and one != "" for one in said)
        return is_said or any(map(_has_member, value.values()))
    return isinstance(value, list) and any(map(_has_member, value))


@given(VALUES, st.booleans(), st.sampled_from([None, 2]))
def test_only_members_of_readable_json_are_searched(
    value: Any, is_ascii: bool, indent: int | None
) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii, indent=indent)
    assume(all(ord(c) < 0xD800 or ord(c) > 0xDFFF for c in text))  # no URL can have them
    assert has_secret(f"a={quote(text)}") == _has_member(value)


@pytest.mark.parametrize(
    "piece",
    ['"', '" ', '"token', '"token" ', '"token":', " ", "\\u0020", '"token"\v', '"token":""'],
)
def test_a_long_query_is_searched_in_linear_time(piece: str) -> None:
    """With a search that backtracks, 100 KB of one of these would take minutes."""
    has_secret(f"a={piece * (100_000 // len(piece))}")
    has_secret(f'a="{" " * 100_000}"token"{" " * 100_000}')


@given(st.text())
def test_any_query_is_read(query: str) -> None:
    assert has_secret(f"{query}&token=x")
    has_secret(query)
