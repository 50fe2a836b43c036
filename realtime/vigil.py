"""Finds out whether a node still hears its broker: canaries go out on the publisher's path.

One for each subscription. Reading the subscription is the hub's; it hands over what comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from realtime.brokers import Broker, Subscription
from realtime.canary import SEND_EVERY_SECONDS, Canary
from realtime.errors import BrokerError, BrokerUnavailable

NOTHING_COMES = "the broker delivers nothing"
LISTEN_EVERY_SECONDS = 0.1
QUIET_SECONDS = 0.3
"""A socket that gives nothing for so long, while the loop runs, is empty; TCP repeats after 0.2."""


class Vigil:
    """See the module. `sing` and `listen` are two tasks; each raises when the broker is not there.

    They are two, since a frozen Redis holds up the singing for the whole deadline of a command.
    """

    def __init__(
        self,
        broker: Broker,
        channel: str,
        *,
        is_subscribed: Callable[[], bool],
        is_behind: Callable[[], bool],
    ) -> None:
        """Begin with no canary on its way.

        Args:
            broker: Where they go out.
            channel: The node's own, on which they come back.
            is_subscribed: Whether the broker has confirmed that channel.
            is_behind: Whether the node itself does not read at present.
        """
        self._broker = broker
        self._channel = channel
        self._is_subscribed = is_subscribed
        self._is_behind = is_behind
        self._canary = Canary()
        self._silence = NOTHING_COMES  # what a canary that does not come back means

    @property
    def lag_seconds(self) -> float:
        """How long the way through the broker took last time."""
        return self._canary.lag_seconds

    def back(self, number: int) -> None:
        """Take a canary that came on the node's own channel."""
        self._canary.back(number, asyncio.get_running_loop().time())

    async def sing(self) -> None:
        """Send canaries.

        After a failover the publisher's path may lead to the new master while we still listen to
        the old one, who says nothing any more.

        Raises:
            BrokerUnavailable: Nobody hears them although we listen.
        """
        while True:
            self._silence = await self._sing_once()
            await asyncio.sleep(SEND_EVERY_SECONDS)

    async def listen(self, subscription: Subscription) -> None:
        """Watch the socket.

        Raises:
            BrokerUnavailable: A canary does not come back although the socket is empty.
        """
        loop = asyncio.get_running_loop()
        quiet, was_late = 0.0, False
        while True:
            reads, asleep_at = subscription.reads, loop.time()
            await asyncio.sleep(LISTEN_EVERY_SECONDS)
            # A process that was stopped has not read what came meanwhile; it has, the next time.
            was_late = not was_late and loop.time() - asleep_at > 2 * LISTEN_EVERY_SECONDS
            if was_late or reads != subscription.reads or self._is_behind():
                quiet = 0.0
            else:
                quiet += LISTEN_EVERY_SECONDS
            if quiet >= QUIET_SECONDS and self._canary.is_overdue(loop.time()):
                raise BrokerUnavailable(self._silence)

    async def _sing_once(self) -> str:
        """Send a canary; return what it means if it does not come back."""
        is_listening = self._is_subscribed()
        canary = self._canary.send(asyncio.get_running_loop().time())
        try:
            heard_by = await self._broker.send_raw(self._channel, b"%d" % canary)
        except BrokerError as error:
            # Counts as sent: a publisher's path that is broken must show, too.
            return str(error)
        if is_listening and not heard_by:
            raise BrokerUnavailable("publications go to another Redis than the one we listen to")
        return NOTHING_COMES
