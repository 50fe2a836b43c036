"""Close connections on every node when Django revokes the right that they depend on.

Connected by `realtime.apps`, if the project has users. Nodes make up for lost commands: they
recheck every user every ten seconds (`realtime.delivery.users`). So a receiver never raises: it
runs inside a save, a delete or a log-out of the host, which must not fail because of it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import cache, wraps
from importlib import import_module
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth import SESSION_KEY, get_user_model
from django.contrib.auth.signals import user_logged_out
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.db import Error as DatabaseError
from django.db import transaction
from django.db.models.signals import class_prepared, post_delete, post_save
from django.utils import timezone
from django.utils.connection import ConnectionDoesNotExist

from realtime import wiring
from realtime.auth.containment import contain_errors
from realtime.auth.sessions import session_digest
from realtime.core.breaker import Breaker
from realtime.core.node_commands import DisconnectUser, NodeCommand, RecheckUser
from realtime.core.outage import Outage
from realtime.errors import BrokerError
from realtime.host.user_tokens import id_of, id_of_key

logger = logging.getLogger(__name__)

_CREDENTIALS = {"password", "is_active"}
_CONSEQUENCE = "affected connections are closed within ten seconds, not immediately"
_NO_COMMIT = (DatabaseError, ImproperlyConfigured, ConnectionDoesNotExist, SynchronousOnlyOperation)
"""What `transaction.on_commit` raises if it cannot wait for a commit: the host manages its
transactions itself (``set_autocommit(False)``), has no database or lost it, or an event loop runs
in this thread."""
_breaker = Breaker()
"""Otherwise each save would wait for a frozen Redis to time out; lost commands are made up for."""
_outage = Outage()  # for logging
_noting = threading.Lock()  # guards these two


def connect() -> None:
    """Connect to Django's signals. Call it once, when the apps are ready.

    For each model separately, including models defined later: Django sends a signal for exactly the
    class that was saved, and one receiver for all models is not an option. It would run on each
    save of the host, and make each `QuerySet.delete` fetch the rows first (without receivers Django
    deletes them directly).
    """
    user_logged_out.connect(_on_logout, dispatch_uid="realtime")
    users, sessions = _concrete(get_user_model()), None
    if apps.is_installed("django.contrib.sessions"):
        with contain_errors("connecting the session signals", _CONSEQUENCE):
            store = _session_store()
            if hasattr(store, "get_model_class"):
                sessions = _concrete(store.get_model_class())

    def listen(sender: Any, **kwargs: Any) -> None:
        model = _concrete(sender)  # for a proxy, the model that owns its table
        if issubclass(model, _tables_of(users)):
            post_save.connect(_on_user_saved, sender=sender, dispatch_uid="realtime")
        # Django deletes the rows of parents and children along with a model's row, with signals.
        if model is users:
            post_delete.connect(_on_user_deleted, sender=sender, dispatch_uid="realtime")
        if model is sessions:
            post_delete.connect(_on_session_deleted, sender=sender, dispatch_uid="realtime")

    for model in apps.get_models():
        listen(model)
    class_prepared.connect(listen, weak=False, dispatch_uid="realtime")  # proxies in an admin.py


def _concrete(model: Any) -> Any:
    return model._meta.concrete_model


@cache
def _tables_of(model: Any) -> tuple[Any, ...]:
    """Return the models that a row of a concrete model consists of, under its own primary key.

    These are the model itself and, with multi-table inheritance, its parents. Saving one of them,
    or another child of it, may change the data of the model's row.
    """
    tables, key = [model], model._meta.pk
    while key.remote_field is not None and key.remote_field.parent_link:
        parent = _concrete(key.remote_field.model)
        tables.append(parent)
        key = parent._meta.pk
    return tuple(tables)


def _session_store() -> Any:
    return import_module(settings.SESSION_ENGINE).SessionStore


def _contain(receiver: Callable[..., None]) -> Callable[..., None]:
    @wraps(receiver)
    def receive(**kwargs: Any) -> None:
        with contain_errors(f"the signal receiver {receiver.__name__}", _CONSEQUENCE):
            receiver(**kwargs)

    return receive


@_contain
def _on_logout(*, request: Any, user: Any, **kwargs: Any) -> None:
    """Close the connections of this login; the user's other browsers stay connected."""
    key = getattr(getattr(request, "session", None), "session_key", None)
    if user is not None and key:
        _send_command(DisconnectUser(id_of(user), session=session_digest(key)))


@_contain
def _on_session_deleted(*, instance: Any, **kwargs: Any) -> None:
    if instance.expire_date < timezone.now():
        return  # `clearsessions`: perhaps a million, whose connections ended long ago
    # With the site's store: `get_decoded` uses the store of the model, which may be another one.
    user = _session_store()().decode(instance.session_data).get(SESSION_KEY)
    if user is not None:
        _send_command(
            DisconnectUser(id_of_key(user), session=session_digest(instance.session_key)),
            kwargs.get("using"),
        )


@_contain
def _on_user_saved(
    *, instance: Any, created: bool, update_fields: frozenset[str] | None = None, **kwargs: Any
) -> None:
    """Make the nodes recheck a user whose password or `is_active` may have changed."""
    tables = _tables_of(_concrete(get_user_model()))
    if created and _concrete(instance) in tables:
        return  # a new child may belong to an existing user, ``Staff(user_ptr=user)``
    if update_fields is None or _CREDENTIALS & update_fields:
        table = next(table for table in tables if isinstance(instance, table))
        # The primary key of that table, not of the instance: a child may have one of its own.
        _send_command(
            RecheckUser(id_of_key(getattr(instance, table._meta.pk.attname))), kwargs.get("using")
        )


@_contain
def _on_user_deleted(*, instance: Any, **kwargs: Any) -> None:
    _send_command(DisconnectUser(id_of_key(instance.pk)), kwargs.get("using"))


def _send_command(command: NodeCommand, using: str | None = None) -> None:
    """Send a command to the nodes after the commit, or now if the commit cannot be observed."""

    # Not a `partial`: Django logs the `__qualname__` of a failed callback, which a partial lacks,
    # and the AttributeError would leave the host's `atomic` after the commit.
    def send() -> None:
        with contain_errors("sending a command to the nodes", _CONSEQUENCE):
            _send_now(command)

    try:
        transaction.on_commit(send, using=using, robust=True)
    except _NO_COMMIT:
        send()


def _send_now(command: NodeCommand) -> None:
    if not wiring.settings().redis_url:
        return  # a project that only has the app installed; no node exists
    began = time.monotonic()
    with _noting:
        if not _breaker.admits(began):
            _outage.note_failure(began)
            return
    try:
        wiring.send_node_command_sync(command)
    except BrokerError as error:
        _note_failure(began, error)
    else:
        _note_success()


def _note_failure(began: float, error: BrokerError) -> None:
    with _noting:
        now = time.monotonic()
        _breaker.note_failure(began, now)
        is_news = _outage.note_failure(now)
    if is_news:
        logger.warning(
            "could not send a command to the nodes; they will notice within ten seconds: %s", error
        )


def _note_success() -> None:
    with _noting:
        _breaker.note_success()
        over = _outage.note_success(time.monotonic())
    if over is not None:
        logger.info(
            "sending commands to the nodes works again: %d failed or were skipped within %.1f s",
            over.failures,
            over.seconds,
        )
