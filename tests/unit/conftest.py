"""The profiles of Hypothesis: deterministic by default.

``HYPOTHESIS_PROFILE=deep`` is random and thorough (``DEEP`` examples of each property).
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("unit", deadline=None, max_examples=50, derandomize=True, database=None)
settings.register_profile(
    "deep",
    deadline=None,
    max_examples=int(os.environ.get("DEEP", "5000")),
    suppress_health_check=list(HealthCheck),
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "unit"))
