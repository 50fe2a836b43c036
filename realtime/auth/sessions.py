"""The user of a Django session on a page of this site, and whether the session is still valid.

Looked up once, before the connection is accepted, and periodically for all connections of a node; a
frame never touches the database. Cookies count only on the site's own pages: a browser adds them to
a handshake from any page (CWE-1385).
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from channels.auth import AuthMiddlewareStack
from channels.db import database_sync_to_async
from django.apps import apps
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import Error as DatabaseError
from django.utils import timezone
from django.utils.crypto import salted_hmac

from realtime.auth.user_info import Describe, info_of
from realtime.connection.hostcode import of_host
from realtime.core.identity import ANONYMOUS, SAME_USERS, Identity, UserTable
from realtime.core.outage import Outage
from realtime.errors import RealtimeError

if TYPE_CHECKING:
    from realtime.delivery.users import Entitled

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
_APPS = ("django.contrib.auth", "django.contrib.sessions")
_COOKIE_VALUE = re.compile(r"[!#-+\--:<-\[\]-~]+")  # RFC 6265 §4.1.1, without quotes
_DIGEST_CHARACTERS = 32  # 128 bits
_SITE_CHARACTERS = 8
_outage = Outage()  # of the database, for logging


class SessionUnavailable(RealtimeError):
    """The session cannot be verified at the moment; try again later."""

    code = "session_unavailable"
    temporary = True


@dataclass(frozen=True, slots=True)
class SessionProof:
    """The data needed to look up a session again."""

    key: str = field(repr=False)


async def session_identity(
    scope: Scope, describe: Describe | None = None, table: UserTable = SAME_USERS
) -> Identity:
    """Return the user who is logged in on the connecting page.

    Args:
        scope: Of a handshake from one of our own pages.
        describe: Returns what other clients see about the user.
        table: Whose users have sessions: Django's user model.

    Raises:
        django.db.Error: The session or the user cannot be read.
    """
    user, key = scope.get("user"), ""
    if user is not None:  # the host wraps us in Channels' AuthMiddleware
        key = getattr(scope.get("session"), "session_key", None) or ""
    elif has_session(cookies := _cookies_of(scope)):
        user, key = await _user(scope, session_cookie(cookies))
    if user is None or not user.is_authenticated:
        return ANONYMOUS
    return Identity(
        table.id_of(str(user.pk)),
        info=await info_of(user, describe),
        session=session_digest(key),
        stamp=stamp_of(user),
        proof=SessionProof(key) if key else None,
    )


def session_digest(key: str) -> str:
    """Return an identifier of a session that does not reveal its key; empty for no session."""
    return hashlib.sha256(key.encode()).hexdigest()[:_DIGEST_CHARACTERS] if key else ""


def stamp_of(user: Any) -> str:
    """Return a value that changes with the user's password, like Django's session hash.

    Empty if the user model has none. It includes an identifier of this site, derived from
    SECRET_KEY, because another site cannot check whether it is still valid.
    """
    return next(iter(_stamps(user)), "")


def entitlement_check(table: UserTable) -> Entitled | None:
    """Return the function that rechecks identities; None if the project has no users."""
    return partial(_are_entitled, table) if apps.is_installed("django.contrib.auth") else None


async def _are_entitled(table: UserTable, identities: Sequence[Identity]) -> list[bool]:
    try:
        answers: list[bool] = await database_sync_to_async(still_entitled)(identities, table)
    except DatabaseError as error:
        if _outage.note_failure(time.monotonic()):
            logger.error(
                "cannot check whether sessions are still valid: %s", ascii(str(error))[:200]
            )
        return [True] * len(identities)  # closing all of them would be worse than waiting
    if (over := _outage.note_success(time.monotonic())) is not None:
        logger.info("checking sessions works again after %.1f s", over.seconds)
    return answers


def still_entitled(identities: Sequence[Identity], table: UserTable = SAME_USERS) -> list[bool]:
    """Return which identities are still valid: an active user, the same password, a live session.

    At most two queries, if sessions are in the database. Identities from another site's tokens are
    not checked and count as valid, and so are those of users of another table.
    """
    sites = _sites()
    ours = [
        identity.proof is not None or identity.stamp.partition(".")[0] in sites
        for identity in identities
    ]
    keys = [
        table.key_of(identity.user) if is_ours else None
        for identity, is_ours in zip(identities, ours, strict=True)
    ]
    users = _users({key for key in keys if key is not None})
    living = _living({identity.proof.key for identity in identities if identity.proof is not None})
    return [
        key is None or _is_entitled(identity, users.get(key), living)
        for identity, key in zip(identities, keys, strict=True)
    ]


def _is_entitled(identity: Identity, user: Any, living: set[str]) -> bool:
    return (
        user is not None
        and user.is_active
        and (not identity.stamp or identity.stamp in _stamps(user))
        and (identity.proof is None or identity.proof.key in living)
    )


def _sites() -> list[str]:
    """Return this site's identifiers in stamps: from SECRET_KEY, and from its fallbacks."""
    return [_site(key) for key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)]


@lru_cache(maxsize=8)  # called for each user of a node, every ten seconds
def _site(secret_key: str) -> str:
    return salted_hmac("realtime.site", "", secret_key).hexdigest()[:_SITE_CHARACTERS]


def _users(ids: Iterable[str]) -> dict[str, Any]:
    from django.contrib.auth import get_user_model  # needs the app registry

    model = get_user_model()
    keys = []
    for text in ids:
        try:
            key = model._meta.pk.to_python(text)
        except ValidationError:
            continue  # not a valid id of our user model
        if not isinstance(key, int) or key.bit_length() < 64:  # SQLite would refuse all of them
            keys.append(key)
    return {str(pk): user for pk, user in model._default_manager.in_bulk(keys).items()}


def _stamps(user: Any) -> list[str]:
    """Return the valid stamps of a user, newest first (SECRET_KEY_FALLBACKS)."""
    if not hasattr(user, "get_session_auth_hash"):
        return []
    hashes = [user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()]
    return [
        f"{site}.{hashlib.sha256(each.encode()).hexdigest()[:_DIGEST_CHARACTERS]}"
        for site, each in zip(_sites(), hashes, strict=True)
    ]


def _living(keys: set[str]) -> set[str]:
    """Return which sessions exist and have not expired."""
    if not keys:
        return set()
    store = import_module(settings.SESSION_ENGINE).SessionStore
    if hasattr(store, "get_model_class"):
        sessions = store.get_model_class().objects.filter(
            session_key__in=keys, expire_date__gt=timezone.now()
        )
        return set(sessions.values_list("session_key", flat=True))
    if settings.SESSION_ENGINE == "django.contrib.sessions.backends.signed_cookies":
        return keys  # only the browser has them: there is nothing to look up
    return {key for key in keys if store().exists(key)}


def has_session(cookies: str) -> bool:
    """Return whether a Cookie header may name a session, so that a query is worthwhile."""
    installed = all(map(apps.is_installed, _APPS))
    return installed and bool(session_cookie(cookies))


def session_cookie(cookies: str) -> str:
    r"""Return the session cookie of a Cookie header; empty if it is missing or not one of Django's.

    Django's `parse_cookie` decodes quoted values, which none of Django's session engines sends:
    ``"\000"`` becomes a NUL, which PostgreSQL refuses. Before Python 3.11.10 and 3.12.6 it also
    takes time in the square of their length (CVE-2024-7592), and this runs in the event loop.
    """
    found = ""
    for pair in cookies.split(";"):
        name, _, value = pair.partition("=")
        if name.strip() == settings.SESSION_COOKIE_NAME:
            found = value.strip()  # the last one counts, as in Django
    return found if _COOKIE_VALUE.fullmatch(found) else ""


def _cookies_of(scope: Scope) -> str:
    return "; ".join(
        [value.decode("latin-1") for name, value in scope["headers"] if name == b"cookie"]
    )


async def _user(scope: Scope, cookie: str) -> tuple[Any, str]:
    """Call Channels' middleware once; as a wrapper it would hook each send to save the session.

    It parses all cookies, so it gets none but that of the session.
    """
    pair = f"{settings.SESSION_COOKIE_NAME}={cookie}".encode("latin-1")
    found: list[Any] = []

    async def look(scope: Scope, receive: Any, send: Any) -> None:
        found.extend((scope["user"], scope["session"].session_key or ""))

    only = {**scope, "headers": [(b"cookie", pair)]}
    await of_host(AuthMiddlewareStack(look)(only, None, None))
    return found[0], found[1]
