"""Passes on each message that arrives at a node."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from realtime.brokers.node_messages import Dispatcher, UnknownMessage, parse
from realtime.core.envelope import decode_envelope
from realtime.core.members import Changes
from realtime.core.tally import Tally
from realtime.delivery.fanout import Fanout, Listener
from realtime.delivery.registry import Channel, Registry
from realtime.errors import EnvelopeError

if TYPE_CHECKING:
    from realtime.brokers import Message

logger = logging.getLogger(__name__)

MembersChanged = Callable[[Channel[Listener], Changes], object]


class Receiver:
    """The receiver of the messages of a node's subscription.

    Publications go through the registry to the fan-out, messages between nodes to their handlers.
    """

    def __init__(
        self,
        registry: Registry[Listener],
        fanout: Fanout,
        between_nodes: Mapping[str, Dispatcher],
        *,
        members_changed: MembersChanged,
    ) -> None:
        """Create a receiver.

        Args:
            registry: The channels with publications.
            fanout: Delivers arrivals.
            between_nodes: The channels with messages between nodes, and the handlers of each.
            members_changed: Called when clients have joined or left a channel.
        """
        self._registry = registry
        self._fanout = fanout
        self._between_nodes = between_nodes
        self._members_changed = members_changed
        self.passed_over = 0
        """The number of messages between nodes that this version does not know."""
        self._unknown = Tally()
        self.dropped_envelopes = 0
        """The number of messages on channels that are not envelopes of this service."""

    def receive(self, message: Message) -> None:
        """Pass on one message."""
        if (dispatcher := self._between_nodes.get(message.channel)) is not None:
            if not dispatcher.dispatch(message.raw):
                self._pass_over()
        elif (channel := self._registry.get(message.channel)) is not None:
            self._receive_publication(channel, message.raw)
        # else it was in flight while this node unsubscribed

    def _receive_publication(self, channel: Channel[Listener], raw: bytes) -> None:
        try:
            envelope = decode_envelope(raw)
        except EnvelopeError as error:
            self._receive_changes(channel, raw, error)
            return
        if (arrival := channel.note_arrival(envelope)) is not None:
            self._fanout.add(channel, arrival)

    def _receive_changes(
        self, channel: Channel[Listener], raw: bytes, error: EnvelopeError
    ) -> None:
        """Pass on a message about joins and leaves; drop any other that is not an envelope."""
        try:
            changes = parse(raw)
        except UnknownMessage:
            changes = None
        if isinstance(changes, Changes):
            self._members_changed(channel, changes)
        else:
            self._drop(channel.name, error)

    def _drop(self, channel: str, error: EnvelopeError) -> None:
        self.dropped_envelopes += 1
        count = self.dropped_envelopes
        if count & (count - 1) == 0:  # the 1st, 2nd, 4th, 8th …: never a flood
            logger.warning(
                "dropped an invalid envelope on %s: %s (%d so far)", channel, error, count
            )

    def _pass_over(self) -> None:
        self.passed_over += 1
        count = self._unknown.add("message", asyncio.get_running_loop().time())
        if count is not None:
            logger.warning(
                "ignored a node message that this version does not know (%d so far)",
                count,
            )
