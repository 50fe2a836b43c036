"""The worker: takes what is queued for fallbacks, and lets their handlers have it.

At least once. Whatever ends in the middle (a handler, this process, Redis), the entry is still in
the hand's list on Redis, and somebody takes it over when the hand's lease has ended. What fails is
tried again, later and later, and after so many attempts it is dead: the operator finds it with its
reason. Nothing is ever dropped here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from realtime.brokers import Stats
from realtime.brokers.redis_queue import Durability, Hand, RedisQueue, Settled
from realtime.errors import BrokerError, EnvelopeError, GiveUp
from realtime.hostcode import of_host
from realtime.outage import Outage
from realtime.queued import Entry, Queued, opened, retry_seconds, unreadable
from realtime.tally import Tally
from realtime.threads import Threads

logger = logging.getLogger(__name__)

Handler = Callable[[Queued], Awaitable[None]]

WAIT_SECONDS = 1.0
"""How long Redis waits for an entry before it answers that there is none; so it takes to stop."""
LOOK_SECONDS = 1.0
"""How often leases are renewed, and due entries and ended leases looked for."""
REST_SECONDS = 0.2
"""Between two attempts to reach a Redis that is away."""
CANCEL_SECONDS = 2.0
"""What a handler has to end after its time is over."""
TELL_SECONDS = 60.0
LEAST_LEASE_SECONDS = 3.0
"""Some looks, and longer than Redis waits for an entry on behalf of somebody who is gone."""
DIED = "its worker ended in the middle of the attempt, or was frozen for longer than its lease"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """How to work."""

    hands: int = 4
    """How many publications are handled at the same time."""
    attempts: int = 15
    """Then an entry is dead. With the pauses between them, that is two to four hours."""
    handler_seconds: float = 60.0
    """Longer attempts are broken off, and count as failed."""
    lease_seconds: float = 30.0
    """So long after a worker's death somebody takes over what it had in hand."""


class Failure(NamedTuple):
    """Why an attempt failed."""

    reason: str
    is_final: bool = False
    """Whether to try again is of no use."""
    error: BaseException | None = None


class Worker:
    """Works until it is stopped. Belongs to one event loop."""

    def __init__(
        self,
        queue: RedisQueue,
        handlers: Mapping[str, Handler],
        options: WorkerOptions | None = None,
        *,
        threads: Threads | None = None,
    ) -> None:
        """Do nothing yet.

        Args:
            queue: Where the work is; whoever made it closes it.
            handlers: By the name of their fallback; they may come and go.
            options: How to work.
            threads: Where handlers run that may hang in one.
        """
        self._queue = queue
        self._handlers = handlers
        self._options = options or WorkerOptions()
        self._threads = threads or Threads()
        self._name = f"{os.getpid()}-{secrets.token_hex(6)}"
        self._stopping = asyncio.Event()
        self._abandoning = asyncio.Event()
        self._held = asyncio.Event()
        self._left: set[asyncio.Task[None]] = set()
        self._redis = Outage()
        self._failing: dict[str, Outage] = {}
        self._dead = Tally()
        self._told: Stats | None = None
        self._is_checked = False

    @property
    def left(self) -> int:
        """How many handlers run on although their time is over."""
        return len(self._left) + self._threads.left

    def stop(self) -> None:
        """Take nothing more, and end what is in hand; called again, put that back and end."""
        if self._stopping.is_set():
            self._abandoning.set()
        self._stopping.set()

    async def run(self) -> None:
        """Work until `stop` is called, or until as many handlers hang as there are hands.

        `left` tells how many do: such a process can work no more, and somebody must start another.
        """
        hands = [
            self._queue.hand(f"{self._name}-{number}") for number in range(self._options.hands)
        ]
        names = [hand.name for hand in hands]
        try:
            async with asyncio.TaskGroup() as group:
                keeper = group.create_task(self._keep(names), name="realtime fallback keeper")
                working = [
                    group.create_task(self._work(hand), name=f"realtime fallback hand {hand.name}")
                    for hand in hands
                ]
                await asyncio.wait(working)
                keeper.cancel()
        finally:
            await self._leave(names)
            await asyncio.gather(*[hand.aclose() for hand in hands])

    async def _leave(self, names: list[str]) -> None:
        try:
            back = await self._queue.leave(names)
        except BrokerError as error:
            logger.warning(
                "Redis is away: what was in hand is taken over in %.0f s: %s",
                *(self._options.lease_seconds, error),
            )
        else:
            if back:
                logger.info("put back what was in hand: %d", back)

    async def _keep(self, names: list[str]) -> None:
        """Renew the leases, and let wait again what is due and what others have left behind."""
        tell_at = 0.0
        while True:
            try:
                await self._queue.hold(names, self._options.lease_seconds)
                self._held.set()
                if not self._is_checked:
                    self._check(await self._queue.durability())
                tended = await self._queue.tend(self._options.attempts, DIED)
                if tended.taken_over:
                    logger.warning(
                        "took over from workers that ended: %d, of which dead: %d",
                        *(tended.taken_over, tended.dead),
                    )
                if time.monotonic() >= tell_at:
                    self._tell(await self._queue.stats())
                    tell_at = time.monotonic() + TELL_SECONDS
            except BrokerError as error:
                self._redis_failed(error)
            else:
                self._redis_worked()
            await asyncio.sleep(LOOK_SECONDS)

    def _check(self, durability: Durability) -> None:
        """Log once for each Redis that we meet whether it keeps what it is given."""
        self._is_checked = True
        if not durability.aof:
            logger.warning(
                "Redis writes no append-only file: what is queued is lost when it ends (%s); "
                "set appendonly yes",
                "but for its last snapshot" if durability.restores else "all of it",
            )
        elif durability.fsync == "no":
            logger.warning(
                "Redis leaves it to the system when its file is written (appendfsync no): what is "
                "queued can be lost when the machine ends"
            )
        if durability.eviction not in ("", "noeviction"):
            logger.warning(
                "Redis may throw away what is queued when it is full (maxmemory-policy %s): set "
                "noeviction",
                durability.eviction,
            )

    def _tell(self, stats: Stats) -> None:
        """Log how the queue stands, where that is worth a line."""
        if stats != self._told and any((stats.waiting, stats.later, stats.dead, stats.in_hand)):
            logger.info(
                "fallbacks: %d waiting (the next one for %.0f s), %d in hand, %d later, %d dead; "
                "so far %d handled, %d retried, %d taken over, %d given up",
                *(stats.waiting, stats.oldest_seconds, stats.in_hand, stats.later, stats.dead),
                *(stats.handled, stats.retried, stats.taken_over, stats.given_up),
                extra=stats._asdict(),
            )
        self._told = stats

    async def _work(self, hand: Hand) -> None:
        raw: bytes | None = None
        is_empty = False  # whether that is certain of the hand's list on Redis
        while not self._stopping.is_set():
            if not self._held.is_set():  # a hand that nobody knows must take nothing
                await self._rest()
                continue
            try:
                if raw is None:
                    raw = await hand.take(WAIT_SECONDS) if is_empty else await hand.look()
                    # Redis may carry out later what was asked on a connection that broke.
                    is_empty = raw is None and not is_empty
                if raw is not None:
                    raw = (await self._handle(hand, raw)).next
                    is_empty = raw is None
            except _Abandoned:
                return
            except BrokerError as error:
                self._redis_failed(error)
                self._held.clear()  # perhaps it forgot us
                raw, is_empty = None, False
                await self._rest()

    async def _rest(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), REST_SECONDS)

    async def _handle(self, hand: Hand, raw: bytes) -> Settled:
        """Make one attempt, and say to Redis what became of it.

        Raises:
            BrokerError: It could not be said. Somebody will make that attempt again.
        """
        try:
            entry = opened(raw)
        except EnvelopeError as error:
            self._gave_up("", f"what is no entry ({error}): {unreadable(raw)}")
            return await self._insist(lambda: hand.dead(raw, raw))
        failure = await self._attempt(entry)
        if failure is None:
            self._worked(entry)
            return await self._insist(lambda: hand.handled(raw))
        written = entry.failed(failure.reason, time.time())
        failures = entry.failures + 1
        if failure.is_final or failures >= self._options.attempts:
            what = f"{ascii(entry.id)[1:-1][:40]} after attempt {failures}: {failure.reason}"
            self._gave_up(entry.fallback, what)
            return await self._insist(lambda: hand.dead(raw, written))
        seconds = retry_seconds(failures, random.random())  # noqa: S311 - nothing is secret here
        self._failed(entry, failure, seconds)
        return await self._insist(lambda: hand.retried(raw, written, seconds))

    async def _insist(self, settle: Callable[[], Awaitable[Settled]]) -> Settled:
        """Say it until Redis hears it: otherwise the handler's work is done again."""
        while True:
            try:
                settled = await settle()
            except BrokerError as error:
                self._redis_failed(error)
                if self._stopping.is_set():
                    raise
                await self._rest()
            else:
                return settled

    async def _attempt(self, entry: Entry) -> Failure | None:
        """Let the handler have it; return why that failed, if it did."""
        handler = self._handlers.get(entry.fallback)
        if handler is None:  # perhaps another worker has it, or this one after the next deployment
            return Failure(f"there is no fallback {ascii(entry.fallback)[:80]} in this worker")
        task = asyncio.create_task(_call(handler, entry.for_handler()))
        abandoned = asyncio.create_task(self._abandoning.wait())
        seconds = self._options.handler_seconds
        try:
            await asyncio.wait(
                {task, abandoned}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if task.done():
                return _failure_of(task)
            task.cancel()
            await asyncio.wait({task}, timeout=CANCEL_SECONDS)
        finally:
            abandoned.cancel()
            task.cancel()
        if not task.done():
            self._left.add(task)
            task.add_done_callback(self._left.discard)
        if self._abandoning.is_set():
            raise _Abandoned("stopped in the middle of an attempt")
        if self.left >= self._options.hands:
            logger.error("as many handlers hang as there are hands: this worker ends")
            self.stop()
        return Failure(f"it took longer than {seconds:g} s")

    def _failed(self, entry: Entry, failure: Failure, seconds: float) -> None:
        name = self._known(entry.fallback)
        outage = self._failing.setdefault(name, Outage())
        is_news = outage.failed(time.monotonic())
        level = logging.WARNING if is_news else logging.DEBUG
        logger.log(
            level,
            "the fallback %s failed: %s; tried again in %.0f s",
            *(name, failure.reason, seconds),
            exc_info=failure.error if is_news else None,
            extra={"id": entry.id, "attempt": entry.failures + 1},
        )

    def _worked(self, entry: Entry) -> None:
        outage = self._failing.get(self._known(entry.fallback))
        if outage is not None and (over := outage.worked(time.monotonic())) is not None:
            logger.info(
                "the fallback %s works again after %d failed attempts within %.0f s",
                *(entry.fallback, over.failures, over.seconds),
            )

    def _known(self, fallback: str) -> str:
        """Return a name of ours, or one word for all others: anybody may have written them."""
        return fallback if fallback in self._handlers else "(unknown)"

    def _gave_up(self, fallback: str, what: str) -> None:
        name = self._known(fallback)
        count = self._dead.add(name, time.monotonic())
        if count is not None:
            logger.error(
                "gave up on %s (fallback %s, %d so far): see manage.py fallback list",
                *(what, name, count),
            )

    def _redis_failed(self, error: BrokerError) -> None:
        self._is_checked = False
        if self._redis.failed(time.monotonic()):
            logger.warning("no fallbacks are handled: %s", error)

    def _redis_worked(self) -> None:
        if (over := self._redis.worked(time.monotonic())) is not None:
            logger.info("fallbacks are handled again after %.1f s", over.seconds)


class _Abandoned(Exception):
    """The entry stays in the hand, and goes back with all that is there."""


async def _call(handler: Handler, queued: Queued) -> None:
    await of_host(handler(queued))


def _failure_of(task: asyncio.Task[None]) -> Failure | None:
    if task.cancelled():
        return Failure("it was cancelled from inside")
    error = task.exception()
    if error is None:
        return None
    if isinstance(error, GiveUp):
        return Failure(str(error) or "the handler gave up", is_final=True)
    text = str(error)
    name = type(error).__name__
    return Failure(f"{name}: {text}" if text else name, error=error)
