"""The users whom a queued publication is for, as far as they are users of this project."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ValidationError

from realtime.core.names import users_of
from realtime.errors import GiveUp

if TYPE_CHECKING:
    from realtime.core.identity import UserTable


def active_users(channel: str, table: UserTable, most: int) -> list[Any]:
    """Return the active users of a channel (``user:#42``), at most this many.

    Args:
        channel: The channel of the publication.
        table: The user table of this project.
        most: How many users are looked up.

    Raises:
        GiveUp: One of them is a user of another table, whose id may be that of somebody else here.
    """
    users = sorted(users_of(channel) or ())[:most]
    keys = [key for user in users if (key := table.key_of(user)) is not None]
    if len(keys) < len(users):
        raise GiveUp(
            f"the channel {ascii(channel)[:80]} is for users of another table than this worker's, "
            f"whose ids begin with {table.prefix}: run `runfallback` in the project whose users "
            "they are, and not here; there, `fallback retry ID` tries again"
        )
    if not keys or not apps.is_installed("django.contrib.auth"):
        return []
    return [user for user in map(_active_user, keys) if user is not None]


def _active_user(user_id: str) -> Any:
    model = apps.get_model(settings.AUTH_USER_MODEL)
    try:
        user = model._default_manager.filter(pk=user_id).first()
    except (ValueError, ValidationError):  # not a valid id of this model
        return None
    # The id in the channel must be in canonical form: `user:#01` and `user:#0_1` are nobody's
    # channels, but an integer field parses both as 1.
    return user if user is not None and str(user.pk) == user_id and user.is_active else None
