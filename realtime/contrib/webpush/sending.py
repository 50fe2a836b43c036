"""The fallback ``webpush``: notifies the browsers of a publication's users (RFC 8030).

Each browser's own push service is asked, at an address that the browser gave. So the same rules
apply as for webhooks (`realtime.fallbacks.posting`): no private networks, no redirects.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult

from cryptography.hazmat.primitives.asymmetric import ec

from realtime.contrib.webpush.messages import PushMessage, message_of
from realtime.contrib.webpush.models import BrowserSubscription
from realtime.core.identity import SAME_USERS, UserTable
from realtime.core.url_rules import read_url
from realtime.errors import GiveUp, PartlyDone
from realtime.fallbacks.posting import PostFailed, PrivateAddress, VettedPost
from realtime.fallbacks.recipients import active_users
from realtime.identity.web_push import PrivateKey, decode_keys, encrypt, vapid_header

if TYPE_CHECKING:
    from realtime.core.fallback_entry import Queued

logger = logging.getLogger(__name__)

USERS_LIMIT = 10
BROWSERS_LIMIT = 20
"""Subscriptions of one user; a new one replaces the oldest."""
REQUEST_SECONDS = 10.0
SENDING_SECONDS = 40.0
"""After this time, no further browser is notified in the same attempt, which may take a minute."""
GONE = (404, 410)


class PushFailed(Exception):
    """No push service took the message; a retry may succeed."""


class Result(Enum):
    """What became of a message to one browser."""

    TAKEN = auto()
    GONE = auto()
    """The subscription has ended, and is deleted."""
    REFUSED = auto()
    """This message will never be taken."""
    LEFT = auto()
    """A retry may succeed."""


@dataclass(frozen=True, slots=True)
class WebPush:
    """Notifies browsers. A handler, to be called in a thread."""

    key: PrivateKey = field(repr=False)
    subject: str
    table: UserTable = SAME_USERS
    allow_private: bool = False
    seconds: float = REQUEST_SECONDS

    def __call__(self, queued: Queued) -> None:
        """Notify all browsers of the publication's users.

        Raises:
            GiveUp: Nobody is to be notified, or no push service will ever take the message.
            NoBrowser: The users have allowed notifications in no browser.
            PartlyDone: Some were notified; the error's options list only the others.
            PushFailed: A temporary failure.
        """
        message = message_of(queued)
        browsers = self._browsers(queued)
        if not browsers:
            raise NoBrowser("the users of the channel have allowed notifications in no browser")
        until = time.monotonic() + SENDING_SECONDS
        results: dict[int, Result] = {}
        reasons: list[str] = []
        for number, browser in enumerate(browsers):
            if number and time.monotonic() > until:
                results[browser.pk] = Result.LEFT
                reasons.append("the push services are too slow")
                continue
            results[browser.pk], reason = self._notify(browser, message)
            if reason:
                reasons.append(reason)
        _raise_failures(queued.options, results, reasons)

    def _browsers(self, queued: Queued) -> list[BrowserSubscription]:
        users = active_users(queued.channel, self.table, USERS_LIMIT + 1)
        if not 1 <= len(users) <= USERS_LIMIT:
            raise GiveUp(
                f"the channel {ascii(queued.channel)[:80]} is for {len(users)} active users: web "
                f"push is for channels of 1 to {USERS_LIMIT}, such as user:#42"
            )
        found = BrowserSubscription._default_manager.filter(user__in=users).order_by("pk")
        only = queued.options.get("only")
        return list(found if only is None else found.filter(pk__in=only))

    def _notify(self, browser: BrowserSubscription, message: PushMessage) -> tuple[Result, str]:
        """Send the message to one browser; return the result, and why it was not taken."""
        url = endpoint_of(browser.endpoint, self.allow_private)
        keys = decode_keys(browser.p256dh, browser.auth)
        if url is None or keys is None:  # checked when it was stored, perhaps by other rules
            browser.delete()
            return Result.GONE, "an invalid subscription"
        body = encrypt(message.text, keys, os.urandom(16), ec.generate_private_key(ec.SECP256R1()))
        headers = {
            **message.headers,
            "Host": url.netloc,
            "Content-Type": "application/octet-stream",
            "Content-Encoding": "aes128gcm",
            "User-Agent": "django-realtime-notifier",
            "Connection": "close",
            "Authorization": vapid_header(
                f"{url.scheme}://{url.netloc}", self.subject, self.key, time.time()
            ),
        }
        post = VettedPost(url, seconds=self.seconds, allow_private=self.allow_private)
        try:
            status = post.send(body, headers).status
        except PrivateAddress as error:
            return Result.REFUSED, str(error)
        except PostFailed as error:
            return Result.LEFT, str(error)
        if 200 <= status < 300:
            return Result.TAKEN, ""
        why = f"{url.hostname} answered {status}"
        if status in GONE:
            browser.delete()
            return Result.GONE, why
        is_temporary = status >= 500 or status == 429
        return (Result.LEFT if is_temporary else Result.REFUSED), why


class NoBrowser(GiveUp):
    """The users have no browser that takes notifications."""


def endpoint_of(text: str, allow_private: bool) -> SplitResult | None:
    """Return an endpoint that may be contacted; None if it is none."""
    url = read_url(text)
    schemes = ("https", "http") if allow_private else ("https",)
    return None if url is None or url.scheme not in schemes or "@" in url.netloc else url


def _raise_failures(
    options: Mapping[str, Any], results: Mapping[int, Result], reasons: Sequence[str]
) -> None:
    """Raise an error if any browser that still exists was not notified."""
    left = [pk for pk, result in results.items() if result is Result.LEFT]
    refused = sum(result is Result.REFUSED for result in results.values())
    taken = sum(result is Result.TAKEN for result in results.values())
    why = f"{len(left) + refused} of {len(results)} browsers: {reasons[0] if reasons else ''}"
    if taken and left:
        raise PartlyDone(f"not notified: {why}", {**options, "only": left})
    if left:
        raise PushFailed(f"not notified: {why}")
    if refused and not taken:
        raise GiveUp(f"the push services refused {why}")
    if refused:
        logger.warning("web push: the push services refused %s", why)
    if not taken and not refused:
        raise NoBrowser("all subscriptions of the users have ended")
