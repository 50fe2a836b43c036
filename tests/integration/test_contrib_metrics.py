"""The metrics of a host project: a view with a key, and a collector for its own registry."""

from __future__ import annotations

from typing import Any

import pytest
from django.http import Http404
from django.test import RequestFactory
from prometheus_client import CollectorRegistry, generate_latest

from realtime import publish
from realtime.contrib.metrics import RealtimeCollector, view
from tests.support.scrape import OPENMETRICS, Scraped

KEY = "key-of-the-scraper"
PUBLISHES = "realtime_publishes_total"


def get(**headers: str) -> Any:
    return view(RequestFactory().get("/metrics", headers=headers))


def test_without_a_key_the_view_is_not_found(wired: str) -> None:
    with pytest.raises(Http404, match="REALTIME_METRICS_KEY"):
        get()


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", "Bearer \xe9"]
)
def test_without_the_right_key_nothing_is_shown(
    wired: str, settings: Any, authorization: str
) -> None:
    settings.REALTIME_METRICS_KEY = KEY
    response = get(Authorization=authorization)
    assert response.status_code == 401
    assert b"realtime_" not in response.content


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_the_view_shows_what_this_process_has_published(
    wired: str, settings: Any, accept: str
) -> None:
    settings.REALTIME_METRICS_KEY = KEY

    def published() -> float:
        response = get(Authorization=f"bearer {KEY}", Accept=accept)
        assert response.headers["Cache-Control"].startswith("max-age=0, no-cache, no-store")
        scraped = Scraped(response.content.decode(), response.headers["Content-Type"])
        return scraped.value(PUBLISHES, namespace="public", outcome="published")

    before = published()
    publish("public:host", 1)
    assert published() == before + 1


def test_the_collector_shows_the_same_in_the_host_s_own_registry(wired: str) -> None:
    registry = CollectorRegistry()
    registry.register(RealtimeCollector())
    publish("public:host", 1)
    text = generate_latest(registry).decode()
    assert Scraped(text, "text/plain").value(PUBLISHES, method="python") >= 1


def test_labels_of_strange_names_are_escaped() -> None:
    from realtime.core import metrics
    from realtime.http.exposition import exposition

    strange = 'a"b\\c\nd'
    text, content_type = exposition({metrics.LIMITS.name: {(strange,): 1}}, "")
    scraped = Scraped(text.decode(), content_type)
    assert scraped.value("realtime_limits_reached_total", limit=strange) == 1
