"""Whom Django's session knows: the user of a page of this site, and whether it still does.

Looked up once, before the connection is accepted, and again for all of a node now and then; a frame
never touches the database. Cookies count for the site's own pages alone: a browser adds them to a
handshake from any page (CWE-1385).
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from itertools import compress
from typing import Any

from channels.auth import AuthMiddlewareStack
from channels.db import database_sync_to_async
from django.apps import apps
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import Error as DatabaseError
from django.http import parse_cookie
from django.utils import timezone
from django.utils.crypto import salted_hmac

from realtime.description import Describe, info_of
from realtime.hostcode import of_host
from realtime.identity import ANONYMOUS, Identity
from realtime.outage import Outage
from realtime.users import Entitled

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
_APPS = ("django.contrib.auth", "django.contrib.sessions")
_DIGEST_CHARACTERS = 32  # 128 bits
_SITE_CHARACTERS = 8
_outage = Outage()  # of the database, for the log


@dataclass(frozen=True, slots=True)
class SessionProof:
    """By what a session can be looked up again."""

    key: str = field(repr=False)


async def session_identity(scope: Scope, describe: Describe | None = None) -> Identity:
    """Return the user who is logged in on the page that connects.

    Args:
        scope: Of a handshake that came from a page of our own.
        describe: Tells what others are shown of the user.

    Raises:
        django.db.Error: The session or the user cannot be read.
    """
    user, key = scope.get("user"), ""
    if user is not None:  # the host has Channels' AuthMiddleware around us
        key = getattr(scope.get("session"), "session_key", None) or ""
    elif _may_have_session(scope):
        user, key = await _user(scope)
    if user is None or not user.is_authenticated:
        return ANONYMOUS
    return Identity(
        str(user.pk),
        info=await info_of(user, describe),
        session=session_digest(key),
        stamp=stamp_of(user),
        proof=SessionProof(key) if key else None,
    )


def session_digest(key: str) -> str:
    """Return what names a session without giving it away; empty for no session."""
    return hashlib.sha256(key.encode()).hexdigest()[:_DIGEST_CHARACTERS] if key else ""


def stamp_of(user: Any) -> str:
    """Return what changes with the user's password, as Django's sessions do; empty if nothing can.

    It names this site, by its SECRET_KEY: another one cannot tell whether it is still true.
    """
    return next(iter(_stamps(user)), "")


def entitled() -> Entitled | None:
    """Return who tells which identities may still be here; None where there are no users."""
    return _are_entitled if apps.is_installed("django.contrib.auth") else None


async def _are_entitled(identities: Sequence[Identity]) -> list[bool]:
    try:
        answers: list[bool] = await database_sync_to_async(still_entitled)(identities)
    except DatabaseError as error:
        if _outage.failed(time.monotonic()):
            logger.error("cannot look whether sessions are still good: %s", ascii(str(error))[:200])
        return [True] * len(identities)  # to end them all would be worse than to wait
    if (over := _outage.worked(time.monotonic())) is not None:
        logger.info("sessions can be looked at again after %.1f s", over.seconds)
    return answers


def still_entitled(identities: Sequence[Identity]) -> list[bool]:
    """Tell who of them may still be here: an active user, the same password, a living session.

    Two queries at most, where sessions are in the database. Who came by a token of another site is
    not ours to judge.
    """
    sites = _sites()
    ours = [
        identity.proof is not None or identity.stamp.partition(".")[0] in sites
        for identity in identities
    ]
    checked = list(compress(identities, ours))
    users = _users({identity.user for identity in checked})
    living = _living({identity.proof.key for identity in checked if identity.proof is not None})
    return [
        not is_ours or _is_entitled(identity, users.get(identity.user), living)
        for identity, is_ours in zip(identities, ours, strict=True)
    ]


def _is_entitled(identity: Identity, user: Any, living: set[str]) -> bool:
    return (
        user is not None
        and user.is_active
        and (not identity.stamp or identity.stamp in _stamps(user))
        and (identity.proof is None or identity.proof.key in living)
    )


def _sites() -> list[str]:
    """Return what names this site in its stamps: by SECRET_KEY, and by those it had before."""
    return [_site(key) for key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)]


@lru_cache(maxsize=8)  # asked for each user of a node, every ten seconds
def _site(secret_key: str) -> str:
    return salted_hmac("realtime.site", "", secret_key).hexdigest()[:_SITE_CHARACTERS]


def _users(ids: Iterable[str]) -> dict[str, Any]:
    from django.contrib.auth import get_user_model  # needs the app registry

    model = get_user_model()
    keys = []
    for text in ids:
        try:
            keys.append(model._meta.pk.to_python(text))
        except ValidationError:
            continue  # no user of ours has such an id
    return {str(pk): user for pk, user in model._default_manager.in_bulk(keys).items()}


def _stamps(user: Any) -> list[str]:
    """Return the stamps that are good for a user, the newest first (SECRET_KEY_FALLBACKS)."""
    if not hasattr(user, "get_session_auth_hash"):
        return []
    hashes = [user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()]
    return [
        f"{site}.{hashlib.sha256(each.encode()).hexdigest()[:_DIGEST_CHARACTERS]}"
        for site, each in zip(_sites(), hashes, strict=True)
    ]


def _living(keys: set[str]) -> set[str]:
    """Return which sessions are there and have not expired."""
    if not keys:
        return set()
    store = import_module(settings.SESSION_ENGINE).SessionStore
    if hasattr(store, "get_model_class"):
        sessions = store.get_model_class().objects.filter(
            session_key__in=keys, expire_date__gt=timezone.now()
        )
        return set(sessions.values_list("session_key", flat=True))
    if settings.SESSION_ENGINE == "django.contrib.sessions.backends.signed_cookies":
        return keys  # only the browser has them: nobody can look
    return {key for key in keys if store().exists(key)}


def has_session(cookies: str) -> bool:
    """Tell whether the header Cookie may name a session, so that it is worth a query."""
    installed = all(map(apps.is_installed, _APPS))
    return installed and settings.SESSION_COOKIE_NAME in parse_cookie(cookies)


def _may_have_session(scope: Scope) -> bool:
    return has_session(
        "; ".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"cookie")
    )


async def _user(scope: Scope) -> tuple[Any, str]:
    """Ask Channels' middleware, which would otherwise wrap each send to save a session."""
    found: list[Any] = []

    async def look(scope: Scope, receive: Any, send: Any) -> None:
        found.extend((scope["user"], scope["session"].session_key or ""))

    await of_host(AuthMiddlewareStack(look)(dict(scope), None, None))
    return found[0], found[1]
