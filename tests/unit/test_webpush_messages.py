"""What a notification says about a publication."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.contrib.webpush.messages import TTL_LIMIT, message_of
from realtime.core.fallback_entry import Queued
from realtime.errors import GiveUp
from realtime.identity.web_push import MESSAGE_BYTES


def queued(data: Any, **fields: Any) -> Queued:
    return Queued("00ff-7", "webpush", "user:#7", data, **fields)


def shown(entry: Queued) -> dict[str, str]:
    return json.loads(message_of(entry).text)  # type: ignore[no-any-return]


def test_it_says_what_the_data_says() -> None:
    data = {"title": "Shipped", "text": "Order 7", "url": "/orders/7/", "more": 1}
    assert shown(queued(data)) == {
        "title": "Shipped",
        "body": "Order 7",
        "url": "/orders/7/",
        "tag": "00ff-7",
    }


@pytest.mark.parametrize(
    ("entry", "title", "body"),
    [
        (queued("just a text", tags={"event": "order.shipped"}), "order.shipped", "just a text"),
        (queued({"n": 1}), "user:#7", ""),
        (queued([1, "é"]), "user:#7", '[1, "é"]'),
        (queued(None), "user:#7", ""),
        (queued({"title": "theirs"}, options={"title": "ours"}), "ours", ""),
        (queued({"title": 5, "text": {"a": 1}}), "5", '{"a": 1}'),
    ],
)
def test_it_always_has_a_title(entry: Queued, title: str, body: str) -> None:
    assert (shown(entry)["title"], shown(entry)["body"]) == (title, body)


def test_the_title_of_a_client_is_not_that_of_the_site() -> None:
    """Beside the site's own name, "Your account is suspended" would be its word (CWE-451)."""
    entry = queued({"title": "Your account is suspended", "text": "x"}, info={"user": "13"})
    assert shown(entry)["title"] == "user:#7"


def test_push_services_are_told_how_to_treat_it() -> None:
    assert message_of(queued(1)).headers == {"TTL": "86400", "Urgency": "normal"}
    options = {"ttl": 0, "urgency": "high", "topic": "orders-7"}
    assert message_of(queued(1, options=options)).headers == {
        "TTL": "0",
        "Urgency": "high",
        "Topic": "orders-7",
    }


@pytest.mark.parametrize(
    "options",
    [
        {"ttl": -1},
        {"ttl": TTL_LIMIT + 1},
        {"ttl": "60"},
        {"ttl": True},
        {"urgency": "soon"},
        {"urgency": []},
        {"topic": "a b"},
        {"topic": "a" * 33},
        {"topic": "a\nX-Evil: 1"},
        {"topic": 7},
        {"only": "all"},
        {"only": ["1"]},
        {"to": "ada@example.com"},
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any]) -> None:
    [name] = options
    with pytest.raises(GiveUp, match=name):
        message_of(queued(1, options=options))


texts = st.one_of(st.text(max_size=50), st.text('a\x00é😀"\\\ud800', min_size=900, max_size=5_000))


@given(texts, texts, texts)
def test_it_fits_whatever_it_says(title: str, text: str, url: str) -> None:
    encoded = message_of(queued({"title": title, "text": text, "url": url})).text
    assert len(encoded) <= MESSAGE_BYTES
    said = json.loads(encoded)
    assert text[:10].encode("utf-8", "replace").decode().startswith(said["body"][:10]) or (
        said["body"].endswith("…")
    )
    if len(text) + len(title) + len(url) < 300:
        assert "…" not in said["body"].removesuffix(text[-1:])


def test_as_much_as_possible_is_said() -> None:
    encoded = message_of(queued({"text": "é" * 9_000})).text
    assert MESSAGE_BYTES - 12 <= len(encoded) <= MESSAGE_BYTES
    assert json.loads(encoded)["body"].endswith("é…")
