"""The fallback `email`, against a real mail server."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from smtplib import SMTPDataError, SMTPException
from typing import Any

import pytest
from django.test import override_settings
from django.utils import translation
from django.utils.translation import gettext_lazy

from realtime.errors import ConfigurationError, GiveUp
from realtime.handlers import configured
from realtime.handlers.email import Email
from realtime.handlers.log import log
from realtime.queued import Queued
from tests.support.receivers import MailServer, mail_server


@pytest.fixture
def server() -> Iterator[MailServer]:
    with (
        mail_server() as running,
        override_settings(
            EMAIL_BACKEND="django.core.mail.backends.smtp.EmailBackend",
            EMAIL_HOST="127.0.0.1",
            EMAIL_PORT=running.port,
            DEFAULT_FROM_EMAIL="shop@example.com",
        ),
    ):
        yield running


def queued(data: Any = None, channel: str = "orders", **options: Any) -> Queued:
    data = {"title": "Shipped", "text": "It is on <its> way & fast"} if data is None else data
    options = {"to": "ada@example.com", **options}
    return Queued("00ff-7", "email", channel, data, options=options)


def test_a_mail_says_what_nobody_heard(server: MailServer) -> None:
    Email()(queued())
    Email()(queued())
    first, again = server.mails.got
    assert first["Subject"] == "Shipped"
    assert (first["To"], first["From"]) == ("ada@example.com", "shop@example.com")
    assert first.get_content().split() == ["Shipped", "It", "is", "on", "<its>", "way", "&", "fast"]
    assert first["Message-ID"] == again["Message-ID"]
    assert first["Message-ID"].startswith("<00ff-7@")
    assert first["Auto-Submitted"] == "auto-generated"


@pytest.mark.parametrize(
    ("data", "options", "subject"),
    [
        ({"title": "t"}, {"subject": "s"}, "s"),
        ({"title": " "}, {}, "orders"),
        ([1, 2], {}, "orders"),
        ("text", {"subject": "a\r\nBcc: eve@example.com"}, "a Bcc: eve@example.com"),
        ({"title": "x" * 1000}, {}, "x" * 200),
        ({"title": {"a": 1}}, {"subject": 5}, "orders"),
    ],
)
def test_the_subject_is_one_line(server: MailServer, data: Any, options: Any, subject: str) -> None:
    Email()(queued(data, **options))
    assert server.mails.got[0]["Subject"].strip() == subject  # a long one is folded
    assert server.mails.recipients == [["ada@example.com"]]


@pytest.mark.parametrize(
    ("data", "body"),
    [
        ("your order isn't late", "your order isn't late"),
        ({"title": "macOS & iPhone", "text": "eBay's"}, "macOS & iPhone\n\neBay's"),
        ({"title": 1234567, "text": None}, "1234567"),
        (
            {"text": 0.5, "url": "https://example.com/?a=1&b=2"},
            "0.5\n\nhttps://example.com/?a=1&b=2",
        ),
        ({"name": "Zoë", "paid": True}, '{"name": "Zoë", "paid": true}'),
        ([1.5, None], "[1.5, null]"),
        (1234567, "1234567"),
    ],
)
def test_what_was_published_is_in_the_mail_as_it_was(
    server: MailServer, data: Any, body: str
) -> None:
    """Issue 15, C19: `{{ data.title }}` of a string called `str.title`: "Your Order Isn'T Late"."""
    with override_settings(USE_THOUSAND_SEPARATOR=True), translation.override("de"):
        Email()(queued(data))
    assert server.mails.got[0].get_content().replace("\r\n", "\n").strip() == body


def test_a_lazy_subject_of_the_settings_is_text(server: MailServer) -> None:
    handlers = configured({"news": {"use": "email", "subject": gettext_lazy("Yes")}})
    with translation.override("de"):
        handlers["news"](queued())
    assert server.mails.got[0]["Subject"] == "Ja"


def test_several_may_get_it(server: MailServer) -> None:
    Email()(queued(to=["ada@example.com", "ben@example.com"]))
    assert server.mails.recipients == [["ada@example.com", "ben@example.com"]]


@pytest.mark.parametrize(
    "to",
    [
        "",
        [],
        5,
        "nobody",
        "ada@example.com, eve@example.com",
        "ada@example.com\nBcc: eve@example.com",
        ["ada@example.com"] * 11,
        [["ada@example.com"]],
        None,
    ],
)
def test_without_an_address_it_gives_up(server: MailServer, to: Any) -> None:
    with pytest.raises(GiveUp):
        Email()(queued(to=to))
    assert not server.mails.got


def test_a_mailbox_that_does_not_exist_is_given_up(server: MailServer) -> None:
    server.mails.refuse["ada@example.com"] = "550 no such mailbox"
    with pytest.raises(GiveUp, match="knows none of the recipients"):
        Email()(queued())


def test_a_mailbox_that_is_full_for_now_is_tried_again(server: MailServer) -> None:
    server.mails.refuse["ada@example.com"] = "452 try later"
    with pytest.raises(SMTPException):
        Email()(queued())


@pytest.mark.parametrize(("answer", "raised"), [("554 spam", GiveUp), ("451 busy", SMTPDataError)])
def test_what_the_server_refuses_for_good_is_given_up(
    server: MailServer, answer: str, raised: type[Exception]
) -> None:
    server.mails.refuse_data = answer
    with pytest.raises(raised):
        Email()(queued())


def test_a_server_that_is_away_is_tried_again() -> None:
    with (
        override_settings(
            EMAIL_BACKEND="django.core.mail.backends.smtp.EmailBackend", EMAIL_PORT=1
        ),
        pytest.raises(ConnectionRefusedError),
    ):
        Email()(queued())


def test_a_template_of_ones_own(server: MailServer, tmp_path: Path) -> None:
    (tmp_path / "order.txt").write_text("{{ data.n }} of {{ channel }}, {{ queued.id }}")
    (tmp_path / "order.html").write_text("<b>{{ data.text }}</b>")
    engine = {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [tmp_path],
        "APP_DIRS": True,
    }
    handlers = configured(
        {"order": {"use": "email", "template": "order", "from_email": "x@example.com"}}
    )
    with override_settings(TEMPLATES=[engine]):
        handlers["order"](queued({"n": 7, "text": "<script>"}))
    [mail] = server.mails.got
    assert mail["From"] == "x@example.com"
    text, html = [part.get_content().strip() for part in mail.iter_parts()]
    assert text == "7 of orders, 00ff-7"
    assert html == "<b>&lt;script&gt;</b>"


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ([], "REALTIME_FALLBACKS: must be a mapping"),
        ({"a b": {"use": "log"}}, "'a b' is no name"),
        ({"a": {}}, r"REALTIME_FALLBACKS\['a'\]: must be an object with `use`"),
        ({"a": "log"}, "must be an object with `use`"),
        ({"a": {"use": "pager"}}, "one of email, webhook, log"),
        ({"a": {"use": ["log"]}}, "one of email, webhook, log"),
        ({"a": {"use": "log", "level": 1}}, "log: has no option 'level'"),
        ({"a": {"use": "email", "tmpl": "x"}}, "email: has no option 'tmpl'"),
        ({"a": {"use": "email", "template": 1}}, "template must be a string"),
    ],
)
def test_a_configuration_that_cannot_be_is_said(entries: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        configured(entries)


def test_the_log_shows_it_escaped_and_not_all(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log(queued({"text": "\x1b[31m\n" + "x" * 5000}))
    [record] = caplog.records
    assert "nobody heard 00ff-7 on orders: {'text': '\\x1b[31m\\nxxx" in record.getMessage()
    assert len(record.getMessage()) < 600


def test_a_batch_that_nobody_hears_writes_no_line_for_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Ten requests of a hundred publications made a thousand lines of the log."""
    caplog.set_level(logging.INFO, logger="realtime.handlers.log")
    for number in range(1000):
        log(queued(number))
    assert len(caplog.records) < 300
    assert any("not shown so far" in record.getMessage() for record in caplog.records)
