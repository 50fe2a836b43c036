"""All state of a broker, and its atomic steps, which mirror the Lua scripts of the Redis broker.

Times are seconds since 1970 and never go back. Random values are passed in.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from realtime.brokers.bounds import (
    ANSWERS_SECONDS,
    IDEMPOTENCY_SECONDS,
    NODE_COMMAND_BYTES,
    NODE_COMMANDS_LIMIT,
    NODE_COMMANDS_SECONDS,
)
from realtime.brokers.memory.counters import COUNTERS, PositionCounters
from realtime.brokers.memory.entry_queue import EntryQueue, EntryQueueLimits
from realtime.brokers.memory.exchange import MAILBOX_BYTES, MemoryExchange
from realtime.brokers.memory.roster import MemberRoster
from realtime.brokers.node_messages import ALL_NODES, Moment
from realtime.core.blocked_users import BlockedUsers
from realtime.core.fallback_entry import entry_fields
from realtime.core.publication import Publication, Receipt, When
from realtime.errors import (
    BrokerError,
    BrokerUnavailable,
    IdempotencyConflict,
    QueueFull,
    RealtimeError,
)

if TYPE_CHECKING:
    from realtime.core.positions import Position

REMEMBERED = 100_000
"""Idempotency keys of the last five minutes; with more, publications with a key are refused."""


class StoreLimits(NamedTuple):
    """The limits of a store."""

    counters: int = COUNTERS
    remembered: int = REMEMBERED
    mailbox_bytes: int = MAILBOX_BYTES
    node_commands: int = NODE_COMMANDS_LIMIT


class _Answered(NamedTuple):
    """The answer to an idempotency key."""

    fingerprint: str
    receipt: Receipt
    ends: float


class _Sent(NamedTuple):
    """A command that was sent to all nodes."""

    at: Moment
    raw: bytes
    weight: int


class MemoryStore:
    """The state of one broker. No lock, no clock, no event loop, no randomness."""

    def __init__(self, base: str, limits: StoreLimits | None = None) -> None:
        """Start empty.

        Args:
            base: A random string, from which the epochs of channels are derived.
            limits: What it holds at most.
        """
        self._limits = limits or StoreLimits()
        self.exchange = MemoryExchange(self._limits.mailbox_bytes)
        """The subscribers."""
        self.counters = PositionCounters(base, self._limits.counters)
        """The positions."""
        self.roster = MemberRoster(self.exchange.publish)
        """The members."""
        self._service = ""
        self._start()

    def _start(self) -> None:
        self.queue = EntryQueue()
        """The fallback queue."""
        self._once: OrderedDict[str, _Answered] = OrderedDict()  # by expiry
        self._paid: dict[str, float] = {}
        self._paid_limit = 1024
        self._sent: deque[_Sent] = deque()
        self._weight = 0
        self._moment = Moment(0, 0)
        self.blocked = BlockedUsers()
        """The blocked users."""
        self._answers: dict[str, tuple[float, list[bytes]]] = {}

    def forget(self) -> None:
        """Forget the queue, idempotency keys, rates and commands, as between two tests.

        Subscribers, positions and members stay, because running nodes rely on them.
        """
        moment = self._moment  # it never goes back
        self._start()
        self._moment = moment

    def publish(
        self, publication: Publication, now: float, fresh: str, limits: EntryQueueLimits
    ) -> Receipt | RealtimeError:
        """Assign a position and send; queue for the fallback if nobody is subscribed, or always.

        Returns the error instead of raising it if nothing was published, because other publications
        of a batch may succeed.
        """
        channel, once = publication.channel, ""
        if publication.idempotency_key is not None:
            once = f"{publication.scope} {channel} {publication.idempotency_key}"
            if (answer := self._answer_to(once, publication, now)) is not None:
                return answer
        nodes = self.exchange.count(channel)
        fallback = publication.fallback
        is_queued = fallback is not None and (not nodes or fallback.when is When.ALWAYS)
        head = entry_fields(publication) if is_queued else b""
        if is_queued and self.queue.is_full(len(head) + len(publication.body), limits):
            return QueueFull()
        epoch, offset = self.counters.advance(channel, fresh, self.exchange.channels)
        self.exchange.publish(channel, b"1 %s %d %s" % (epoch.encode(), offset, publication.tail))
        if is_queued:
            said = b'0 {"epoch":"%s","offset":%d,"at":%d,%s,%s'
            at = int(now * 1000)
            self.queue.add(said % (epoch.encode(), offset, at, head, publication.body[1:]))
        receipt = Receipt(epoch, offset, nodes, queued=is_queued)
        if once:
            answered = _Answered(publication.fingerprint, receipt, now + IDEMPOTENCY_SECONDS)
            self._once[once] = answered
        return receipt

    def positions(self, channels: Sequence[str]) -> list[Position | BrokerError]:
        """Return the positions of channels."""
        return [self.counters.read(each) for each in channels]

    def take_from_rate(self, name: str, rate: float, count: int, now: float) -> float:
        """Take publications from a rate limit; see ``take_from_rate.lua``.

        Returns 0.0, or the seconds until a retry can succeed.
        """
        burst = max(1.0, rate)
        most = max(burst, count) / rate
        paid = min(max(now, self._paid.get(name, now)), now + max(most, 100 / rate))
        wait = paid - now - (burst - min(burst, count)) / rate
        if wait > 1e-6:
            return wait
        self._paid[name] = paid + count / rate
        if len(self._paid) > self._paid_limit:
            self._paid = {name: until for name, until in self._paid.items() if until > now}
            self._paid_limit = max(1024, 2 * len(self._paid))
        return 0.0

    def send_node_command(self, raw: bytes, now: float) -> None:
        """Send a command to all nodes, and keep it for a while for nodes that miss it."""
        self._drop_sent(now)
        milliseconds = int(now * 1000)
        if milliseconds <= self._moment.milliseconds:
            self._moment = Moment(self._moment.milliseconds, self._moment.number + 1)
        else:
            self._moment = Moment(milliseconds, 0)
        sent = _Sent(self._moment, raw, 1 + len(raw) // NODE_COMMAND_BYTES)
        self._sent.append(sent)
        self._weight += sent.weight
        while self._weight > self._limits.node_commands:
            self._weight -= self._sent.popleft().weight
        self.exchange.publish(ALL_NODES, b"%d-%d %s" % (*self._moment, raw))

    def change_block(self, user: str, until: int, raw: bytes, now: float) -> None:
        """Keep or end a block, and send the command about it to all nodes.

        Raises:
            TooManyBlocks: There are too many blocks; nothing was changed or sent.
        """
        self.blocked.change(user, until, now)
        self.send_node_command(raw, now)

    def read_node_commands(
        self, moment: Moment, count: int, now: float
    ) -> list[tuple[Moment, bytes]]:
        """Return the first ``count`` kept commands that were sent after ``moment``."""
        self._drop_sent(now)
        return [(at, raw) for at, raw, _ in self._sent if at > moment][:count]

    def announce(self, fresh: str) -> str:
        """Announce the service of this store to all nodes; return its id."""
        self._service = self._service or fresh
        self.exchange.publish(ALL_NODES, f"service {self._service}".encode())
        return self._service

    def answer(self, question_id: str, answer: bytes, now: float) -> None:
        """Store the answer of a node."""
        self._answers = {key: kept for key, kept in self._answers.items() if kept[0] > now}
        _, given = self._answers.get(question_id, (now, []))
        self._answers[question_id] = (now + ANSWERS_SECONDS, [*given, answer])

    def answers(self, question_id: str, now: float) -> Sequence[bytes]:
        """Return the answers so far."""
        ends, given = self._answers.get(question_id, (now, []))
        return given if ends > now else []

    def _answer_to(
        self, once: str, publication: Publication, now: float
    ) -> Receipt | RealtimeError | None:
        """Return the answer to a repeated publication; None if its key is new."""
        while self._once and next(iter(self._once.values())).ends <= now:
            self._once.popitem(last=False)
        answered = self._once.get(once)
        if answered is None:
            if len(self._once) < self._limits.remembered:
                return None
            return BrokerUnavailable(
                f"memory:// remembers at most {self._limits.remembered} idempotency keys"
            )
        if answered.fingerprint != publication.fingerprint:
            return IdempotencyConflict()
        return answered.receipt._replace(repeated=True)

    def _drop_sent(self, now: float) -> None:
        while self._sent and self._sent[0].at.milliseconds <= (now - NODE_COMMANDS_SECONDS) * 1000:
            self._weight -= self._sent.popleft().weight
