"""Where tests intercept what the host's code, the HTTP API and commands publish, and read.

Publications of clients are not intercepted: they are not part of the code under test.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from realtime.core.positions import Position
    from realtime.core.publication import Publication, Receipt
    from realtime.errors import BrokerError, RealtimeError


class Deferred(Protocol):
    """A publication that waits for the commit of its transaction."""

    publication: Publication

    @property
    def is_waiting(self) -> bool:
        """Whether it is neither published nor rolled back."""


class Interceptor(Protocol):
    """Takes publications instead of the broker."""

    def publish(
        self, publications: Sequence[Publication], *, on_commit: bool = False
    ) -> list[Receipt | RealtimeError]:
        """Take publications, without waiting; return what the broker would return."""

    def positions(self, channels: Sequence[str]) -> list[Position | BrokerError]:
        """Return the positions of channels, as the broker would."""

    def defer(self, deferred: Deferred) -> None:
        """Note a publication that waits for a commit."""


current: Interceptor | None = None
"""The interceptor of this process, if there is one."""


def intercept(interceptor: Interceptor | None) -> Interceptor | None:
    """Pass all publications of this process to an interceptor; return the previous one."""
    global current
    previous, current = current, interceptor
    return previous
