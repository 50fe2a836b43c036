"""A WebSocket that reaches Django itself: nobody can answer it, so the log says what to change."""

from __future__ import annotations

import pytest
from django.test import Client

from realtime.core.tally import Tally
from realtime.transports import misdirected

SOCKET = "/connection/websocket"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.message for each in caplog.records if each.name == misdirected.__name__]


def test_a_handshake_under_wsgi_is_logged_with_what_to_change(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newcomer without Daphne read `Not Found: /connection/websocket`, and nothing else."""
    monkeypatch.setattr(misdirected, "_wsgi", Tally())
    Client().get("/elsewhere", headers={"upgrade": "websocket"})
    Client().get(SOCKET)
    assert lines(caplog) == []
    for _ in range(3):
        Client().get(SOCKET, headers={"upgrade": "websocket"})
    [line] = lines(caplog)
    assert "put daphne first in INSTALLED_APPS and set ASGI_APPLICATION" in line
