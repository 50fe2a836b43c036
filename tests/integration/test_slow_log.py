"""What is slow is named in the log, once a minute: the host's functions, and busy channels."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from realtime import apublish, wiring
from realtime.core.congestion import CONNECTIONS_LEAST
from realtime.core.identity import Identity
from realtime.core.names import CHANNEL_LIMIT
from realtime.delivery import slow_log
from realtime.delivery.hub import Hub
from tests.support.eventually import eventually
from tests.support.member import Member

HERE = "tests.integration.test_slow_log"


async def allow(identity: Identity, channel: str, action: str) -> bool:
    return True


async def echo(identity: Identity, method: str, data: Any) -> Any:
    if method == "broken":
        raise LookupError("a bug of the host")
    return data


@pytest.fixture
async def hub(wired: str, settings: Any) -> AsyncIterator[Hub]:
    settings.REALTIME_AUTHORIZER = f"{HERE}.allow"
    settings.REALTIME_RPC = f"{HERE}.echo"
    settings.REALTIME_WINDOW_BYTES = 64 * 1024
    hub = wiring.node().hub
    hub.start()
    await eventually(lambda: hub.live)
    yield hub
    await wiring.aclose()


@pytest.fixture
async def members(hub: Hub) -> AsyncIterator[list[Member]]:
    """Clients that read nothing: they answer no ping."""
    members = [Member(hub) for _ in range(CONNECTIONS_LEAST)]
    for member in members:
        await eventually(lambda: member.conversation)  # noqa: B023 - awaited at once
        member.say({"id": 1, "connect": {}})
    yield members
    for member in members:
        await member.leave()


async def reply(member: Member, number: int) -> dict[str, Any]:
    await eventually(lambda: any(line.get("id") == number for line in member.lines))
    return next(line for line in member.lines if line.get("id") == number)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]


@pytest.fixture
def all_calls_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_log, "SLOW_SECONDS", -1.0)


@pytest.mark.usefixtures("all_calls_are_slow")
async def test_a_slow_authorizer_is_named(
    members: list[Member], caplog: pytest.LogCaptureFixture
) -> None:
    member = members[0]
    for number, channel in enumerate(["closed", "b" * CHANNEL_LIMIT], 2):
        member.say({"id": number, "subscribe": {"channel": channel}})
        await reply(member, number)
    assert warnings(caplog) == [
        "REALTIME_AUTHORIZER is slow: it took 0.0 s for subscribe closed "
        "(1 calls of more than -1 s so far)"
    ]
    assert slow_log._tally._counts == {"REALTIME_AUTHORIZER": 2}


@pytest.mark.usefixtures("all_calls_are_slow")
async def test_a_slow_rpc_is_named_also_if_it_fails(
    members: list[Member], caplog: pytest.LogCaptureFixture
) -> None:
    """The method is the client's text, so it must not end the line, or be a reason of its own."""
    member = members[0]
    for number, method in enumerate(["a\nforged line", "broken", "c"], 2):
        member.say({"id": number, "rpc": {"method": method, "data": 1}})
        await reply(member, number)
    assert warnings(caplog) == [
        "REALTIME_RPC is slow: it took 0.0 s for a\\nforged line (1 calls of more than -1 s so far)"
    ]
    assert slow_log._tally._counts == {"REALTIME_RPC": 3}


async def test_a_quick_call_is_not_logged(
    members: list[Member], caplog: pytest.LogCaptureFixture
) -> None:
    members[0].say({"id": 2, "rpc": {"method": "a", "data": 1}})
    await reply(members[0], 2)
    assert warnings(caplog) == []


async def test_a_channel_that_many_clients_cannot_keep_up_with_is_named(
    members: list[Member], caplog: pytest.LogCaptureFixture
) -> None:
    for member in members:
        member.say({"id": 2, "subscribe": {"channel": "public:busy"}})
        await reply(member, 2)
    for _ in range(4):
        await apublish("public:busy", "x" * 60_000)
    said = f"publications on public:busy wait for {len(members)} clients that read too slowly"
    await eventually(lambda: warnings(caplog))
    assert warnings(caplog) == [f"{said} ({len(members)} so far)"]


@pytest.mark.usefixtures("all_calls_are_slow")
async def test_a_call_that_ends_with_its_client_is_timed(caplog: pytest.LogCaptureFixture) -> None:
    async def call() -> None:
        with slow_log.timed_call("REALTIME_RPC", "m"):
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(warnings(caplog)) == 1
