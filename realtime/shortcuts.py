"""What a host project's code calls: publishing, and tokens for its pages."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jwt
from django.core.exceptions import SynchronousOnlyOperation
from django.db import transaction

from realtime import names, wiring
from realtime.auth import session_digest, stamp_of
from realtime.errors import ConfigurationError, InvalidName, TooLarge
from realtime.names import checked_channel
from realtime.publication import Publication, Receipt
from realtime.tokens import TOKEN_CHARACTERS, checked_channels, encoded_info

TOKEN_SECONDS = 600


def publish(
    channel: str,
    data: Any,
    *,
    event: str | None = None,
    tags: Mapping[str, str] | None = None,
    idempotency_key: str | None = None,
    fallback: str | None = None,
    fallback_when: str | None = None,
    fallback_options: Mapping[str, Any] | None = None,
) -> Receipt:
    """Publish from ordinary, synchronous code: a view, a task, a command.

    Args:
        channel: Who listens there gets it, in any browser at any node.
        data: Any JSON value, at most 64 KiB encoded. Dates, times, UUIDs, Decimals and lazy strings
            (``gettext_lazy``) are written as strings, the last in the language that is active now.
        event: The name of what happened, such as ``order.shipped``; delivered as the tag ``event``.
        tags: Up to 16 names with string values, delivered beside the data.
        idempotency_key: The same key on the channel publishes once in five minutes.
        fallback: The name of a fallback: its handler gets it, later, if no node listens there now.
            None is the one of the namespace, if it has one.
        fallback_when: ``nobody`` (unless the namespace says otherwise), or ``always``: the fallback
            gets it whoever listens.
        fallback_options: A mapping for the fallback alone, at most 4 KiB as JSON; listeners do not
            get it. Of the built-in ``email``: ``to``, ``subject``.

    Returns:
        Its position, how many nodes listened, and whether its fallback has it. 0 nodes and not
        queued: nobody was there, and nobody will get it later.

    Raises:
        RequestError: It cannot be published as it is; see `realtime.errors`.
        QueueFull: Nobody listens, and the queue for fallbacks is full; certainly not published.
        BrokerUnavailable: Certainly not published.
        OutcomeUnknown: Perhaps published; a retry with the same idempotency key is safe.
        SynchronousOnlyOperation: An event loop runs in this thread; await `apublish` there.
    """
    refuse_event_loop("publish() would block the event loop here: await apublish() instead")
    publication = admitted(
        channel,
        data,
        event=event,
        tags=tags,
        idempotency_key=idempotency_key,
        fallback=fallback,
        fallback_when=fallback_when,
        fallback_options=fallback_options,
    )
    return wiring.sync_publisher().publish(publication)


async def apublish(
    channel: str,
    data: Any,
    *,
    event: str | None = None,
    tags: Mapping[str, str] | None = None,
    idempotency_key: str | None = None,
    fallback: str | None = None,
    fallback_when: str | None = None,
    fallback_options: Mapping[str, Any] | None = None,
) -> Receipt:
    """Publish from async code; everything else as `publish`."""
    publication = admitted(
        channel,
        data,
        event=event,
        tags=tags,
        idempotency_key=idempotency_key,
        fallback=fallback,
        fallback_when=fallback_when,
        fallback_options=fallback_options,
    )
    return await wiring.node().publisher.publish(publication)


def publish_on_commit(
    channel: str,
    data: Any,
    *,
    event: str | None = None,
    tags: Mapping[str, str] | None = None,
    idempotency_key: str | None = None,
    fallback: str | None = None,
    fallback_when: str | None = None,
    fallback_options: Mapping[str, Any] | None = None,
    using: str | None = None,
) -> None:
    """Publish when the transaction commits, never if it rolls back; at once outside of one.

    The publication is checked and encoded now, so that a mistake shows here. What goes wrong with
    Redis after the commit is logged by Django and harms neither the request nor other callbacks:
    the data is saved already.

    Args:
        channel: As for `publish`, like all the others before `using`.
        data: ditto.
        event: ditto.
        tags: ditto.
        idempotency_key: ditto.
        fallback: ditto.
        fallback_when: ditto.
        fallback_options: ditto.
        using: The database whose transaction it is.

    Raises:
        RequestError: It cannot be published as it is.
        TransactionManagementError: The connection is in manual transaction management, where Django
            cannot tell when it commits: call `publish` after your own ``commit()``.
        SynchronousOnlyOperation: An event loop runs in this thread, where no transaction can be.
    """
    refuse_event_loop(
        "publish_on_commit() belongs into the function with the transaction, which async code "
        "calls by sync_to_async()"
    )
    publication = admitted(
        channel,
        data,
        event=event,
        tags=tags,
        idempotency_key=idempotency_key,
        fallback=fallback,
        fallback_when=fallback_when,
        fallback_options=fallback_options,
    )
    transaction.on_commit(
        lambda: wiring.sync_publisher().publish(publication), using=using, robust=True
    )


def admitted(channel: str, data: Any, **options: Any) -> Publication:
    """Return a publication of what `publish` takes, or raise the `RequestError` that it raises."""
    namespaces = wiring.namespaces()
    return namespaces.admitted(Publication.of(channel, data, **options, sizes=namespaces.sizes))


def connection_token(
    user: Any,
    *,
    seconds: int = TOKEN_SECONDS,
    info: Any = None,
    channels: Sequence[str] = (),
    session: str = "",
) -> str:
    """Return a token by which a client shows that it is this user's.

    For pages of other hosts and for apps; on a page of the service's own host the session does it.

    Args:
        user: A user of Django, or the id of one as a string.
        seconds: How long it holds; then the client has to fetch another one.
        info: Any JSON value that others are shown when this client publishes, at most 4 KiB: a
            name, a picture's address. Never what they must not know.
        channels: At most 32 channels that it listens to by itself, whatever else it may.
        session: The key of the session that asks for it: when that ends, the connection does.

    Of a user object it also remembers the password's hash of now: with another password, or when
    the user is deactivated, the connection ends.

    Raises:
        InvalidName: One of them is no channel's name, or there are too many.
        InvalidData: info cannot be JSON.
        TooLarge: info has more than 4 KiB, or the whole token more than 8.
        ConfigurationError: REALTIME_TOKEN_SECRET is not set.
    """
    claims: dict[str, Any] = {"sub": id_of(user)}
    if text := encoded_info(info):
        claims["info"] = json.loads(text)
    if served := checked_channels(channels):
        claims["channels"] = served
    if session:
        claims["session"] = session_digest(session)
    if not isinstance(user, str) and (stamp := stamp_of(user)):
        claims["stamp"] = stamp
    return _token(claims, seconds)


def personal_channel(user: Any) -> str:
    """Return the channel that a user's clients listen to without asking, such as ``user:#42``.

    Args:
        user: A user of Django, or the id of one as a string.

    Raises:
        InvalidName: Its id has characters that no channel's name can have.
        ConfigurationError: REALTIME_PERSONAL_CHANNEL is empty.
    """
    prefix, user_id = wiring.settings().personal_channel, id_of(user)
    if not prefix:
        raise ConfigurationError("REALTIME_PERSONAL_CHANNEL", "is empty: no user has a channel")
    channel = names.personal_channel(prefix, user_id)
    if channel is None:
        raise InvalidName("channel", f"{prefix}{user_id}", "no such user can have one")
    return channel


def subscription_token(
    user: Any, channel: str, *, seconds: int = TOKEN_SECONDS, info: Any = None
) -> str:
    """Return a token by which this user's client may listen to a channel that is closed otherwise.

    Args:
        user: A user of Django, or the id of one as a string; ``""`` for anonymous clients.
        channel: Which.
        seconds: How long it holds.
        info: What others on the channel are shown of the user: any JSON value of at most 4 KiB.

    Raises:
        InvalidName: That is no channel's name.
        InvalidData: The info cannot be JSON.
        TooLarge: The info, or the token, is too large.
        ConfigurationError: REALTIME_TOKEN_SECRET is not set.
    """
    claims = {"sub": id_of(user), "channel": checked_channel(channel)}
    if text := encoded_info(info):
        claims["info"] = json.loads(text)
    return _token(claims, seconds)


def _token(claims: dict[str, Any], seconds: int) -> str:
    secret = wiring.settings().token_secret
    if not secret:
        raise ConfigurationError("REALTIME_TOKEN_SECRET", "is not set")
    now = int(time.time())
    token = jwt.encode({**claims, "iat": now, "exp": now + seconds}, secret, "HS256")
    if len(token) > TOKEN_CHARACTERS:
        raise TooLarge("the token", len(token), TOKEN_CHARACTERS, unit="characters")
    return token


def id_of(user: Any) -> str:
    """Return the id of a user by which nodes know it; empty is nobody."""
    if isinstance(user, str):
        return user
    return "" if user.pk is None else str(user.pk)  # 0 is a user


def refuse_event_loop(sentence: str) -> None:
    """Refuse to wait where that would stop everybody, by the rule of Django's ORM.

    ``DJANGO_ALLOW_ASYNC_UNSAFE`` allows it, for notebooks and the like.

    Raises:
        SynchronousOnlyOperation: An event loop runs in this thread.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    if not os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE"):
        raise SynchronousOnlyOperation(sentence)
