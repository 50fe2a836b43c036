"""Lazy strings (`gettext_lazy`) in all data from a site: text in the active language."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import jwt
import pytest
from asgiref.sync import sync_to_async
from django.test import override_settings
from django.utils import translation
from django.utils.translation import gettext_lazy

from realtime import amessage_user, connection_token, disconnect_user, message_user, wiring
from realtime.auth.user_info import info_of
from realtime.core.identity import Identity
from realtime.delivery.hub import Hub
from realtime.errors import RequestError
from tests.support.eventually import eventually
from tests.support.member import Member

HERE = "tests.integration.test_lazy_strings"
YES = gettext_lazy("Yes")


class User:
    """A user with the attributes that every user model of Django has."""

    def __init__(self, language: str) -> None:
        self.pk = 42
        self.language = language


def answer(identity: Identity, method: str, data: object) -> object:
    """Respond in the language that the client names, as chosen by Django's LocaleMiddleware."""
    if method:
        translation.activate(method)
    return {"text": YES, "nested": [YES]}


async def answer_async(identity: Identity, method: str, data: object) -> object:
    return answer(identity, method, data)


def describe(user: User) -> object:
    if user.language:
        translation.activate(user.language)
    return {"name": YES}


async def describe_async(user: User) -> object:
    return describe(user)


@pytest.fixture(params=["answer", "answer_async"])
async def hub(request: pytest.FixtureRequest, wired: str) -> AsyncIterator[Hub]:
    with override_settings(REALTIME_RPC=f"{HERE}.{request.param}"):
        hub = wiring.node().hub
        hub.start()
        await eventually(lambda: hub.live)
        yield hub
        await wiring.aclose()


async def come(hub: Hub, user: str = "") -> Member:
    member = Member(hub, Identity(user))
    await eventually(lambda: member.conversation)
    member.say({"id": 1, "connect": {}})
    await member.until(2)
    return member


@pytest.mark.django_db(transaction=True)  # Channels manages the thread's database connections
async def test_an_rpc_answers_in_the_language_that_it_activates(hub: Hub) -> None:
    """The next response on the same connection is in the site's language again."""
    member = await come(hub)
    methods = ["de", "", "fr", ""]
    member.say(*({"id": n, "rpc": {"method": method}} for n, method in enumerate(methods, 2)))
    await eventually(lambda: any(line.get("id") == 5 for line in member.lines))
    said = [line["rpc"]["data"] for line in member.lines if "rpc" in line]
    assert said == [{"text": text, "nested": [text]} for text in ("Ja", "Yes", "Oui", "Yes")]
    await member.leave()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("function", ["describe", "describe_async"])
async def test_user_info_is_rendered_in_the_active_language(wired: str, function: str) -> None:
    with override_settings(REALTIME_USER_INFO=f"{HERE}.{function}"):
        told = wiring.user_info()
        assert json.loads(await info_of(User("de"), told)) == {"name": "Ja"}
        assert json.loads(await info_of(User(""), told)) == {"name": "Yes"}
        with translation.override("fr"):
            assert json.loads(await info_of(User(""), told)) == {"name": "Oui"}


@pytest.mark.parametrize("hub", ["answer"], indirect=True)
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_message_to_a_user_is_rendered_in_the_active_language(
    hub: Hub, is_async: bool
) -> None:
    tell = amessage_user if is_async else sync_to_async(message_user)
    member = await come(hub, "42")
    await tell("42", {"text": YES})
    with translation.override("de"):
        await tell("42", {"text": YES})
        await tell("42", YES)
        await tell("42", {YES: 1})
    messages = await eventually(lambda: len(found := member.pushes("message")) == 4 and found)
    told = [message["data"] for message in messages]
    assert told == [{"text": "Yes"}, {"text": "Ja"}, "Ja", {"Ja": 1}]
    await member.leave()


def test_token_info_is_rendered_in_the_active_language() -> None:
    with translation.override("de"), override_settings(REALTIME_TOKEN_SECRET="s" * 32):
        token = connection_token("42", info={"name": YES})
    assert jwt.decode(token, options={"verify_signature": False})["info"] == {"name": "Ja"}


async def test_a_lazy_reason_is_a_clear_error(wired: str) -> None:
    """The reason is for the program at the other end; it is not data."""
    with pytest.raises(RequestError, match="reason"):
        await asyncio.to_thread(disconnect_user, "42", code=4000, reason=YES)
