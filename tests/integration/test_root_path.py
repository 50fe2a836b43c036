"""`with_root_path`: for servers that do not put a stripped prefix back in front of the path."""

from __future__ import annotations

from typing import Any

import pytest
from channels.routing import URLRouter
from django.urls import path

from realtime.routing import with_root_path

Seen = list[tuple[str, str]]


async def seen_by(app: Any, **scope: Any) -> dict[str, Any]:
    await app(scope, None, None)
    return scope


@pytest.fixture
def seen() -> Seen:
    return []


@pytest.fixture
def inner(seen: Seen) -> Any:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["root_path"], scope["path"]))

    return application


@pytest.mark.parametrize("path", ["/readyz", "/app/live/readyz"])
@pytest.mark.parametrize("root_path", ["/app/live", "/app/live/"])
async def test_the_path_begins_with_the_prefix_whether_the_server_adds_it_or_not(
    inner: Any, seen: Seen, path: str, root_path: str
) -> None:
    await seen_by(with_root_path(inner), type="http", path=path, root_path=root_path)
    assert seen == [("/app/live", "/app/live/readyz")]


async def test_a_server_without_a_prefix_changes_nothing(inner: Any, seen: Seen) -> None:
    await seen_by(with_root_path(inner), type="http", path="/readyz", root_path="")
    assert seen == [("", "/readyz")]


async def test_force_script_name_takes_precedence(inner: Any, seen: Seen, settings: Any) -> None:
    settings.FORCE_SCRIPT_NAME = "/outer"
    await seen_by(with_root_path(inner), type="http", path="/readyz", root_path="/app/live")
    assert seen == [("/outer", "/outer/readyz")]


async def test_a_lifespan_scope_has_no_path_and_is_passed_on() -> None:
    passed: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope)

    scope = await seen_by(with_root_path(application), type="lifespan", root_path="/app/live")
    assert passed == [scope]


async def test_the_server_s_own_scope_is_not_changed(inner: Any) -> None:
    scope = await seen_by(with_root_path(inner), type="http", path="/a", root_path="/app")
    assert scope == {"type": "http", "path": "/a", "root_path": "/app"}


async def test_only_the_wrapper_makes_the_router_of_channels_find_a_stripped_path() -> None:
    reached: list[str] = []

    async def consumer(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["path"])

    router = URLRouter([path("connection/websocket", consumer)])  # type: ignore[arg-type]
    scope = {"type": "websocket", "path": "/connection/websocket", "root_path": "/app/live"}
    with pytest.raises(ValueError, match="No route found"):
        await router(dict(scope), None, None)
    await with_root_path(router)(dict(scope), None, None)  # type: ignore[arg-type]
    assert reached == ["/app/live/connection/websocket"]
