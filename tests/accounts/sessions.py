"""A session engine with its own model and encoding."""

from __future__ import annotations

from typing import Any

from django.contrib.sessions.backends.db import SessionStore as Database


class SessionStore(Database):
    @classmethod
    def get_model_class(cls) -> Any:
        from tests.accounts.models import Login

        return Login

    def encode(self, session_dict: Any) -> str:
        return f"ours:{super().encode(session_dict)}"

    def decode(self, session_data: str) -> Any:
        return super().decode(session_data.removeprefix("ours:"))
