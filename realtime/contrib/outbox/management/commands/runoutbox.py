"""`manage.py runoutbox`: publishes the rows of the transactional outbox."""

from __future__ import annotations

import logging
import signal
import sys
from argparse import ArgumentTypeError, RawDescriptionHelpFormatter
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseError
from django.db import connections, router

from realtime import wiring
from realtime.contrib.outbox.models import OutboxRow
from realtime.contrib.outbox.relay import publish_waiting
from realtime.contrib.outbox.worker import OutboxWorker
from realtime.errors import BrokerError, ConfigurationError
from realtime.management.own_process import refuse_memory
from realtime.management.stop_signals import ignored_signals_text, signals_to_handle

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Command(BaseCommand):
    help = "Publish what was committed to the transactional outbox."
    requires_system_checks = ("realtime",)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.epilog = (
            "Several workers may run on PostgreSQL and MySQL: one publishes, the others wait for\n"
            "it. On SQLite, run one. On SIGTERM or Ctrl-C, a worker records what it published and\n"
            "exits. If it is killed, the next one continues; nothing is published twice, unless\n"
            "Redis has forgotten it in the meantime.\n\n"
            "exit codes: 0 stopped by a signal, or with --once: nothing waits any more"
        )
        parser.add_argument(
            "--database", default=router.db_for_write(OutboxRow), choices=tuple(connections),
            metavar="ALIAS", help="the database with the outbox (that of the routers)",
        )  # fmt: skip
        parser.add_argument(
            "--poll", type=_seconds, default=POLL_SECONDS, metavar="SECONDS",
            help="how often to look for rows; PostgreSQL also notifies the worker at each commit "
            f"({POLL_SECONDS:g})",
        )  # fmt: skip
        parser.add_argument(
            "--once", action="store_true", help="publish the rows that wait now, and exit"
        )

    def handle(self, *args: Any, database: str, poll: float, once: bool, **options: Any) -> None:
        try:
            wiring.redis_url()
            refuse_memory()
            if once:
                self._publish_once(database)
            else:
                _work(OutboxWorker(database, poll_seconds=poll), database)
        except ConfigurationError as error:
            raise CommandError(str(error)) from error

    def _publish_once(self, database: str) -> None:
        try:
            self.stdout.write(f"{publish_waiting(database)} published")
        except (BrokerError, DatabaseError) as error:
            raise CommandError(f"rows still wait: {error}") from error


def _work(worker: OutboxWorker, database: str) -> None:
    if text := ignored_signals_text(STOP_SIGNALS):
        sys.stderr.write(f"{text}\n")
    for number in signals_to_handle(STOP_SIGNALS):
        signal.signal(number, lambda *_: worker.stop())
    logger.info("publishing the outbox of the database %s", database)
    worker.run()
    logger.info("the outbox worker has stopped")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.01 <= seconds <= 3600:
        raise ArgumentTypeError(f"{text!r} is not a number from 0.01 to 3600")
    return seconds
