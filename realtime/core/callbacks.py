"""A callback that does nothing.

It stands where a callback is not set yet. It also replaces one at the end of an object, which
breaks a reference cycle if the callback refers to the object's owner.
"""

from __future__ import annotations


def do_nothing() -> None:
    """Do nothing."""
