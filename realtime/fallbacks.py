"""Fallbacks by name: what a host registers, for what nobody hears.

In a module `fallbacks.py` of an app, which is loaded with the app, as `admin.py` is::

    from realtime import fallback

    @fallback("sms")
    def send_sms(queued):
        ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import iscoroutinefunction
from typing import Any, TypeVar

from django.db import connections

from realtime.errors import ConfigurationError
from realtime.names import checked_fallback
from realtime.queued import Queued
from realtime.threads import Threads
from realtime.worker import Handler

Function = TypeVar("Function", bound=Callable[[Queued], Any])

registered: dict[str, Callable[[Queued], Any]] = {}
"""By name; sync or async."""


def fallback(name: str) -> Callable[[Function], Function]:
    """Register a handler, by decorating it.

    It gets a `realtime.queued.Queued`, at least once: after a crash, or where it failed in the end,
    once more with the same `id`. Sync ones run in a thread. What it raises is tried again, later
    and later; `realtime.errors.GiveUp` is not.

    Args:
        name: What publications name, 1 to 64 characters out of ``A-Z a-z 0-9 _ - . :``.

    Raises:
        InvalidName: That is no name.
        ConfigurationError: Another function has it.
    """
    checked_fallback(name)

    def register(function: Function) -> Function:
        known = registered.setdefault(name, function)
        if _place(known) != _place(function):  # a module that is loaded again is no other one
            raise ConfigurationError(
                "fallback", f"{name!r} is registered twice: by {_place(known)}"
            )
        registered[name] = function
        return function

    return register


def _place(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{getattr(function, '__qualname__', function)}"


def threads() -> Threads:
    """Return where sync handlers run; they may use the database."""
    return Threads(at_end=connections.close_all)


def handlers(
    functions: Mapping[str, Callable[[Queued], Any]], threads: Threads
) -> dict[str, Handler]:
    """Return handlers as workers call them, by name."""
    return {name: _made_async(function, threads) for name, function in functions.items()}


def _made_async(function: Callable[[Queued], Any], threads: Threads) -> Handler:
    if iscoroutinefunction(function):
        return function
    return lambda queued: threads.run(function, queued)
