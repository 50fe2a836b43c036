"""The active subscriptions of one connection, and when they expire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from realtime.core.callbacks import do_nothing
from realtime.core.codes import EXPIRED, SUBSCRIPTION_EXPIRED
from realtime.delivery.listeners import Listener

if TYPE_CHECKING:
    from realtime.connection.client_state import ClientState
    from realtime.connection.decisions import Join
    from realtime.connection.writer import Writer
    from realtime.core.positions import Position
    from realtime.delivery.node_services import NodeServices
    from realtime.delivery.registry import Channel


class ActiveSubscriptions:
    """See the module. Belongs to one conversation."""

    __slots__ = ("_ends", "_expires", "_listeners", "_node", "_state", "_writer")

    def __init__(
        self,
        node: NodeServices,
        state: ClientState,
        writer: Writer,
        expires: Callable[[], None],
    ) -> None:
        """Start without subscriptions.

        Args:
            node: The source of channels; counts their members.
            state: The rules for this client, and its state.
            writer: Receives the publications.
            expires: Called when a permission with an expiry time is recorded.
        """
        self._node = node
        self._state = state
        self._writer = writer
        self._expires = expires
        self._listeners: dict[str, tuple[Channel[Listener], Listener]] = {}
        self._ends: dict[str, float] | None = None  # None: nothing expires

    def __contains__(self, name: str) -> bool:
        """Tell whether the client is subscribed to a channel."""
        return name in self._listeners

    @property
    def channels(self) -> Collection[str]:
        """The channels that the client is subscribed to, as they are now."""
        return self._listeners.keys()

    def position(self, name: str) -> Position:
        """Return the current position of a channel that the client is subscribed to."""
        channel, _ = self._listeners[name]
        return channel.position

    def start(self, join: Join, channel: Channel[Listener], ttl_seconds: int | None) -> None:
        """Add the client to the listeners of a channel, and to its members if they are counted."""
        listener = Listener(self._writer, hears_joins=join.hears_joins)
        channel.listeners[listener] = None
        channel.meter.subscriptions += 1
        self._listeners[join.channel] = (channel, listener)
        self.renew(join.channel, ttl_seconds)
        if channel.namespace.counts_members:
            self._node.presence.count_in(channel, self._state.member_of(channel.name))

    def change(self, join: Join) -> Channel[Listener]:
        """Apply the options of a client's own subscribe to a subscription; return its channel."""
        channel, listener = self._listeners[join.channel]
        listener.hears_joins = join.hears_joins
        return channel

    def leave(self, name: str) -> None:
        """Remove the client from the listeners of a channel, if it is one of them."""
        self.renew(name, None)
        channel, listener = self._listeners.pop(name, (None, None))
        if channel is None or listener is None:
            return
        listener.active = False
        del channel.listeners[listener]
        channel.meter.subscriptions -= 1
        if channel.namespace.counts_members:
            self._node.presence.count_out(channel, self._state.client)
        self._writer.forget(name)
        self._node.subscriber.release(channel)

    def release(self) -> None:
        """Leave all channels: the connection has ended."""
        for name in list(self._listeners):
            self.leave(name)
        self._expires = do_nothing  # breaks a reference cycle: it refers to the conversation

    def renew(self, name: str, ttl_seconds: int | None) -> None:
        """Record when a subscription expires, or with an empty name the whole connection."""
        if ttl_seconds is not None:
            now = asyncio.get_running_loop().time()
            self._ends = self._ends or {}
            self._ends[name] = now + ttl_seconds + self._node.grace_seconds
            self._expires()
        elif self._ends and name in self._ends:
            del self._ends[name]

    def expire(self, now: float) -> bool:
        """End everything that was not renewed in time; return whether anything else can expire."""
        for name, end in list((self._ends or {}).items()):
            if now < end or self._writer.ended:
                continue
            self.renew(name, None)
            if not name:
                self._writer.end(EXPIRED)
            elif name in self._listeners:
                self.leave(name)
                self._state.channels.end_subscription(name)
                self._writer.send(
                    self._writer.protocol.encode_unsubscribe_push(name, SUBSCRIPTION_EXPIRED)
                )
        return bool(self._ends) and not self._writer.ended
