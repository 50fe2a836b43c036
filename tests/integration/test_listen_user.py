"""`manage.py listen --user`: what reaches a user, on one more connection of theirs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from realtime import adisconnect_user, amessage_user, asubscribe_user, aunsubscribe_user, wiring
from realtime.identity.tokens import CHANNELS_LIMIT
from realtime.management import user_channels
from realtime.management.commands import listen
from tests.support.client import Client
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer
from tests.support.service import Service
from tests.support.tokens import token

Attach = Callable[..., Awaitable[Client]]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    redis = RedisServer().start()
    service = Service(redis.url)
    try:
        yield service.start()
    finally:
        service.stop()
        redis.stop()


@pytest.fixture(autouse=True)
async def beside(service: Service, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """This process is the command's, with the Redis of the service."""
    settings.REALTIME_REDIS_URL = service._redis_url
    settings.REALTIME_REDIS_PREFIX = "rt"
    monkeypatch.setattr(listen, "FOLLOW_SECONDS", 0.05)
    yield
    await wiring.aclose()


class Tail:
    """The running command, and what it has printed."""

    def __init__(self, service: Service, user: str, *, is_terminal: bool = False) -> None:
        self._out, self._error = StringIO(), StringIO()
        self._out.isatty = lambda: is_terminal  # type: ignore[method-assign]
        command = listen.Command(stdout=self._out, stderr=self._error, no_color=True)
        options = {"channels": [], "user": user, "url": service.ws}
        self.task = asyncio.create_task(command._listen(options))

    @property
    def lines(self) -> list[str]:
        return self._out.getvalue().splitlines()

    async def until(self, count: int) -> list[dict[str, Any]]:
        await eventually(lambda: len(self.lines) >= count)
        return [json.loads(line) for line in self.lines]

    async def says(self, *texts: str) -> None:
        """Wait until one line of stderr contains all the texts."""
        await eventually(
            lambda: any(
                all(text in line for text in texts) for line in self._error.getvalue().splitlines()
            )
        )


@pytest.fixture
async def tail(service: Service) -> AsyncIterator[Callable[..., Tail]]:
    started: list[Tail] = []

    def start(user: str, **options: Any) -> Tail:
        started.append(Tail(service, user, **options))
        return started[-1]

    yield start
    for each in started:
        each.task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await each.task


async def join(attach: Attach, service: Service, user: str, *channels: str) -> Client:
    client = await attach(service, connect=False)
    await client.ask(connect={"token": token(user)})
    for channel in channels:
        await client.subscribe(channel)
    return client


async def publish(service: Service, channel: str, data: Any) -> None:
    await asyncio.to_thread(service.publish, channel, data)


async def test_what_reaches_a_user_is_printed(
    service: Service, attach: Attach, tail: Callable[..., Tail]
) -> None:
    await join(attach, service, "ada", "public:a", "chat:tea")
    await join(attach, service, "ben", "public:b")
    shown = tail("ada")
    await shown.says("the user has 1 connections on 3 channels")
    await shown.says("live: ", "public:a", "chat:tea", "user:#ada")
    for channel in ("public:b", "public:a", "user:#ada"):
        await publish(service, channel, channel)
    found = await shown.until(2)
    assert [each["data"] for each in found] == ["public:a", "user:#ada"]
    await amessage_user("ada", {"text": "for you"})
    assert (await shown.until(3))[2] == {"type": "message", "data": {"text": "for you"}}


async def test_channels_that_the_user_joins_later_are_followed(
    service: Service, attach: Attach, tail: Callable[..., Tail]
) -> None:
    client = await join(attach, service, "eve", "public:one")
    shown = tail("eve")
    await shown.says("live: ", "public:one", "user:#eve")
    await client.subscribe("public:two")
    await shown.says("reconnecting", "the user has other channels now")
    await shown.says("live: ", "public:two")
    await shown_at_last(service, shown, "public:two", 2)
    await asubscribe_user("eve", "public:three")
    await shown.says("live: ", "public:three")
    await shown_at_last(service, shown, "public:three", 3)
    await aunsubscribe_user("eve", "public:three")
    await shown_at_last(service, shown, "public:one", 1)


async def shown_at_last(service: Service, shown: Tail, channel: str, data: Any) -> None:
    """Publish until it is printed: the command may reconnect once more for a channel."""

    async def is_shown() -> bool:
        await publish(service, channel, data)
        return any(json.loads(line).get("data") == data for line in shown.lines)

    await eventually(is_shown)


async def test_a_gap_while_the_command_reconnects_is_printed(
    service: Service, attach: Attach, tail: Callable[..., Tail]
) -> None:
    await join(attach, service, "gus", "public:gap")
    before = await connections_of(service, "gus")
    shown = tail("gus")
    await shown.says("live: ", "public:gap")
    [own] = await connections_of(service, "gus") - before
    await adisconnect_user("gus", client=own, code=3000, reason="go on")
    await shown.says("reconnecting", "go on (3000)")
    for data in ("a", "b"):
        await publish(service, "public:gap", data)
    offsets: list[int] = []
    count = 0
    while 2 not in offsets:  # either arrived, or missed while the command was away
        for line in (await shown.until(count + 1))[count:]:
            count += 1
            offsets += range(line["from"], line["to"] + 1) if "from" in line else [line["offset"]]
    assert offsets == [1, 2]


async def test_a_terminal_shows_messages_without_control_characters(
    service: Service, tail: Callable[..., Tail]
) -> None:
    shown = tail("tom", is_terminal=True)
    await shown.says("live: ", "user:#tom")
    await amessage_user("tom", "\x1b[31m\u009b")
    await eventually(lambda: shown.lines)
    assert shown.lines == [r'message  "\u001b[31m\x9b"']


async def connections_of(service: Service, user: str) -> set[str]:
    answer = await asyncio.to_thread(service.post, "connections", {"user": user})
    return {each["client"] for each in answer.json()["result"]["connections"]}


async def test_a_user_without_connections_is_waited_for(
    service: Service, attach: Attach, tail: Callable[..., Tail]
) -> None:
    shown = tail("zoe")
    await shown.says("the user has 0 connections on 0 channels")
    await shown.says("live: user:#zoe from 0")
    await join(attach, service, "zoe", "public:z")
    await shown.says("live: ", "public:z")


async def test_a_blocked_user_is_named(service: Service, tail: Callable[..., Tail]) -> None:
    answer = await asyncio.to_thread(service.post, "block_user", {"user": "mal", "seconds": 60})
    assert answer.status_code == 200
    shown = tail("mal")
    await eventually(shown.task.done)
    assert "force disconnect (3503)" in str(shown.task.exception())


async def test_only_as_many_channels_as_fit_into_a_token_are_shown(
    service: Service, attach: Attach, tail: Callable[..., Tail], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"public:{number:02d}" for number in range(CHANNELS_LIMIT + 3)]
    await join(attach, service, "max", *names)
    found = await asyncio.to_thread(user_channels.find_channels, "max")
    assert (found.connections, found.channels) == (1, names[:CHANNELS_LIMIT])
    assert found.omitted == 4, "with the user's own channel"
    shown = tail("max")
    await shown.says("the user has 1 connections on 36 channels, of which 4 are not shown")
    await shown.says("live: ", names[0], names[CHANNELS_LIMIT - 1])
    monkeypatch.setattr(user_channels, "CHARACTERS_LIMIT", 30)
    found = await asyncio.to_thread(user_channels.find_channels, "max")
    assert found.channels == names[:3]


def test_either_channels_or_a_user_are_named() -> None:
    for given in ([], ["public:a", "--user", "ada"]):
        with pytest.raises(CommandError, match="but not both"):
            call_command("listen", *given)


async def test_a_project_without_a_token_secret_is_told(
    tail: Callable[..., Tail], settings: Any
) -> None:
    settings.REALTIME_TOKEN_SECRET = ""
    shown = tail("ada")
    await eventually(shown.task.done)
    assert "REALTIME_TOKEN_SECRET" in str(shown.task.exception())
