"""Takes the frames of a client whose connection our own server has taken over (ADR-0038)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from realtime.core.codes import SERVER_ERROR

if TYPE_CHECKING:
    from realtime.delivery.conversation import Conversation

logger = logging.getLogger(__name__)


class FrameReceiver:
    """Takes a client's frames from our own server, so that its connection needs no task (ADR-0038).

    `receive` is the callback form of `_listen` in `realtime.transports.websocket`.
    """

    __slots__ = ("_conversation", "_leave", "_resume")

    def __init__(self, conversation: Conversation, leave: Callable[[], None]) -> None:
        """Take over the connection, if the server can do so.

        Args:
            conversation: The client's conversation.
            leave: Called when the connection has ended.
        """
        self._conversation = conversation
        self._leave = leave
        self._resume = conversation.writer.hand_over(self)

    @property
    def has_taken_over(self) -> bool:
        """Whether the server accepted the hand-over, so that the task must return."""
        return self._resume is not None

    def receive(self, text: str | None) -> bool:
        """See `realtime.connection.sinks.MessageReceiver`."""
        conversation = self._conversation
        if conversation.ended:
            return True
        try:
            conversation.receive(text)
        except Exception:  # as in `RealtimeConsumer`
            logger.exception("unexpected error in a connection; closing it")
            conversation.end(SERVER_ERROR)
        if (space := conversation.space()) is None:
            return True
        space.add_done_callback(self._go_on)
        return False

    def note_lost(self) -> None:
        """See `realtime.connection.sinks.MessageReceiver`."""
        try:
            self._conversation.end(None)
        finally:
            self._leave()

    def _go_on(self, _space: object) -> None:
        if self._resume is not None:
            self._resume()
