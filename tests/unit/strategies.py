"""Hypothesis strategies: valid values of the domain, and what people send instead."""

from __future__ import annotations

import msgspec
from hypothesis import strategies as st

from realtime.core.names import CHANNEL_LIMIT
from realtime.core.positions import Position

ODD_TEXT = st.sampled_from(["", "\n", "\r\n", "\x00", "\u2028", "é", "💥", "\\", '"', "]}", "null"])


def text() -> st.SearchStrategy[str]:
    """Valid Unicode text: no lone surrogates."""
    return ODD_TEXT | st.text(max_size=8)


def json_values() -> st.SearchStrategy[object]:
    """JSON values that every parser reproduces exactly, well within our limits."""
    numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    return st.recursive(
        st.none() | st.booleans() | numbers | text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text(), inner, max_size=3),
        max_leaves=8,
    )


def anything_in_python() -> st.SearchStrategy[object]:
    """Python objects as a host project may pass them, valid JSON or not."""
    odd = [float("nan"), float("inf"), "\ud800", 10**4000, 2**64, 1j, b"\xff", object()]
    raw = [msgspec.Raw(r) for r in (b"1", b"\n", b"junk", b'"\xff"', b"[" * 5000, b"null")]
    leaves = st.sampled_from([*odd, *raw]) | json_values()
    keys = text() | st.sampled_from([1, 1.5, None, (1,), "\ud800"])
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(keys, inner, max_size=3)
            | st.tuples(inner, inner)
        ),
        max_leaves=6,
    )


def epochs() -> st.SearchStrategy[str]:
    """Epochs like those of the script."""
    return st.integers(0, 2**64 - 1).map(lambda number: f"{number:016x}")


def positions() -> st.SearchStrategy[Position]:
    """Positions of publications."""
    return st.builds(Position, epochs(), st.integers(1, 10**16 - 1))


def channels() -> st.SearchStrategy[str]:
    """Legal names."""
    return st.text("az09AZ_-=@,.;:#", min_size=1, max_size=8) | st.just("x" * CHANNEL_LIMIT)
