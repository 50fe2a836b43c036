"""Whether a node is *live*: whether every publication on its channels reaches it.

A node is live once it has compared the position of every channel that it had when its last
subscription broke. It loses that state with the subscription.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

logger = logging.getLogger(__name__)

REASONS_TOLD = 8
"""Different reasons in the log, until the node is live again."""


class Liveness:
    """See the module. Belongs to one hub."""

    def __init__(
        self,
        *,
        is_compared: Callable[[str], bool],
        changed: Callable[[], None],
        size: Callable[[], dict[str, int]],
    ) -> None:
        """Begin as not live.

        Args:
            is_compared: Whether a channel has been compared, or is not wanted any more.
            changed: Called after each change of `live`.
            size: Whom a change concerns; fields of its line in the log.
        """
        self.live = False
        self.reason: str | None = "starting"
        """Why it is not live, for operators; None while it is."""
        self.failures = 0
        """Subscriptions that have failed since; Redis may let us in and refuse each SUBSCRIBE."""
        self._is_compared = is_compared
        self._changed = changed
        self._size = size
        self._to_compare: set[str] | None = None  # None: no subscription, or all is compared
        self._since = asyncio.get_running_loop().time()
        self._told: set[str] = set()  # reasons that the log has named since

    def start(self) -> None:
        """Count the outage from now: a hub that was stopped was not down."""
        self._since = asyncio.get_running_loop().time()
        self._told.clear()

    def stop(self) -> None:
        """Stop without a word: nobody is connected any more."""
        self.live, self.reason = False, "stopped"

    def subscribed(self, channels: Iterable[str]) -> None:
        """A new subscription begins; the node is live when these channels are compared."""
        self._to_compare = set(channels)

    def unsubscribed(self) -> None:
        """The subscription has ended: that channels are left now makes nothing live."""
        self._to_compare = None

    def lose(self, reason: str) -> None:
        """The node is not live, for this reason."""
        was_live, self.live, self.reason = self.live, False, reason
        if was_live:
            self.start()
        if reason not in self._told and len(self._told) < REASONS_TOLD:
            self._told.add(reason)  # not again with each attempt to connect
            logger.warning("not live: %s", reason, extra=self._size())
        if was_live:
            self._changed()

    def look(self) -> None:
        """Become live if every channel has been compared."""
        if self.live or self._to_compare is None:
            return
        self._to_compare = {name for name in self._to_compare if not self._is_compared(name)}
        if self._to_compare:
            return
        self._to_compare = None
        self.failures = 0
        self.live, self.reason = True, None
        seconds = asyncio.get_running_loop().time() - self._since
        logger.info("live after %.1f s", seconds, extra=self._size())
        self._changed()
