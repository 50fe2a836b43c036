"""Sends the state of all nodes to the pages ``/monitor/`` that are open on this worker.

It goes to those who listen to a channel, but not through Redis: so it reaches them while Redis is
away, and is not among the numbers that it brings.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec
from channels.db import database_sync_to_async
from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser, User
from django.db import DatabaseError

from realtime.wiring.monitoring import heard_channels, send_to_listeners

logger = logging.getLogger("notifier.monitor")

NAMESPACE = "monitor"
"""Of the channels of the pages: one for each user, on which only that user may listen."""
EVERY_SECONDS = 2.0
_encode = msgspec.json.Encoder().encode


def channel_of(user: AbstractBaseUser | AnonymousUser) -> str:
    """Return the channel on which the pages of a user listen."""
    return f"{_start()}{user.pk}"


async def send_news() -> None:
    """Send the state every two seconds, until it is cancelled.

    Every user may listen on a channel of their own, but only members of the staff are sent
    anything.
    """
    while True:
        await asyncio.sleep(EVERY_SECONDS)
        try:
            await _send(heard_channels(NAMESPACE))
        except DatabaseError:
            continue  # the pages ask, since no news comes, and are told
        except Exception:  # the outermost loop: a bug must not end it, since it starts only once
            logger.exception("sending news to the pages /monitor/ failed")


async def read_page(*, with_past: bool) -> bytes:
    """Return what the page shows, as JSON; see `notifier.monitor.read_state`."""
    from notifier.job_views import count_jobs  # a worker starts faster without these
    from notifier.monitor import read_state

    state = await read_state(with_past=with_past)
    return _encode({**state, "jobs": await database_sync_to_async(count_jobs)()})


async def _send(channels: list[str]) -> None:
    if not channels or not (entitled := await _of_staff(channels)):
        return
    text = (await read_page(with_past=False)).decode()
    for channel in entitled:
        send_to_listeners(channel, f'{{"monitor":{text}}}')


async def _of_staff(channels: list[str]) -> list[str]:
    """Return the channels of members of the staff."""
    keys = [each.removeprefix(_start()) for each in channels]
    staff: set[str] = await database_sync_to_async(_read_staff)(keys)
    return [each for each, key in zip(channels, keys, strict=True) if key in staff]


def _read_staff(keys: list[str]) -> set[str]:
    """Return which of these primary keys are those of active members of the staff."""
    # A channel may name several users.
    numbers = [key for key in keys if key.isdecimal() and len(key) < 19]
    found = User.objects.filter(pk__in=numbers, is_staff=True, is_active=True)
    return {str(key) for key in found.values_list("pk", flat=True)}


def _start() -> str:
    return f"{NAMESPACE}:#{getattr(settings, 'REALTIME_SESSION_USER_PREFIX', '')}"
