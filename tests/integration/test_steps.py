"""Commands that are sent together are decided one by one: none relies on a pending one."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import jwt
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from realtime import protocols
from realtime.brokers.publisher import Publisher
from realtime.brokers.redis import RedisBroker
from realtime.core.codes import ALREADY_SUBSCRIBED
from realtime.core.identity import Identity
from realtime.core.limits import Limits, Rate
from realtime.core.namespaces import Namespaces
from realtime.core.publication import Publication, Receipt
from realtime.delivery import joining
from realtime.delivery.hub import Hub
from realtime.delivery.inbox import _bytes_of
from realtime.errors import InvalidToken
from realtime.identity.tokens import Tokens
from tests.support.eventually import eventually
from tests.support.member import Member
from tests.support.redis_server import RedisServer

SECRET = "s" * 32
NAMESPACES = Namespaces(
    {
        "club": {
            "allow_publish_for_subscriber": True,
            "allow_publish_for_anonymous": True,
            "presence": True,
            "allow_presence_for_subscriber": True,
            "allow_presence_for_anonymous": True,
        },
        "open": {
            "allow_subscribe_for_client": True,
            "allow_subscribe_for_anonymous": True,
            "allow_publish_for_client": True,
            "allow_publish_for_anonymous": True,
        },
        "room": {
            "allow_subscribe_for_client": True,
            "allow_subscribe_for_anonymous": True,
            "join_leave": True,
            "allow_presence_for_subscriber": True,
            "allow_presence_for_anonymous": True,
        },
    }
)
PATIENT_SECONDS = 60.0
PLENTY = Rate(1_000_000, 1_000_000)
LIMITS = Limits(
    connections=100,
    connections_per_user=0,
    connections_per_address=0,
    channels_per_connection=128,
    commands=PLENTY,
    publications=PLENTY,
    connect_seconds=60,
)
SCARCE = Rate(0.01, 256)  # the deployed burst, without tokens that arrive while a test is slow


class Host:
    """The code of a site: it decides as configured, immediately or when the test allows it."""

    def __init__(self) -> None:
        self.verdicts: dict[tuple[str, str], bool | None] = {}
        """By channel and action; None is a failure, and anything not listed is refused."""
        self.asked: list[tuple[str, str]] = []
        self.is_slow = False
        self.waiting: list[asyncio.Future[None]] = []
        self.published: list[object] = []

    async def authorize(self, identity: Identity, channel: str, action: str) -> bool:
        self.asked.append((channel, action))
        await self._turn()
        verdict = self.verdicts.get((channel, action), False)
        if verdict is None:
            raise LookupError("the host has a bug")
        return verdict

    async def rpc(self, identity: Identity, method: str, data: object) -> object:
        self.asked.append((method, "rpc"))
        await self._turn()
        return data

    async def _turn(self) -> None:
        if self.is_slow:
            self.waiting.append(asyncio.get_running_loop().create_future())
            await self.waiting[-1]

    def answer(self, number: int = 0) -> None:
        """Answer one pending question."""
        turn = self.waiting.pop(number)
        if not turn.done():
            turn.set_result(None)

    def answer_all(self) -> None:
        """Answer all questions, including later ones."""
        self.is_slow = False
        while self.waiting:
            self.answer()


class Site:
    """One hub with its host, and a wall clock that a test can change."""

    def __init__(self, redis: RedisServer, limits: Limits = LIMITS) -> None:
        self.host = Host()
        self.refused_tokens: list[InvalidToken] = []
        self.passed_seconds = 0.0
        prefix = f"test-{secrets.token_hex(4)}"
        self.broker = RedisBroker(redis.url, prefix=prefix, deadline_seconds=PATIENT_SECONDS)
        publisher = Publisher(NAMESPACES, self.broker.publish)

        async def publish(publication: Publication) -> Receipt:
            self.host.published.append(json.loads(publication.body)["data"])
            return await publisher.publish(publication)

        self.hub = Hub(
            self.broker,
            NAMESPACES,
            publish,
            limits=limits,
            tokens=Tokens({"HS256": SECRET}, refused=self.refused_tokens.append),
            authorize=self.host.authorize,
            rpc=self.host.rpc,
            wall_seconds=self.now,
        )

    def now(self) -> float:
        return time.time() + self.passed_seconds

    def token(self, channel: str, seconds: float = 3600, user: str = "") -> str:
        """Return a token for a subscription, or for a connection if no channel is given."""
        claims = {"sub": user, "exp": self.now() + seconds}
        if channel:
            claims["channel"] = channel
        return jwt.encode(claims, SECRET, "HS256")

    async def start(self) -> None:
        self.hub.start()
        await eventually(lambda: self.hub.live)

    async def stop(self) -> None:
        await self.hub.stop()
        await self.broker.aclose()

    async def come(self, *commands: dict[str, Any]) -> Member:
        """Open an anonymous connection that sends this in its first frame."""
        member = Member(self.hub)
        await eventually(lambda: member.conversation)
        member.say(*(commands or ({"id": 1, "connect": {}},)))
        return member


@pytest.fixture
async def site(redis_server: RedisServer) -> AsyncIterator[Site]:
    site = Site(redis_server)
    await site.start()
    yield site
    await site.stop()


def reply(member: Member, number: int) -> dict[str, Any] | None:
    return next((line for line in member.lines if line.get("id") == number), None)


async def answered(member: Member, number: int) -> Any:
    return await eventually(lambda: reply(member, number))


def code(line: dict[str, Any]) -> int:
    """Return the code of an error; 0 if there is none."""
    return int(line.get("error", {}).get("code", 0))


# ------------------------------------------------------------------- attacks on permissions


async def test_a_client_publishes_on_a_subscription_that_is_refused(site: Site) -> None:
    """In one frame, the subscribe was answered with 103 and the publish with `{}`.

    Members received it.
    """
    site.host.verdicts["club:a", "subscribe"] = True
    listener = await site.come(
        {"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "club:a"}}
    )
    await answered(listener, 2)
    site.host.verdicts["club:a", "subscribe"] = False
    stranger = await site.come()
    channel = {"channel": "club:a"}
    stranger.say(
        {"id": 2, "subscribe": channel},
        {"id": 3, "publish": {**channel, "data": "spam"}},
        {"id": 4, "presence": channel},
        {"id": 5, "presence_stats": channel},
        {"id": 6, "history": channel},
        {"id": 7, "sub_refresh": {**channel, "token": site.token("club:a")}},
        {"id": 8, "ping": {}},
    )
    await answered(stranger, 8)
    replies = [line for line in stranger.lines if line.get("id", 0) > 1]
    assert [(line["id"], code(line)) for line in replies] == [
        *((number, 103) for number in range(2, 8)),
        (8, 0),
    ]
    assert site.host.published == []
    assert listener.pushes("pub") == []


@pytest.mark.parametrize("kind", ["subscribe", "publish", "presence", "history", "unsubscribe"])
async def test_a_client_begins_with_another_command_than_connect(site: Site, kind: str) -> None:
    said = {"channel": "open:d", "data": 1} if kind == "publish" else {"channel": "open:d"}
    stranger = await site.come({"id": 1, kind: said})
    assert stranger.closed == (3501, "bad request")
    assert site.host.asked == site.host.published == []
    assert site.hub.registry.get("open:d") is None


async def test_a_client_names_a_channel_in_connect_and_again_in_a_subscribe(site: Site) -> None:
    """The second one was treated as a takeover of the first, which was still undecided."""
    site.host.is_slow = True
    subs = {"club:a": {}, "closed": {}, "absent:e": {}}
    stranger = await site.come(
        {"id": 1, "connect": {"subs": subs}},
        *({"id": n, "subscribe": {"channel": name}} for n, name in enumerate(subs, 2)),
        {"id": 9, "publish": {"channel": "club:a", "data": 1}},
    )
    await eventually(lambda: len(site.host.waiting) == 6)
    site.host.answer_all()
    await answered(stranger, 9)
    assert [code(await answered(stranger, n)) for n in (2, 3, 4, 9)] == [103] * 4
    await eventually(lambda: len(stranger.pushes("unsubscribe")) == 3)
    assert stranger.pushes("subscribe") == []
    assert [channel.name for channel in site.hub.registry if channel.name in subs] == []


async def test_a_client_extends_a_token_subscription_by_a_takeover(site: Site) -> None:
    """The subscription that took over did not expire."""
    token = site.token("club:a", seconds=30)
    client = await site.come(
        {"id": 1, "connect": {"subs": {"club:a": {"token": token}}}},
        {"id": 2, "subscribe": {"channel": "club:a"}},
    )
    assert (await answered(client, 2))["subscribe"]["expires"] is True
    loop = asyncio.get_running_loop()
    client.conversation.expire(loop.time() + 120)
    assert [push["code"] for push in client.pushes("unsubscribe")] == [2501]


async def publish(site: Site, channel: str, *data: object) -> Receipt:
    for each in data:
        receipt = await site.hub.publish(Publication.of(channel, each))
    return receipt


async def served(site: Site, channel: str) -> Member:
    """Connect a client that the server subscribes to a channel."""
    client = await site.come()
    client.conversation.serve(channel)
    await eventually(lambda: client.pushes("subscribe"))
    return client


def subscribe(channel: str, epoch: str, offset: int) -> dict[str, Any]:
    return {"channel": channel, "recover": True, "epoch": epoch, "offset": offset}


async def test_a_client_that_takes_over_a_served_channel_gets_its_earlier_gap(
    site: Site,
) -> None:
    """The takeover ignored `recover`, so what the client had missed was lost silently."""
    epoch = (await publish(site, "open:d", 1, 2, 3)).epoch
    client = await served(site, "open:d")
    await publish(site, "open:d", 4)
    await eventually(lambda: client.offsets() == [4])
    client.say({"id": 2, "subscribe": subscribe("open:d", epoch, 1)})
    assert (await answered(client, 2))["subscribe"] == {"was_recovering": True, "recovered": False}
    assert client.pushes("gap") == [
        {"channel": "open:d", "epoch": epoch, "from": 2, "to": 3, "reason": "reconnect"}
    ]
    await publish(site, "open:d", 5)
    await eventually(lambda: client.offsets() == [4, 5])


@pytest.mark.parametrize("offset", [3, 4])
async def test_a_client_that_takes_over_a_served_channel_keeps_its_position(
    site: Site, offset: int
) -> None:
    epoch = (await publish(site, "open:d", 1, 2, 3)).epoch
    client = await served(site, "open:d")
    await publish(site, "open:d", 4, 5)
    await eventually(lambda: client.offsets() == [4, 5])
    client.say({"id": 2, "subscribe": subscribe("open:d", epoch, offset)})
    assert (await answered(client, 2))["subscribe"] == {"was_recovering": True, "recovered": True}
    client.say({"id": 3, "ping": {}})
    await answered(client, 3)
    assert client.pushes("gap") == []


async def test_a_takeover_in_another_epoch_reports_all_of_it_as_missed(
    site: Site,
) -> None:
    epoch = (await publish(site, "open:d", 1, 2)).epoch
    client = await served(site, "open:d")
    client.say({"id": 2, "subscribe": subscribe("open:d", "0" * 16, 7)})
    assert (await answered(client, 2))["subscribe"]["recovered"] is False
    assert [(gap["epoch"], gap["from"], gap["to"]) for gap in client.pushes("gap")] == [
        ("0" * 16, 8, None),
        (epoch, 1, 2),
    ]


async def test_a_takeover_without_a_position_continues_from_the_current_one(site: Site) -> None:
    client = await served(site, "open:d")
    client.say({"id": 2, "subscribe": {"channel": "open:d"}})
    assert (await answered(client, 2))["subscribe"] == {}


@pytest.mark.parametrize("first", ["connect", "subscribe"])
async def test_a_position_in_connect_counts_in_any_order_of_authorization(
    site: Site, first: str
) -> None:
    """The subscribe replaced the channel named in connect, and dropped its position."""
    epoch = (await publish(site, "club:a", 1, 2, 3)).epoch
    site.host.verdicts["club:a", "subscribe"] = True
    site.host.is_slow = True
    place = {"recover": True, "epoch": epoch, "offset": 1}
    client = await site.come(
        {"id": 1, "connect": {"subs": {"club:a": place}}},
        {"id": 2, "subscribe": {"channel": "club:a"}},
    )
    await eventually(lambda: len(site.host.waiting) == 2)
    site.host.answer(["connect", "subscribe"].index(first))
    await eventually(lambda: client.pushes("gap"))
    site.host.answer_all()
    said = (await answered(client, 2))["subscribe"]
    if first == "subscribe":
        assert (said["was_recovering"], said["recovered"], said["offset"]) == (True, False, 3)
    else:
        assert said == {}
    assert [(gap["from"], gap["to"]) for gap in client.pushes("gap")] == [(2, 3)]


async def test_a_client_gets_joins_on_a_channel_that_it_takes_over(site: Site) -> None:
    """`join_leave` had no effect if the server had started the subscription."""
    client = await served(site, "room:a")
    client.say({"id": 2, "subscribe": {"channel": "room:a", "join_leave": True}})
    await answered(client, 2)
    other = await site.come({"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "room:a"}})
    name = other.conversation.client
    await eventually(lambda: name in [join["info"]["client"] for join in client.pushes("join")])


async def test_a_client_gets_joins_on_a_token_channel_named_in_connect(
    site: Site,
) -> None:
    claims = {"sub": "7", "channels": ["room:a"], "exp": site.now() + 60}
    token = jwt.encode(claims, SECRET, "HS256")
    subs = {"room:a": {"join_leave": True}}
    client = await site.come({"id": 1, "connect": {"token": token, "subs": subs}})
    await eventually(lambda: client.pushes("subscribe"))
    other = await site.come({"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "room:a"}})
    name = other.conversation.client
    await eventually(lambda: name in [join["info"]["client"] for join in client.pushes("join")])


async def test_a_client_unsubscribes_before_the_host_has_authorized_it(site: Site) -> None:
    """The host allowed the channel of connect after the unsubscribe, and that still counted."""
    site.host.verdicts["club:a", "subscribe"] = True
    site.host.is_slow = True
    client = await site.come({"id": 1, "connect": {"subs": {"club:a": {}}}})
    await eventually(lambda: site.host.waiting)
    client.say({"id": 2, "unsubscribe": {"channel": "club:a"}})
    site.host.answer_all()
    client.say({"id": 3, "rpc": {"method": "m", "data": 1}})
    await answered(client, 3)
    assert client.pushes("subscribe") == []
    assert site.hub.registry.get("club:a") is None


@pytest.mark.parametrize("ends", ["unsubscribed by the server", "expired"])
async def test_a_client_publishes_on_a_subscription_that_has_just_ended(
    site: Site, ends: str
) -> None:
    token = site.token("club:a", seconds=10)
    client = await site.come(
        {"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "club:a", "token": token}}
    )
    await answered(client, 2)
    site.host.is_slow = True
    channel = {"channel": "club:a"}
    client.say(
        {"id": 3, "rpc": {"method": "slow", "data": 1}},
        {"id": 4, "publish": {**channel, "data": "late"}},
        {"id": 5, "presence": channel},
        {"id": 6, "history": channel},
    )
    await eventually(lambda: site.host.waiting)
    if ends == "expired":
        client.conversation.expire(asyncio.get_running_loop().time() + 60)
    else:
        client.conversation.unserve("club:a")
    site.host.answer_all()
    assert [code(await answered(client, number)) for number in (3, 4, 5, 6)] == [0, 103, 103, 103]
    assert site.host.published == []


async def test_a_token_expires_while_its_subscribe_waits(site: Site) -> None:
    client = await site.come()
    site.host.is_slow = True
    tokens = {seconds: site.token(f"club:{seconds}", seconds) for seconds in (10, 100)}
    client.say(
        {"id": 2, "rpc": {"method": "slow", "data": 1}},
        *(
            {"id": seconds, "subscribe": {"channel": f"club:{seconds}", "token": token}}
            for seconds, token in tokens.items()
        ),
    )
    await eventually(lambda: site.host.waiting)
    site.passed_seconds = 60
    site.host.answer_all()
    assert code(await answered(client, 10)) == 109
    assert (await answered(client, 100))["subscribe"]["ttl"] <= 40, "the remaining validity"


async def test_an_authorization_is_stale_when_it_is_used(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host's refusal arrives a moment later, while the subscribe waits for earlier commands."""
    monkeypatch.setattr(joining, "YES_SECONDS", 0.05)
    site.host.verdicts["club:a", "subscribe"] = True
    client = await site.come()
    site.host.is_slow = True
    client.say({"id": 2, "rpc": {"method": "slow"}}, {"id": 3, "subscribe": {"channel": "club:a"}})
    await eventually(lambda: len(site.host.waiting) == 2)
    site.host.answer(1)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await eventually(lambda: loop.time() > began + 0.1)
    site.host.verdicts["club:a", "subscribe"] = False
    site.host.answer_all()
    assert code(await answered(client, 3)) == 103
    assert site.host.asked.count(("club:a", "subscribe")) >= 2


async def test_a_queued_subscribe_that_the_server_ended_is_not_executed(site: Site) -> None:
    site.host.verdicts["club:a", "subscribe"] = True
    client = await site.come()
    site.host.is_slow = True
    client.say(
        {"id": 2, "rpc": {"method": "slow"}},
        {"id": 3, "subscribe": {"channel": "club:a"}},
        {"id": 4, "subscribe": {"channel": "club:a"}},
        {"id": 5, "publish": {"channel": "club:a", "data": 1}},
    )
    await eventually(lambda: len(site.host.waiting) == 2)
    client.conversation.unserve("")
    site.host.answer_all()
    assert [code(await answered(client, number)) for number in (3, 4, 5)] == [103, 103, 103]
    errors = [(await answered(client, number))["error"] for number in (3, 4)]
    assert errors == [{"code": 103, "message": "unsubscribed by the server"}] * 2, "not temporary"
    client.say({"id": 6, "subscribe": {"channel": "club:a"}})
    assert "subscribe" in await answered(client, 6), "a new one is decided again"


async def test_the_subscribes_of_a_frame_are_prepared_together_once_per_channel(
    site: Site,
) -> None:
    site.host.is_slow = True
    client = await site.come()
    names = ["club:a", "club:b", "club:a", "club:c", "club:a"]
    client.say(*({"id": n, "subscribe": {"channel": name}} for n, name in enumerate(names, 2)))
    await eventually(lambda: len(site.host.asked) == 3)
    site.host.answer_all()
    await answered(client, 6)
    replies = [line["id"] for line in client.lines if "id" in line]
    assert replies == [1, 2, 3, 4, 5, 6]
    assert site.host.asked.count(("club:a", "subscribe")) == 3, "as one by one: refused, so again"


# ------------------------------------------------------------------------- attacks on work


@pytest.fixture
async def guarded(redis_server: RedisServer) -> AsyncIterator[Site]:
    """A site with the bursts of a deployment."""
    site = Site(
        redis_server,
        Limits(
            connections=100,
            connections_per_user=0,
            connections_per_address=0,
            channels_per_connection=128,
            commands=SCARCE,
            publications=SCARCE,
            connect_seconds=60,
        ),
    )
    await site.start()
    yield site
    await site.stop()


def subs(number: int, **each: str) -> dict[str, Any]:
    return {"id": 1, "connect": {"subs": {f"c:{n}": each for n in range(number)}}}


async def test_a_connect_names_thousands_of_channels(guarded: Site) -> None:
    """9,000 channels took 192 ms of CPU, and the reply had 737 KiB."""
    client = await guarded.come(subs(5000))
    assert client.closed == (3501, "bad request")
    assert [list(line["push"]) for line in client.lines] == [["disconnect"]]
    assert guarded.hub.reached.counts["commands_per_frame"] == 1
    assert guarded.host.asked == []


async def test_a_connect_shows_five_hundred_tokens(guarded: Site) -> None:
    """None of the tokens is verified: each channel that it names costs as much as a command."""
    client = await guarded.come(subs(520, token="forged"))
    assert client.closed == (3013, "too many requests")
    assert guarded.refused_tokens == []
    assert guarded.hub.reached.counts["commands_per_second"] == 1
    client = await guarded.come(subs(128, token="forged"))
    assert len(guarded.refused_tokens) == 128, "as many as a client may have are checked"
    assert not client.ended
    client.say(*({"id": n, "ping": {}} for n in range(2, 132)))
    assert [code(line) for line in client.lines if line.get("id", 0) > 1][-4:] == [0, 111, 111, 111]


@pytest.mark.parametrize(
    ("frame", "limit"),
    [
        (subs(5000), "commands_per_frame"),
        (subs(520, token="forged"), "commands_per_second"),
    ],
    ids=["channels", "tokens"],
)
async def test_emulation_requests_fall_under_the_same_limits(
    guarded: Site, frame: dict[str, Any], limit: str
) -> None:
    """Commands that arrive through `/emulation`, also from another node."""
    client = Member(guarded.hub, session="secret")
    await eventually(lambda: client.conversation)
    guarded.hub.connections.receive_emulated("secret", json.dumps(frame))
    assert client.closed is not None
    assert guarded.hub.reached.counts[limit] == 1
    assert guarded.refused_tokens == guarded.host.asked == []


async def test_a_client_publishes_the_largest_data_as_often_as_the_smallest(
    redis_server: RedisServer,
) -> None:
    """Ten clients with 64 KiB of brackets made others wait 30 times as long as with text."""
    site = Site(redis_server, replace(LIMITS, publications=Rate(0.01, 10)))
    await site.start()
    try:
        client = await site.come()
        for number, size in enumerate((16_000, 16_000, 16_000, 1, 1, 1), 2):
            data = {"channel": "open:d", "data": [[]] * size}  # "[], ": counts as four, or one
            client.say({"id": number, "publish": data})
        answers = [code(await answered(client, number)) for number in range(2, 8)]
        assert answers == [0, 0, 111, 0, 0, 111]
        assert site.hub.reached.counts["publications_per_second"] == 2
    finally:
        await site.stop()


async def test_a_client_asks_the_host_with_the_largest_data_as_often_as_with_the_smallest(
    redis_server: RedisServer,
) -> None:
    site = Site(redis_server, replace(LIMITS, commands=Rate(0.01, 10)))
    await site.start()
    site.host.answer_all()
    try:
        client = await site.come()  # one
        for number, size in enumerate((16_000, 16_000, 16_000, 1), 2):
            client.say({"id": number, "rpc": {"method": "a", "data": [[]] * size}})
        answers = [code(await answered(client, number)) for number in range(2, 6)]
        assert answers == [0, 0, 111, 0]
    finally:
        await site.stop()


async def test_a_token_is_verified_once_while_its_subscribe_waits(site: Site) -> None:
    client = await site.come()
    site.host.is_slow = True
    forged = {"channel": "club:a", "token": "forged"}
    client.say({"id": 2, "rpc": {"method": "slow"}}, {"id": 3, "subscribe": forged})
    await eventually(lambda: site.host.waiting)
    site.host.answer_all()
    assert code(await answered(client, 3)) == 103
    assert len(site.refused_tokens) == 1


# ----------------------------------------------------------------------------- the machine

CHANNELS = st.sampled_from(["club:a", "club:b", "open:d", "closed", "absent:e"])
VERDICTS = st.sampled_from([True, True, False, None])
TOKENS = st.sampled_from(["", "", "long", "short", "forged", "another's"])
NO_ANSWER = -1
SHORT_SECONDS, LONG_SECONDS, PASS_SECONDS = 20, 36_000, 120
KINDS = st.sampled_from(
    [
        *("subscribe", "subscribe", "publish", "publish", "unsubscribe", "presence"),
        *("presence_stats", "history", "sub_refresh", "refresh", "rpc", "ping"),
    ]
)
COMMANDS = st.lists(st.tuples(KINDS, CHANNELS, TOKENS), min_size=1, max_size=5)
Say = Callable[[Member], None]


class StepMachine(RuleBasedStateMachine):
    """One client sends everything at once, and another sends the same commands one by one.

    The first sends frames, while the host answers late and in any order, refuses and fails, the
    server subscribes and unsubscribes it, and tokens expire. The second sends one command at a time
    and waits for the reply. Whatever the first client is granted, the second one must be granted,
    too. Both are anonymous, or both have a token, whose expiry may end the connection.
    """

    redis: RedisServer

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.site = self.run(self._site())
        self.script: list[Callable[[Member], Any]] = []
        self.commands: dict[int, dict[str, Any]] = {}
        self.id = 0
        self.may_differ = False  # time and the server act at different moments for the two

    def run(self, awaitable: Any) -> Any:
        return self.loop.run_until_complete(awaitable)

    async def _site(self) -> Site:
        site = Site(self.redis)
        await site.start()
        return site

    @initialize(
        verdicts=st.dictionaries(
            st.tuples(CHANNELS, st.sampled_from(["subscribe", "publish"])), VERDICTS
        ),
        named=st.dictionaries(CHANNELS, TOKENS, max_size=3),
        commands=st.one_of(st.just([]), COMMANDS),
        connect_token=st.sampled_from(["", "short", "long"]),
    )
    def it_comes(
        self,
        connect_token: str,
        verdicts: dict[tuple[str, str], bool | None],
        named: dict[str, str],
        commands: list[tuple[str, str, str]],
    ) -> None:
        self.host.verdicts = verdicts
        self.host.is_slow = True
        self.may_differ = bool(named)
        self.user = "ada" if connect_token else ""
        subs = {channel: self.shown(token, channel) for channel, token in named.items()}
        connect = {
            "id": self.next_id(),
            "connect": {"subs": subs, **self.shown(connect_token, "")},
        }
        frame = [connect, *self.written(commands)]
        self.client = self.run(self.site.come(*frame))
        self.script.extend(self.said(command) for command in frame[1:])
        self.connect = connect

    @property
    def host(self) -> Host:
        return self.site.host

    def next_id(self) -> int:
        self.id += 1
        return self.id

    def shown(self, token: str, channel: str) -> dict[str, str]:
        if token in ("", "forged"):
            return {"token": token} if token else {}
        user = self.user
        if token == "another's" and channel:
            channel = "open:another"
        elif token == "another's":
            user = "ben"
        seconds = SHORT_SECONDS if token == "short" else LONG_SECONDS
        return {"token": self.site.token(channel, seconds, user)}

    def written(self, commands: list[tuple[str, str, str]]) -> list[dict[str, Any]]:
        return [self.command(*each) for each in commands]

    def command(self, kind: str, channel: str, token: str) -> dict[str, Any]:
        number = self.next_id()
        said: dict[str, Any] = {"channel": channel}
        if kind in ("subscribe", "sub_refresh"):
            said.update(self.shown(token, channel))
        elif kind == "publish":
            said["data"] = number
        elif kind == "refresh":
            said = self.shown(token or "long", "")
        elif kind in ("rpc", "ping"):
            said = {"method": "m", "data": number} if kind == "rpc" else {}
        self.commands[number] = {"id": number, kind: said}
        return self.commands[number]

    def said(self, command: dict[str, Any]) -> Say:
        return lambda member: member.say(command)

    @rule(commands=COMMANDS)
    def it_says(self, commands: list[tuple[str, str, str]]) -> None:
        frame = self.written(commands)
        self.script.extend(map(self.said, frame))
        self.act(lambda member: member.say(*frame), self.client)

    # Not a precondition: what is waiting depends on when Redis answers, and Hypothesis must be able
    # to replay its choices.

    @rule(number=st.integers(0, 7))
    def the_host_answers(self, number: int) -> None:
        if not self.host.waiting:
            return
        self.host.answer(number % len(self.host.waiting))
        self.run(self._settled(self.client, is_done=False))

    @rule(channel=CHANNELS)
    def the_server_subscribes_it(self, channel: str) -> None:
        """Only while nothing waits: what the server grants early was not granted to a command."""
        if self.client.conversation._queue is not None or self.client.ended:
            return
        self.both(lambda member: member.conversation.serve(channel))

    @rule(channel=st.one_of(CHANNELS, st.just("")))
    def the_server_unsubscribes_it(self, channel: str) -> None:
        self.both(lambda member: member.conversation.unserve(channel))

    @rule()
    def redis_answers(self) -> None:
        for _ in range(3):  # a SUBSCRIBE, the position, and what follows
            self.run(self.site.broker.positions(["open:d"]))

    @rule()
    def tokens_expire(self) -> None:
        self.both(self._pass)

    def _pass(self, member: Member) -> None:
        self.site.passed_seconds += PASS_SECONDS
        member.conversation.expire(self.loop.time() + self.site.passed_seconds)

    def both(self, act: Say) -> None:
        """Apply this to the first client now, and to the second at the same point of its script."""
        self.may_differ = True
        self.script.append(act)
        self.act(act, self.client)

    def act(self, act: Say, member: Member) -> None:
        async def inside() -> None:
            if not member.ended:  # otherwise its server would have stopped reading
                act(member)
            await asyncio.sleep(0)

        self.run(inside())

    async def _settled(self, member: Member, *, is_done: bool) -> None:
        """Wait until the client waits for nothing but the host."""
        talk = member.conversation
        assert talk is not None

        def is_quiet() -> bool:
            if self.host.waiting and not is_done:
                return True
            is_idle = talk._queue is None and not talk._subscriptions._serving
            return talk.ended or is_idle

        await eventually(is_quiet, PATIENT_SECONDS)

    async def _answered_alone(self, command: dict[str, Any]) -> int:
        token = {"token": self.site.token("", user=self.user)} if self.user else {}
        member = await self.site.come({"id": 1, "connect": token}, command)
        answer = code(await answered(member, command["id"]))
        await member.leave()
        return answer

    def granted(self, member: Member) -> dict[int, int]:
        return {line["id"]: code(line) for line in member.lines if "id" in line}

    def was_cut_off(self, member: Member) -> bool:
        """Tell whether Redis was slow on this machine, because that affects what is granted."""
        return "the broker" in json.dumps(member.lines)

    def teardown(self) -> None:
        try:
            if hasattr(self, "client"):
                self.compare()
        finally:
            self.run(self.site.stop())
            self.run(asyncio.sleep(0))
            self.loop.close()

    def compare(self) -> None:
        self.host.answer_all()
        self.run(self._settled(self.client, is_done=True))
        at_once = self.granted(self.client)
        heard_at_once = set(self.client.conversation.active.channels)
        published_at_once = set(self.host.published)
        in_force = {n for n, join in self.client.conversation._state.channels._joins.items()}
        has_ended = self.client.ended
        if not has_ended:
            assert heard_at_once == in_force, "ring 0 and ring 1 agree on what it listens to"
        self.run(self.client.leave())

        self.host.published.clear()
        self.site.passed_seconds = 0
        other = self.run(self.site.come(self.connect))
        self.run(self._settled(other, is_done=True))
        for act in self.script:
            self.act(act, other)
            self.run(self._settled(other, is_done=True))
        one_by_one = self.granted(other)
        if self.was_cut_off(self.client) or self.was_cut_off(other):
            return
        if not (has_ended or other.ended):
            assert at_once.keys() == one_by_one.keys() == set(range(1, self.id + 1))
        assert list(at_once) == sorted(at_once), "answered in order"
        more = {n for n, is_no in at_once.items() if not is_no and one_by_one.get(n, NO_ANSWER)}
        for number in [n for n in more if one_by_one.get(n) == ALREADY_SUBSCRIBED.code]:
            # At that point it already had what it asked for; when sent at once it did not, because
            # what it had expired while the command waited. So check whether the command alone is
            # granted.
            self.site.passed_seconds = 0
            if not self.run(self._answered_alone(self.commands[number])):
                more.remove(number)
        assert not more, f"granted only at once: {more}"
        assert published_at_once <= set(self.host.published)
        if not (self.may_differ or has_ended or other.ended):
            assert at_once == one_by_one
            assert heard_at_once == set(other.conversation.active.channels)
        self.run(other.leave())


def test_commands_sent_together_are_authorized_one_by_one(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for constant in (
        "node_services.AUTHORIZE_SECONDS",
        "client_calls.LIVE_SECONDS",
        "client_calls.RPC_SECONDS",
        "client_subscriptions.LIVE_SECONDS",
    ):
        monkeypatch.setattr(f"realtime.delivery.{constant}", PATIENT_SECONDS)
    monkeypatch.setattr(joining, "YES_SECONDS", 3 * PATIENT_SECONDS)
    StepMachine.redis = redis_server
    run_state_machine_as_test(
        StepMachine,
        settings=settings(
            max_examples=60,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize(
    "command",
    [
        protocols.Refresh(1, "x" * 1000),
        protocols.SubRefresh(1, "c", "x" * 1000),
        protocols.Connect(1, "x" * 1000),
        protocols.Unsubscribe(1, "x" * 1000),
    ],
)
def test_every_large_field_of_a_waiting_command_is_counted(command: protocols.Command) -> None:
    """Waiting refreshes of 480 KiB each took 117 MiB for one anonymous client."""
    assert _bytes_of(command) >= 1000


def test_a_wide_character_makes_a_waiting_command_four_times_as_large() -> None:
    assert _bytes_of(protocols.Refresh(1, "x" * 1000 + "\U0001f600")) >= 4000
