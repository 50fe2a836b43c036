"""What ends a right in Django closes the connections that rest on it, on every node.

Connected by `realtime.apps`, where there are users. A command that gets lost is made up for by the
nodes, which look at everybody every ten seconds (`realtime.users`). So no receiver ever raises: it
runs inside a save, a delete or a log-out of the host's, which must not fail for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth import SESSION_KEY, get_user_model
from django.contrib.auth.signals import user_logged_out
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.db import Error as DatabaseError
from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django.utils import timezone
from django.utils.connection import ConnectionDoesNotExist

from realtime import wiring
from realtime.auth import session_digest
from realtime.containment import contain_errors
from realtime.control import Command, Disconnect, Recheck
from realtime.errors import BrokerError

logger = logging.getLogger(__name__)

_CREDENTIALS = {"password", "is_active"}
_CONSEQUENCE = "connections whose right has ended are closed within ten seconds, not at once"
_NO_COMMIT = (DatabaseError, ImproperlyConfigured, ConnectionDoesNotExist, SynchronousOnlyOperation)
"""What `transaction.on_commit` raises where it cannot wait for a commit: the host manages its
transactions itself (``set_autocommit(False)``), has no database or lost it, or an event loop runs
in this thread."""


def connect() -> None:
    """Listen to Django's signals. Call it once, when the apps are ready."""
    user_logged_out.connect(_logged_out, dispatch_uid="realtime")
    model = get_user_model()
    post_save.connect(_user_saved, sender=model, dispatch_uid="realtime")
    post_delete.connect(_user_deleted, sender=model, dispatch_uid="realtime")
    if apps.is_installed("django.contrib.sessions"):
        with contain_errors("listening to the end of sessions", _CONSEQUENCE):
            store = import_module(settings.SESSION_ENGINE).SessionStore
            if hasattr(store, "get_model_class"):
                sessions = store.get_model_class()
                post_delete.connect(_session_deleted, sender=sessions, dispatch_uid="realtime")


def _contained(receiver: Callable[..., None]) -> Callable[..., None]:
    @wraps(receiver)
    def receive(**kwargs: Any) -> None:
        with contain_errors(f"the signal receiver {receiver.__name__}", _CONSEQUENCE):
            receiver(**kwargs)

    return receive


@_contained
def _logged_out(*, request: Any, user: Any, **kwargs: Any) -> None:
    """Close what came from this login; the user's other browsers stay."""
    key = getattr(getattr(request, "session", None), "session_key", None)
    if user is not None and key:
        _tell(Disconnect(str(user.pk), session=session_digest(key)))


@_contained
def _session_deleted(*, instance: Any, **kwargs: Any) -> None:
    if instance.expire_date < timezone.now():
        return  # `clearsessions`: perhaps a million, whose connections have ended long ago
    user = instance.get_decoded().get(SESSION_KEY)
    if user is not None:
        _tell(
            Disconnect(str(user), session=session_digest(instance.session_key)), kwargs.get("using")
        )


@_contained
def _user_saved(
    *, instance: Any, created: bool, update_fields: frozenset[str] | None = None, **kwargs: Any
) -> None:
    """Let the nodes look at a user whose password or `is_active` may have changed."""
    if not created and (update_fields is None or _CREDENTIALS & update_fields):
        _tell(Recheck(str(instance.pk)), kwargs.get("using"))


@_contained
def _user_deleted(*, instance: Any, **kwargs: Any) -> None:
    _tell(Disconnect(str(instance.pk)), kwargs.get("using"))


def _tell(command: Command, using: str | None = None) -> None:
    """Tell the nodes when it is true: after the commit, or now where nobody says when that is."""

    # No `partial`: Django logs the `__qualname__` of a callback that failed, which a partial lacks,
    # and its AttributeError would leave the host's `atomic` after the commit.
    def tell() -> None:
        with contain_errors("telling the nodes", _CONSEQUENCE):
            _tell_now(command)

    try:
        transaction.on_commit(tell, using=using, robust=True)
    except _NO_COMMIT:
        tell()


def _tell_now(command: Command) -> None:
    if not wiring.settings().redis_url:
        return  # a project that only has the app installed; nobody listens anywhere
    try:
        wiring.tell_nodes_sync(command)
    except BrokerError as error:
        logger.warning("could not tell the nodes, they will find out in time: %s", error)
