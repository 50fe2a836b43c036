"""The pytest fixture: ``pytest_plugins = ["realtime.testing.fixtures"]`` in ``conftest.py``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from realtime.testing.capture import CapturedPublications, capture_publications


@pytest.fixture
def published() -> Iterator[CapturedPublications]:
    """What the test publishes."""
    with capture_publications() as captured:
        yield captured
