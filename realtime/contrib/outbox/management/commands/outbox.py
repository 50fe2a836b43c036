"""`manage.py outbox stats|retry`: inspect and repair the transactional outbox."""

from __future__ import annotations

import json
from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseError
from django.db import connections, router

from realtime.contrib.outbox.models import OutboxRow
from realtime.contrib.outbox.relay import read_state, retry_refused

DATABASE_UNAVAILABLE = 3


class Command(BaseCommand):
    help = "Show what waits in the transactional outbox, or retry what was refused."
    requires_system_checks = ("realtime",)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.epilog = (
            "waiting: committed, and not published yet; seconds that the oldest one has waited.\n"
            "kept: published, and kept for the gaps of pages (REALTIME_OUTBOX_KEEP_SECONDS).\n"
            "refused: no attempt can publish it; the log has the reason.\n\n"
            "exit codes: 0 success; 2 wrong usage; 3 the database is unreachable"
        )
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        stats = actions.add_parser("stats", help="show how many rows there are, as JSON")
        retry = actions.add_parser("retry", help="let refused rows wait again")
        for each in (stats, retry):
            each.add_argument(
                "--database", default=router.db_for_write(OutboxRow), choices=tuple(connections),
                metavar="ALIAS", help="the database with the outbox (that of the routers)",
            )  # fmt: skip

    def handle(self, *args: Any, action: str, database: str, **options: Any) -> None:
        try:
            if action == "stats":
                self.stdout.write(json.dumps(read_state(database)._asdict()))
            else:
                self.stdout.write(f"{retry_refused(database)} wait again")
        except DatabaseError as error:
            raise CommandError(str(error), returncode=DATABASE_UNAVAILABLE) from error
