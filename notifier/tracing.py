"""Exports the spans of a process of the service, as the variables `OTEL_*` say.

The app only makes spans; a project chooses where they go. This service sends them by OTLP over
HTTP. Workers, the fallback worker and commands each have a provider of their own.
"""

from __future__ import annotations

import os

from django.core.exceptions import ImproperlyConfigured


def export_spans() -> None:
    """Send the spans of this process to the collector, in batches, also when it ends.

    Does nothing if the process has a provider already, as under ``opentelemetry-instrument``.

    Raises:
        ImproperlyConfigured: The SDK or its exporter is not installed.
    """
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ImproperlyConfigured(
            f"NOTIFIER_TRACING is on, but {error.name} is not installed: "
            "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
        ) from error
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return
    os.environ.setdefault("OTEL_SERVICE_NAME", "notifier")  # the SDK reads it
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
