"""A refused subscription is visible: the client gets an error, and the log has the reason."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from django.test import override_settings

from realtime import wiring
from realtime.core.identity import Identity
from realtime.core.namespaces import BY_AUTHORIZER, NOT_SERVED, UNKNOWN_NAMESPACE
from realtime.core.tally import Tally
from realtime.delivery import refusal_log
from realtime.delivery.hub import Hub
from tests.support.eventually import eventually
from tests.support.member import Member

LOG = "realtime.delivery.refusal_log"
KNOWN = Identity("42")


async def refuse_all(identity: Identity, channel: str, action: str) -> bool:
    return False


@pytest.fixture(params=[""])
async def hub(
    request: pytest.FixtureRequest, wired: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Hub]:
    monkeypatch.setattr(refusal_log, "_tally", Tally())
    with override_settings(REALTIME_AUTHORIZER=request.param):
        hub = wiring.node().hub
        hub.start()
        await eventually(lambda: hub.live)
        yield hub
        await wiring.aclose()


async def ask(hub: Hub, *channels: str, identity: Identity = KNOWN) -> Member:
    """Subscribe a new client to channels, one frame each; return it when all are answered."""
    member = Member(hub, identity)
    await eventually(lambda: member.conversation)
    member.say({"id": 1, "connect": {"subs": {"nwes:connect": {}}}})
    for number, channel in enumerate(channels, 2):
        member.say({"id": number, "subscribe": {"channel": channel}})
    last = len(channels) + 1
    await eventually(lambda: any(line.get("id") == last for line in member.lines))
    return member


async def test_each_reason_is_logged_once_a_minute_and_the_client_learns_none(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    """With a misspelt channel, the page said "live", and the log said nothing."""
    member = await ask(hub, "nwes:a", "user:#7", "nwes:b", "user:#8", "public:fine")
    errors = [line["error"] for line in member.lines if "error" in line]
    assert errors == [{"code": 103, "message": "permission denied"}] * 4
    logged = await eventually(
        lambda: len(found := [r for r in caplog.records if r.name == LOG]) >= 2 and found
    )
    assert [record.getMessage() for record in logged] == [
        f"refused a subscription to 'nwes:connect': {UNKNOWN_NAMESPACE} (1 so far)",
        "refused a subscription to 'user:#7': it is for the users after its #, and the client is "
        "another (1 so far)",
    ]
    await member.leave()


async def test_a_channel_that_only_a_token_names_is_logged_too(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    member = await ask(hub, "public:a", identity=Identity("42", channels=("nwes:token",)))
    await eventually(lambda: f"'nwes:token': {NOT_SERVED}" in caplog.text)
    await member.leave()


@pytest.mark.parametrize("hub", ["tests.integration.test_refusals.refuse_all"], indirect=True)
async def test_a_refusal_of_the_authorizer_is_told_from_a_namespace_that_is_missing(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    """In both cases the client waits for the authorizer, so only the log can distinguish them."""
    member = await ask(hub, "members:a", "nwes:a", identity=Identity())
    await eventually(lambda: f"'members:a': {BY_AUTHORIZER}" in caplog.text)
    assert f"'nwes:connect': {UNKNOWN_NAMESPACE} (1 so far)" in caplog.text
    await member.leave()
