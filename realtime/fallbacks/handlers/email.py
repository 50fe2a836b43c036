"""The fallback `email`: sends a queued publication through Django's mail backend.

The recipients are those in the publication (``fallback_options={"to": "ada@example.com"}``), or
else the users of its channel (``user:#42``), by the address in Django's user model.
"""

from __future__ import annotations

import contextlib
import json
import smtplib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core import mail
from django.core.exceptions import ValidationError
from django.core.mail import EmailMultiAlternatives
from django.core.mail.utils import DNS_NAME
from django.core.validators import validate_email
from django.template import Engine, TemplateDoesNotExist
from django.template.loader import render_to_string
from django.utils.functional import Promise

from realtime.core.identity import SAME_USERS, UserTable
from realtime.core.mail_text import body_text, header_text, is_address_text
from realtime.core.url_rules import is_line
from realtime.errors import ConfigurationError, GiveUp, PartlyDone
from realtime.fallbacks.recipients import active_users

if TYPE_CHECKING:
    from realtime.core.fallback_entry import Queued

RECIPIENTS_LIMIT = 10
SUBJECT_LIMIT = 200  # characters
MESSAGE_ID_LIMIT = 500  # characters: a DNS name has at most 253
TIMEOUT_SECONDS = 20.0
"""For each step of the dialogue with the mail server, if EMAIL_TIMEOUT is not set."""
SENDING_SECONDS = 20.0
"""After this time no further recipient is served in the same attempt, which may take a minute
(`manage.py runfallback --timeout`)."""
DEFAULT_TEMPLATE = "realtime/fallback"
OPTIONS = ("template", "from_email", "subject", "mailer")
# Since Django 6.1; `get_connection` and the settings EMAIL_… are deprecated there.
_mailers: Any = getattr(mail, "mailers", None)


@dataclass(frozen=True, slots=True)
class Email:
    """Sends mails. A handler, to be called in a thread."""

    template: str = DEFAULT_TEMPLATE
    """The template of the body: with ``.txt``, and with ``.html`` if it exists."""
    from_email: str = ""
    """Empty is DEFAULT_FROM_EMAIL."""
    subject: str = ""
    """The subject of publications that have none; if empty, their title (unless a client published
    it), event or channel."""
    mailer: str = ""
    """The alias of one of Django's MAILERS; empty is the default one."""
    table: UserTable = SAME_USERS
    """The user table of this project: where the addresses are."""

    def __call__(self, queued: Queued) -> None:
        """Send a separate email to each recipient.

        Raises:
            GiveUp: There is no recipient, or the mail server will never accept it.
            PartlyDone: Some recipients got the email; the error's options list only the others.
            ConfigurationError: The sender's address is invalid.
            SMTPException: A temporary failure, like all others.
            OSError: The mail server cannot be reached; also temporary.
        """
        to = _recipients(queued, self.table)
        context = {"queued": queued, "data": queued.data, "channel": queued.channel}
        context |= _texts(queued.data)
        message = EmailMultiAlternatives(
            self._subject(queued),
            body_text(_text(self.template, context)),
            self._sender(),
            headers={
                # The same for every attempt, so that duplicates are recognizable (RFC 5322 §3.6.4).
                "Message-ID": header_text(f"<{queued.id}@{DNS_NAME}>", MESSAGE_ID_LIMIT),
                "Auto-Submitted": "auto-generated",  # RFC 3834 §5: suppresses out-of-office replies
            },
        )
        try:
            html = render_to_string(f"{self.template}.html", context)
        except TemplateDoesNotExist:
            pass
        else:
            message.attach_alternative(body_text(html), "text/html")
        sending = _Sending(_connection(self.mailer), message)
        sending.send(to)
        sending.raise_failures(queued.options)

    def _sender(self) -> str:
        sender = str(self.from_email) or str(settings.DEFAULT_FROM_EMAIL)
        if not is_line(sender):  # a lazy text or Django's own setting: not validated before
            name = "from_email" if str(self.from_email) else "DEFAULT_FROM_EMAIL"
            raise ConfigurationError("email", f"{name} must be one line")
        return sender

    def _subject(self, queued: Queued) -> str:
        # A client's title is not the site's word, but in an inbox it would appear next to the
        # site's address: "Your account is suspended" (CWE-451).
        is_own = isinstance(queued.data, dict) and queued.info is None
        title = queued.data.get("title") if is_own else None
        for text in (queued.options.get("subject"), self.subject, title):
            line = header_text(str(text), SUBJECT_LIMIT) if isinstance(text, str | Promise) else ""
            if line:
                return line
        return header_text(queued.event or queued.channel, SUBJECT_LIMIT)


def email_of(options: Mapping[str, Any], table: UserTable = SAME_USERS) -> Email:
    """Return a handler with the options of a configuration.

    Args:
        options: By name, without ``use``.
        table: The user table of this project.

    Raises:
        ConfigurationError: An option is unknown or is not a string.
    """
    for name, value in options.items():
        if name not in OPTIONS:
            raise ConfigurationError("email", f"unknown option {ascii(name)[:40]}")
        if not isinstance(value, str | Promise):  # settings may say `gettext_lazy("News")`
            raise ConfigurationError("email", f"{name} must be a string")
        # A lazy text has no language yet, so it is validated with each mail.
        if isinstance(value, str) and not is_line(value):
            raise ConfigurationError("email", f"{name} must be one line")
    handler = Email(**options, table=table)
    if handler.mailer and (_mailers is None or handler.mailer not in _mailers):
        raise ConfigurationError("email", f"mailer {ascii(handler.mailer)[:80]} is not in MAILERS")
    return handler


def _text(template: str, context: dict[str, Any]) -> str:
    try:
        return render_to_string(f"{template}.txt", context)
    except TemplateDoesNotExist:
        if template != DEFAULT_TEMPLATE:
            raise
        # The host uses another template engine (Jinja), or does not load templates from apps.
        return Engine(app_dirs=True).render_to_string(f"{template}.txt", context)


def _texts(data: object) -> dict[str, str]:
    """Return the values that the built-in template shows, exactly as they were published.

    The template's own lookups would change them: for a string, ``data.title`` is the method
    `str.title`, which Django calls, and numbers are formatted for the current locale.
    """
    if not isinstance(data, dict):
        return {"title": "", "text": _text_of(data), "url": ""}
    found = [data.get(name) for name in ("title", "text", "url")]
    title, text, url = ("" if value is None else _text_of(value) for value in found)
    return {"title": title, "text": text if text or title else _text_of(data), "url": url}


def _text_of(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _connection(mailer: str) -> Any:
    connection: Any
    if _mailers is None:
        connection = mail.get_connection()
    else:
        connection = _mailers[mailer] if mailer else _mailers.default
    if not getattr(connection, "timeout", TIMEOUT_SECONDS):
        connection.timeout = TIMEOUT_SECONDS  # Django's default waits forever
    return connection


class _Sending:
    """Sends an email to each recipient separately.

    If a server refuses only some recipients of a message, Django does not report which. So each
    recipient gets a separate message, in one SMTP session, and does not see the other addresses.
    """

    def __init__(self, connection: Any, message: EmailMultiAlternatives) -> None:
        self._connection = connection
        self._message = message
        self._sent = 0
        self._refused: dict[str, Exception] = {}
        """Recipients refused permanently."""
        self._left: dict[str, Exception] = {}
        """Recipients to retry."""

    def send(self, recipients: list[str]) -> None:
        """Send the mail to each recipient."""
        until = time.monotonic() + SENDING_SECONDS
        try:
            self._connection.open()
        except (OSError, smtplib.SMTPException) as error:
            self._left = dict.fromkeys(recipients, error)
            return
        for number, recipient in enumerate(recipients):
            if number == 0 or time.monotonic() < until:
                self._send(recipient)
            else:  # the attempt has a deadline, and would be repeated for everybody
                self._left[recipient] = TimeoutError("the mail server is too slow")
        with contextlib.suppress(Exception):  # of any backend; all that could be sent is sent
            self._connection.close()

    def _send(self, recipient: str) -> None:
        self._message.to = [recipient]
        try:
            self._connection.send_messages([self._message])
        except smtplib.SMTPRecipientsRefused as error:
            is_final = all(code >= 500 for code, _ in error.recipients.values())
            (self._refused if is_final else self._left)[recipient] = error
        except smtplib.SMTPDataError as error:
            (self._refused if error.smtp_code >= 500 else self._left)[recipient] = error
        except Exception as error:  # noqa: BLE001 - of any backend; the others must get their mail
            self._left[recipient] = error
        else:
            self._sent += 1

    def raise_failures(self, options: Mapping[str, Any]) -> None:
        """Raise an error if any recipient did not get the email.

        Args:
            options: The publication's options.
        """
        failed = self._refused | self._left
        if not failed:
            return
        error = next(iter((self._left or self._refused).values()))
        what = f"{len(failed)} of {self._sent + len(failed)} recipients"
        if self._sent:
            raise PartlyDone(
                f"{what} did not get the email: {type(error).__name__}: {error}",
                {**options, "to": list(failed)},
                is_final=not self._left,
            ) from error
        if self._left:
            raise error
        raise GiveUp(f"the mail server rejected {what}: {error}") from error


def _recipients(queued: Queued, table: UserTable) -> list[str]:
    given = queued.options.get("to")
    addresses = _addresses_of_users(queued.channel, table) if given is None else given
    if isinstance(addresses, str):
        addresses = [addresses]
    if not isinstance(addresses, list) or not all(isinstance(one, str) for one in addresses):
        raise GiveUp("`to` must be an address or a list of addresses")
    if not 1 <= len(addresses) <= RECIPIENTS_LIMIT:
        rule = f"1 to {RECIPIENTS_LIMIT} are allowed (`to`, or the users of the channel)"
        raise GiveUp(f"the mail has {len(addresses)} recipients: {rule}")
    for address in addresses:
        try:
            validate_email(address)
        except ValidationError:
            raise GiveUp(f"{ascii(address)[:80]} is not an email address") from None
        if not is_address_text(address):
            raise GiveUp(f"{ascii(address)[:80]} contains a control character or an encoded word")
    return list(dict.fromkeys(addresses))  # each gets one mail


def _addresses_of_users(channel: str, table: UserTable) -> list[str]:
    """Return the mail addresses of the channel's users.

    Raises:
        GiveUp: One of them is a user of another table.
    """
    users = active_users(channel, table, RECIPIENTS_LIMIT + 1)
    found = [getattr(user, user.get_email_field_name(), "") for user in users]
    return [address for address in found if address]
