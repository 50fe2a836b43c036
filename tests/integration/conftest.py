"""A hub in this test's loop, and connections to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from realtime.core.identity import Identity
from realtime.delivery.hub import Hub
from realtime.wiring import Node
from tests.support.eventually import eventually
from tests.support.member import Member
from tests.support.tokens import token


@pytest.fixture
async def hub(node: Node) -> Hub:
    node.hub.start()
    await eventually(lambda: node.hub.live)
    return node.hub


@pytest.fixture
async def join(hub: Hub) -> AsyncIterator[Any]:
    members: list[Member] = []

    async def open_member(channel: str | None = None) -> Member:
        member = Member(hub)
        members.append(member)
        await eventually(lambda: member.conversation)
        member.say({"id": 1, "connect": {}})
        if channel is not None:
            member.say({"id": 2, "subscribe": {"channel": channel}})
            await member.until(3)
        return member

    yield open_member
    for member in members:
        await member.leave()


@pytest.fixture
async def join_user(hub: Hub) -> AsyncIterator[Any]:
    """Return connections of users, as soon as they are subscribed to their personal channel."""
    members: list[Member] = []

    async def open_member(user: str = "42", identity: Identity | None = None) -> Member:
        member = Member(hub, identity)
        members.append(member)
        await eventually(lambda: member.conversation)
        member.say({"id": 1, "connect": {"token": token(user)} if identity is None else {}})
        await eventually(lambda: member.pushes("subscribe"))
        return member

    yield open_member
    for member in members:
        await member.leave()
