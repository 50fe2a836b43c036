"""The loop of ``manage.py runoutbox``: publishes, waits, deletes, and outlives every outage."""

from __future__ import annotations

import logging
import time

from django.db import Error as DatabaseError
from django.db import connections

from realtime.contrib.outbox.relay import Relay, Round
from realtime.contrib.outbox.waking import Waker
from realtime.core.outage import Outage
from realtime.errors import BrokerError

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 0.5
"""Between two attempts while Redis or the database is unreachable."""
DELETE_SECONDS = 60.0
"""How often rows that were kept for long enough are deleted."""


class OutboxWorker:
    """Publishes the rows of one database until it is stopped. For one thread."""

    def __init__(self, alias: str, *, poll_seconds: float) -> None:
        """Start nothing yet.

        Args:
            alias: The database.
            poll_seconds: How often to look for rows without having been notified.
        """
        self._alias = alias
        self._poll_seconds = poll_seconds
        self._waker = Waker(alias)
        self._relay = Relay(alias)
        self._outages = {"Redis": Outage(), "the database": Outage()}
        self._is_stopping = False
        self._delete_at = 0.0

    def stop(self) -> None:
        """Finish the current rows, and end `run`; from a signal handler, or another thread."""
        self._is_stopping = True
        self._waker.wake()

    def run(self) -> None:
        """Publish until `stop` is called. No outage ends it."""
        try:
            while not self._is_stopping:
                self._waker.wait(self._take_turn())
        finally:
            self._waker.close()

    def _take_turn(self) -> float:
        """Do what there is to do, and return how long to wait for more."""
        try:
            self._waker.listen()
            done = self._relay.publish_some()
            self._delete_old()
        except BrokerError as error:
            return self._note_failure("Redis", error)
        except DatabaseError as error:
            connections[self._alias].close()  # the next attempt gets a new one
            return self._note_failure("the database", error)
        if done.error is not None:
            self._note_failure("Redis", done.error)
            return 0.0 if done.published else PAUSE_SECONDS
        self._note_success(done)
        if done:
            return 0.0
        return PAUSE_SECONDS if self._relay.holds_channels else self._poll_seconds

    def _delete_old(self) -> None:
        if (now := time.monotonic()) >= self._delete_at and not self._relay.delete_old():
            self._delete_at = now + DELETE_SECONDS

    def _note_failure(self, what: str, error: Exception) -> float:
        if self._outages[what].note_failure(time.monotonic()):
            logger.warning(
                "outbox: %s failed, so rows wait: %s", what, ascii(str(error)).strip("'\"")[:300]
            )
        return PAUSE_SECONDS

    def _note_success(self, done: Round) -> None:
        """Note that the database works, and Redis if it was needed."""
        for what, outage in self._outages.items():
            is_used = done or what != "Redis"
            over = outage.note_success(time.monotonic()) if is_used else None
            if over is not None:
                logger.info("outbox: %s works again after %.1f s", what, over.seconds)
