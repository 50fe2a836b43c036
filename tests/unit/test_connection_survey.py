"""Pages of connections: what several nodes answer, and where a page must end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.core.connection_survey import (
    ANSWER_BYTES,
    PAGE_LIMIT,
    AnswerBuilder,
    ConnectionQuery,
    ListedConnection,
    decode_query,
    encode_query,
    page_of,
)
from realtime.core.survey import QUERY_BYTES, Question, decode_question, encode_question


def connection(client: str, channels: tuple[str, ...] | None = None) -> ListedConnection:
    return ListedConnection(client, "ada", "websocket", 1_700_000_000, 1, 0, False, channels)


def answer(uid: str, *clients: str, has_more: bool = False) -> bytes:
    builder = AnswerBuilder(uid, "web-1")
    assert all(builder.add(connection(client)) for client in clients)
    return builder.encode(has_more=has_more)


def clients_of(answers: list[bytes], limit: int = 100) -> tuple[str, bool]:
    page = page_of(answers, limit)
    return "".join(each.connection.client for each in page.connections), page.has_more


@pytest.mark.parametrize(
    ("answers", "limit", "expected"),
    [
        ([], 9, ("", False)),
        ([answer("1", *"bd"), answer("2", *"ac")], 9, ("abcd", False)),
        ([answer("1", *"bd"), answer("2", *"ac")], 4, ("abcd", False)),
        ([answer("1", *"bd"), answer("2", *"ac")], 3, ("abc", True)),
        ([answer("1", *"ad", has_more=True), answer("2", *"bce")], 9, ("abcd", True)),
        ([answer("1", *"bd", has_more=True), answer("2", *"ac", has_more=True)], 9, ("abc", True)),
        ([answer("1", *"a"), b"{", b"[]", b"\xff"], 9, ("a", False)),
        ([answer("1", has_more=True), answer("2", *"a")], 9, ("a", False)),
    ],
)
def test_a_page_ends_where_a_node_has_more(
    answers: list[bytes], limit: int, expected: tuple[str, bool]
) -> None:
    assert clients_of(answers, limit) == expected


@given(
    st.lists(st.sets(st.text("abcdefgh", min_size=1, max_size=3)), min_size=1, max_size=4),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_pages_have_each_connection_once_and_in_order(
    given_nodes: list[set[str]], limit: int, room: int
) -> None:
    """Whatever a node may send at once, and however the connections are spread."""
    nodes, taken = [], set[str]()
    for clients in given_nodes:
        nodes.append(sorted(clients - taken))  # ids are unique
        taken |= clients
    seen: list[str] = []
    for _ in range(len(taken) + 1):
        after = seen[-1] if seen else ""
        rest = [[each for each in clients if each > after] for clients in nodes]
        sent = [clients[: min(limit, room)] for clients in rest]
        page = page_of(
            [
                answer(str(uid), *some, has_more=len(some) < len(clients))
                for uid, (some, clients) in enumerate(zip(sent, rest, strict=True))
            ],
            limit,
        )
        assert len(page.connections) <= limit
        seen += [each.connection.client for each in page.connections]
        if not page.has_more:
            break
    assert seen == sorted(taken)


def test_an_answer_is_bounded_in_bytes() -> None:
    names = tuple(f"{number:0255d}" for number in range(100))
    builder = AnswerBuilder("1", "web-1")
    count = 0
    while builder.add(connection(f"{count:036d}", names)):
        count += 1
    raw = builder.encode(has_more=True)
    assert count == len(page_of([raw], PAGE_LIMIT).connections)
    assert ANSWER_BYTES * 0.9 < len(raw) < ANSWER_BYTES + 1024


def test_a_query_round_trips_whatever_the_user_is_called() -> None:
    asked = ConnectionQuery("ada \n\x00 ü", "public:a", "0" * 36, 7, names=True)
    question = Question("0" * 16, "connections", encode_query(asked))
    told = decode_question(encode_question(question))
    assert told == question
    assert decode_query(told.wanted) == asked
    assert decode_query(encode_query(ConnectionQuery())) == ConnectionQuery()


def test_the_longest_query_fits() -> None:
    longest = ConnectionQuery("\x00" * 128, "c" * 255, "x" * 64, PAGE_LIMIT, names=True)
    assert len(encode_query(longest).encode()) <= QUERY_BYTES


@pytest.mark.parametrize("text", ["", "{", "7", '{"limit":0}', '{"limit":1001}', '{"user":7}'])
def test_a_query_of_another_version_is_not_understood(text: str) -> None:
    assert decode_query(text) is None
