"""Publishing from a host project's code."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from inspect import Parameter, signature
from typing import Any, Literal, TypedDict, TypeVar, Unpack

from django.core.exceptions import SynchronousOnlyOperation
from django.db import transaction

from realtime import wiring
from realtime.core.publication import Publication, Receipt
from realtime.errors import BrokerError
from realtime.host.own_publications import note_published
from realtime.wiring import interception

_Function = TypeVar("_Function", bound=Callable[..., Any])


class PublishOptions(TypedDict, total=False):
    """The options of a publication, besides its channel and data."""

    event: str | None
    """The name of what happened, such as ``order.shipped``; delivered as the tag ``event``."""
    tags: Mapping[str, str] | None
    """Up to 16 names with string values, delivered along with the data."""
    idempotency_key: str | None
    """A key with which the channel accepts one publication in five minutes."""
    fallback: str | None
    """The name of a fallback: its handler receives the publication later, if no node is subscribed
    now. None is the namespace's fallback, if it has one."""
    fallback_when: Literal["nobody", "always"] | None
    """``nobody`` (the default, unless the namespace says otherwise), or ``always``: the fallback
    receives it even if nodes are subscribed."""
    fallback_options: Mapping[str, Any] | None
    """A mapping for the fallback alone, at most 4 KiB as JSON; subscribers do not receive it. The
    built-in ``email`` takes ``to`` and ``subject``."""


def _explicit(function: _Function) -> _Function:
    """List each option in the signature, for `help` and notebooks."""
    given = signature(function)
    options = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=hint.__forward_arg__)
        for name, hint in PublishOptions.__annotations__.items()
    ]
    plain = [each for each in given.parameters.values() if each.kind is not each.VAR_KEYWORD]
    first = [each for each in plain if each.kind is not each.KEYWORD_ONLY]
    shown = given.replace(parameters=[*first, *options, *plain[len(first) :]])
    function.__dict__["__signature__"] = shown
    return function


@_explicit
def publish(channel: str, data: Any, **options: Unpack[PublishOptions]) -> Receipt:
    """Publish from synchronous code: a view, a task, a command.

    Args:
        channel: Every subscriber receives it, in any browser on any node.
        data: Any JSON value, at most 64 KiB encoded. Dates, times, UUIDs, Decimals and lazy strings
            (``gettext_lazy``) are written as strings, the last in the currently active language.
        **options: ``event``, ``tags``, ``idempotency_key``, ``fallback``, ``fallback_when`` and
            ``fallback_options``: see `PublishOptions`.

    Returns:
        Its position, how many nodes were subscribed, and whether it was queued for its fallback. If
        it was not queued and the number is 0, no client has received it, and none will.

    Raises:
        RequestError: It cannot be published as it is; see `realtime.errors`.
        QueueFull: Nobody listens, and the queue for fallbacks is full; certainly not published.
        BrokerUnavailable: Certainly not published.
        OutcomeUnknown: Possibly published; a retry with the same idempotency key is safe.
        SynchronousOnlyOperation: An event loop runs in this thread; await `apublish` there.
    """
    refuse_event_loop("publish() would block the event loop: await apublish() instead")
    publication = _publication_of("publish", channel, data, options)
    receipt = wiring.publish_sync(publication)
    note_published(publication, receipt)
    return receipt


@_explicit
async def apublish(channel: str, data: Any, **options: Unpack[PublishOptions]) -> Receipt:
    """Like `publish`, for async code."""
    publication = _publication_of("apublish", channel, data, options)
    receipt = await wiring.publish(publication)
    note_published(publication, receipt)
    return receipt


@_explicit
def publish_on_commit(
    channel: str, data: Any, *, using: str | None = None, **options: Unpack[PublishOptions]
) -> None:
    """Publish when the transaction commits, never if it rolls back; immediately outside of one.

    The publication is validated and encoded now, so that mistakes raise here. A Redis failure after
    the commit is logged by Django and affects neither the request nor other callbacks: the data is
    already saved.

    Args:
        channel: As for `publish`.
        data: As for `publish`.
        using: The database of the transaction.
        **options: As for `publish`.

    Raises:
        RequestError: It cannot be published as it is.
        TransactionManagementError: The connection is in manual transaction management, where Django
            cannot tell when it commits: call `publish` after your own ``commit()``.
        SynchronousOnlyOperation: An event loop runs in this thread, where no transaction can be
            open.
    """
    refuse_event_loop(
        "an event loop has no transaction: call publish_on_commit() in the sync function that has "
        "it, which async code calls through sync_to_async()"
    )
    publication = _publication_of("publish_on_commit", channel, data, options)
    callback = PublishOnCommit(publication, transaction.get_connection(using))
    if (test := interception.current) is not None:
        test.defer(callback)
    else:
        # For tests, in which the error would only be logged after the commit. A Redis that does
        # not answer is no error yet.
        with suppress(BrokerError):
            wiring.refuse_foreign_prefix()
    transaction.on_commit(callback, using=using, robust=True)


class PublishOnCommit:
    """The callback that `publish_on_commit` gives to Django, which logs its name if it fails.

    Its `repr` names the channel, for tests that list callbacks, as
    ``TestCase.captureOnCommitCallbacks`` does.
    """

    def __init__(self, publication: Publication, connection: Any) -> None:
        self.publication = publication
        self._connection = connection
        self._is_done = False
        # Django logs the `__qualname__` of a failed callback, which an instance lacks.
        self.__qualname__ = f"publish_on_commit({publication.channel!r})"

    def __call__(self) -> None:
        """Publish."""
        self._is_done = True
        note_published(self.publication, wiring.publish_sync(self.publication, on_commit=True))

    @property
    def is_waiting(self) -> bool:
        """Whether it was neither called nor rolled back."""
        return not self._is_done and any(
            callback is self for _, callback, *_ in self._connection.run_on_commit
        )

    def __repr__(self) -> str:
        return f"<{self.__qualname__}>"


def make_publication(channel: str, data: Any, **options: Any) -> Publication:
    """Return a publication from the arguments of `publish`, or raise the same `RequestError`."""
    namespaces = wiring.namespaces()
    return namespaces.complete(Publication.of(channel, data, **options, sizes=namespaces.sizes))


def _publication_of(caller: str, channel: str, data: Any, options: PublishOptions) -> Publication:
    for name in options:
        if name not in PublishOptions.__annotations__:  # callers may not choose `scope`, say
            raise TypeError(f"{caller}() got an unexpected keyword argument {name!r}")
    return make_publication(channel, data, **options)


AWAIT_VARIANT = (
    "this call would block the event loop: await its async variant, whose name starts with a"
)


def refuse_event_loop(sentence: str) -> None:
    """Raise where waiting would block an event loop, by the same rule as Django's ORM.

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
