"""The page of background jobs: their list and states, and views to start and cancel one."""

from __future__ import annotations

import uuid
from collections import Counter
from datetime import timedelta

from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.auth.views import redirect_to_login
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe
from kombu.exceptions import OperationalError

from notifier.jobs import CHANNEL, ROWS, import_payments
from notifier.models import Job
from realtime.contrib.celery import ENDS, cancel_task, task_states
from realtime.errors import BrokerError

JOBS_SHOWN = 20
UNFINISHED_LIMIT = 3
"""Unfinished jobs per user; all anonymous visitors count as one."""
JOBS_KEPT_FOR = timedelta(days=1)
JOBS_LIMIT = 50
NOT_STARTED = (
    "The job was not started because Redis is unreachable. Try again when the page is live."
)


@never_cache
@require_safe
def jobs(request: HttpRequest) -> HttpResponse:
    """Show the page to users who may start jobs."""
    if not getattr(settings, "NOTIFIER_HAS_JOBS", True):
        return render(request, "notifier/jobs_off.html", status=404)
    if not _may_use(request):
        return redirect_to_login(request.get_full_path())
    return render(request, "notifier/jobs.html", {"channel": CHANNEL, "rows": ROWS})


@never_cache
@require_safe
def state(request: HttpRequest) -> HttpResponse:
    """Return the newest jobs: ``{"jobs": [{"id", "owner", "mine", "at", "state"}]}``."""
    if not _may_use(request):
        return _refuse(403, "Log in to see the jobs.")
    found = list(Job.objects.select_related("owner")[:JOBS_SHOWN])
    try:
        states = task_states([str(job.pk) for job in found])
    except BrokerError:
        return _refuse(503, "Redis is unreachable, so the status of the jobs is unknown.")
    return JsonResponse(
        {
            "jobs": [
                {
                    "id": str(job.pk),
                    "owner": job.owner.get_username() if job.owner else "",
                    "mine": _may_cancel(request, job),
                    "at": job.created_at.timestamp(),
                    "state": found_state,
                }
                for job, found_state in zip(found, states, strict=True)
            ]
        }
    )


@require_POST
def start(request: HttpRequest) -> HttpResponse:
    """Start an import: ``{"id": …}``. With ``broken`` in the form, one of its rows is invalid."""
    if not getattr(settings, "NOTIFIER_HAS_JOBS", True):
        return _refuse(404, "Jobs are disabled: JOBS_REDIS_URL is not set.")
    if not _may_use(request):
        return _refuse(403, "Log in to start a job.")
    owner = request.user if isinstance(request.user, User) else None
    _prune()
    try:
        if _count_unfinished(owner) >= UNFINISHED_LIMIT:
            return _refuse(
                409, f"You already have {UNFINISHED_LIMIT} unfinished jobs. Wait for one to finish."
            )
    except BrokerError:
        return _refuse(503, NOT_STARTED)
    job = Job.objects.create(id=uuid.uuid4(), owner=owner, is_broken="broken" in request.POST)
    try:
        import_payments.apply_async(task_id=str(job.pk))
    except OperationalError:
        job.delete()
        return _refuse(503, NOT_STARTED)
    return JsonResponse({"id": str(job.pk)}, status=201)


@require_POST
def cancel(request: HttpRequest, job: uuid.UUID) -> HttpResponse:
    """Cancel a job."""
    known = Job.objects.filter(pk=job).select_related("owner").first()
    if known is None or not _may_use(request) or not _may_cancel(request, known):
        return _refuse(403, "You cannot cancel this job.")
    try:
        cancel_task(str(job))
    except BrokerError:
        return _refuse(
            503, "Redis is unreachable, so the job may not have been cancelled. Try again."
        )
    return JsonResponse({})


def count_jobs() -> dict[str, int] | None:
    """Return how many of the newest jobs are in each state; None if that is unknown."""
    if not getattr(settings, "NOTIFIER_HAS_JOBS", True):
        return None
    ids = [str(pk) for pk in Job.objects.values_list("pk", flat=True)[:JOBS_LIMIT]]
    try:
        states = task_states(ids)
    except BrokerError:
        return None
    return dict(Counter("unknown" if found is None else found["state"] for found in states))


def _may_use(request: HttpRequest) -> bool:
    return request.user.is_authenticated or bool(getattr(settings, "NOTIFIER_DEMO_FOR_ALL", False))


def _may_cancel(request: HttpRequest, job: Job) -> bool:
    if isinstance(request.user, User):
        return job.owner_id in (request.user.pk, None) or request.user.is_staff
    return job.owner_id is None


def _count_unfinished(owner: User | None) -> int:
    """Count the unfinished jobs of a user.

    Raises:
        BrokerError: The number is not available.
    """
    ids = [str(pk) for pk in Job.objects.filter(owner=owner).values_list("pk", flat=True)]
    return sum(state is not None and state["state"] not in ENDS for state in task_states(ids))


@transaction.atomic
def _prune() -> None:
    """Delete old jobs, and those beyond the limit."""
    Job.objects.filter(created_at__lt=timezone.now() - JOBS_KEPT_FOR).delete()
    newest = Job.objects.values_list("pk", flat=True)[: JOBS_LIMIT - 1]
    Job.objects.exclude(pk__in=list(newest)).delete()


def _refuse(status: int, message: str) -> HttpResponse:
    return JsonResponse({"error": {"message": message}}, status=status)
