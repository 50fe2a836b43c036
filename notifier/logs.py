"""Logging to stderr, one event per line: for people at a terminal, otherwise as JSON."""

from __future__ import annotations

import json
import logging
import os
import time
from typing import Any

# Attributes of every record; any other was given as `extra` and belongs in the line.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# Objects for Django's own handlers, which are useless in a line.
_OBJECTS = frozenset({"request", "server_time"})


class JsonLines(logging.Formatter):
    """One JSON object per line: ``{"time": …, "level": …, "logger": …, "message": …, …}``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line; a traceback becomes a value in it."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        line |= {
            name: value
            for name, value in vars(record).items()
            if name not in _STANDARD and name not in _OBJECTS
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class OnlyBugs(logging.Filter):
    """Passes the records that have a traceback: Django logs a line for each 5xx response, too."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether an exception nobody expected has caused the record."""
        return record.exc_info is not None


def logging_settings(*, for_people: bool) -> dict[str, Any]:
    """Return the dictionary for Django's LOGGING."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "people": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"},
            "json": {"()": JsonLines},
        },
        "filters": {"bugs": {"()": OnlyBugs}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "people" if for_people else "json",
            },
            "nowhere": {"class": "logging.NullHandler"},  # without a handler, Python prints itself
        },
        "root": {"handlers": ["stderr"], "level": "INFO"},
        "loggers": {
            # Django has handlers of its own for these; without this, lines are printed twice.
            "django": {"handlers": [], "level": "INFO", "propagate": True},
            "django.server": {"handlers": [], "level": "INFO", "propagate": True},
            # A foreign Host, a thousand parameters, a form without its token: scanners send them
            # all day, and most cause a traceback.
            "django.security": {"handlers": ["nowhere"], "propagate": False},
            # Unknown paths, malformed requests, and 503 while Redis or the database is away, which
            # has a line of its own: anyone could fill the disk with them. uvicorn is silent because
            # the fleet logs the relevant starts and stops.
            "django.request": {"level": "ERROR", "filters": ["bugs"]},
            "uvicorn": {"level": "ERROR"},
        },
    }


def is_stderr_terminal() -> bool:
    """Return whether a person is reading stderr."""
    try:
        return os.isatty(2)
    except OSError:
        return False
