"""How the two protocol classes tell that a limit was reached.

uvicorn makes a protocol for each connection and gives it nothing of ours but its configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import uvicorn


class Config(uvicorn.Config):
    """uvicorn's configuration, with somebody who counts."""

    def __init__(self, app: Any, *, reached: Callable[[str], None], **options: Any) -> None:
        super().__init__(app, **options)
        self.reached = reached


def counted(config: uvicorn.Config, limit: str) -> None:
    """Count that a limit was reached, where somebody does."""
    if isinstance(config, Config):
        config.reached(limit)
