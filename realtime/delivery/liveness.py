"""Tracks whether a node is *live*: whether every publication on its channels reaches it.

A node becomes live when it has compared the position of every channel that it had at the start of
its subscription to the broker. It stops being live when the subscription breaks.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable

logger = logging.getLogger(__name__)

UNHEARD = "this node does not receive from Redis; see its log"
"""The only reason that probes report: the error itself names hosts, ports and paths (CWE-209)."""
BACKOFF_SECONDS = (0.05, 1.0)
"""The shortest and the longest interval between two attempts to subscribe at the broker."""
REASONS_LOGGED = 8
"""Distinct reasons that are logged until the node is live again."""


class Liveness:
    """See the module. Belongs to one hub."""

    def __init__(
        self,
        *,
        is_compared: Callable[[str], bool],
        changed: Callable[[], None],
        size: Callable[[], dict[str, int]],
    ) -> None:
        """Start as not live.

        Args:
            is_compared: Tells whether a channel has been compared, or need not be: it is no longer
                needed, or lost with a part of the broker.
            changed: Called after each change of `live`.
            size: Returns the number of connections and channels, as fields of log records.
        """
        self.live = False
        self.reason: str | None = "starting"
        """Why the node is not live, without confidential details; None while it is live."""
        self.outages = 0
        """How often it has stopped being live."""
        self.failures = 0
        """Failed subscriptions since the node was live; Redis may refuse only the SUBSCRIBE."""
        self._is_compared = is_compared
        self._changed = changed
        self._size = size
        self._to_compare: set[str] | None = None  # None: no subscription, or all is compared
        self._since = asyncio.get_running_loop().time()
        self._tried_at = self._since
        """When the last attempt to subscribe began, or when its subscription broke."""
        self._logged: set[str] = set()  # reasons logged during this outage

    def start(self) -> None:
        """Measure the outage from now: the time during which a hub was stopped does not count."""
        self._since = asyncio.get_running_loop().time()
        self._logged.clear()

    def stop(self) -> None:
        """Stop without a log record or a call of ``changed``: no client is connected any more."""
        self.live, self.reason = False, "stopped"

    def note_subscribed(self, channels: Iterable[str]) -> None:
        """Start a new subscription; the node is live once these channels are compared."""
        self._to_compare = set(channels)

    def note_unsubscribed(self) -> None:
        """End the subscription: leaving channels can no longer make the node live."""
        self._to_compare = None
        self._tried_at = asyncio.get_running_loop().time()

    def lose(self, reason: str) -> None:
        """Stop being live, for a reason that only the log shows."""
        was_live, self.live, self.reason = self.live, False, UNHEARD
        if was_live:
            self.start()
        if reason not in self._logged and len(self._logged) < REASONS_LOGGED:
            self._logged.add(reason)  # logged once, not for each reconnect attempt
            logger.warning("not live: %s", reason, extra=self._size())
        if was_live:
            self.outages += 1
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

    def next_pause(self) -> float:
        """Count a failure; return the seconds to wait, with full jitter between nodes.

        The time of an attempt to subscribe counts. It may be a second, in which a node that waits
        for its sentinels must not look away for as long again.
        """
        shortest, longest = BACKOFF_SECONDS
        doubled = min(self.failures, 10)  # an outage of ten minutes made 2**1024, too large a float
        self.failures += 1
        wanted = random.uniform(0, min(longest, shortest * 2**doubled))  # noqa: S311 - spreads load
        now = asyncio.get_running_loop().time()
        pause = max(0.0, self._tried_at + wanted - now)
        self._tried_at = now + pause
        return pause
