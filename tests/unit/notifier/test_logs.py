"""One event is one line, even with a traceback."""

from __future__ import annotations

import json
import logging

from notifier.logs import JsonLines


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
