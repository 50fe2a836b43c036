"""The fallback `email`: what nobody heard, by Django's mail backend.

To whom: what the publication says (``fallback_options={"to": "ada@example.com"}``), else the users
that its channel is for (``user:#42``), by the address in Django's user model.
"""

from __future__ import annotations

import json
import smtplib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.mail import EmailMultiAlternatives, get_connection
from django.core.mail.utils import DNS_NAME
from django.core.validators import validate_email
from django.template import Engine, TemplateDoesNotExist
from django.template.loader import render_to_string
from django.utils.functional import Promise

from realtime.errors import ConfigurationError, GiveUp
from realtime.names import users_of
from realtime.queued import Queued
from realtime.url_rules import is_line

RECIPIENTS_LIMIT = 10
SUBJECT_LIMIT = 200  # characters
TIMEOUT_SECONDS = 20.0
"""For each step of the talk with the mail server, where EMAIL_TIMEOUT says nothing."""
DEFAULT_TEMPLATE = "realtime/fallback"
OPTIONS = ("template", "from_email", "subject")


@dataclass(frozen=True, slots=True)
class Email:
    """Sends mails. A handler, to be called in a thread."""

    template: str = DEFAULT_TEMPLATE
    """Of the body: with ``.txt``, and with ``.html`` if there is such a one."""
    from_email: str = ""
    """Empty is DEFAULT_FROM_EMAIL."""
    subject: str = ""
    """Where the publication says none; empty: its title, its event or its channel."""

    def __call__(self, queued: Queued) -> None:
        """Send one mail, to all of its recipients.

        Raises:
            GiveUp: There is nobody to send it to, or the mail server will never take it.
            SMTPException: Not now, like all the rest.
            OSError: ditto.
        """
        to = _recipients(queued)
        context = {"queued": queued, "data": queued.data, "channel": queued.channel}
        context |= _texts(queued.data)
        mail = EmailMultiAlternatives(
            self._subject(queued),
            _text(self.template, context),
            str(self.from_email) or None,
            to,
            headers={
                # The same at every attempt: what is sent twice can be recognized (RFC 5322 §3.6.4).
                "Message-ID": f"<{queued.id}@{DNS_NAME}>",
                "Auto-Submitted": "auto-generated",  # RFC 3834 §5: no holiday notes, please
            },
            connection=_connection(),
        )
        try:
            html = render_to_string(f"{self.template}.html", context)
        except TemplateDoesNotExist:
            pass
        else:
            mail.attach_alternative(html, "text/html")
        _send(mail)

    def _subject(self, queued: Queued) -> str:
        data = queued.data if isinstance(queued.data, dict) else {}
        for text in (queued.options.get("subject"), self.subject, data.get("title")):
            # One line: what follows a line's end would be another header (CWE-93).
            line = " ".join(str(text).split()) if isinstance(text, str | Promise) else ""
            if line:
                return line[:SUBJECT_LIMIT]
        return (queued.event or queued.channel)[:SUBJECT_LIMIT]


def email_of(options: Mapping[str, Any]) -> Email:
    """Return the handler with the options of a configuration.

    Raises:
        ConfigurationError: One of them is unknown or no text.
    """
    for name, value in options.items():
        if name not in OPTIONS:
            raise ConfigurationError("email", f"has no option {ascii(name)[:40]}")
        if not isinstance(value, str | Promise):  # settings may say `gettext_lazy("News")`
            raise ConfigurationError("email", f"{name} must be a string")
        # A lazy text has no language yet; Django refuses line breaks in headers of each mail.
        if isinstance(value, str) and not is_line(value):
            raise ConfigurationError("email", f"{name} must be one line")
    return Email(**options)


def _text(template: str, context: dict[str, Any]) -> str:
    try:
        return render_to_string(f"{template}.txt", context)
    except TemplateDoesNotExist:
        if template != DEFAULT_TEMPLATE:
            raise
        # A host whose templates are others' (Jinja), or which looks into no app for them.
        return Engine(app_dirs=True).render_to_string(f"{template}.txt", context)


def _texts(data: object) -> dict[str, str]:
    """Return what the built-in template shows, character for character as it was published.

    Not by the template's own look-ups: ``data.title`` of a string is its method `str.title`, which
    Django calls, and numbers are written in the form of the current locale.
    """
    if not isinstance(data, dict):
        return {"title": "", "text": _text_of(data), "url": ""}
    found = [data.get(name) for name in ("title", "text", "url")]
    title, text, url = ("" if value is None else _text_of(value) for value in found)
    return {"title": title, "text": text if text or title else _text_of(data), "url": url}


def _text_of(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _connection() -> Any:
    if settings.EMAIL_TIMEOUT:
        return get_connection()
    options: dict[str, Any] = {"timeout": TIMEOUT_SECONDS}  # Django would wait for ever
    return get_connection(**options)


def _send(mail: EmailMultiAlternatives) -> None:
    try:
        mail.send()
    except smtplib.SMTPRecipientsRefused as error:
        if all(code >= 500 for code, _ in error.recipients.values()):
            raise GiveUp(f"the mail server knows none of the recipients: {error}") from error
        raise
    except smtplib.SMTPDataError as error:
        if error.smtp_code >= 500:
            raise GiveUp(f"the mail server refuses it: {error}") from error
        raise


def _recipients(queued: Queued) -> list[str]:
    given = queued.options.get("to")
    addresses = _addresses_of_users(queued.channel) if given is None else given
    if isinstance(addresses, str):
        addresses = [addresses]
    if not isinstance(addresses, list) or not all(isinstance(one, str) for one in addresses):
        raise GiveUp("`to` must be an address or a list of them")
    if not 1 <= len(addresses) <= RECIPIENTS_LIMIT:
        rule = f"1 to {RECIPIENTS_LIMIT} addresses are meant, there are {len(addresses)}"
        raise GiveUp(f"nobody to send it to: {rule} (`to`, or users of the channel)")
    for address in addresses:
        try:
            validate_email(address)
        except ValidationError:
            raise GiveUp(f"{ascii(address)[:80]} is no address") from None
    return addresses


def _addresses_of_users(channel: str) -> list[str]:
    """Return the addresses of those whom the channel is for."""
    users = users_of(channel)
    if not users or not apps.is_installed("django.contrib.auth"):
        return []
    found = [_address_of(user) for user in sorted(users)[: RECIPIENTS_LIMIT + 1]]
    return [address for address in found if address]


def _address_of(user_id: str) -> str:
    model = get_user_model()
    try:
        user = model._default_manager.filter(pk=user_id).first()
    except (ValueError, ValidationError):  # no id of this model
        return ""
    # In no other form than its own: `user:#01` and `user:#0_1` are channels of nobody, but a field
    # of integers reads both as 1.
    if user is None or str(user.pk) != user_id or not user.is_active:
        return ""
    return getattr(user, model.get_email_field_name(), "") or ""
