"""The fallback `email`, against a real mail server."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from smtplib import SMTPDataError, SMTPException
from typing import Any

import django
import pytest
from django.core.mail.backends import locmem
from django.test import override_settings
from django.utils import translation
from django.utils.functional import lazystr
from django.utils.translation import gettext_lazy

from realtime.core.fallback_entry import Queued
from realtime.core.identity import UserTable
from realtime.core.url_rules import is_line
from realtime.errors import ConfigurationError, GiveUp, PartlyDone
from realtime.fallbacks.handlers import email as email_module
from realtime.fallbacks.handlers import make_handlers
from realtime.fallbacks.handlers.email import Email, email_of
from realtime.fallbacks.handlers.log import log
from tests.support.receivers import MailServer, mail_server

HAS_MAILERS = django.VERSION >= (6, 1)
"""Then a host may still have the settings EMAIL_…, which are deprecated."""
SMTP = "django.core.mail.backends.smtp.EmailBackend"


def by_settings(port: int) -> dict[str, Any]:
    return {"EMAIL_BACKEND": SMTP, "EMAIL_HOST": "127.0.0.1", "EMAIL_PORT": port}


def by_mailers(port: int) -> dict[str, Any]:
    options = {"host": "127.0.0.1", "port": port}
    return {"MAILERS": {"default": {"BACKEND": SMTP, "OPTIONS": options}}}


@pytest.fixture
def server() -> Iterator[MailServer]:
    with (
        mail_server() as running,
        override_settings(
            **(by_mailers if HAS_MAILERS else by_settings)(running.port),
            DEFAULT_FROM_EMAIL="shop@example.com",
        ),
    ):
        yield running


def queued(data: Any = None, channel: str = "orders", **options: Any) -> Queued:
    data = {"title": "Shipped", "text": "It is on <its> way & fast"} if data is None else data
    options = {"to": "ada@example.com", **options}
    return Queued("00ff-7", "email", channel, data, options=options)


def test_a_mail_contains_the_undelivered_publication(server: MailServer) -> None:
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
def test_the_published_data_is_unchanged_in_the_mail(
    server: MailServer, data: Any, body: str
) -> None:
    """Issue 15, C19: `{{ data.title }}` of a string called `str.title`: "Your Order Isn'T Late".

    Django, the template language: a callable value is called, so str has a `title`; likewise
    noahmorrison/chevron#117.
    """
    with override_settings(USE_THOUSAND_SEPARATOR=True), translation.override("de"):
        Email()(queued(data))
    assert server.mails.got[0].get_content().replace("\r\n", "\n").strip() == body


def test_a_lazy_subject_in_the_settings_becomes_text(server: MailServer) -> None:
    """brack3t/Djrill#100, the same with a mail service."""
    handlers = make_handlers({"news": {"use": "email", "subject": gettext_lazy("Yes")}})
    with translation.override("de"):
        handlers["news"](queued())
    assert server.mails.got[0]["Subject"] == "Ja"


@pytest.mark.parametrize("channel", ["user:#1", "talk#1,service.2", "user:#services.1"])
def test_a_user_of_another_table_is_mailed_at_an_address_of_this_one(
    server: MailServer, channel: str
) -> None:
    handlers = make_handlers({"news": {"use": "email"}}, UserTable("service."))
    entry = Queued("00ff-7", "email", channel, "private")
    reason = r"users of another table .* begin with service\.: run `runfallback` in the project"
    with pytest.raises(GiveUp, match=reason):
        handlers["news"](entry)
    assert not server.mails.got
    handlers["news"](replace(entry, options={"to": "ada@example.com"}))
    assert len(server.mails.got) == 1, "an address is an address"


def test_each_of_several_recipients_gets_a_mail(server: MailServer) -> None:
    Email()(queued(to=["ada@example.com", "ben@example.com"]))
    assert server.mails.recipients == [["ada@example.com"], ["ben@example.com"]]
    first, second = server.mails.got
    assert (first["To"], second["To"]) == ("ada@example.com", "ben@example.com")
    assert first["Message-ID"] == second["Message-ID"]


class Odd(locmem.EmailBackend):
    """A backend with errors of its own, as those of mail services have."""

    fails = ("ben@example.com",)
    takes_seconds = 0.0

    def send_messages(self, messages: Any) -> int:
        if messages[0].to[0] in self.fails:
            raise LookupError("suppressed")
        time.sleep(self.takes_seconds)  # the server's time
        return super().send_messages(messages)

    def close(self) -> None:
        raise LookupError("it is closed")


def with_odd(**changed: Any) -> Any:
    backend = f"{__name__}.Odd"
    given = {"MAILERS": {"default": {"BACKEND": backend}}} if HAS_MAILERS else {}
    return override_settings(**(given or {"EMAIL_BACKEND": backend}), **changed)


EVERYBODY = [f"{name}@example.com" for name in ("ada", "ben", "cy")]


def test_an_error_of_another_backend_concerns_one_recipient() -> None:
    """It left the loop: who came before was mailed again each time, and who came after never."""
    with with_odd(), pytest.raises(PartlyDone, match=r"1 of 3 .* LookupError: supp") as caught:
        Email()(queued(to=EVERYBODY))
    assert caught.value.options["to"] == ["ben@example.com"]
    assert not caught.value.is_final


def test_a_slow_server_leaves_recipients_for_the_next_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten mails of six seconds are longer than an attempt, which was repeated for everybody."""
    monkeypatch.setattr(Odd, "takes_seconds", 0.1)
    monkeypatch.setattr(Odd, "fails", ())
    monkeypatch.setattr(email_module, "SENDING_SECONDS", 0.05)
    with with_odd(), pytest.raises(PartlyDone, match=r"2 of 3 .* too slow") as caught:
        Email()(queued(to=EVERYBODY))
    assert caught.value.options["to"] == EVERYBODY[1:]


def test_an_address_that_is_named_twice_gets_one_mail(server: MailServer) -> None:
    Email()(queued(to=["ada@example.com", "ben@example.com", "ada@example.com"]))
    assert server.mails.recipients == [["ada@example.com"], ["ben@example.com"]]


@pytest.mark.parametrize(
    ("answers", "left", "is_final"),
    [
        ({"ben": "452 try later"}, ["ben"], False),
        ({"ben": "550 no such mailbox"}, ["ben"], True),
        ({"ada": "550 no such mailbox", "cy": "452 try later"}, ["ada", "cy"], False),
        ({"ada": "550 no such mailbox", "ben": "550 no such mailbox"}, ["ada", "ben"], True),
    ],
)
def test_only_recipients_who_were_refused_are_left(
    server: MailServer, answers: dict[str, str], left: list[str], is_final: bool
) -> None:
    """Django does not report which recipients were refused, so they never got the email."""
    server.mails.refuse |= {f"{name}@example.com": answer for name, answer in answers.items()}
    everybody = [f"{name}@example.com" for name in ("ada", "ben", "cy")]
    with pytest.raises(
        PartlyDone, match=f"{len(left)} of 3 recipients did not get the email"
    ) as caught:
        Email()(queued(to=everybody, subject="s"))
    rest = [f"{name}@example.com" for name in left]
    assert caught.value.options == {"to": rest, "subject": "s"}
    assert caught.value.is_final is is_final
    assert server.mails.recipients == [[one] for one in everybody if one not in rest]
    server.mails.refuse.clear()
    Email()(replace(queued(), options=caught.value.options))
    assert sorted(map(str, server.mails.recipients)) == [str([one]) for one in everybody]


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
def test_a_mail_without_an_address_is_given_up(server: MailServer, to: Any) -> None:
    with pytest.raises(GiveUp):
        Email()(queued(to=to))
    assert not server.mails.got


CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)]


@pytest.mark.parametrize("to", [f'"a{control}b"@example.com' for control in CONTROLS], ids=ascii)
def test_a_control_character_in_an_address_ends_the_headers(server: MailServer, to: str) -> None:
    """Django allows VT, FF and \\x1c in quotes, and Python ends the header line there."""
    with pytest.raises(GiveUp):
        Email()(queued(to=["ada@example.com", to]))
    assert not server.mails.got


@pytest.mark.parametrize(
    "to", ["ada@exam\u2028ple.com", "=?utf-8?q?eve=40example.org=3e=00?=@example.com"], ids=ascii
)
def test_an_address_hides_another_one(server: MailServer, to: str) -> None:
    """Mail servers that decode encoded words in addresses send the mail to another domain."""
    with pytest.raises(GiveUp):
        Email()(queued(to=to))
    assert not server.mails.got


@pytest.mark.parametrize("control", CONTROLS, ids=ascii)
def test_the_sender_of_the_settings_ends_the_headers(server: MailServer, control: str) -> None:
    """The mail is retried until the operator has fixed the setting, so it is not lost."""
    sender = f'"a{control}b" <shop@example.com>'
    with pytest.raises(ConfigurationError, match="from_email must be one line"):
        make_handlers({"news": {"use": "email", "from_email": sender}})
    with pytest.raises(ConfigurationError, match="from_email must be one line"):
        Email(from_email=lazystr(sender))(queued())
    with (
        override_settings(DEFAULT_FROM_EMAIL=sender),
        pytest.raises(ConfigurationError, match="DEFAULT_FROM_EMAIL must be one line"),
    ):
        Email()(queued())
    assert not server.mails.got


@pytest.mark.parametrize(
    "text",
    [
        *(f"a{control}b" for control in CONTROLS),
        f"{'x' * 70}{''.join(CONTROLS)}Bcc: eve@example.com",
        "é\x1b[2J\0",
        "=?utf-8?q?=0aBcc:_eve=40example.com=1b[2J?=",
        "=?utf-8?b?G1sySgA=?= =?us-ascii?q?=1b?=",
    ],
    ids=ascii,
)
def test_a_control_character_reaches_a_header(server: MailServer, text: str) -> None:
    """NUL, ESC and the like, bare or in an encoded word that the mail client decodes."""
    written = lazystr(text)
    Email()(queued(subject=text))
    Email()(queued({"title": text}))
    Email(subject=written)(queued())
    assert len(server.mails.got) == 3
    for mail in server.mails.got:
        # Parsed and decoded, like a mail client does it.
        assert is_line(str(mail["Subject"]))
        assert mail["To"] == "ada@example.com"
        assert mail["Bcc"] is None
    assert server.mails.recipients == [["ada@example.com"]] * 3


def test_an_id_forged_in_redis_stays_on_one_line(server: MailServer) -> None:
    Email()(replace(queued(), id="a\x0cb\r\nBcc: eve@example.com"))
    [mail] = server.mails.got
    assert mail["Bcc"] is None
    assert mail["Auto-Submitted"] == "auto-generated", "the headers go on behind it"


def test_a_body_commands_the_terminal_that_shows_it(server: MailServer, tmp_path: Path) -> None:
    """`EMAIL_URL=console:` prints mails on a terminal.

    NUL is not allowed in a mail (RFC 5322 §4).
    """
    (tmp_path / "raw.txt").write_text("{% autoescape off %}{{ text }}{% endautoescape %}")
    (tmp_path / "raw.html").write_text("<p>{{ text }}</p>")
    engine = {"BACKEND": "django.template.backends.django.DjangoTemplates", "DIRS": [tmp_path]}
    with override_settings(TEMPLATES=[engine]):
        Email(template="raw")(queued({"text": "a\x1b[2J\0\x9b5n\tb\nc"}))
    [mail] = server.mails.got
    text, html = [part.get_content().replace("\r\n", "\n") for part in mail.iter_parts()]
    assert text.strip() == "a [2J  5n\tb\nc"
    assert html.strip() == "<p>a [2J  5n\tb\nc</p>"


def test_a_client_writes_the_subject_of_a_mail(server: MailServer) -> None:
    """In an inbox, its title would appear next to the site's own address."""
    said = queued({"title": "Your account is suspended", "text": "hi"}, channel="chat:#1,2")
    by_client = replace(said, info={"user": "2", "client": "c"})
    Email()(by_client)
    Email(subject="A message for you")(by_client)
    Email()(said)
    subjects = [mail["Subject"] for mail in server.mails.got]
    assert subjects == ["chat:#1,2", "A message for you", "Your account is suspended"]


def test_mail_to_a_mailbox_that_does_not_exist_is_given_up(server: MailServer) -> None:
    server.mails.refuse["ada@example.com"] = "550 no such mailbox"
    with pytest.raises(GiveUp, match="rejected 1 of 1 recipients"):
        Email()(queued())


def test_mail_to_a_full_mailbox_is_retried(server: MailServer) -> None:
    server.mails.refuse["ada@example.com"] = "452 try later"
    with pytest.raises(SMTPException):
        Email()(queued())


@pytest.mark.parametrize(("answer", "raised"), [("554 spam", GiveUp), ("451 busy", SMTPDataError)])
def test_a_mail_that_the_server_rejects_for_good_is_given_up(
    server: MailServer, answer: str, raised: type[Exception]
) -> None:
    server.mails.refuse_data = answer
    with pytest.raises(raised):
        Email()(queued())


def test_a_mail_is_retried_while_the_server_is_down() -> None:
    with (
        override_settings(**(by_mailers if HAS_MAILERS else by_settings)(1)),
        pytest.raises(ConnectionRefusedError),
    ):
        Email()(queued())


def test_a_custom_template_is_used(server: MailServer, tmp_path: Path) -> None:
    (tmp_path / "order.txt").write_text("{{ data.n }} of {{ channel }}, {{ queued.id }}")
    (tmp_path / "order.html").write_text("<b>{{ data.text }}</b>")
    engine = {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [tmp_path],
        "APP_DIRS": True,
    }
    handlers = make_handlers(
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
        ({"a b": {"use": "log"}}, "'a b' is not a valid name"),
        ({"a": {}}, r"REALTIME_FALLBACKS\['a'\]: must be an object with `use`"),
        ({"a": "log"}, "must be an object with `use`"),
        ({"a": {"use": "pager"}}, "one of email, webhook, log"),
        ({"a": {"use": ["log"]}}, "one of email, webhook, log"),
        ({"a": {"use": "log", "level": 1}}, "log: unknown option 'level'"),
        ({"a": {"use": "email", "tmpl": "x"}}, "email: unknown option 'tmpl'"),
        ({"a": {"use": "email", "template": 1}}, "template must be a string"),
    ],
)
def test_an_invalid_configuration_is_reported(entries: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        make_handlers(entries)


def test_the_log_shows_the_data_escaped_and_shortened(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log(queued({"text": "\x1b[31m\n" + "x" * 5000}))
    [record] = caplog.records
    assert (
        "fallback log: publication 00ff-7 on orders: {'text': '\\x1b[31m\\nxxx"
        in record.getMessage()
    )
    assert len(record.getMessage()) < 600


def test_an_undelivered_batch_does_not_log_a_line_per_publication(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Ten requests with a hundred publications each wrote a thousand log lines."""
    caplog.set_level(logging.INFO, logger="realtime.fallbacks.handlers.log")
    for number in range(1000):
        log(queued(number))
    assert len(caplog.records) < 300
    assert any("not logged so far" in record.getMessage() for record in caplog.records)


def mailers(backend: str, port: int) -> dict[str, Any]:
    options = {"host": "127.0.0.1", "port": port}
    away = {"BACKEND": "django.core.mail.backends.dummy.EmailBackend"}
    return {"default": away, "shop": {"BACKEND": backend, "OPTIONS": options}}


@pytest.mark.filterwarnings("ignore:The EMAIL_:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The EMAIL_:PendingDeprecationWarning")
def test_a_mail_goes_to_the_server_of_the_older_settings() -> None:
    with mail_server() as running, override_settings(**by_settings(running.port)):
        Email()(queued())
        assert len(running.mails.got) == 1


@pytest.mark.skipif(not HAS_MAILERS, reason="Django has MAILERS since 6.1")
def test_a_mail_goes_through_the_mailer_that_is_named() -> None:
    with mail_server() as running, override_settings(MAILERS=mailers(SMTP, running.port)):
        email_of({"mailer": "shop"})(queued())
        email_of({})(queued())  # to the default one, which sends nothing
        assert len(running.mails.got) == 1


def test_a_mailer_that_does_not_exist_is_said_before_the_first_mail() -> None:
    with pytest.raises(ConfigurationError, match="mailer 'shop' is not in MAILERS"):
        email_of({"mailer": "shop"})
