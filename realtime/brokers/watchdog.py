"""Detects whether a node still receives from its broker, with canaries on the publisher's path.

One watchdog per subscription. The subscriber reads the subscription, and returned canaries are
passed to `Watchdog.note_return`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from realtime.brokers.canary import SEND_EVERY_SECONDS, Canary
from realtime.errors import BrokerError, BrokerUnavailable

NOTHING_COMES = "the broker accepts publications but delivers none"
LISTEN_EVERY_SECONDS = 0.1
QUIET_SECONDS = 0.3
"""A socket that was silent for this long has no unread data, provided the loop is running; TCP
retransmits after 0.2 s."""


class ReadCounter(Protocol):
    """What a watchdog looks at: a subscription, or a part of one."""

    @property
    def reads(self) -> int:
        """The number of times that bytes have arrived."""


class Watchdog:
    """See the module. Its tasks `send_canaries` and `watch_socket` raise if the broker is gone.

    Two tasks are needed because a frozen Redis blocks the first for the timeout of a command.
    """

    def __init__(
        self,
        send: Callable[[bytes], Awaitable[int]],
        *,
        is_subscribed: Callable[[], bool],
        is_behind: Callable[[], bool],
    ) -> None:
        """Start without canaries in flight.

        Args:
            send: Sends a canary on the node's own channel, on which it comes back; returns how many
                nodes received it; raises `BrokerError`.
            is_subscribed: Tells whether the broker has confirmed that channel.
            is_behind: Tells whether the node itself has paused reading.
        """
        self._send = send
        self._is_subscribed = is_subscribed
        self._is_behind = is_behind
        self._canary = Canary()
        self._silence = NOTHING_COMES  # the reason if a canary does not come back

    @property
    def lag_seconds(self) -> float:
        """The latest round-trip time through the broker."""
        return self._canary.lag_seconds

    def note_return(self, number: int) -> None:
        """Record a canary that arrived on the node's own channel."""
        self._canary.note_return(number, asyncio.get_running_loop().time())

    async def send_canaries(self) -> None:
        """Send canaries periodically.

        After a failover, the publisher's path may lead to the new master while the node is still
        subscribed to the old one, which sends nothing any more.

        Raises:
            BrokerUnavailable: A canary has no receivers although the node is subscribed.
        """
        while True:
            self._silence = await self._send_canary()
            await asyncio.sleep(SEND_EVERY_SECONDS)

    async def watch_socket(self, subscription: ReadCounter) -> None:
        """Check for overdue canaries.

        Raises:
            BrokerUnavailable: A canary does not come back although the socket is empty.
        """
        loop = asyncio.get_running_loop()
        quiet, was_late = 0.0, False
        while True:
            reads, asleep_at = subscription.reads, loop.time()
            await asyncio.sleep(LISTEN_EVERY_SECONDS)
            # A process that was paused has unread data; by the next round it has been read.
            was_late = not was_late and loop.time() - asleep_at > 2 * LISTEN_EVERY_SECONDS
            if was_late or reads != subscription.reads or self._is_behind():
                quiet = 0.0
            else:
                quiet += LISTEN_EVERY_SECONDS
            if quiet >= QUIET_SECONDS and self._canary.is_overdue(loop.time()):
                raise BrokerUnavailable(self._silence)

    async def _send_canary(self) -> str:
        """Send a canary; return the reason to report if it does not come back."""
        is_listening = self._is_subscribed()
        canary = self._canary.send(asyncio.get_running_loop().time())
        try:
            heard_by = await self._send(b"%d" % canary)
        except BrokerError as error:
            # Counts as sent: a broken path from publisher to Redis must be detected.
            return str(error)
        if is_listening and not heard_by:
            raise BrokerUnavailable(
                "publications go to another Redis than the one that this node is subscribed to"
            )
        return NOTHING_COMES
