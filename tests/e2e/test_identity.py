"""The identity of a client decides what it receives, over a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import jwt
import pytest
from websockets import ConnectionClosed

from tests.settings import REALTIME_TOKEN_SECRET as SECRET
from tests.support.client import Client
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, SERVERS, Service
from tests.support.tokens import Provider, token

Attach = Callable[..., Awaitable[Client]]


@pytest.fixture(scope="module", params=SERVERS)
def service(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[Service]:
    service = Service(redis_server.url, request.param, TEST_TOKEN_GRACE_SECONDS="0").start()
    yield service
    service.stop()


async def known(service: Service, attach: Attach, shown: str) -> Client:
    client = await attach(service, connect=False)
    reply = await client.ask(connect={"token": shown})
    assert "connect" in reply
    assert await client.push("state") == {"live": True}
    await client.push("subscribe")  # to its own channel
    return client


async def test_a_user_receives_private_publications(service: Service, attach: Attach) -> None:
    client = await known(service, attach, token("42"))
    stranger = await known(service, attach, token("43"))
    nobody = await attach(service)
    await client.subscribe("public:orders#42")
    for other in (stranger, nobody):
        refused = await other.ask(subscribe={"channel": "public:orders#42"})
        assert refused["error"] == {"code": 103, "message": "permission denied"}
    await asyncio.to_thread(service.publish, "public:orders#42", "yours")
    assert await client.data() == "yours"


async def test_only_members_may_listen_and_publish(service: Service, attach: Attach) -> None:
    client, nobody = await known(service, attach, token()), await attach(service)
    await client.subscribe("members:hall")
    assert "publish" in await client.ask(publish={"channel": "members:hall", "data": "hi"})
    assert await client.data() == "hi"
    assert (await nobody.ask(subscribe={"channel": "members:hall"}))["error"]["code"] == 103


async def test_a_subscription_token_opens_a_closed_channel(
    service: Service, attach: Attach
) -> None:
    client = await known(service, attach, token("42"))
    shown = token("42", channel="closed")
    reply = await client.ask(subscribe={"channel": "closed", "token": shown})
    assert reply["subscribe"]["expires"] is True
    assert 0 < reply["subscribe"]["ttl"] <= 60
    await asyncio.to_thread(service.publish, "closed", 1)
    assert await client.data() == 1


async def test_a_client_without_a_new_token_is_closed_with_3005(
    service: Service, attach: Attach
) -> None:
    client = await known(service, attach, token(seconds=1))
    assert (await client.closed(seconds=10))[0] == 3005


async def test_a_client_with_a_new_token_stays_connected(service: Service, attach: Attach) -> None:
    client = await known(service, attach, token(seconds=1))
    leaver = await known(service, attach, token(seconds=1))
    assert (await client.ask(refresh={"token": token()}))["refresh"]["expires"] is True
    assert (await leaver.closed(seconds=10))[0] == 3005
    assert "ping" in await client.ask(ping={})


async def test_a_subscription_that_expires_ends_and_the_connection_stays(
    service: Service, attach: Attach
) -> None:
    client = await known(service, attach, token())
    for channel, seconds in (("brief", 1), ("renewed", 1), ("long", 60)):
        shown = token(channel=channel, seconds=seconds)
        assert "subscribe" in await client.ask(subscribe={"channel": channel, "token": shown})
    renewal = {"channel": "renewed", "token": token(channel="renewed")}
    assert "sub_refresh" in await client.ask(sub_refresh=renewal)
    message = await client.next(seconds=10)
    assert message == {
        "push": {"channel": "brief", "unsubscribe": {"code": 2501, "reason": "expired"}}
    }
    receipt = await asyncio.to_thread(service.publish, "brief", 1)
    assert receipt["nodes"] == 0
    for channel in ("renewed", "long"):
        await asyncio.to_thread(service.publish, channel, channel)
        assert await client.data() == channel


@pytest.mark.parametrize("shown", ["forged", token()[:-4] + "AAAA"])
async def test_a_client_with_a_forged_token_is_closed_with_3500(
    service: Service, attach: Attach, shown: str
) -> None:
    client = await attach(service, connect=False)
    await client.tell(connect={"token": shown})
    assert (await client.closed())[0] == 3500


async def test_a_client_with_an_expired_token_gets_error_109(
    service: Service, attach: Attach
) -> None:
    client = await attach(service, connect=False)
    refused = await client.ask(connect={"token": token(seconds=-60)})
    assert refused["error"] == {"code": 109, "message": "token expired"}
    assert "connect" in await client.ask(connect={"token": token()})


def test_no_token_is_ever_logged(service: Service) -> None:
    """Runs before or after the others: the tokens that they send all begin like these."""
    assert token().split(".")[0] not in service.log


async def test_keys_in_a_file_change_while_the_service_runs(
    serve: Callable[..., Service], redis_server: RedisServer, attach: Attach, tmp_path: Path
) -> None:
    provider = Provider(tmp_path / "jwks.json", "old")
    service = serve(redis_server.url, DEPLOYED, NOTIFIER_TOKEN_JWKS=f"@{provider.file}")

    async def is_let_in(key: str) -> bool:
        client = await attach(service, connect=False)
        await client.tell(connect={"token": provider.token(key)})
        with suppress(ConnectionClosed):
            return "connect" in await client.next()
        return False

    assert await is_let_in("old")
    assert not await is_let_in("new")
    provider.publish("new")
    await eventually(lambda: is_let_in("new"))
    assert not await is_let_in("old")
    assert "reloaded the token keys: 1 in use" in service.log
    assert service.log.count("refused a token: no configured key has its ID (kid): 'new'") == 1


async def test_tokens_issued_for_centrifugo_are_accepted(
    redis_server: RedisServer, serve: Callable[..., Service], attach: Attach
) -> None:
    """No `exp`, and the personal channel `#42`, as in Centrifugo's documentation.

    PyJWT has rejected a numeric `jti` since 2.10 (jpadilla/pyjwt#1005).
    """
    service = await asyncio.to_thread(
        serve,
        redis_server.url,
        DEPLOYED,
        NOTIFIER_TOKEN_SECRET=SECRET,
        NOTIFIER_TOKEN_EXPIRY="optional",
        NOTIFIER_PERSONAL_CHANNEL="#",
    )
    shown = jwt.PyJWS().encode(b'{"sub":"42","jti":12345,"nbf":null}', SECRET, "HS256")
    client = await attach(service, connect=False)
    reply = await client.ask(connect={"token": shown})
    assert "expires" not in reply["connect"]
    assert await client.push("state") == {"live": True}
    assert (await client.next())["push"]["channel"] == "#42"
    await asyncio.to_thread(service.publish, "#42", "yours")
    assert await client.data() == "yours"
