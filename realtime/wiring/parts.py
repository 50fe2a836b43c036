"""The composition root: builds the parts that a process has once, from the settings."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from channels.db import database_sync_to_async
from django.utils.functional import Promise
from django.utils.module_loading import import_string

from realtime.api.cloudevent_routes import Routes, routes_of
from realtime.api.keyring import Keyring
from realtime.auth import token_log
from realtime.auth.jwks_file import JwksFile
from realtime.core.identity import UserTable
from realtime.core.json_text import to_json_type
from realtime.core.namespaces import Namespaces
from realtime.core.publication import Sizes
from realtime.fallbacks.handlers import make_built_in, make_handlers
from realtime.fallbacks.registry import registered
from realtime.identity.jwks import keys_of_set
from realtime.identity.origins import AllowedOrigins
from realtime.identity.tokens import (
    REQUIRED,
    Key,
    Tokens,
    key_of,
)
from realtime.wiring.configured import once, settings

if TYPE_CHECKING:
    from realtime.auth.user_info import Describe
    from realtime.core.fallback_entry import Queued
    from realtime.delivery.node_services import Authorize, Rpc


@once
def namespaces() -> Namespaces:
    """Return the namespaces of this process."""
    given = settings()
    return Namespaces(
        given.namespaces,
        personal=given.personal_channel or None,
        channel_characters=given.channel_characters,
        sizes=Sizes(given.data_bytes, given.data_depth, given.tags),
        fallbacks=fallbacks(),
    )


@once
def allowed_origins() -> AllowedOrigins:
    """Return the origins that may connect besides our own."""
    return AllowedOrigins(settings().allowed_origins)


@once
def routes() -> Routes:
    """Return the channels of CloudEvents that do not name one."""
    return routes_of(settings().cloudevents)


@once
def user_table() -> UserTable:
    """Return the user table of this project, with the prefix of its ids."""
    return UserTable(settings().session_user_prefix)


@once
def tokens() -> Tokens:
    """Return the verifier for client tokens."""
    keys: dict[str, Any] = {}
    if settings().token_secret:
        keys["HS256"] = settings().token_secret
    if (public := key_of(settings().token_public_key)) is not None:
        keys[public[0]] = public[1]
    return Tokens(
        keys,
        key_named=_key_named(settings().token_jwks),
        audience=settings().token_audience,
        must_expire=settings().token_expiry == REQUIRED,
        own_users=user_table(),
        refused=token_log.log_refused_token,
    )


def _key_named(jwks: str | Mapping[str, Any]) -> Callable[[str], Key | None] | None:
    """Return a function that finds a token's key by id."""
    if isinstance(jwks, str) and jwks.startswith("@"):
        return JwksFile(jwks[1:]).key
    return keys_of_set(jwks).get if jwks else None


@once
def authorizer() -> Authorize | None:
    """Return the host's authorizer, made async; a sync one may use the database."""
    return _make_async(settings().authorizer)  # type: ignore[no-any-return]


@once
def rpc() -> Rpc | None:
    """Return the host's RPC handler, made async; a sync one may use the database."""
    # It may take long and must not delay other clients.
    return _make_async(settings().rpc, in_one_thread=False)  # type: ignore[no-any-return]


@once
def user_info() -> Describe | None:
    """Return the host's `user_info` function, made async; a sync one may use the database."""
    return _make_async(settings().user_info)  # type: ignore[no-any-return]


def _make_async(path: str, *, in_one_thread: bool = True) -> Any:
    if not path:
        return None
    function = import_string(path)
    if iscoroutinefunction(function):
        return function
    return database_sync_to_async(function, thread_sensitive=in_one_thread)


@once
def keyring() -> Keyring:
    """Return the API keys.

    Raises:
        ConfigurationError: The keys cannot be used.
    """
    return Keyring(settings().api_keys, and_one=settings().api_key)


@once
def fallbacks() -> Mapping[str, Callable[[Queued], Any]]:
    """Return the handlers by name, including those that are registered later."""
    table = user_table()
    return ChainMap(make_handlers(settings().fallbacks, table), registered, make_built_in(table))


# `gettext_lazy`, `reverse_lazy`, `format_lazy`: Django's own JSON encoder writes strings, too.
to_json_type.register(Promise, str)
