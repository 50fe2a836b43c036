"""Writing a publication into the outbox, in the transaction of the data that it is about."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Literal, TypedDict, Unpack

from django.db import connections, router, transaction

from realtime.contrib.outbox.models import NOTIFICATIONS, TAG, OutboxRow
from realtime.errors import InvalidName
from realtime.host.publishing import make_publication, refuse_event_loop


class OutboxOptions(TypedDict, total=False):
    """The options of `realtime.publish`, but for the idempotency key, which is the row's."""

    event: str | None
    """The name of what happened."""
    tags: Mapping[str, str] | None
    """Up to 15 names with string values; the outbox adds one."""
    fallback: str | None
    """The name of a fallback, which exists already when the row is written."""
    fallback_when: Literal["nobody", "always"] | None
    """``nobody`` or ``always``."""
    fallback_options: Mapping[str, Any] | None
    """A mapping for the fallback alone."""


def publish_in_transaction(
    channel: str, data: Any, *, using: str | None = None, **options: Unpack[OutboxOptions]
) -> None:
    """Write a publication into the outbox: published if, and only if, the transaction commits.

    ``manage.py runoutbox`` publishes it within milliseconds of the commit if the database is
    PostgreSQL, otherwise at its next look. Those of one channel are published in the order in which
    they were written; transactions at the same time have no order of their own. Outside of a
    transaction, the row is committed at once.

    The publication is validated and encoded now, so that mistakes raise here.

    Args:
        channel: As for `realtime.publish`.
        data: As for `realtime.publish`.
        using: The database of the transaction; by default, where Django's routers write the rows.
        **options: ``event``, ``tags``, ``fallback``, ``fallback_when`` and ``fallback_options``, as
            for `realtime.publish`. The key of the row is its idempotency key.

    Raises:
        RequestError: It cannot be published as it is.
        SynchronousOnlyOperation: An event loop runs in this thread, where no transaction can be
            open.
        django.db.Error: The row cannot be written.
    """
    refuse_event_loop(
        "an event loop has no transaction: call publish_in_transaction() in the sync function that "
        "has it, which async code calls through sync_to_async()"
    )
    for name in options:
        if name not in OutboxOptions.__annotations__:
            raise TypeError(f"publish_in_transaction() got an unexpected keyword argument {name!r}")
    row = _row_of(channel, data, options)
    alias = using or router.db_for_write(OutboxRow)
    with transaction.atomic(alias):  # without one around it, a failed NOTIFY must undo the row
        row.save(using=alias, force_insert=True)
        _wake_workers(alias)


def _row_of(channel: str, data: Any, options: OutboxOptions) -> OutboxRow:
    key, tags = uuid.uuid4(), options.get("tags")
    if isinstance(tags, Mapping) and TAG in tags:
        raise InvalidName("tags", TAG, "the outbox has a tag of this name")
    if tags is None or isinstance(tags, Mapping):  # anything else is refused below
        tags = {**(tags or {}), TAG: key.hex}
    publication = make_publication(channel, data, **{**options, "tags": tags})
    row = OutboxRow(key=key, channel=publication.channel, body=publication.body.decode())
    if (fallback := publication.fallback) is not None:
        row.fallback, row.fallback_when = fallback.name or "", fallback.when or ""
        row.fallback_options = fallback.options.decode()
    return row


def _wake_workers(alias: str) -> None:
    """Notify the workers at the commit; PostgreSQL sends one notification for equal ones."""
    connection = connections[alias]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"NOTIFY {NOTIFICATIONS}")
