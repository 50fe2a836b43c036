"""Subscribers and their mailboxes: who receives a channel, and what they have not read yet.

Like Redis, it disconnects a subscriber that does not read (`client-output-buffer-limit pubsub`).
No lock, no clock, no event loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from typing import Literal, NamedTuple

MAILBOX_BYTES = 32 * 1024 * 1024  # as Redis: client-output-buffer-limit pubsub 32mb
READ_BYTES = 64 * 1024  # as one read of a socket


class DeliveredMessage(NamedTuple):
    """What has arrived for a subscriber."""

    kind: Literal["message", "subscribe", "unsubscribe"]
    channel: str
    raw: bytes = b""


class MailboxClosed(Exception):
    """The mailbox was closed, or its subscriber was too slow; the text says which."""


class SubscriberMailbox:
    """What has arrived for one subscriber and has not been read yet."""

    __slots__ = ("channels", "delivered", "problem", "size", "wants_waking")

    def __init__(self) -> None:
        self.channels: set[str] = set()
        self.delivered: deque[DeliveredMessage] = deque()
        self.size = 0
        self.wants_waking = False
        """Whether the subscriber found it empty and waits."""
        self.problem = ""
        """Why it is closed; empty while it is open."""


class MemoryExchange:
    """The subscribers of all channels."""

    def __init__(self, mailbox_bytes: int = MAILBOX_BYTES) -> None:
        """Start without subscribers.

        Args:
            mailbox_bytes: The maximum size of what one subscriber has not read.
        """
        self._most = mailbox_bytes
        self._listeners: dict[str, dict[SubscriberMailbox, None]] = {}
        self._woken: list[SubscriberMailbox] = []

    @property
    def channels(self) -> Collection[str]:
        """The channels that have subscribers."""
        return self._listeners.keys()

    def count(self, channel: str) -> int:
        """Return the number of subscribers of a channel."""
        return len(self._listeners.get(channel, ()))

    def subscribe(self, box: SubscriberMailbox, channels: Iterable[str]) -> None:
        """Deliver what is published on these channels from now on, and confirm each.

        Raises:
            MailboxClosed: It is closed.
        """
        _refuse_closed(box)
        for channel in channels:
            self._listeners.setdefault(channel, {})[box] = None
            box.channels.add(channel)
            self._put(box, DeliveredMessage("subscribe", channel))

    def unsubscribe(self, box: SubscriberMailbox, channels: Iterable[str]) -> None:
        """Deliver nothing more of these channels, and confirm each; errors as for `subscribe`."""
        _refuse_closed(box)
        for channel in channels:
            self._remove(box, channel)
            self._put(box, DeliveredMessage("unsubscribe", channel))

    def publish(self, channel: str, raw: bytes) -> int:
        """Deliver bytes to all subscribers of a channel; return how many there are."""
        listeners = list(self._listeners.get(channel, ()))
        for box in listeners:
            self._put(box, DeliveredMessage("message", channel, raw))
        return len(listeners)

    def read(self, box: SubscriberMailbox, most_bytes: int = READ_BYTES) -> list[DeliveredMessage]:
        """Take what has arrived, in order; if that is nothing, the next arrival wakes the reader.

        Args:
            box: The mailbox of the subscriber.
            most_bytes: Stop after this size, so that a long backlog takes several reads.

        Raises:
            MailboxClosed: It is closed.
        """
        _refuse_closed(box)
        taken: list[DeliveredMessage] = []
        size = 0
        while box.delivered and size < most_bytes:
            taken.append(box.delivered.popleft())
            size += _size(taken[-1])
        box.size -= size
        box.wants_waking = not taken
        return taken

    def close(self, box: SubscriberMailbox, problem: str = "the subscription was closed") -> None:
        """Deliver nothing more to a mailbox; wake its reader, whose read then raises."""
        for channel in list(box.channels):
            self._remove(box, channel)
        box.delivered.clear()
        box.size = 0
        box.problem = problem
        self._wake(box)

    def take_woken(self) -> list[SubscriberMailbox]:
        """Return the mailboxes whose readers waited and have something to read now."""
        woken, self._woken = self._woken, []
        return woken

    def _put(self, box: SubscriberMailbox, delivered: DeliveredMessage) -> None:
        box.size += _size(delivered)
        if box.size > self._most:
            self.close(box, f"the subscriber did not read {self._most} bytes")
            return
        box.delivered.append(delivered)
        self._wake(box)

    def _wake(self, box: SubscriberMailbox) -> None:
        if box.wants_waking:
            box.wants_waking = False
            self._woken.append(box)

    def _remove(self, box: SubscriberMailbox, channel: str) -> None:
        box.channels.discard(channel)
        listeners = self._listeners.get(channel, {})
        listeners.pop(box, None)
        if not listeners:
            self._listeners.pop(channel, None)


def _size(delivered: DeliveredMessage) -> int:
    # 64: so that empty messages are not free.
    return 64 + len(delivered.channel) + len(delivered.raw)


def _refuse_closed(box: SubscriberMailbox) -> None:
    if box.problem:
        raise MailboxClosed(box.problem)
