"""Without the setting, or without OpenTelemetry, nothing is traced; a project need not have it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from notifier.tracing import export_spans
from realtime import wiring
from realtime.conf import Settings
from realtime.errors import ConfigurationError
from tests.support.rims import RIMS, Rim

PUBLISH = """
import sys
import django
django.setup()
import realtime
realtime.publish("news", 1)
print(sorted(name for name in sys.modules if name.partition(".")[0] == "opentelemetry"))
"""


def test_nothing_of_opentelemetry_is_loaded_without_the_setting() -> None:
    environ = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "TEST_REDIS_URL": "memory://",
        "TEST_REDIS_PREFIX": f"test-{os.getpid()}",
    }
    command = [sys.executable, "-c", PUBLISH]
    done = subprocess.run(command, env=environ, capture_output=True, encoding="utf-8")
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_tracing_without_opentelemetry_is_refused_with_what_to_install(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)  # as if it were not installed
    settings.REALTIME_TRACING = True
    with pytest.raises(ConfigurationError, match=r"REALTIME_TRACING.*notifier\[otel\]"):
        Settings.from_django()


@pytest.mark.otel
def test_the_service_says_which_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ImproperlyConfigured, match=r"sdk.trace is not installed: pip install"):
        export_spans()


@pytest.mark.parametrize("kind", RIMS)
async def test_a_trace_in_a_request_changes_nothing(kind: str, settings: Any) -> None:
    settings.REALTIME_REDIS_URL = "memory://"
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = await Rim(kind).post("publish", {"channel": "news", "data": 1}, traceparent=trace)
    assert answer.result["nodes"] == 0
    await wiring.aclose()


def test_handlers_of_fallbacks_stay_as_they_are() -> None:
    handlers: dict[str, Any] = {"a": print}
    assert wiring.trace_handlers(handlers) is handlers
