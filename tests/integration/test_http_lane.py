"""API requests whose body has arrived are answered without ASGI, in order, and like all others."""

from __future__ import annotations

import asyncio
import gc
import itertools
import re
import sys
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from notifier.counting import Config
from notifier.http import HttpProtocol
from notifier.http_answers import Lane, Work
from notifier.server import LeavingNotice
from realtime.api.answers import Response
from realtime.endpoint import HttpEndpoint
from tests.support.eventually import eventually
from tests.support.logs import warnings_in
from tests.support.machine import within
from tests.support.rims import LANE, Rim
from tests.support.wire import Wire

ANSWERED = b"HTTP/1.1 200 OK\r\n"


def post(name: bytes, *, body: bytes = b"{}", more: bytes = b"") -> bytes:
    """Return a request; the lane of `Api` takes it if its name begins with lane."""
    return b"POST /%b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n%b\r\n%b" % (
        *(name, len(body), more),
        body,
    )


TAIL = b"POST /other HTTP/1.1\r\nHost: h\r\nA: "
"""The end of a body; with a request after it, it looks like the beginning of another."""
CHUNKED = (
    b"POST /lane HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
)


class Api:
    """An app and a lane that write down what reaches them, and answer when the test lets them."""

    def __init__(self) -> None:
        self.reached: list[str] = []
        self.finished: list[str] = []
        self.answer_bytes = 2
        self.error: Exception | None = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.state = ServerState()
        self.lane = Lane(self.take, {"X-Common": "yes"})
        self.taken = 0
        self.answers_early = False

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if self.answers_early:
            await self._answer(send)
            return
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        self.reached.append(f"app {scope['path']} {body.decode()}")
        await self.may_answer.wait()
        await self._answer(send)

    async def _answer(self, send: Any) -> None:
        headers = [(b"content-length", b"3")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"app"})

    def take(self, url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Work | None:
        if not url.startswith(b"/lane"):
            return None
        self.taken += 1

        async def answer(body: bytes) -> Response:
            self.reached.append(f"lane {url.decode()} {body.decode()}")
            await self.may_answer.wait()
            if self.error is not None:
                raise self.error
            self.finished.append(url.decode())
            return Response(200, b"x" * self.answer_bytes, {})

        return answer

    def protocol(self) -> HttpProtocol:
        config = Config(
            self.app,
            reached=lambda name: None,
            lane=self.lane,
            interface="asgi3",
            log_config=None,
        )
        return HttpProtocol(config, self.state, {})


@pytest.fixture
async def api() -> Api:
    return Api()


@pytest.fixture
async def peer(api: Api) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    server = await asyncio.get_running_loop().create_server(api.protocol, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    yield reader, writer
    writer.close()
    api.may_answer.set()
    server.close()
    await eventually(lambda: not api.state.connections and not api.state.tasks)


Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def read_answer(peer: Peer) -> bytes:
    """Return the body of the next answer."""
    async with within(5):
        head = (await peer[0].readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
        return await peer[0].readexactly(length)


async def answer_to(peer: Peer, request: bytes) -> bytes:
    """Return the body of the answer to a request."""
    peer[1].write(request)
    return await read_answer(peer)


Known = Callable[[], Awaitable[bool]]


@pytest.fixture(params=[False, True], ids=["first", "repeated"])
def known(request: pytest.FixtureRequest, api: Api, peer: Peer) -> Known:
    """Make the head of `post(b"lane")` known, or not; return whether it is."""

    async def make_known() -> bool:
        if request.param:
            assert await answer_to(peer, post(b"lane")) == b"xx"
            api.reached.clear()
            api.finished.clear()
        return bool(request.param)

    return make_known


async def test_a_whole_request_takes_the_lane(api: Api, peer: Peer) -> None:
    peer[1].write(post(b"lane"))
    async with within(5):
        head = await peer[0].readuntil(b"\r\n\r\n")
    assert head == b"HTTP/1.1 200 OK\r\nx-common: yes\r\ncontent-length: 2\r\n\r\n"
    assert await peer[0].readexactly(2) == b"xx"
    assert api.reached == ["lane /lane {}"]


async def test_a_body_that_arrives_later_goes_through_asgi(api: Api, peer: Peer) -> None:
    request = post(b"lane", body=b"0123456789")
    peer[1].write(request[:-4])
    # The app was called before the rest of the body arrived.
    await eventually(lambda: bool(api.state.tasks))
    peer[1].write(request[-4:])
    assert await read_answer(peer) == b"app"
    assert api.reached == ["app /lane 0123456789"]


async def test_a_body_that_follows_its_head_in_a_second_write_takes_the_lane(api: Api) -> None:
    """So write `http.client`, requests and httpx."""
    protocol = api.protocol()
    protocol.connection_made(Wire())
    for body in (b"first", b"second"):
        protocol.data_received(post(b"lane", body=body).removesuffix(body))
        protocol.data_received(body)
        await eventually(lambda: not api.state.tasks)
    assert api.reached == ["lane /lane first", "lane /lane second"]
    assert api.taken == 1
    protocol.connection_lost(None)


async def test_a_head_is_only_held_for_a_moment(api: Api, peer: Peer) -> None:
    peer[1].write(post(b"lane", body=b"0123456789")[:-10])
    await eventually(lambda: bool(api.state.tasks))  # through ASGI, which has a deadline
    peer[1].write(b"0123456789")
    assert await read_answer(peer) == b"app"
    assert api.reached == ["app /lane 0123456789"]


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(post(b"lane", body=b""), id="an empty body"),
        pytest.param(post(b"lane", more=b"Expect: 100-continue\r\n")[:-2], id="Expect"),
        pytest.param(b"GET /lane HTTP/1.1\r\nHost: h\r\n\r\n", id="no POST"),
        pytest.param(post(b"lane", more=b"A: %b\r\n" % (b"a" * 1024))[:-2], id="a long head"),
        pytest.param(CHUNKED.partition(b"2\r\n")[0], id="chunks"),
    ],
)
async def test_no_other_head_is_held(api: Api, request_bytes: bytes) -> None:
    protocol = api.protocol()
    protocol.connection_made(Wire())
    protocol.data_received(request_bytes)
    assert protocol._held == b""
    await eventually(lambda: protocol.cycle is not None)
    protocol.connection_lost(None)
    await eventually(lambda: not api.state.tasks)


async def test_a_held_head_is_dropped_with_its_connection(api: Api) -> None:
    protocol = api.protocol()
    protocol.connection_made(Wire())
    protocol.data_received(post(b"lane").removesuffix(b"{}"))
    assert protocol._held
    protocol.connection_lost(None)
    assert not protocol._held
    assert protocol._holds_until is None


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /lane HTTP/1.1\r\nHost: h\r\n\r\n",
        b"PUT /lane HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /lane HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}",
        post(b"lane", more=b"Expect: 100-continue\r\n"),
        post(b"other"),
    ],
    ids=["GET", "PUT", "HTTP/1.0", "Expect", "another path"],
)
async def test_any_other_request_goes_through_asgi(
    api: Api, peer: Peer, request_bytes: bytes
) -> None:
    peer[1].write(request_bytes)
    async with within(5):
        await peer[0].readuntil(b"app")
    assert [reached.split()[0] for reached in api.reached] == ["app"]


async def test_an_offer_to_upgrade_that_is_declined_does_not_keep_it_out(
    api: Api, peer: Peer
) -> None:
    peer[1].write(post(b"lane", more=b"Connection: Upgrade\r\nUpgrade: h2c\r\n"))
    assert await read_answer(peer) == b"xx"
    assert api.reached == ["lane /lane {}"]


async def test_pipelined_requests_are_answered_in_order_whichever_way_each_takes(
    api: Api, peer: Peer
) -> None:
    names = [b"lane1", b"app1", b"lane2", b"lane3", b"app2"]
    api.may_answer.clear()
    peer[1].write(b"".join(post(name) for name in names))
    await eventually(lambda: len(api.reached) == 1)
    api.may_answer.set()
    answers = [await read_answer(peer) for _ in names]
    assert answers == [b"xx", b"app", b"xx", b"xx", b"app"]
    assert [reached.split()[1] for reached in api.reached] == [f"/{n.decode()}" for n in names]


async def test_connection_close_ends_the_connection_after_the_answer(api: Api, peer: Peer) -> None:
    peer[1].write(post(b"lane", more=b"Connection: close\r\n"))
    async with within(5):
        everything = await peer[0].read()
    assert everything.startswith(ANSWERED)
    assert b"connection: close\r\n" in everything


async def test_a_request_is_carried_out_although_its_client_has_gone(
    api: Api, peer: Peer, caplog: pytest.LogCaptureFixture, known: Known
) -> None:
    await known()
    api.may_answer.clear()
    peer[1].write(post(b"lane"))
    await eventually(lambda: bool(api.reached))
    peer[1].transport.abort()
    await eventually(lambda: not api.state.connections)
    api.may_answer.set()
    await eventually(lambda: not api.state.tasks)
    assert api.finished == ["/lane"]
    assert not warnings_in(caplog)


async def test_an_error_nobody_expected_is_logged_and_ends_the_connection(
    api: Api, peer: Peer, caplog: pytest.LogCaptureFixture, known: Known
) -> None:
    behind = b"" if await known() else post(b"lane-behind")
    api.error = ValueError("a bug")
    peer[1].write(post(b"lane") + behind)
    async with within(5):
        everything = await peer[0].read()
    assert everything.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert everything.count(b"HTTP/1.1") == 1
    assert b"a bug" not in everything
    [record] = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is api.error


async def test_a_client_that_does_not_read_is_not_answered_without_limit(
    api: Api, peer: Peer
) -> None:
    api.answer_bytes = 8 * 1024 * 1024  # more than the buffers of both sockets
    peer[1].write(post(b"lane1") + post(b"lane2") + post(b"lane3"))
    await eventually(lambda: len(api.finished) == 2)
    [connection] = api.state.connections
    waiting = connection.transport.get_write_buffer_size()
    assert waiting < 2 * api.answer_bytes  # one answer; the second is waiting outside
    for _ in range(3):
        assert len(await read_answer(peer)) == api.answer_bytes
    assert api.finished == ["/lane1", "/lane2", "/lane3"]


async def test_a_server_that_is_leaving_takes_no_request_into_the_lane(
    api: Api, peer: Peer
) -> None:
    notice = LeavingNotice(api.app, api.lane)
    assert [await answer_to(peer, post(b"lane")) for _ in range(3)] == [b"xx"] * 3
    notice.leave()
    assert await answer_to(peer, post(b"lane")) == b"app"  # and so the answer closes the connection


async def test_a_repeated_head_is_not_parsed_again(api: Api, peer: Peer) -> None:
    bodies = [b"{}", b"[1]", b"", b"x" * 12345, b"{}"]
    for body in bodies:
        assert await answer_to(peer, post(b"lane", body=body)) == b"xx"
    assert api.reached == [f"lane /lane {body.decode()}" for body in bodies]
    assert api.taken == 1


async def test_another_head_is_parsed(api: Api, peer: Peer) -> None:
    heads = [b"", b"A: 1\r\n", b"A: 2\r\n", b"A: 2\r\nB: 1\r\n"]
    for more in heads:
        assert await answer_to(peer, post(b"lane", more=more)) == b"xx"
    assert api.taken == len(heads)


@pytest.mark.parametrize(
    "first",
    [
        pytest.param([post(b"lane", more=b"Connection: close\r\n")], id="the last one"),
        pytest.param([post(b"lane") + post(b"lane")], id="two in one read"),
        pytest.param([b"\r\n" + post(b"lane")], id="a line break before it"),
        pytest.param([post(b"lane", more=b"A: %b\r\n" % (b"a" * 1024))], id="a long head"),
        pytest.param([CHUNKED], id="chunks"),
        pytest.param(
            [post(b"app", body=b"0123456789")[:-4], b"6789" + post(b"lane")],
            id="the end of another body before it",
        ),
        pytest.param(
            [b"POST /lane HTTP/1.1\r\nA: ", post(b"other")],
            id="the end of a head, which looks like another",
        ),
        pytest.param(
            [post(b"app", body=TAIL)[: -len(TAIL)], TAIL + post(b"lane")],
            id="the end of another body, which looks like a head",
        ),
    ],
)
async def test_a_head_is_only_known_again_if_it_was_read_alone(
    api: Api, first: list[bytes]
) -> None:
    """What was read around it belongs to another request, or does not come again."""
    protocol = api.protocol()
    protocol.connection_made(Wire())
    for read in first:
        protocol.data_received(read)
    assert protocol.cycle is not None
    assert protocol._repeated is None


@pytest.mark.parametrize("length", [b"1", b"3", b"02 ", b"+2", b"0x2", b"2,2", b"", b"00000002"])
async def test_another_length_is_left_to_the_parser(api: Api, peer: Peer, length: bytes) -> None:
    """Also where it is a valid one: a head has one form that is known again."""
    assert await answer_to(peer, post(b"lane")) == b"xx"
    peer[1].write(post(b"lane").replace(b"Length: 2", b"Length: " + length))
    peer[1].write_eof()
    async with within(5):
        await peer[0].read()
    assert api.reached[1:] in ([], ["lane /lane {"], ["lane /lane {}"])


async def test_a_body_beyond_the_limit_is_refused_with_a_head_that_is_known(
    api: Api, peer: Peer
) -> None:
    assert await answer_to(peer, post(b"lane")) == b"xx"
    [connection] = api.state.connections
    connection._body_limit = 5
    assert b"too_large" in await answer_to(peer, post(b"lane", body=b"123456"))
    assert len(api.reached) == 1


MISLEADING = (post(b"lane"), CHUNKED, TAIL)


def requests() -> st.SearchStrategy[bytes]:
    """Few heads, and bodies that contain some of them."""
    heads = st.sampled_from([b"", b"A: 1\r\n", b"A: POST /lane HTTP/1.1\r\n"])
    bodies = st.sampled_from(
        [b"{}", b"12", b"", b"\r\n", b"\r\n\r\n", post(b"lane"), CHUNKED, TAIL]
    )
    names = st.sampled_from([b"lane", b"lane", b"app"])
    whole = st.builds(
        lambda name, more, body: post(name, more=more, body=body), names, heads, bodies
    )
    return whole | st.sampled_from([CHUNKED, b"\r\n"])


TURNS = 12
"""Of the event loop, until a request that has come as a whole is answered."""


@given(sent=st.lists(requests(), min_size=2, max_size=8), data=st.data())
def test_what_is_known_again_changes_nothing(sent: list[bytes], data: st.DataObject) -> None:
    """However the bytes are cut into reads, the requests are those that the parser alone finds."""
    whole = b"".join(sent)
    # Most reads end where a request or its head ends, or seems to begin.
    ends = [end.end() for end in re.finditer(rb"\r\n\r\n|.(?=POST )", whole)]
    ends += itertools.accumulate(map(len, sent))
    cuts = st.sets(st.sampled_from(ends) | st.integers(1, len(whole)), max_size=len(sent))
    at = sorted({0, len(whole)} | data.draw(cuts))
    reads = [whole[a:b] for a, b in itertools.pairwise(at)]
    known, parsed = (asyncio.run(reached_by(reads, only_parse=only)) for only in (False, True))
    assert known == parsed


async def reached_by(reads: list[bytes], *, only_parse: bool) -> list[str]:
    """Return the requests that reached the app or the lane."""
    api = Api()
    protocol = api.protocol()
    protocol.connection_made(Wire())
    for read in reads:
        (protocol.parse_read if only_parse else protocol.data_received)(read)
        for _ in range(TURNS):
            await asyncio.sleep(0)
    protocol.connection_lost(None)
    for _ in range(TURNS):
        await asyncio.sleep(0)
    assert not api.state.tasks
    return [reached.partition(" ")[2] for reached in api.reached]


async def test_the_time_of_an_idle_connection_begins_with_the_end_of_a_late_body(
    api: Api, peer: Peer
) -> None:
    """The response was complete before: no other response started the time again."""
    [connection] = await eventually(lambda: list(api.state.connections))
    connection.timeout_keep_alive = 0.05
    api.answers_early = True
    peer[1].write(post(b"app", body=b"12")[:-2])
    assert await read_answer(peer) == b"app"
    peer[1].write(b"12")
    async with within(5):
        assert await peer[0].read() == b""


@pytest.mark.parametrize("name", [b"lane", b"app"])
async def test_a_connection_that_ended_is_no_garbage(api: Api, name: bytes) -> None:
    gc.collect()
    gc.disable()
    try:
        protocol = api.protocol()
        gone = weakref.ref(protocol)
        protocol.connection_made(Wire())
        protocol.data_received(post(name, body=b"x" * 1000))
        await eventually(lambda: not api.state.tasks)
        protocol.connection_lost(None)
        del protocol
        assert gone() is None
    finally:
        gc.enable()


async def test_a_request_that_is_cancelled_ends_its_connection(
    api: Api, peer: Peer, known: Known
) -> None:
    behind = b"" if await known() else post(b"lane")
    api.may_answer.clear()
    peer[1].write(post(b"lane") + behind)
    await eventually(lambda: bool(api.reached))
    for task in list(api.state.tasks):
        task.cancel()
    async with within(5):
        assert await peer[0].read() == b""


async def test_a_server_stops_while_it_holds_a_head(api: Api, peer: Peer) -> None:
    [connection] = await eventually(lambda: list(api.state.connections))
    connection.data_received(post(b"lane").removesuffix(b"{}"))
    assert connection._held
    connection.shutdown()
    peer[1].write(b"{}")
    assert await read_answer(peer) == b"app"


async def test_a_client_that_has_gone_is_not_answered_behind_a_repeated_head(
    api: Api, peer: Peer
) -> None:
    assert await answer_to(peer, post(b"app")) == b"app"
    assert await answer_to(peer, post(b"lane")) == b"xx"
    api.may_answer.clear()
    peer[1].write(post(b"lane", body=b"1"))
    await eventually(lambda: len(api.reached) == 3)
    peer[1].write(post(b"lane", body=b"2"))
    [connection] = api.state.connections
    first = connection.cycle
    await eventually(lambda: connection.pipeline)
    peer[1].transport.abort()
    await eventually(lambda: not api.state.connections)
    assert first.disconnected
    api.may_answer.set()
    await eventually(lambda: not api.state.tasks)
    assert [reached.split()[-1] for reached in api.reached] == ["{}", "{}", "1"]


async def test_a_connection_is_idle_after_a_repeated_head(api: Api, peer: Peer) -> None:
    """Even if the answer is complete before the read is."""
    [connection] = await eventually(lambda: list(api.state.connections))
    for _ in range(3):
        assert await answer_to(peer, post(b"lane")) == b"xx"
        assert connection._idle_since is not None
        assert connection.timeout_keep_alive_task is not None


@pytest.mark.skipif(sys.version_info < (3, 12), reason="requires eager tasks")
async def test_a_repeated_request_begins_in_the_turn_of_its_read(api: Api, peer: Peer) -> None:
    assert await answer_to(peer, post(b"lane")) == b"xx"
    [connection] = api.state.connections
    connection.data_received(post(b"lane", body=b"1"))
    assert api.finished == ["/lane", "/lane"]


async def test_a_repeated_head_waits_behind_a_request_that_is_not_answered(
    api: Api, peer: Peer
) -> None:
    assert await answer_to(peer, post(b"lane")) == b"xx"
    api.may_answer.clear()
    peer[1].write(post(b"lane", body=b"1"))
    await eventually(lambda: len(api.reached) == 2)
    peer[1].write(post(b"lane", body=b"2"))
    [connection] = api.state.connections
    await eventually(lambda: connection.pipeline)
    assert len(api.reached) == 2
    api.may_answer.set()
    assert [await read_answer(peer), await read_answer(peer)] == [b"xx", b"xx"]
    assert [reached.split()[-1] for reached in api.reached] == ["{}", "1", "2"]


KEY = (b"x-api-key", b"k")


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        (b"/api/publish", []),
        (b"/api/publish", [(b"cookie", b"sessionid=x")]),
        (b"/api/publish", [KEY, KEY]),
        (b"/api/publish", [KEY, (b"origin", b"http://a"), (b"origin", b"http://b")]),
        (b"/api/publish", [KEY, *[(b"x-%d" % n, b"1") for n in range(100)]]),
        (b"/api/publish?a=1", [KEY]),
        (b"/api/publis%68", [KEY]),
        (b"/api//publish", [KEY]),
        (b"/api/publish/", [KEY]),
        (b"/api/unknown", [KEY]),
        (b"/api/openapi.json", [KEY]),
        (b"http://h/api/publish", [KEY]),
        (b"/other", [KEY]),
    ],
)
async def test_the_lane_takes_only_what_is_plainly_for_the_api(
    url: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    endpoint = HttpEndpoint(None, api="/api/")  # type: ignore[arg-type]
    assert endpoint.take_whole(b"/api/publish", [KEY]) is not None
    assert endpoint.take_whole(url, headers) is None


async def test_there_is_no_lane_without_an_api_or_under_a_script_name() -> None:
    without = HttpEndpoint(None)  # type: ignore[arg-type]
    assert without.take_whole(b"/api/publish", [KEY]) is None
    endpoint = HttpEndpoint(None, api="/api/")  # type: ignore[arg-type]
    with override_settings(FORCE_SCRIPT_NAME="/app"):
        assert endpoint.take_whole(b"/api/publish", [KEY]) is None


async def test_a_usual_publish_takes_the_lane(node: Any) -> None:
    rim = Rim(LANE)
    answer = await rim.post("publish", {"channel": "public:news", "data": 1})
    assert answer.result["offset"] == 1
    assert rim.taken == 1, "the second request has a head that is known"
