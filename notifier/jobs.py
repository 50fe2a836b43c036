"""A demo job: imports a CSV of 10,000 rows into the database, a hundred at a time."""

from __future__ import annotations

import csv
import io
import random
import time
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from itertools import islice
from typing import Any

from django.db import transaction

from notifier.celery import app
from notifier.models import Job, Payment
from realtime.contrib.celery import JobFailed, LiveTask

CHANNEL = "jobs:all"
ROWS = 10_000
PAYMENTS_AT_ONCE = 100
LOT_SECONDS = 0.1
"""Minimum time for a batch: as long as one from a real file on another machine would take."""
BROKEN_ROW = 7_321
NAMES = ("Ada", "Ben", "Chloé", "Dmitri", "Eşref", "Fatima", "Grete", "Hyun", "Inga", "Jürgen")


class JobOfThePage(LiveTask):
    """A task whose states are shown on every open page of jobs."""

    abstract = True

    def live_channel(self, task_id: str, user: str) -> str:
        """Return the channel of the page, whoever started the task."""
        return CHANNEL

    def live_end(self, state: dict[str, Any]) -> dict[str, Any]:
        """Send its owner a mail if nobody has the page open when it ends."""
        job = Job.objects.filter(pk=state["task"]).select_related("owner").first()
        if job is None or job.owner is None or not job.owner.email:
            return {}
        options = {"to": job.owner.email, "subject": f"Your import has {state['state']}"}
        return {"fallback": "email", "fallback_options": options}


@app.task(base=JobOfThePage, bind=True, name="import")  # type: ignore[untyped-decorator]
def import_payments(self: LiveTask) -> str:
    """Import the file of a job; when restarted, start over without duplicating rows.

    Raises:
        JobFailed: A row is invalid; nothing of the file was imported.
    """
    job = Job.objects.filter(pk=self.request.id).first()
    if job is None:
        raise JobFailed("This import no longer exists. Start a new one.")
    Payment.objects.filter(job=job).delete()
    rows = csv.DictReader(io.StringIO(csv_of(job)))
    done, is_whole = 0, False
    try:
        while lot := list(islice(rows, PAYMENTS_AT_ONCE)):
            self.progress(done, ROWS, f"Row {done:,} of {ROWS:,}")
            began = time.monotonic()
            with transaction.atomic():
                Payment.objects.bulk_create(_payments(job, lot))
            done += len(lot)
            time.sleep(max(0.0, LOT_SECONDS - (time.monotonic() - began)))
        self.progress(done, ROWS)
        is_whole = True
    finally:
        if not is_whole:  # an invalid row, or cancelled
            Payment.objects.filter(job=job).delete()
    return f"{done:,} rows imported."


def csv_of(job: Job) -> str:
    """Return the job's file: generated, and the same each time."""
    chance = random.Random(job.pk.int)  # noqa: S311 - nothing is secret here
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(("number", "name", "amount"))
    for number in range(1, ROWS + 1):
        amount = f"{chance.randrange(100, 100_000) / 100:.2f}"
        if job.is_broken and number == BROKEN_ROW:
            amount = "12,5O"  # a comma, and the letter O
        rows.writerow((number, chance.choice(NAMES), amount))
    return text.getvalue()


def _payments(job: Job, lot: list[dict[str, str]]) -> Iterator[Payment]:
    for row in lot:
        try:
            amount = Decimal(row["amount"])
        except InvalidOperation:
            raise JobFailed(
                f"Row {int(row['number']):,}: “{row['amount']}” is not a valid amount "
                "(example: 12.50). Nothing was imported. Correct the row and start again."
            ) from None
        yield Payment(job=job, number=int(row["number"]), name=row["name"], amount=amount)
