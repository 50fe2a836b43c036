"""Helpers for log records that a test has caused."""

from __future__ import annotations

import logging

import pytest


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings and errors; which lower levels are logged depends on earlier tests."""
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
