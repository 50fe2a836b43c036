"""Reads `/metrics` as Prometheus does, with the parser of prometheus-client."""

from __future__ import annotations

from typing import Any

import httpx
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class Scraped:
    """The samples of one scrape."""

    def __init__(self, text: str, content_type: str) -> None:
        parse = parse_openmetrics if "openmetrics" in content_type else parse_text
        self.families = {family.name: family for family in parse(text)}
        self.samples = [sample for each in self.families.values() for sample in each.samples]

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of all samples of this name that have these labels."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


def scrape(url: str, accept: str = "", **options: Any) -> Scraped:
    """Return the metrics at an address."""
    headers = {"Accept": accept, **options.pop("headers", {})}
    response = httpx.get(url, headers=headers, timeout=10, **options)
    assert response.status_code == 200, response.text
    return Scraped(response.text, response.headers["content-type"])
