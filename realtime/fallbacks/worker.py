"""The fallback worker: takes entries from the queue and passes them to their handlers.

Entries are handled at least once. If a handler, this process or Redis stops during an attempt, the
entry is still in the hand's list on Redis, and another worker takes it over when the hand's lease
has expired. A failed entry is retried at increasing intervals. After the last attempt it is dead,
and kept with the reason for the operator. This module never drops an entry.
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
from typing import TYPE_CHECKING

from realtime.connection.hostcode import of_host
from realtime.core.fallback_entry import (
    Entry,
    Queued,
    decode_entry,
    excerpt_of,
    retry_seconds,
)
from realtime.core.json_text import encode_json
from realtime.core.publication import OPTIONS_LIMIT
from realtime.errors import BrokerError, EnvelopeError, GiveUp, PartlyDone
from realtime.fallbacks.threads import Threads
from realtime.fallbacks.worker_log import Failure, WorkerLog

if TYPE_CHECKING:
    from realtime.brokers.fallback_queue import AttemptResult, FallbackQueue, QueueHand

logger = logging.getLogger(__name__)

Handler = Callable[[Queued], Awaitable[None]]

TAKE_SECONDS = 1.0
"""How long a hand waits for an entry on Redis; also the delay until an idle worker stops."""
TEND_SECONDS = 1.0
"""The interval for renewing leases, and for checking for due entries and expired leases."""
REDIS_PAUSE_SECONDS = 0.2
"""The pause between two attempts while Redis is unreachable."""
CANCEL_SECONDS = 2.0
"""How long a handler may take to end after it was cancelled."""
REPORT_SECONDS = 60.0
"""The interval for logging the state of the queue."""
LEAST_LEASE_SECONDS = 3.0
"""Long enough for several renewals, and longer than `TAKE_SECONDS`: Redis may still complete the
BLMOVE of a lost hand."""
OPTIONS_AT_MOST = 2 * OPTIONS_LIMIT
"""In bytes. Those for the rest may be longer than the publisher's: they may name ten recipients."""
DIED = "its worker died during the attempt, or was frozen for longer than its lease"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """The options of a worker."""

    hands: int = 4
    """How many entries are handled concurrently."""
    attempts: int = 15
    """Attempts until an entry is dead. Including the pauses, they take two to four hours."""
    handler_seconds: float = 60.0
    """The timeout of an attempt; a handler that exceeds it is cancelled, and the attempt fails."""
    slow_seconds: float = 10.0
    """An attempt that takes longer is logged as slow: while it lasts, its hand handles nothing."""
    lease_seconds: float = 30.0
    """How long after the death of a worker its entries are taken over."""


class Worker:
    """A fallback worker with its hands. Belongs to one event loop."""

    def __init__(
        self,
        queue: FallbackQueue,
        handlers: Mapping[str, Handler],
        options: WorkerOptions | None = None,
        *,
        threads: Threads | None = None,
    ) -> None:
        """Create a worker that is not started yet.

        Args:
            queue: The source of entries; the caller closes it.
            handlers: The handlers by the name of their fallback; the mapping may change.
            options: The options of the worker.
            threads: Runs the handlers that block, and may hang.
        """
        self._queue = queue
        self._handlers = handlers
        self._options = options or WorkerOptions()
        self._threads = threads or Threads()
        self._name = f"{os.getpid()}-{secrets.token_hex(6)}"
        self._stopping = asyncio.Event()
        self._abandoning = asyncio.Event()
        self._leases_valid = asyncio.Event()
        self._hung: set[asyncio.Task[None]] = set()
        self._log = WorkerLog(handlers)
        self._knows_durability = False

    @property
    def hung_handlers(self) -> int:
        """How many handlers still run although they exceeded the timeout."""
        return len(self._hung) + self._threads.left

    def stop(self) -> None:
        """Take no more entries and finish the current ones; a second call requeues them instead."""
        if self._stopping.is_set():
            self._abandoning.set()
        self._stopping.set()

    async def run(self) -> None:
        """Handle entries until `stop` is called, or until every hand is blocked by a hung handler.

        `hung_handlers` is their number. In the second case, the process cannot handle any more
        entries and must be replaced.
        """
        hands = [
            self._queue.hand(f"{self._name}-{number}") for number in range(self._options.hands)
        ]
        names = [hand.name for hand in hands]
        try:
            async with asyncio.TaskGroup() as group:
                keeper = group.create_task(self._maintain(names), name="realtime fallback keeper")
                working = [
                    group.create_task(self._work(hand), name=f"realtime fallback hand {hand.name}")
                    for hand in hands
                ]
                await asyncio.wait(working)
                keeper.cancel()
        finally:
            await self._release_hands(names)
            await asyncio.gather(*[hand.aclose() for hand in hands])

    async def _release_hands(self, names: list[str]) -> None:
        try:
            back = await self._queue.release(names)
        except BrokerError as error:
            logger.warning(
                "could not return entries to the queue; other workers take over in %.0f s: %s",
                *(self._options.lease_seconds, error),
            )
        else:
            if back:
                logger.info("returned %d entries to the queue", back)

    async def _maintain(self, names: list[str]) -> None:
        """Renew the leases; requeue entries that are due, and those of lost workers."""
        report_at = 0.0
        while True:
            try:
                await self._queue.renew_leases(names, self._options.lease_seconds)
                self._leases_valid.set()
                if not self._knows_durability:  # of this Redis; it may have been replaced
                    self._log.warn_of_losses(await self._queue.durability())
                    self._knows_durability = True
                tended = await self._queue.tend(self._options.attempts, DIED)
                if tended.taken_over:
                    logger.warning(
                        "took over %d entries from lost workers, %d of them now dead",
                        *(tended.taken_over, tended.dead),
                    )
                if time.monotonic() >= report_at:
                    self._log.report(await self._queue.stats())
                    report_at = time.monotonic() + REPORT_SECONDS
            except BrokerError as error:
                self._note_redis_failure(error)
            else:
                self._log.note_redis_success()
            await asyncio.sleep(TEND_SECONDS)

    async def _work(self, hand: QueueHand) -> None:
        raw: bytes | None = None
        is_empty = False  # whether the hand's list on Redis is certainly empty
        while not self._stopping.is_set():
            if not self._leases_valid.is_set():  # without one, no other worker might take over
                await self._rest()
                continue
            try:
                if raw is None:
                    raw = await hand.take(TAKE_SECONDS) if is_empty else await hand.peek()
                    # Look again after each empty wait: a BLMOVE that was sent on a broken
                    # connection may have been executed late.
                    is_empty = raw is None and not is_empty
                if raw is not None:
                    raw = (await self._handle(hand, raw)).next
                    is_empty = raw is None
            except _Abandoned:
                return
            except BrokerError as error:
                self._note_redis_failure(error)
                self._leases_valid.clear()  # Redis may have lost the leases
                raw, is_empty = None, False
                await self._rest()

    async def _rest(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), REDIS_PAUSE_SECONDS)

    async def _handle(self, hand: QueueHand, raw: bytes) -> AttemptResult:
        """Make one attempt, and record its result on Redis.

        Raises:
            BrokerError: The result could not be recorded; the attempt will be repeated.
        """
        try:
            entry = decode_entry(raw)
        except EnvelopeError as error:
            self._log.note_dead("", f"an unreadable entry ({error}): {excerpt_of(raw)}")
            return await self._record_result(lambda: hand.bury(raw, raw))
        failure = await self._attempt(entry)
        if failure is None:
            self._log.note_success(entry)
            return await self._record_result(lambda: hand.acknowledge(raw))
        written = entry.encode_failed(failure.reason, time.time(), failure.options)
        failures = entry.failures + 1
        if failure.is_final or failures >= self._options.attempts:
            what = f"{ascii(entry.id)[1:-1][:40]} after attempt {failures}: {failure.reason}"
            self._log.note_dead(entry.fallback, what)
            return await self._record_result(lambda: hand.bury(raw, written))
        seconds = retry_seconds(failures, random.random())  # noqa: S311 - nothing is secret here
        self._log.note_failure(entry, failure, seconds)
        return await self._record_result(lambda: hand.retry(raw, written, seconds))

    async def _record_result(self, record: Callable[[], Awaitable[AttemptResult]]) -> AttemptResult:
        """Retry until Redis has recorded the result; otherwise the handler is called again."""
        while True:
            try:
                result = await record()
            except BrokerError as error:
                self._note_redis_failure(error)
                if self._stopping.is_set():
                    raise
                await self._rest()
            else:
                return result

    async def _attempt(self, entry: Entry) -> Failure | None:
        """Call the handler of an entry; return the failure, if there is one."""
        handler = self._handlers.get(entry.fallback)
        if handler is None:  # perhaps another worker has one, or this one will after a deployment
            return Failure(f"this worker has no fallback {ascii(entry.fallback)[:80]}")
        task = asyncio.create_task(_call(handler, entry.queued))
        abandoned = asyncio.create_task(self._abandoning.wait())
        seconds = self._options.handler_seconds
        began = time.monotonic()
        try:
            await asyncio.wait(
                {task, abandoned}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if (took := time.monotonic() - began) > self._options.slow_seconds:
                self._log.note_slow(entry, took)
            if task.done():
                return _failure_of(task)
            task.cancel()
            await asyncio.wait({task}, timeout=CANCEL_SECONDS)
        finally:
            abandoned.cancel()
            task.cancel()
        if not task.done():
            self._hung.add(task)
            task.add_done_callback(self._hung.discard)
        if self._abandoning.is_set():
            raise _Abandoned("stopped in the middle of an attempt")
        if self.hung_handlers >= self._options.hands:
            logger.error("all handlers of this worker are hung; exiting")
            self.stop()
        return Failure(f"the handler took longer than {seconds:g} s")

    def _note_redis_failure(self, error: BrokerError) -> None:
        self._knows_durability = False
        self._log.note_redis_failure(error)


class _Abandoned(Exception):
    """The attempt was abandoned; the entry stays in the hand until all hands are requeued."""


async def _call(handler: Handler, queued: Queued) -> None:
    await of_host(handler(queued))


def _failure_of(task: asyncio.Task[None]) -> Failure | None:
    if task.cancelled():
        return Failure("the handler cancelled itself")
    error = task.exception()
    if error is None:
        return None
    if isinstance(error, GiveUp):
        return Failure(str(error) or "the handler gave up", is_final=True)
    if isinstance(error, PartlyDone):
        try:
            options, is_final = _encode_options(error.options), error.is_final
        except Exception as invalid:  # noqa: BLE001 - of the host's object, whatever it is
            return Failure(f"its PartlyDone cannot be stored: {invalid}", error=error)
        return Failure(str(error), is_final, options=options)
    text = str(error)
    name = type(error).__name__
    return Failure(f"{name}: {text}" if text else name, error=error)


def _encode_options(options: object) -> bytes:
    """Encode the options of a `PartlyDone`, which may be anything that a host's handler raised.

    Raises:
        RequestError: They are not JSON, or too large.
        TypeError: They are not a mapping.
    """
    if not isinstance(options, Mapping):
        raise TypeError(f"{type(options).__name__} is not a mapping")
    return encode_json(dict(options), "options", OPTIONS_AT_MOST)
