"""Channels that do not arrive although the node is live: a part of the broker is gone.

Only a cluster has parts. The clients of these channels are told, and nobody else: first that the
channel is not live, later that it is again, after the gap that reports what it missed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from realtime.delivery.listeners import Listener
    from realtime.delivery.registry import Channel, Registry

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 0.2
"""How long a channel may be lost before its clients are told. A slot that moves to another master
is back within 25 ms; its gap tells that something was missed."""
REASONS_LOGGED = 8
"""Distinct reasons that are logged until no channel is lost."""

Tell = Callable[["Channel[Listener]", bool], None]
"""Tells the clients of a channel whether it is live."""


class LostChannels:
    """See the module. Belongs to one hub."""

    def __init__(
        self, registry: Registry[Listener], tell: Tell, *, is_live: Callable[[], bool]
    ) -> None:
        """Start without lost channels.

        Args:
            registry: The channels of the node.
            tell: Tells the clients of a channel whether it is live.
            is_live: Tells whether the node is live; if not, its clients know already.
        """
        self._registry = registry
        self._tell = tell
        self._is_live = is_live
        self._since: dict[str, float] = {}
        self._told: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._began = 0.0
        self._reasons: dict[str, None] = {}
        self._logged: set[str] = set()

    def __len__(self) -> int:
        return len(self._since)

    def __contains__(self, name: str) -> bool:
        return name in self._since

    def note_lost(self, names: Iterable[str], reason: str) -> None:
        """Record that channels do not arrive, for a reason that only the log shows."""
        now = asyncio.get_running_loop().time()
        if not self._since:
            self._began = now
        for name in names:
            self._since.setdefault(name, now)
        if len(self._reasons) < REASONS_LOGGED:
            self._reasons[reason] = None
        self._tell_later()

    def note_live(self, channel: Channel[Listener]) -> None:
        """Record that the position of a channel was compared after its gaps were queued."""
        if self._since.pop(channel.name, None) is None:
            return
        if channel.name in self._told:
            self._told.remove(channel.name)
            self._tell(channel, True)
        self._look_whether_over()

    def forget_unneeded(self) -> None:
        """Forget channels that the node does not need any more."""
        for name in [name for name in self._since if self._registry.get(name) is None]:
            del self._since[name]
            self._told.discard(name)
        self._look_whether_over()

    def tell_again(self) -> None:
        """Tell all clients of lost channels: they were just told that the node is live."""
        self._told.clear()
        self._tell_overdue()

    def clear(self) -> None:
        """Forget all: the subscription of the node has ended, and with it everything is lost."""
        self._since.clear()
        self._told.clear()
        self._reasons.clear()
        self._logged.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tell_later(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(PATIENCE_SECONDS, self._tell_overdue)

    def _tell_overdue(self) -> None:
        """Tell the clients of channels that have been lost for long enough."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._since or not self._is_live():
            return
        latest = asyncio.get_running_loop().time() - PATIENCE_SECONDS
        untold = [name for name in self._since if name not in self._told]
        overdue = [name for name in untold if self._since[name] <= latest]
        for name in overdue:
            self._told.add(name)
            if (channel := self._registry.get(name)) is not None:
                self._tell(channel, False)
        if len(overdue) < len(untold):
            self._tell_later()
        if overdue:
            self._log()

    def _log(self) -> None:
        for reason in [each for each in self._reasons if each not in self._logged]:
            self._logged.add(reason)
            logger.warning(
                "lost channels: %d (%s)", len(self._since), reason,
                extra={"lost_channels": len(self._since)},
            )  # fmt: skip

    def _look_whether_over(self) -> None:
        if self._since:
            return
        if self._logged:
            seconds = asyncio.get_running_loop().time() - self._began
            logger.info("all channels are live after %.1f s", seconds)
        self.clear()
