"""How the service logs: to stderr, one event a line; for people at a terminal, else as JSON."""

from __future__ import annotations

import json
import logging
import os
import time
from typing import Any

# What every record has; whatever else it carries was given as `extra` and belongs into the line.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# Facts for Django's own handlers, objects that say nothing in a line.
_OBJECTS = frozenset({"request", "server_time"})


class JsonLines(logging.Formatter):
    """One JSON object a line: ``{"time": …, "level": …, "logger": …, "message": …, …}``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line; a traceback is a value in it."""
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


def logging_settings(*, for_people: bool) -> dict[str, Any]:
    """Return the dictionary for Django's LOGGING."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "people": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"},
            "json": {"()": JsonLines},
        },
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "people" if for_people else "json",
            },
            "nowhere": {"class": "logging.NullHandler"},  # without any, Python prints it itself
        },
        "root": {"handlers": ["stderr"], "level": "INFO"},
        "loggers": {
            # Django brings handlers of its own for these; without this a line comes twice.
            "django": {"handlers": [], "level": "INFO", "propagate": True},
            "django.server": {"handlers": [], "level": "INFO", "propagate": True},
            # A request to a name that is not ours: scanners send them all day, each a traceback.
            "django.security.DisallowedHost": {"handlers": ["nowhere"], "propagate": False},
            # Each address that does not exist, each request that is none: who likes could fill the
            # disk with them. Of uvicorn, the fleet reports the starts and ends that matter.
            "django.request": {"level": "ERROR"},
            "django.security.csrf": {"level": "ERROR"},
            "uvicorn": {"level": "ERROR"},
        },
    }


def stderr_is_terminal() -> bool:
    """Tell whether a person reads along."""
    try:
        return os.isatty(2)
    except OSError:
        return False
