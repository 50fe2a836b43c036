"""Publishing the rows of the outbox: each at least once, those of a channel in their order.

A row is published with its own idempotency key. So if a worker dies between Redis and the
database, the next one gets the same position for it, and nobody receives it twice; unless Redis
has lost the key by then, which it keeps for five minutes.

With row locks, a worker holds the rows that it publishes, and others wait for it. Databases
without them (SQLite) need no more than one worker; a second one repeats what the first one does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import NamedTuple

from django.db import connections, router, transaction
from django.db.models import Min, Q, QuerySet
from django.utils import timezone

from realtime import wiring
from realtime.contrib.outbox.models import OutboxRow
from realtime.core.publication import Receipt
from realtime.errors import BrokerError, RealtimeError

logger = logging.getLogger(__name__)

ROWS = 100
"""Rows of one round trip to Redis."""
ROUND_BYTES = 1024 * 1024
"""Their size, together; a row has at most 64 KiB and its tags."""
HELD_CHANNELS = 100
"""Channels whose rows are passed over because one could not be published."""
HELD_SECONDS = 1.0
"""How long they are passed over, so that those of other channels do not wait behind them."""
IDLE_SECONDS = 30
"""How long a worker may do nothing while it holds rows; a publish has a time limit of its own."""
LOCK_SECONDS = 5
"""How long a worker waits for rows that another one holds."""
DELETED_ROWS = 1_000
"""Old rows deleted by one statement."""

Outcome = Receipt | RealtimeError
WAITING = Q(published_at=None, refused="")


class OutboxState(NamedTuple):
    """How many rows an outbox has."""

    waiting: int
    oldest_seconds: float
    """How long the oldest one has waited; 0.0 if none waits."""
    kept: int
    """Published rows, for the gaps of pages."""
    refused: int


def rows_of(alias: str) -> QuerySet[OutboxRow]:
    """Return the rows in one database."""
    return OutboxRow._default_manager.using(alias)


def oldest_first(alias: str) -> QuerySet[OutboxRow]:
    """Return the rows that wait, in the order in which they were written.

    By the columns of an index: otherwise PostgreSQL read a million kept rows first when many others
    waited, which took 260 ms.
    """
    return rows_of(alias).filter(WAITING).order_by("published_at", "pk")


def publish_waiting(using: str | None = None) -> int:
    """Publish the rows that wait now, for a test or a cron job; return how many were published.

    Args:
        using: The database.

    Raises:
        BrokerError: Redis cannot be reached, or some could not be published; they still wait.
        django.db.Error: The database cannot be reached.
    """
    relay = Relay(using or router.db_for_write(OutboxRow))
    published = 0
    while round_ := relay.publish_some():
        published += round_.published
        if round_.error is not None:
            raise round_.error
    return published


def read_state(alias: str) -> OutboxState:
    """Count the rows of a database."""
    waiting = rows_of(alias).filter(WAITING)
    oldest = waiting.aggregate(oldest=Min("created_at"))["oldest"]
    seconds = 0.0 if oldest is None else (timezone.now() - oldest).total_seconds()
    refused = rows_of(alias).exclude(refused="").count()
    kept = rows_of(alias).exclude(published_at=None).count()
    return OutboxState(waiting.count(), max(0.0, seconds), kept, refused)


def retry_refused(alias: str) -> int:
    """Let refused rows wait again; return how many."""
    return rows_of(alias).exclude(refused="").update(refused="")


class Round(NamedTuple):
    """What one round trip to Redis has done; true if it had rows."""

    rows: int
    published: int
    error: BrokerError | None = None
    """Why some of them still wait."""

    def __bool__(self) -> bool:
        return self.rows > 0


class Relay:
    """Publishes the rows of one database. For one thread."""

    def __init__(self, alias: str) -> None:
        """Start with no channel held.

        Args:
            alias: The database.
        """
        self._alias = alias
        self._keep_seconds = wiring.settings().outbox_keep_seconds
        self._vendor, features = connections[alias].vendor, connections[alias].features
        self._has_locks = (
            features.has_select_for_update and features.supports_select_for_update_with_limit
        )
        self._held: dict[str, float] = {}

    def publish_some(self) -> Round:
        """Publish the oldest rows that wait, in one round trip.

        Raises:
            BrokerError: None was published, or perhaps all. They still wait.
            django.db.Error: The database cannot be reached. Rows may have been published; they
                still wait, and get the same positions.
        """
        with self._transaction():
            self._limit_locks()
            rows = self._next_rows()
            if not rows:
                return Round(0, 0)
            outcomes = wiring.publish_many_sync([row.to_publication() for row in rows])
            return self._record(rows, outcomes)

    @property
    def holds_channels(self) -> bool:
        """Whether rows were passed over that may be published in a moment."""
        return bool(self._held)

    def delete_old(self) -> int:
        """Delete some of the published rows that were kept for long enough; return how many."""
        limit = timezone.now() - timedelta(seconds=self._keep_seconds)
        old = rows_of(self._alias).filter(published_at__lt=limit)
        ids = list(old.order_by("published_at").values_list("pk", flat=True)[:DELETED_ROWS])
        return rows_of(self._alias).filter(pk__in=ids).delete()[0] if ids else 0

    def _transaction(self) -> AbstractContextManager[None]:
        # Without locks, a transaction would only make the update fail because others have written.
        return transaction.atomic(self._alias) if self._has_locks else nullcontext()

    def _limit_locks(self) -> None:
        """Let no worker that is frozen, or whose host is gone, hold rows for good.

        PostgreSQL ends its session after a while; others try again instead of waiting, and say so.
        """
        if self._vendor == "postgresql":
            with connections[self._alias].cursor() as cursor:
                cursor.execute(f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'")
                cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")

    def _next_rows(self) -> list[OutboxRow]:
        found = oldest_first(self._alias)
        if held := self._held_channels():
            found = found.exclude(channel__in=held)
        if self._has_locks:
            found = found.select_for_update()
        return _that_fit(found[:ROWS])

    def _held_channels(self) -> list[str]:
        now = time.monotonic()
        self._held = {channel: until for channel, until in self._held.items() if until > now}
        return list(self._held)

    def _record(self, rows: Sequence[OutboxRow], outcomes: Sequence[Outcome]) -> Round:
        published, error = [], None
        for row, outcome in zip(rows, outcomes, strict=True):
            if isinstance(outcome, Receipt):
                row.epoch, row.offset = outcome.epoch, outcome.offset
                published.append(row)
            elif isinstance(outcome, BrokerError):
                error = outcome
                self._hold(row.channel)
            else:
                self._refuse(row, outcome)
        self._finish(published)
        return Round(len(rows), len(published), error)

    def _hold(self, channel: str) -> None:
        """Pass over the rows of a channel for a moment; there is a limit, for the query's sake."""
        if len(self._held) < HELD_CHANNELS:
            self._held[channel] = time.monotonic() + HELD_SECONDS

    def _finish(self, published: list[OutboxRow]) -> None:
        if not published:
            return
        if self._keep_seconds:
            now = timezone.now()
            for row in published:
                row.published_at = now
            rows_of(self._alias).bulk_update(published, ["published_at", "epoch", "offset"])
        else:
            rows_of(self._alias).filter(pk__in=[row.pk for row in published]).delete()

    def _refuse(self, row: OutboxRow, error: RealtimeError) -> None:
        """Set a row aside that no attempt can publish, so that others do not wait for it."""
        row.refused = f"{error.code}: {error}"[:1000]
        rows_of(self._alias).filter(pk=row.pk).update(refused=row.refused)
        logger.error(
            "outbox: row %d, for %s, cannot be published: %s; see manage.py outbox",
            row.pk, row.channel, row.refused,
        )  # fmt: skip


def _that_fit(rows: QuerySet[OutboxRow]) -> list[OutboxRow]:
    """Return the first rows that can be published together without a change of their order.

    A row with a fallback may be refused alone, because the queue is full. So it is the last one of
    its channel in a round: those behind it must wait with it.
    """
    fitting: list[OutboxRow] = []
    ended: set[str] = set()
    size = 0
    for row in rows:
        size += len(row.body)
        if fitting and size > ROUND_BYTES:
            break
        if row.channel not in ended:
            fitting.append(row)
        if row.fallback:
            ended.add(row.channel)
    return fitting
