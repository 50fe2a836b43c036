"""Metrics of this process for Prometheus, in a host project.

Needs the extra ``metrics``. A project with django-prometheus registers `RealtimeCollector`; any
other adds the view to its URLs. Both show this process only: with several workers, let Prometheus
scrape each of them, or run the service, whose launcher adds its workers up. See docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from django.contrib.auth.decorators import login_not_required
from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client.registry import Collector

from realtime import wiring
from realtime.http.exposition import bearer_matches, exposition, families

if TYPE_CHECKING:
    from prometheus_client import Metric

    from realtime.core.metrics import Snapshot


class RealtimeCollector(Collector):
    """For a registry of prometheus-client: ``REGISTRY.register(RealtimeCollector())``."""

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of this process."""
        return families(wiring.read_metrics())


@login_not_required
@never_cache
@require_safe
def view(request: HttpRequest) -> HttpResponse:
    """Show the metrics of this process to holders of ``REALTIME_METRICS_KEY``.

    Raises:
        Http404: There is no key.
    """
    return refuse(request) or answer(request, wiring.read_metrics())


def refuse(request: HttpRequest) -> HttpResponse | None:
    """Return the answer to a request without the key; None if it has it.

    Raises:
        Http404: There is no key.
    """
    key = wiring.settings().metrics_key
    if not key:
        raise Http404("metrics need REALTIME_METRICS_KEY")
    if bearer_matches(request.headers.get("Authorization", ""), key):
        return None
    text = "Metrics need the header Authorization: Bearer KEY.\n"
    headers = {"WWW-Authenticate": 'Bearer realm="metrics"'}
    return HttpResponse(text, status=401, content_type="text/plain", headers=headers)


def answer(request: HttpRequest, snapshot: Snapshot) -> HttpResponse:
    """Return a snapshot in the format that the scraper accepts."""
    text, content_type = exposition(snapshot, request.headers.get("Accept", ""))
    return HttpResponse(text, content_type=content_type)
