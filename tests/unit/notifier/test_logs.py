"""One event is one line, even with a traceback."""

from __future__ import annotations

import json
import logging
import logging.config

from notifier.logs import JsonLines, logging_settings


def record(**extra: object) -> logging.LogRecord:
    made = logging.LogRecord("realtime", logging.WARNING, "f.py", 1, "lost %d", (3,), None)
    vars(made).update(extra)
    return made


def test_a_log_line_has_the_message_and_its_fields():
    line = json.loads(JsonLines().format(record(channel="public:news", odd=object)))
    assert line["message"] == "lost 3"
    assert line["level"] == "warning"
    assert line["logger"] == "realtime"
    assert line["channel"] == "public:news"
    assert line["time"].endswith("Z")


def test_a_traceback_and_a_line_break_stay_on_one_line():
    try:
        raise ValueError("first\nsecond")
    except ValueError as error:
        broken = record(exc_info=(ValueError, error, error.__traceback__))
    text = JsonLines().format(broken)
    assert "\n" not in text
    assert "second" in json.loads(text)["exception"]


def test_a_stranger_causes_no_line_through_django(capsys, request):
    """Too many parameters used to log a traceback each time, and a 503 without Redis a line."""
    loggers = ("django.request", "django.security.TooManyFieldsSent", "django.security.csrf")
    for name in loggers:
        logger = logging.getLogger(name)
        kept = (logger.handlers[:], logger.level, logger.propagate, logger.filters[:])

        def restore(logger=logger, kept=kept):
            logger.handlers, logger.level, logger.propagate, logger.filters = kept

        request.addfinalizer(restore)
    settings = logging_settings(for_people=False)
    del settings["root"]  # the handlers of pytest stay
    settings["loggers"] = {
        name: {
            **options,
            "handlers": ["stderr"] if name == "django.request" else options.get("handlers", []),
        }
        for name, options in settings["loggers"].items()
        if name.startswith(("django.request", "django.security"))
    }
    logging.config.dictConfig(settings)
    logging.getLogger("django.security.TooManyFieldsSent").error("too many", exc_info=ValueError())
    logging.getLogger("django.security.csrf").warning("no token")
    logging.getLogger("django.request").error("Service Unavailable: /login/")
    logging.getLogger("django.request").error("a bug", exc_info=ValueError("a bug"))
    [line] = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == "a bug"
