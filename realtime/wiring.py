"""Makes the parts and puts them together, from the settings.

What belongs to an event loop is made once per running loop: one node, that is one broker, one
publisher and one hub. What belongs to threads is made once per process.
"""

from __future__ import annotations

import asyncio
from collections import ChainMap
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from inspect import iscoroutinefunction
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
from channels.db import database_sync_to_async
from django.core.signals import setting_changed
from django.utils.functional import Promise
from django.utils.module_loading import import_string

from realtime import refusals
from realtime.api.fields import Shape
from realtime.api.head import body_limit
from realtime.auth import entitled
from realtime.brokers.redis import RedisBroker
from realtime.brokers.redis_queue import RedisQueue
from realtime.brokers.redis_sync import SyncRedisBroker
from realtime.cloudevents import Routes, routes_of
from realtime.conf import PREFIX, ImproperSetting, Settings
from realtime.control import Command, sealed
from realtime.description import Describe
from realtime.errors import ConfigurationError
from realtime.fallbacks import registered
from realtime.handlers import BUILT_IN, configured
from realtime.hub import Hub
from realtime.jwks import keys_of_set
from realtime.jwks_file import JwksFile
from realtime.keyring import Keyring
from realtime.limits import Limits, Rate
from realtime.namespaces import Namespaces
from realtime.node import Authorize, Rpc
from realtime.origins import AllowedOrigins
from realtime.protocols.centrifugo import COMMANDS_LIMIT
from realtime.publication import ESCAPED, Sizes, plain
from realtime.publisher import Publisher, SyncPublisher
from realtime.queued import Queued
from realtime.tokens import REQUIRED, Key, Tokens, key_of

encode = msgspec.json.Encoder().encode
USUAL_CHANNELS = 128
"""Of a connection; where there may be more, a frame may be larger by as much."""
FRAME_BYTES_AT_MOST = 1024 * 1024
REST_SECONDS = 5.0  # a hub that no lifespan ends lasts so much longer than its last connection


@cache
def settings() -> Settings:
    """Return the settings, read once."""
    return Settings.from_django()


@cache
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


@cache
def allowed_origins() -> AllowedOrigins:
    """Return which pages may connect beside our own."""
    return AllowedOrigins(settings().allowed_origins)


@cache
def routes() -> Routes:
    """Return on which channels CloudEvents are published that do not name one."""
    return routes_of(settings().cloudevents)


@cache
def tokens() -> Tokens:
    """Return what clients' tokens are worth."""
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
        refused=refusals.told,
    )


def _key_named(jwks: str | Mapping[str, Any]) -> Callable[[str], Key | None] | None:
    """Return what finds a token's key by its id."""
    if isinstance(jwks, str) and jwks.startswith("@"):
        return JwksFile(jwks[1:]).key
    return keys_of_set(jwks).get if jwks else None


@cache
def authorizer() -> Authorize | None:
    """Return the host's function, made async; a sync one may use the database."""
    return _made_async(settings().authorizer)  # type: ignore[no-any-return]


@cache
def rpc() -> Rpc | None:
    """Return what answers clients, made async; a sync one may use the database."""
    # It may take long, and must not hold up other clients.
    return _made_async(settings().rpc, in_one_thread=False)  # type: ignore[no-any-return]


@cache
def user_info() -> Describe | None:
    """Return what tells others about a user, made async; a sync one may use the database."""
    return _made_async(settings().user_info)  # type: ignore[no-any-return]


def _made_async(path: str, *, in_one_thread: bool = True) -> Any:
    if not path:
        return None
    function = import_string(path)
    if iscoroutinefunction(function):
        return function
    return database_sync_to_async(function, thread_sensitive=in_one_thread)


@cache
def limits() -> Limits:
    """Return what clients may take."""
    given = settings()
    # Who comes back subscribes to all its channels at once, and may have a token for each to renew.
    channels = given.channels_per_connection
    commands_burst = max(given.commands_burst, 2 * channels)
    frame = given.frame_bytes * max(channels, USUAL_CHANNELS) // USUAL_CHANNELS
    # A minute's worth at once, and never less than a few clients that come back with all they had.
    rate = given.subscriptions_per_address
    subscriptions = Rate(rate, max(60 * rate, 4 * channels)) if rate else None
    return Limits(
        connections=given.connections,
        connections_per_user=given.connections_per_user,
        connections_per_address=given.connections_per_address,
        subscriptions_per_address=subscriptions,
        channels_per_connection=channels,
        commands=Rate(given.commands_per_second, commands_burst),
        publications=Rate(given.publications_per_second, given.publications_burst),
        connect_seconds=given.connect_seconds,
        frame_bytes=min(frame, FRAME_BYTES_AT_MOST),
        escaped_frame_bytes=min(max(frame, ESCAPED * given.frame_bytes), FRAME_BYTES_AT_MOST),
        frame_commands=max(COMMANDS_LIMIT, commands_burst),
    )


def shape() -> Shape:
    """Return the limits of this site, as the documents tell them."""
    given = _settings_or_defaults()
    sizes = Sizes(given.data_bytes, given.data_depth, given.tags)
    return Shape(given.channel_characters, sizes, given.body_bytes, given.batch_bytes)


def body_bytes(api_method: str) -> int:
    """Return how large the body of a request to the HTTP API may be."""
    given = _settings_or_defaults()
    return body_limit(api_method, given.body_bytes, given.batch_bytes)


def headers_limit() -> int:
    """Return how many headers a request or a handshake may have."""
    return _settings_or_defaults().headers


def _settings_or_defaults() -> Settings:
    """Return what is asked before a request is looked at; settings that are wrong fail there."""
    try:
        return settings()
    except ConfigurationError:
        return Settings()


@cache
def keyring() -> Keyring:
    """Return who may use the HTTP API.

    Raises:
        ConfigurationError: The keys cannot be used.
    """
    return Keyring(settings().api_keys, and_one=settings().api_key)


@cache
def sync_broker() -> SyncRedisBroker:
    """Return the way to Redis for threads."""
    return SyncRedisBroker(redis_url(), **_broker_options())


@cache
def sync_publisher() -> SyncPublisher:
    """Return the publisher for threads."""
    return SyncPublisher(namespaces(), sync_broker())


@cache
def fallbacks() -> Mapping[str, Callable[[Queued], Any]]:
    """Return the handlers by name; those that are registered later too."""
    return ChainMap(configured(settings().fallbacks), registered, dict(BUILT_IN))


def queue() -> RedisQueue:
    """Return the queue for fallbacks, for the running event loop; whoever asks closes it."""
    return RedisQueue(redis_url(), prefix=settings().redis_prefix)


def _broker_options() -> dict[str, Any]:
    given = settings()
    return {
        "prefix": given.redis_prefix,
        "deadline_seconds": given.publish_seconds,
        "queue_items": given.fallback_items,
        "queue_bytes": given.fallback_bytes,
    }


async def tell_nodes(command: Command) -> None:
    """Tell all nodes something about connections that any of them may have.

    Raises:
        BrokerUnavailable: Certainly not told.
        OutcomeUnknown: Perhaps told.
    """
    await node().broker.tell(encode(sealed(command)))


def tell_nodes_sync(command: Command) -> None:
    """`tell_nodes` for threads."""
    sync_broker().tell(encode(sealed(command)))


class Node:
    """What this process has in one event loop. The hub does nothing until somebody starts it."""

    @cached_property
    def broker(self) -> RedisBroker:
        """The way to Redis, shared by publisher and hub."""
        return RedisBroker(redis_url(), **_broker_options())

    @cached_property
    def publisher(self) -> Publisher:
        """The publishing side."""
        return Publisher(namespaces(), self.broker)

    @cached_property
    def hub(self) -> Hub:
        """The delivering side."""
        return Hub(
            self.broker,
            namespaces(),
            self.publisher.publish,
            limits=limits(),
            outbox_bytes=settings().outbox_bytes,
            window_bytes=settings().window_bytes,
            ping_seconds=settings().ping_seconds,
            tokens=tokens(),
            grace_seconds=settings().token_grace_seconds,
            authorize=authorizer(),
            entitled=entitled(),
            rpc=rpc(),
        )

    def running_hub(self) -> Hub:
        """Return the hub, started; without a lifespan behind it, it rests when nobody is here."""
        hub = self.hub
        if not hub.is_started:
            hub.rest_after_seconds = REST_SECONDS
            hub.start()
        return hub

    async def aclose(self) -> None:
        """End everything."""
        if "hub" in self.__dict__:
            await self.hub.stop()
        if "broker" in self.__dict__:
            await self.broker.aclose()


_nodes: WeakKeyDictionary[asyncio.AbstractEventLoop, Node] = WeakKeyDictionary()


def node() -> Node:
    """Return the node of the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _nodes:
        _forget_ended_loops()
        _nodes[loop] = Node()
    return _nodes[loop]


def _forget_ended_loops() -> None:
    """Let go of nodes that nobody can close any more: a node's connections hold its loop.

    So the weak reference alone would keep both for ever; `async_to_sync` makes a loop for each call
    under WSGI.
    """
    for loop in list(_nodes):
        if loop.is_closed():
            _nodes.pop(loop, None)


async def aclose() -> None:
    """End the node of the running event loop."""
    ending = _nodes.pop(asyncio.get_running_loop(), None)
    if ending is not None:
        await ending.aclose()


def largest_body_bytes() -> int:
    """Return how large the body of any request may be, so that a server can refuse what is more."""
    given = settings()
    return max(given.body_bytes, given.batch_bytes, 2 * limits().frame_bytes + 1024)


def limit_reached(name: str) -> None:
    """Count, in the running event loop, that a limit of the server was reached."""
    node().hub.reached.count(name)


async def drain(seconds: float) -> None:
    """Take leave of all connections of the running event loop, spread over up to ``seconds``."""
    ending = _nodes.get(asyncio.get_running_loop())
    if ending is not None and "hub" in ending.__dict__:
        await ending.hub.drain(seconds)


def redis_url() -> str:
    """Return where Redis is.

    Raises:
        ConfigurationError: No setting says so.
    """
    if not settings().redis_url:
        raise ImproperSetting(
            "REALTIME_REDIS_URL", "is not set: start `make run`, or set it (the service: REDIS_URL)"
        )
    return settings().redis_url


_CACHED: tuple[Callable[..., Any], ...] = (
    settings,
    namespaces,
    allowed_origins,
    tokens,
    authorizer,
    rpc,
    user_info,
    limits,
    fallbacks,
    keyring,
    sync_broker,
    sync_publisher,
    routes,
)


def _forget(*, setting: str, **kwargs: object) -> None:
    """Read the settings again in a test that overrides them."""
    if setting.startswith(PREFIX):
        for cached in _CACHED:
            cached.cache_clear()  # type: ignore[attr-defined]


setting_changed.connect(_forget)
# `gettext_lazy`, `reverse_lazy`, `format_lazy`: Django's own JSON encoder writes them so, too.
plain.register(Promise, str)
