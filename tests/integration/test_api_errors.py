"""Both rims report errors in the same way for every method."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest
from django.test import override_settings

from realtime import wiring
from realtime.api.answers import STATUSES
from realtime.api.backend import run_blocking
from realtime.api.cloudevents import STRUCTURED
from realtime.api.keyring import Keyring
from realtime.api.methods import METHODS, admit_request, respond
from realtime.api.request import EVENTS, Request
from realtime.core.members import (
    MEMBERS_LIMIT,
    Member,
    MemberUpdate,
    TooManyMembers,
)
from realtime.core.namespaces import Namespaces
from realtime.core.survey import TooManyChannels
from realtime.delivery.hub import Hub
from realtime.errors import (
    BrokerUnavailable,
    ConfigurationError,
    Forbidden,
    IdempotencyConflict,
    InvalidData,
    InvalidName,
    LimitExceeded,
    OutcomeUnknown,
    QueueFull,
    RealtimeError,
    TooLarge,
)
from tests.support.backend import CannedBackend
from tests.support.chat import CHAT
from tests.support.eventually import eventually
from tests.support.keys import entry, secret_of
from tests.support.redis_server import RedisServer
from tests.support.rims import RIMS, Rim, refused

ROOM = "chat:hall"
EVENT = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "channel": "a", "data": 1}
BODIES: dict[str, Any] = {
    "publish": {"channel": "a", "data": 1},
    "broadcast": {"channels": ["a", "b"], "data": 1},
    "batch": {"commands": [{"publish": {"channel": "a", "data": 1}}] * 2},
    "events": EVENT,
    "disconnect": {"user": "42"},
    "block_user": {"user": "42", "seconds": 60},
    "unblock_user": {"user": "42"},
    "subscribe": {"user": "42", "channel": "a"},
    "unsubscribe": {"user": "42", "channel": "a"},
    "refresh": {"user": "42"},
    "info": {},
    "channels": {},
    "connections": {},
    "position": {"channels": ["a", "b"]},
    "presence": {"channel": ROOM},
    "presence_stats": {"channel": ROOM},
}
each_method = pytest.mark.parametrize("method", BODIES)
ERRORS: list[RealtimeError] = [
    BrokerUnavailable("Redis"),
    OutcomeUnknown(),
    QueueFull(),
    ConfigurationError("REALTIME_REDIS_URL", "is empty"),
    Forbidden(),
    IdempotencyConflict(),
    InvalidData("no"),
    InvalidName("channel", "x", "no"),
    LimitExceeded("too many", 1),
    TooLarge("it", 2, 1),
    TooManyMembers("no"),
    TooManyChannels("no"),
]


@pytest.fixture(params=RIMS)
def rim(request: pytest.FixtureRequest) -> Rim:
    return Rim(request.param)


def content_type(method: str) -> str:
    return STRUCTURED if method == EVENTS else "application/json"


def test_every_method_has_a_test_case() -> None:
    assert set(BODIES) == set(METHODS)


# --- the API itself: each call and each error, without a rim ---


@each_method
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_broker_error_becomes_the_response(method: str, error: RealtimeError) -> None:
    """`presence` used to pass on a list that contained the error: an AttributeError, and a 500."""
    for call, answer, status in failures(method, error):
        # If it is unknown whether a publication was counted, it is certainly not published.
        is_of_the_rate = call == "take_from_rate" and isinstance(error, OutcomeUnknown)
        expected = "broker_unavailable" if is_of_the_rate else error.code
        assert answer["error"]["reason"] == expected
        assert status == STATUSES[expected][0]


def failures(method: str, error: RealtimeError) -> Iterator[tuple[str, dict[str, Any], int]]:
    """Yield each call of a request that can fail, with the response to its failure."""
    keyring = Keyring([entry("limited", rate=5, methods=[method, "publish"])], and_one="all")
    for secret in ("all", secret_of("limited")):
        request = Request("POST", method, "", content_type(method), "", secret)
        welcome = admit_request(request, keyring.admit)
        body = json.dumps(BODIES[method]).encode()
        namespaces = Namespaces({"chat": CHAT})
        well = CannedBackend()
        assert run_blocking(respond(welcome, body, well, namespaces)).status == 200
        for call in well.called:
            failing = CannedBackend(**{call: lambda *_: error})
            response = run_blocking(respond(welcome, body, failing, namespaces))
            yield call, json.loads(response.body), response.status


def test_a_synchronous_backend_that_suspends_is_a_programming_error() -> None:
    async def suspends() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="must not await"):
        run_blocking(suspends())


# --- both rims, a real Redis ---


def member(number: int) -> Member:
    client, user = f"{number:08x}", f"user-{number}"
    return Member(client, user, f'{{"user":"{user}","client":"{client}"}}')


async def fill(room: str) -> int:
    """Record more members than may be listed."""
    presence, number = wiring.node().broker.presence, 0
    await presence.lease("aa", is_new=True)
    while number <= MEMBERS_LIMIT:
        some = {one.client: one for one in map(member, range(number, number + 1000))}
        await presence.change(
            "aa", [MemberUpdate(room, some, is_announced=False, has_members=True)]
        )
        number += 1000
    return number


async def test_members_over_the_limit_are_only_counted(hub: Hub) -> None:
    number = await fill(ROOM)
    for kind in RIMS:
        rim = Rim(kind)
        refused(await rim.post("presence", {"channel": ROOM}), "too_many_members")
        stats = (await rim.post("presence_stats", {"channel": ROOM})).result
        assert stats["num_clients"] == number


@pytest.fixture
async def wired_to_own(own_redis: RedisServer) -> AsyncIterator[RedisServer]:
    with override_settings(REALTIME_REDIS_URL=own_redis.url, REALTIME_PUBLISH_SECONDS=0.3):
        yield own_redis
        await wiring.aclose()


async def is_published(rim: Rim) -> bool:
    return (await rim.post("publish", BODIES["publish"])).status == 200


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_redis_fails_under_each_method(wired_to_own: RedisServer, rim: Rim, how: str) -> None:
    # A busy machine may need longer than 0.3 s to connect.
    await eventually(partial(is_published, rim))
    await asyncio.to_thread(getattr(wired_to_own, how))
    for method in BODIES:
        answer = await rim.post(method, BODIES[method], content_type=content_type(method))
        reason = answer.json["error"]["reason"]
        assert reason in ("broker_unavailable", "outcome_unknown"), method
        refused(answer, reason)
    if how == "freeze":
        wired_to_own.thaw()
