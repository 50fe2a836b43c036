"""Fallbacks by name: handlers that a host registers for queued publications.

In a module `fallbacks.py` of an app, which is loaded with the app, as `admin.py` is::

    from realtime import fallback

    @fallback("sms")
    def send_sms(queued):
        ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import connections

from realtime.core.fallback_entry import Queued
from realtime.core.names import checked_fallback
from realtime.errors import ConfigurationError
from realtime.fallbacks.threads import Threads

if TYPE_CHECKING:
    from realtime.fallbacks.worker import Handler

Function = TypeVar("Function", bound=Callable[[Queued], Any])

registered: dict[str, Callable[[Queued], Any]] = {}
"""By name; sync or async."""


def fallback(name: str) -> Callable[[Function], Function]:
    """Register a handler; used as a decorator.

    It is called with a `realtime.core.fallback_entry.Queued`, at least once: after a crash, or if
    it failed at the very end, again with the same `id`. Synchronous handlers run in a thread. If it
    raises, it is retried with increasing delays, except for `realtime.errors.GiveUp`.

    Args:
        name: The name for publications to use, 1 to 64 characters out of ``A-Z a-z 0-9 _ - . :``.

    Raises:
        InvalidName: The name is invalid.
        ConfigurationError: Another function has this name.
    """
    checked_fallback(name)

    def register(function: Function) -> Function:
        known = registered.setdefault(name, function)
        if _place(known) != _place(function):  # a reloaded module registers the same function
            raise ConfigurationError(
                "fallback", f"{name!r} is registered twice: by {_place(known)}"
            )
        registered[name] = function
        return function

    return register


def _place(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{getattr(function, '__qualname__', function)}"


def threads() -> Threads:
    """Return the threads for synchronous handlers, which may use the database."""
    return Threads(at_end=connections.close_all)


def handlers(
    functions: Mapping[str, Callable[[Queued], Any]], threads: Threads
) -> dict[str, Handler]:
    """Return handlers by name, in the form that workers call."""
    return {name: _make_async(function, threads) for name, function in functions.items()}


def _make_async(function: Callable[[Queued], Any], threads: Threads) -> Handler:
    if iscoroutinefunction(function):
        return function
    return lambda queued: threads.run(function, queued)
