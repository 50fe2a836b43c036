"""Host code that raises a cancellation or an exit affects only its own call."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings

from realtime import wiring
from realtime.auth.user_info import info_of
from realtime.connection.hostcode import of_host
from realtime.core.identity import Identity
from realtime.core.outage import Outage
from realtime.core.tally import Tally
from realtime.delivery import client_calls, joining
from realtime.delivery.hub import Hub
from realtime.delivery.node_services import Authorize
from tests.support.eventually import eventually
from tests.support.member import Member

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"
HERE = "tests.integration.test_hostcode"


async def await_a_shared_task() -> None:
    """Await a task that other calls await, too, and that somebody cancels in the meantime."""
    shared = asyncio.ensure_future(asyncio.Event().wait())
    asyncio.get_running_loop().call_soon(shared.cancel)
    await shared


async def raise_it() -> None:
    raise asyncio.CancelledError


async def cancel_its_own_task() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def leave() -> None:
    sys.exit("usage: a command of Django's")


WAYS = [await_a_shared_task, raise_it, cancel_its_own_task, leave]
chosen: list[Callable[[], Awaitable[None]]] = []


async def decide(identity: Identity, channel: str, action: str) -> bool:
    if channel == "broken":
        await chosen[0]()
    return True


async def answer(identity: Identity, method: str, data: object) -> object:
    if method != "fine":  # `send` has none
        await chosen[0]()
    return data


def decide_in_a_thread(identity: Identity, channel: str, action: str) -> bool:
    if channel == "broken":
        raise (SystemExit if chosen[0] is leave else asyncio.CancelledError)
    return True


def answer_in_a_thread(identity: Identity, method: str, data: object) -> object:
    if method != "fine":
        raise (SystemExit if chosen[0] is leave else asyncio.CancelledError)
    return data


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def way(request: pytest.FixtureRequest) -> None:
    chosen[:] = [request.param]


@pytest.fixture(params=["", "_in_a_thread"], ids=["async", "sync"])
async def hub(
    request: pytest.FixtureRequest, wired: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Hub]:
    monkeypatch.setattr(
        joining, "_failures", Tally()
    )  # as in a process that has logged nothing yet
    monkeypatch.setattr(client_calls, "_failures", Tally())
    with override_settings(
        REALTIME_AUTHORIZER=f"{HERE}.decide{request.param}",
        REALTIME_RPC=f"{HERE}.answer{request.param}",
    ):
        hub = wiring.node().hub
        hub.start()
        await eventually(lambda: hub.live)
        yield hub
        await wiring.aclose()


async def come(hub: Hub, **connect: Any) -> Member:
    member = Member(hub)
    await eventually(lambda: member.conversation)
    member.say({"id": 1, "connect": connect})
    await member.until(2)
    return member


async def error_of(member: Member, number: int) -> dict[str, Any]:
    def reply() -> dict[str, Any] | None:
        return next((line for line in member.lines if line.get("id") == number), None)

    return (await eventually(reply)).get("error", {})


FAILED = {"code": 100, "message": "internal error", "temporary": True}


@pytest.mark.django_db(transaction=True)  # Channels manages the thread's database connections
@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("command", "logged"),
    [
        ({"subscribe": {"channel": "broken"}}, "REALTIME_AUTHORIZER failed"),
        ({"publish": {"channel": "broken", "data": 1}}, "REALTIME_AUTHORIZER failed"),
        ({"rpc": {"method": "broken"}}, "REALTIME_RPC failed"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_a_host_that_is_cancelled_or_exits_blocks_a_connection(
    hub: Hub, caplog: pytest.LogCaptureFixture, command: dict[str, Any], logged: str
) -> None:
    """Neither the command nor any later one was answered, and an exit ended the node."""
    client = await come(hub)
    client.say({"id": 2, **command}, {"id": 3, **command}, {"id": 4, "rpc": {"method": "fine"}})
    assert await error_of(client, 2) == await error_of(client, 3) == FAILED
    assert await error_of(client, 4) == {}
    assert caplog.text.count(logged) == 1, "once a minute, whatever clients do"
    failures = (client_calls if "rpc" in command else joining)._failures._counts
    assert failures == {"rpc" if "rpc" in command else "authorizer": 2}
    await client.leave()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("way")
async def test_a_host_that_is_cancelled_or_exits_leaves_a_channel_of_connect_undecided(
    hub: Hub,
) -> None:
    client = await come(hub, subs={"broken": {}})
    assert await eventually(lambda: client.pushes("unsubscribe"))
    client.say({"send": {"data": 1}}, {"id": 2, "subscribe": {"channel": "other"}})
    assert await error_of(client, 2) == {}
    assert hub.registry.get("broken") is None
    await client.leave()


@pytest.mark.parametrize("hub", [""], ids=["async"], indirect=True)
async def test_a_client_leaving_during_a_host_call_is_not_a_host_failure(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    """A cancellation by the server itself is still a cancellation."""
    cancelled: list[bool] = []

    async def wait_and_see() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)

    chosen[:] = [wait_and_see]
    client = await come(hub)
    client.say(
        {"id": 2, "rpc": {"method": "broken"}}, {"id": 3, "subscribe": {"channel": "broken"}}
    )
    await asyncio.sleep(0)
    await client.leave()
    await eventually(lambda: len(cancelled) == 2)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.usefixtures("way")
async def test_a_host_that_is_cancelled_or_exits_shows_nothing_of_a_user(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """REALTIME_USER_INFO is called before a connection is accepted; it must not end the node."""
    monkeypatch.setattr("realtime.auth.user_info._outage", Outage())

    async def describe(user: object) -> object:
        await chosen[0]()
        return {"name": "Ada"}

    assert await info_of(object(), describe) == ""
    assert "REALTIME_USER_INFO failed" in caplog.text


asked: dict[tuple[str, str], asyncio.Task[bool]] = {}
shop = asyncio.Event()
"""Set when the host's own service answers."""


async def ask_the_shop(user, channel):
    await shop.wait()
    return True


async def may(identity, channel, action):
    key = (identity.user, channel)
    if key not in asked:
        asked[key] = asyncio.create_task(ask_the_shop(*key))
        asked[key].add_done_callback(lambda task: asked.pop(key))
    return await asyncio.shield(asked[key])


async def may_without_shield(identity, channel, action):
    key = (identity.user, channel)
    if key not in asked:
        asked[key] = asyncio.create_task(ask_the_shop(*key))
        asked[key].add_done_callback(lambda task: asked.pop(key))
    return await asked[key]


async def subscribe_twice_and_leave_once(hub: Hub, decide: Authorize) -> dict[str, Any]:
    """Return the error of the remaining client; both wait for the same task of the host."""
    waiting: list[str] = []

    async def authorize(identity: Identity, channel: str, action: str) -> bool:
        waiting.append(channel)
        return await decide(identity, channel, action)

    hub.authorize = authorize
    shop.clear()
    clients = [await come(hub), await come(hub)]
    for client in clients:
        client.say({"id": 2, "subscribe": {"channel": "shared"}})
    await eventually(lambda: len(waiting) == 2)
    assert len(asked) == 1
    await clients[0].leave()
    shop.set()
    error = await error_of(clients[1], 2)
    await clients[1].leave()
    await eventually(lambda: not asked)
    return error


@pytest.mark.parametrize("hub", [""], ids=["async"], indirect=True)
async def test_a_leaving_client_cancels_a_task_that_others_await(hub: Hub) -> None:
    """A client that leaves cancels its call, and with it a task that the host shares between calls.

    The documented example shields the task; without that, the other client is refused.
    """
    assert inspect.getsource(may) in PROTOCOL.read_text(encoding="utf-8")
    assert await subscribe_twice_and_leave_once(hub, may) == {}
    assert await subscribe_twice_and_leave_once(hub, may_without_shield) == FAILED


async def test_a_timeout_around_host_code_remains_a_timeout() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await of_host(asyncio.Event().wait())
