"""What ends a right in Django closes the connections that rest on it, on every node.

Connected by `realtime.apps`, where there are users. A command that gets lost with Redis is made up
for by the nodes, which look at everybody now and then (`realtime.users`).
"""

from __future__ import annotations

import logging
from functools import partial
from importlib import import_module
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth import SESSION_KEY, get_user_model
from django.contrib.auth.signals import user_logged_out
from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django.utils import timezone

from realtime import wiring
from realtime.auth import session_digest
from realtime.control import Command, Disconnect, Recheck
from realtime.errors import BrokerError

logger = logging.getLogger(__name__)

_CREDENTIALS = {"password", "is_active"}


def connect() -> None:
    """Listen to Django's signals. Call it once, when the apps are ready."""
    user_logged_out.connect(_logged_out, dispatch_uid="realtime")
    model = get_user_model()
    post_save.connect(_user_saved, sender=model, dispatch_uid="realtime")
    post_delete.connect(_user_deleted, sender=model, dispatch_uid="realtime")
    if apps.is_installed("django.contrib.sessions"):
        store = import_module(settings.SESSION_ENGINE).SessionStore
        if hasattr(store, "get_model_class"):
            sessions = store.get_model_class()
            post_delete.connect(_session_deleted, sender=sessions, dispatch_uid="realtime")


def _logged_out(*, request: Any, user: Any, **kwargs: Any) -> None:
    """Close what came from this login; the user's other browsers stay."""
    key = getattr(getattr(request, "session", None), "session_key", None)
    if user is not None and key:
        _tell(Disconnect(str(user.pk), session=session_digest(key)))


def _session_deleted(*, instance: Any, **kwargs: Any) -> None:
    if instance.expire_date < timezone.now():
        return  # `clearsessions`: perhaps a million, whose connections have ended long ago
    user = instance.get_decoded().get(SESSION_KEY)
    if user is not None:
        _tell(Disconnect(str(user), session=session_digest(instance.session_key)), kwargs["using"])


def _user_saved(
    *, instance: Any, created: bool, update_fields: frozenset[str] | None = None, **kwargs: Any
) -> None:
    """Let the nodes look at a user whose password or `is_active` may have changed."""
    if not created and (update_fields is None or _CREDENTIALS & update_fields):
        _tell(Recheck(str(instance.pk)), kwargs["using"])


def _user_deleted(*, instance: Any, **kwargs: Any) -> None:
    _tell(Disconnect(str(instance.pk)), kwargs["using"])


def _tell(command: Command, using: str | None = None) -> None:
    """Tell the nodes when it is true: after the commit."""
    transaction.on_commit(partial(_tell_now, command), using=using, robust=True)


def _tell_now(command: Command) -> None:
    if not wiring.settings().redis_url:
        return  # a project that only has the app installed; nobody listens anywhere
    try:
        wiring.tell_nodes_sync(command)
    except BrokerError as error:
        logger.warning("could not tell the nodes, they will find out in time: %s", error)
