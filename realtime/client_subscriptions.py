"""The subscriptions of one connection: asked for or served, prepared, begun, expired, ended.

What is asked for is judged when its turn comes (ADR-0022); the conversation says when that is. What
the server wants is judged whenever the host or Redis has moved it on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from realtime.codes import (
    ENDED_BY_SERVER,
    EXPIRED,
    LIMIT_EXCEEDED,
    NOT_LIVE,
    NOT_SUBSCRIBED,
    SUBSCRIPTION_EXPIRED,
    UNSUBSCRIBED,
    Refusal,
)
from realtime.connection import Connection, End, Join
from realtime.driver import Driver
from realtime.fanout import Listener
from realtime.gaps import Gap, Position, missed_until
from realtime.joining import LIVE_SECONDS, Joining
from realtime.node import Node, is_allowed
from realtime.protocols import WireProtocol
from realtime.registry import Channel

RECONNECT = "reconnect"
"""The reason of a gap between two connections of one client."""


class ClientSubscriptions:
    """See the module. Belongs to one conversation."""

    __slots__ = (
        "_advance",
        "_connection",
        "_driver",
        "_ends",
        "_expires",
        "_listeners",
        "_node",
        "_pending",
        "_protocol",
        "_serving",
    )

    def __init__(
        self,
        node: Node,
        connection: Connection,
        protocol: WireProtocol,
        driver: Driver,
        *,
        advance: Callable[[], None],
        expires: Callable[[], None],
    ) -> None:
        """Begin with none.

        Args:
            node: Subscribes at the broker.
            connection: The rules for this client.
            protocol: Writes what the client is told.
            driver: Sends it.
            advance: Called when a subscribe that waits can perhaps go on.
            expires: Called when something begins to expire.
        """
        self._node = node
        self._connection = connection
        self._protocol = protocol
        self._driver = driver
        self._advance = advance
        self._expires = expires
        self._pending: dict[str, Joining] = {}  # subscribes in the queue, as far as prepared
        self._serving: dict[str, Joining] = {}  # what is to be served and is not yet
        self._listeners: dict[str, tuple[Channel[Listener], Listener]] = {}
        self._ends: dict[str, float] | None = None  # None: nothing expires

    @property
    def channels(self) -> set[str]:
        """The channels that the client listens to."""
        return set(self._listeners)

    def position(self, name: str) -> Position:
        """Return where a channel stands that the client listens to."""
        channel, _ = self._listeners[name]
        return channel.position

    def release(self, waiting: Iterable[Joining]) -> None:
        """Give back everything, also what waits in the queue: the connection has ended."""
        for joining in [*waiting, *self._serving.values()]:
            self._drop(joining)
        for name in list(self._listeners):
            self.leave(name)
        self._advance = self._expires = _nothing  # they hold the conversation, which holds this

    # --------------------------------------------------------------- asked for

    def prepare(self, joining: Joining) -> None:
        """Start what takes long about a subscribe that waits for its turn, if it may succeed."""
        is_next = joining.name not in self._pending  # of those that name this channel
        if is_next and self._connection.has_room(len(self._pending)):
            judged = self._judge(joining)
            if isinstance(judged, Join):
                self._begin(joining, judged)

    def subscribe(self, joining: Joining) -> bool:
        """Judge a subscribe whose turn it is, and finish it; False says that it has to wait."""
        judged = self._judge(joining)
        if isinstance(judged, End):
            self._driver.end(judged.close)
            return True
        if isinstance(judged, Refusal):
            return self._refuse(joining, judged)
        if joining.refusal is not None:
            return self._refuse(joining, joining.refusal)
        joining.join = judged
        if judged.must_ask:
            if joining.must_ask:
                self._begin(joining, judged)
            if not joining.is_answered:
                return False
            if (refusal := joining.why_not()) is not None:
                return self._refuse(joining, refusal)
        if joining.name in self._listeners:
            self._take_over(joining, judged)
            return True
        if joining.channel is None:
            self._pending[joining.name] = joining
            self._want(joining)
        channel = joining.channel
        assert channel is not None  # noqa: S101 - it is wanted
        if not channel.is_live:
            # Perhaps it was live when this was said, and broke since.
            joining.be_patient(LIVE_SECONDS, self._run_out)
            return False
        # One step, without an await: what waits goes to those who listen now, the reply names the
        # position that this leaves, and the first push after it is the next one.
        self._node.fanout.seal(channel)
        gaps, ttl = _missed(judged, channel), self._connection.joined(judged)
        text = self._protocol.subscribed(
            judged.id, channel.position, ttl, has_all=_has_all(judged, gaps)
        )
        self._listen(judged, channel, ttl, [text, *self._told(judged, gaps)])
        self._drop(joining)
        return True

    def _judge(self, joining: Joining) -> Join | Refusal | End:
        command = joining.command
        assert command is not None  # noqa: S101 - the client asked for it
        if joining.shown is None:
            joining.shown = self._connection.grant_of(command.token)
        return self._connection.subscribe(command, joining.shown)

    def _begin(self, joining: Joining, join: Join) -> None:
        self._pending[joining.name] = joining
        joining.join = join
        if join.must_ask:
            self._ask(joining)
        else:
            self._want(joining)

    def _take_over(self, joining: Joining, join: Join) -> None:
        """The client asks for what the server has subscribed it to: it goes on from there.

        The reply has no position. Publications after the one where serving began are on their way
        or were delivered, and a client would take them for old ones.
        """
        channel, listener = self._listeners[join.channel]
        self._drop(joining)
        gaps, ttl = _missed(join, channel), self._connection.joined(join)
        listener.hears_joins = join.hears_joins
        has_all = _has_all(join, gaps)
        self._driver.say(self._protocol.subscribed(join.id, None, ttl, has_all=has_all))
        for text in self._told(join, gaps):
            self._driver.say(text)

    def _refuse(self, joining: Joining, refusal: Refusal) -> bool:
        assert joining.command is not None  # noqa: S101 - or no reply waits for it
        self._drop(joining)
        self._driver.say(self._protocol.refused(joining.command.id, refusal))
        if refusal is LIMIT_EXCEEDED:
            self._node.reached.count("channels_per_connection")
        return True

    # ------------------------------------------------------ the host and Redis

    def _ask(self, joining: Joining) -> None:
        """Let the host decide; all subscribes of a frame are asked about at once."""
        identity = self._connection.identity
        joining.ask(is_allowed(self._node, identity, joining.name, "subscribe"), self._answered)

    def _answered(self, joining: Joining) -> None:
        """The host has decided: prepare what it allows; it is judged in its turn."""
        if self._driver.ended:
            return
        if joining.channel is None and joining.is_allowed:
            self._want(joining)
        self._woken(joining)

    def _woken(self, joining: Joining) -> None:
        if joining.command is None:
            self._finish_serving(joining)
        else:
            self._advance()

    def _want(self, joining: Joining) -> None:
        """Let the node listen to a channel that the client may listen to."""
        assert joining.join is not None  # noqa: S101 - it was judged
        joining.channel = self._node.subscriber.want(
            joining.name, joining.join.namespace, joining, partial(self._woken, joining)
        )
        if joining.command is not None and not joining.channel.is_live:
            joining.be_patient(LIVE_SECONDS, self._run_out)

    def _run_out(self, joining: Joining) -> None:
        self._give_up(joining, NOT_LIVE)
        self._advance()

    def _give_up(self, joining: Joining, why: Refusal) -> None:
        """Refuse it when its turn comes; when it is asked for again, it is judged anew."""
        joining.refusal = why
        self._drop(joining)

    def _drop(self, joining: Joining) -> None:
        joining.drop(self._node.subscriber.release)
        for under_way in (self._pending, self._serving):
            if under_way.get(joining.name) is joining:
                del under_way[joining.name]

    # ------------------------------------------------------------------ served

    def serve(self, join: Join) -> None:
        """Let the client listen as soon as it may and the broker does; nothing waits for it."""
        joining = self._serving[join.channel] = Joining(join.channel, join=join)
        if join.must_ask:
            self._ask(joining)
        else:
            self._want(joining)
            self._finish_serving(joining)

    def unserve(self, name: str, waiting: Iterable[Joining]) -> None:
        """End a subscription, or with an empty name all, also those that wait in the queue."""
        for joining in waiting:
            if name in ("", joining.name):
                self._give_up(joining, ENDED_BY_SERVER)
        for channel in [name] if name else self._connection.channels:
            if self._driver.ended or channel not in self._connection.channels:
                continue
            self.leave(channel)
            self._connection.left(channel)
            self._driver.say(self._protocol.unsubscribed(channel, UNSUBSCRIBED))

    def _finish_serving(self, joining: Joining) -> None:
        """Judge what is to be served, as often as it is looked at, and serve it if it can be."""
        join = joining.join
        if self._driver.ended or join is None or self._serving.get(joining.name) is not joining:
            return
        end = self._connection.end_of(join)
        if join.must_ask and end is None:
            if joining.must_ask:
                self._ask(joining)
            if not joining.is_answered:
                return
            end = None if joining.why_not() is None else NOT_SUBSCRIBED
        channel = joining.channel
        if end is not None:
            self._drop(joining)
            self._connection.join_failed(join)
            self._driver.say(self._protocol.unsubscribed(join.channel, end))
        elif channel is not None and channel.is_live:
            self._node.fanout.seal(channel)
            gaps, ttl = _missed(join, channel), self._connection.joined(join)
            join.began = channel.position
            text = self._protocol.served(join.channel, join.began)
            self._listen(join, channel, ttl, [text, *self._told(join, gaps)])
            self._drop(joining)

    def _stop_serving(self, name: str) -> None:
        """Give up what the server wished and could not do yet."""
        if (joining := self._serving.get(name)) is not None:
            self._drop(joining)

    # ------------------------------------------------------- beginning and end

    def _told(self, join: Join, gaps: Sequence[Gap]) -> Iterator[str]:
        return (self._protocol.gap(join.channel, gap, RECONNECT) for gap in gaps)

    def _listen(
        self,
        join: Join,
        channel: Channel[Listener],
        ttl_seconds: int | None,
        texts: Sequence[str],
    ) -> None:
        """Tell the client that it listens, and what it missed; then let it."""
        for text in texts:
            self._driver.say(text)
        if self._driver.ended:  # by what was just said: too much for a client that does not read
            return
        listener = Listener(self._driver, hears_joins=join.hears_joins)
        channel.listeners[listener] = None
        self._listeners[join.channel] = (channel, listener)
        # Only now: a channel that nobody listens to or waits for is left by the node.
        self._stop_serving(join.channel)
        self.renew(join.channel, ttl_seconds)
        if channel.namespace.counts_members:
            self._node.roster.count_in(channel, self._connection.member_of(channel.name))

    def leave(self, name: str) -> None:
        """Stop listening to a channel."""
        self.renew(name, None)
        self._stop_serving(name)
        channel, listener = self._listeners.pop(name, (None, None))
        if channel is None or listener is None:
            return
        listener.active = False
        del channel.listeners[listener]
        if channel.namespace.counts_members:
            self._node.roster.count_out(channel, self._connection.client)
        self._driver.forget(name)
        self._node.subscriber.release(channel)

    def renew(self, name: str, ttl_seconds: int | None) -> None:
        """Note when a permission ends: of a subscription, or with an empty name of all."""
        if ttl_seconds is not None:
            now = asyncio.get_running_loop().time()
            self._ends = self._ends or {}
            self._ends[name] = now + ttl_seconds + self._node.grace_seconds
            self._expires()
        elif self._ends and name in self._ends:
            del self._ends[name]

    def expire(self, now: float) -> bool:
        """End what was not renewed in time; return whether more can expire."""
        for name, end in list((self._ends or {}).items()):
            if now < end or self._driver.ended:
                continue
            self.renew(name, None)
            if not name:
                self._driver.end(EXPIRED)
            elif name in self._listeners:
                self.leave(name)
                self._connection.left(name)
                self._driver.say(self._protocol.unsubscribed(name, SUBSCRIPTION_EXPIRED))
        return bool(self._ends) and not self._driver.ended


def _nothing() -> None:
    """Nobody is told any more."""


def _missed(join: Join, channel: Channel[Listener]) -> Sequence[Gap]:
    """Return the gaps between where the client says that it stands, and where it listens from."""
    if join.since is None:
        return ()
    now = channel.position
    return missed_until(join.since, join.began or now, now)


def _has_all(join: Join, gaps: Sequence[Gap]) -> bool | None:
    """Tell whether the client has missed nothing; None where it did not say what it has."""
    return None if join.since is None else not gaps
