"""The prefix under which a proxy mounts the project, stripped or not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.core.paths import for_browsers, within_project

segments = st.lists(st.sampled_from(["app", "live", "connection", "a"]), max_size=3)
paths = segments.map(lambda parts: "/" + "/".join(parts))
prefixes = segments.map(lambda parts: "".join(f"/{part}" for part in parts))


@pytest.mark.parametrize(
    ("path", "prefix", "within"),
    [
        ("/readyz", "", "/readyz"),
        ("/app/live/readyz", "/app/live", "/readyz"),
        ("/app/live/readyz", "/app/live/", "/readyz"),
        ("/readyz", "/app/live", "/readyz"),
        ("/app/live", "/app/live", "/"),
        ("/app/lively/readyz", "/app/live", "/app/lively/readyz"),
        ("/live/readyz", "/", "/live/readyz"),
    ],
)
def test_the_prefix_is_removed_if_it_is_there(path: str, prefix: str, within: str) -> None:
    assert within_project(path, prefix) == within


@given(paths, prefixes)
def test_a_browser_sees_the_same_path_whether_the_proxy_strips_or_not(
    path: str, prefix: str
) -> None:
    inside = within_project(path, prefix)
    assert for_browsers(path, prefix) == prefix + inside
    assert within_project(for_browsers(path, prefix), prefix) == inside
