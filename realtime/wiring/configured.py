"""The settings of this process, and the way to remember what is made from them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, ParamSpec, TypeVar

from django.core.signals import setting_changed

from realtime.conf.settings import PREFIX, Settings

T = TypeVar("T")
P = ParamSpec("P")
_cached: list[Any] = []
_remembered: list[Any] = []
_to_close: list[Any] = []


def once(function: Callable[[], T]) -> Callable[[], T]:
    """Call a function once per process, and again only after a test has changed a setting."""
    cached = cache(function)
    _cached.append(cached)
    return cached


def once_open(function: Callable[[], T]) -> Callable[[], T]:
    """Like `once`, but close what the function returned before it is called again."""
    cached = once(function)
    _to_close.append(cached)
    return cached


def remember(entries: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Remember some results of a function of Django's settings, until a test changes any of them.

    Args:
        entries: The number of results, those used last.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        cached = lru_cache(entries)(function)
        _remembered.append(cached)
        return cached  # type: ignore[return-value]  # typeshed loses the parameters

    return decorate


@once
def settings() -> Settings:
    """Return the settings, which are read once."""
    return Settings.from_django()


def _forget(*, setting: str, **kwargs: object) -> None:
    """Read the settings again when a test overrides them."""
    if setting.startswith(PREFIX):
        forget_all()
    for cached in _remembered:
        cached.cache_clear()


def forget_all() -> None:
    """Forget everything that was created from the settings; it is created again at its next use."""
    for cached in _to_close:
        if cached.cache_info().currsize:
            cached().close()
    for cached in (*_cached, *_remembered):
        cached.cache_clear()


setting_changed.connect(_forget)
