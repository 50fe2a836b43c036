"""Starts and ends the subscriptions of one connection, requested by the client or by the server.

`joining.Stage` lists the stages of a subscription; `_progress` advances it. The subscribe command
of a client is validated when it reaches the head of the conversation's queue (ADR-0022), a
server-side subscription each time that the host has answered or the channel has become live.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from realtime.connection.decisions import End, Join
from realtime.core.callbacks import do_nothing
from realtime.core.codes import (
    ENDED_BY_SERVER,
    LIMIT_EXCEEDED,
    NOT_LIVE,
    NOT_SUBSCRIBED,
    SUBSCRIBE_AGAIN,
    UNSUBSCRIBED,
    Refusal,
    SubscriptionEnd,
)
from realtime.core.positions import Gap, GapReason, find_missed
from realtime.delivery.joining import LIVE_SECONDS, Joining, Stage
from realtime.delivery.node_services import NodeServices, is_allowed, state_push
from realtime.delivery.refusal_log import log_refusal

if TYPE_CHECKING:
    from realtime.connection.client_state import ClientState
    from realtime.connection.writer import Writer
    from realtime.delivery.active_subscriptions import ActiveSubscriptions
    from realtime.delivery.listeners import Listener
    from realtime.delivery.registry import Channel
    from realtime.protocols import Subscribe


class ClientSubscriptions:
    """See the module. Belongs to one conversation."""

    __slots__ = (
        "_active",
        "_advance",
        "_node",
        "_pending",
        "_serving",
        "_state",
        "_writer",
    )

    def __init__(
        self,
        node: NodeServices,
        state: ClientState,
        writer: Writer,
        active: ActiveSubscriptions,
        advance: Callable[[], None],
    ) -> None:
        """Start without subscriptions.

        Args:
            node: Subscribes at the broker.
            state: The rules for this client, and its state.
            writer: Sends replies and pushes.
            active: Takes the subscriptions that have started.
            advance: Called when a waiting subscribe may be able to continue.
        """
        self._node = node
        self._state = state
        self._writer = writer
        self._active = active
        self._advance = advance
        self._pending: dict[str, Joining] = {}  # prepared subscribes in the queue
        self._serving: dict[str, Joining] = {}  # pending server-side subscriptions

    def release(self, waiting: Iterable[Joining]) -> None:
        """Release everything, including subscribes in the queue: the connection has ended."""
        for joining in [*waiting, *self._serving.values()]:
            self._drop(joining)
        self._active.release()
        self._advance = do_nothing  # breaks a reference cycle: it refers to the conversation

    # ------------------------------------------------ requested by the client

    def prepare(self, joining: Joining) -> None:
        """Start the slow steps of a queued subscribe early, unless it is going to be refused."""
        is_next = joining.name not in self._pending  # in the queue for this channel
        if is_next and self._state.channels.fits_another(len(self._pending)):
            checked = self._check(joining)
            if isinstance(checked, Join):
                self._pending[joining.name] = joining
                joining.join = checked
                self._progress(joining)

    def subscribe(self, joining: Joining) -> bool:
        """Validate and finish the subscribe at the head of the queue; False if it must wait."""
        checked = self._check(joining)
        if isinstance(checked, End):
            self._writer.end(checked.close)
            return True
        if isinstance(checked, Refusal):
            return self._refuse(joining, checked)
        self._pending[joining.name] = joining
        joining.join = checked
        stage = self._progress(joining)
        if stage is Stage.REFUSED and joining.refusal is not None:
            return self._refuse(joining, joining.refusal)
        if stage is Stage.WAIT_FOR_HOST:
            return False
        if joining.name in self._active:
            self._take_over(joining, checked)
            return True
        if stage is Stage.WAIT_FOR_BROKER:
            # The channel may have been live when the command arrived, and broken since.
            joining.start_timer(LIVE_SECONDS, self._run_out)
            return False
        self._start(joining, checked)
        return True

    def _check(self, joining: Joining) -> Join | Refusal | End:
        command = _command_of(joining)
        if joining.token_grant is None:
            joining.token_grant = self._state.grant_of(command)
        return self._state.check_subscribe(command, joining.token_grant)

    def _take_over(self, joining: Joining, join: Join) -> None:
        """Confirm a subscribe to a channel that the server has subscribed the client to already.

        The reply has no position. Publications after the start of the server-side subscription are
        in flight or were delivered, and a client would discard them as old.
        """
        self._drop(joining)
        channel = self._active.change(join)
        gaps, ttl = _find_gaps(join, channel), self._state.channels.start_subscription(join)
        has_all = _has_all(join, gaps)
        self._writer.send(
            self._writer.protocol.encode_subscribe_reply(
                _command_of(joining), None, ttl, has_all=has_all
            )
        )
        self._tell_gaps(channel, gaps)

    def _refuse(self, joining: Joining, refusal: Refusal) -> bool:
        self._drop(joining)
        self._writer.send(self._writer.protocol.encode_refusal(_command_of(joining), refusal))
        log_refusal(joining.name, refusal.because)
        if refusal is LIMIT_EXCEEDED:
            self._node.reached.count("channels_per_connection")
        return True

    # ------------------------------------------------------ the host and Redis

    def _progress(self, joining: Joining) -> Stage:
        """Start the next steps of a subscription; return the stage at which it stops for now."""
        while True:
            stage = joining.next_stage()
            if stage is Stage.ASK_HOST:
                self._ask(joining)
            elif stage is Stage.JOIN_CHANNEL:
                self._want(joining)
            else:
                return stage

    def _ask(self, joining: Joining) -> None:
        """Ask the host for permission, concurrently for all subscribes of a frame."""
        identity = self._state.identity
        joining.ask(is_allowed(self._node, identity, joining.name, "subscribe"), self._note_answer)

    def _note_answer(self, joining: Joining) -> None:
        """Prepare a subscription after the host has answered; it is validated in its turn."""
        if self._writer.ended:
            return
        if joining.channel is None and joining.is_allowed:
            self._want(joining)
        self._resume(joining)

    def _resume(self, joining: Joining) -> None:
        if joining.command is None:
            self._finish_serving(joining)
        else:
            self._advance()

    def _want(self, joining: Joining) -> None:
        """Subscribe the node to a channel that the client may subscribe to."""
        assert joining.join is not None  # noqa: S101 - it was checked
        joining.channel = self._node.subscriber.want(
            joining.name, joining.join.namespace, joining, partial(self._resume, joining)
        )
        if not joining.channel.is_live:
            waits = self._go_on_waiting if joining.command is None else self._run_out
            joining.start_timer(LIVE_SECONDS, waits)

    def _run_out(self, joining: Joining) -> None:
        self._tell_that_it_waits(joining.name)
        self._give_up(joining, NOT_LIVE)
        self._advance()

    def _tell_that_it_waits(self, name: str) -> None:
        """Tell the client that a channel is not live, unless the node is not."""
        if self._node.live:
            self._writer.send(state_push(self._writer.protocol, live=False, channel=name))

    def _give_up(self, joining: Joining, why: Refusal) -> None:
        """Refuse the subscribe in its turn; a new subscribe is validated afresh."""
        joining.refusal = why
        self._drop(joining)

    def _drop(self, joining: Joining) -> None:
        joining.drop(self._node.subscriber.release)
        for under_way in (self._pending, self._serving):
            if under_way.get(joining.name) is joining:
                del under_way[joining.name]

    # ------------------------------------------------ requested by the server

    def serve(self, join: Join) -> None:
        """Subscribe the client once it is allowed and the channel is live; returns immediately."""
        joining = self._serving[join.channel] = Joining(join.channel, join=join)
        self._finish_serving(joining)

    def _go_on_waiting(self, joining: Joining) -> None:
        self._tell_that_it_waits(joining.name)
        if not self._node.live:  # its state says that, but may change
            joining.start_timer(LIVE_SECONDS, self._go_on_waiting)

    def unserve(self, name: str, waiting: Iterable[Joining]) -> None:
        """End a subscription, or all with an empty name, including those in the queue."""
        for joining in waiting:
            if name in ("", joining.name):
                self._give_up(joining, ENDED_BY_SERVER)
        for channel in [name] if name else self._state.channels.names:
            if self._writer.ended or channel not in self._state.channels.names:
                continue
            self.leave(channel)
            self._state.channels.end_subscription(channel)
            self._writer.send(self._writer.protocol.encode_unsubscribe_push(channel, UNSUBSCRIBED))

    def _finish_serving(self, joining: Joining) -> None:
        """Validate a server-side subscription, and finish it if it is ready; idempotent."""
        join = joining.join
        if self._writer.ended or join is None or self._serving.get(joining.name) is not joining:
            return
        if (end := self._state.channels.why_end(join)) is not None:
            self._fail_serving(joining, join, end)
            return
        stage = self._progress(joining)
        if stage is Stage.REFUSED:
            refusal = joining.refusal or ENDED_BY_SERVER
            end = SUBSCRIBE_AGAIN if refusal.temporary else NOT_SUBSCRIBED
            self._fail_serving(joining, join, end._replace(because=refusal.because))
        elif stage is Stage.READY:
            self._start(joining, join)

    def _fail_serving(self, joining: Joining, join: Join, end: SubscriptionEnd) -> None:
        self._drop(joining)
        self._state.channels.cancel_join(join)
        self._writer.send(self._writer.protocol.encode_unsubscribe_push(join.channel, end))
        log_refusal(join.channel, end.because)

    def _stop_serving(self, name: str) -> None:
        """Cancel a pending server-side subscription."""
        if (joining := self._serving.get(name)) is not None:
            self._drop(joining)

    # ---------------------------------------------------------- start and end

    def _start(self, joining: Joining, join: Join) -> None:
        """Start a subscription whose channel is live: reply or push, then listen.

        Runs without an await, so nothing can arrive in between: pending arrivals are for the
        present listeners, the reply contains the position after them, and the next publication is
        the client's first push.
        """
        channel = joining.channel
        assert channel is not None  # noqa: S101 - it is live
        self._node.fanout.seal(channel)
        gaps, ttl = _find_gaps(join, channel), self._state.channels.start_subscription(join)
        if joining.command is None:
            join.began = channel.position
            text = self._writer.protocol.encode_subscribe_push(join.channel, join.began)
        else:
            has_all = _has_all(join, gaps)
            text = self._writer.protocol.encode_subscribe_reply(
                joining.command, channel.position, ttl, has_all=has_all
            )
        self._writer.send(text)
        self._tell_gaps(channel, gaps)
        # It has ended if these texts exceeded the outbox of a client that does not read.
        if not self._writer.ended:
            self._active.start(join, channel, ttl)
            # Not earlier: the node would leave a channel without listeners and waiters.
            self._stop_serving(join.channel)
        self._drop(joining)

    def _tell_gaps(self, channel: Channel[Listener], gaps: Sequence[Gap]) -> None:
        reason = GapReason.RECONNECT
        for gap in gaps:
            channel.meter.count_gap(gap, reason)
            self._writer.send(self._writer.protocol.encode_gap(channel.name, gap, reason))

    def leave(self, name: str) -> None:
        """End a subscription, whether it is active or pending on the server's request."""
        self._stop_serving(name)
        self._active.leave(name)


def _command_of(joining: Joining) -> Subscribe:
    """Return the command of a subscription that the client requested."""
    assert joining.command is not None  # noqa: S101 - only server-side subscriptions lack one
    return joining.command


def _find_gaps(join: Join, channel: Channel[Listener]) -> Sequence[Gap]:
    """Return the gaps between the position that the client names and its first push."""
    if join.since is None:
        return ()
    now = channel.position
    return find_missed(join.since, join.began or now, now)


def _has_all(join: Join, gaps: Sequence[Gap]) -> bool | None:
    """Tell whether the client has missed nothing; None if it named no position."""
    return None if join.since is None else not gaps
