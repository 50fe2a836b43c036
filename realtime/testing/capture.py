"""Collects what the code under test publishes, as ``mail.outbox`` collects mails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, overload

import msgspec
from asgiref.sync import async_to_sync

from realtime import wiring
from realtime.brokers.memory.shared import SharedStore
from realtime.brokers.memory.steps import PublishingSteps
from realtime.core.fallback_entry import Queued, decode_entry
from realtime.core.publication import EVENT_TAG, Publication, Receipt
from realtime.wiring.interception import Deferred, Interceptor, intercept

if TYPE_CHECKING:
    from realtime.brokers.memory.store import MemoryStore
    from realtime.core.positions import Position
    from realtime.errors import BrokerError, RealtimeError


@dataclass(frozen=True, slots=True)
class CapturedPublication:
    """One publication, as its subscribers and its fallback would get it."""

    channel: str
    data: Any
    """As decoded from JSON: dates, UUIDs, Decimals and lazy strings are strings."""
    event: str | None = None
    tags: Mapping[str, str] | None = None
    """Without the event; None if there are none."""
    fallback: str | None = None
    """The publication's own, or that of its namespace."""
    fallback_when: str | None = None
    fallback_options: Mapping[str, Any] | None = None
    idempotency_key: str | None = None
    on_commit: bool = False
    """Whether it was published by `publish_on_commit`."""
    receipt: Receipt | None = None
    """The receipt; None as long as the transaction that it waits for is open."""


class CapturedPublications(Sequence[CapturedPublication]):
    """What was published in a block, in the order of publishing.

    Publications that `publish_on_commit` holds back until the commit come last. They count as
    published, since a ``TestCase`` never commits; those that were rolled back do not.
    """

    def __init__(self) -> None:
        self._store = SharedStore()
        self._outer: Interceptor | None = None
        self._published: list[CapturedPublication] = []
        self._deferred: list[Deferred] = []
        self._is_over = False

    def __len__(self) -> int:
        return len(self._all())

    @overload
    def __getitem__(self, index: int) -> CapturedPublication: ...
    @overload
    def __getitem__(self, index: slice) -> list[CapturedPublication]: ...
    def __getitem__(self, index: int | slice) -> CapturedPublication | list[CapturedPublication]:
        return self._all()[index]

    def __repr__(self) -> str:
        return repr(self._all())

    def __eq__(self, other: object) -> bool:
        return self._all() == (list(other) if isinstance(other, Sequence) else other)

    __hash__ = None  # type: ignore[assignment]

    def on(self, channel: str) -> list[CapturedPublication]:
        """Return the publications on one channel."""
        return [each for each in self._all() if each.channel == channel]

    def clear(self) -> None:
        """Forget everything that was published so far."""
        self._published.clear()
        self._deferred.clear()

    def run_fallbacks(self) -> int:
        """Give each queued publication to the handler of its fallback, once; return their number.

        Handlers run here, in the test's own thread and transaction, one after the other. An
        exception of a handler propagates; the publications after it stay queued.

        Raises:
            KeyError: There is no handler of that name.
        """
        count = 0
        while (raw := self._pick_store().do(_take)) is not None:
            queued = decode_entry(raw).queued
            _handle(wiring.fallbacks()[queued.fallback], queued)
            count += 1
        return count

    def publish(
        self, publications: Sequence[Publication], *, on_commit: bool = False
    ) -> list[Receipt | RealtimeError]:
        """Take publications instead of the broker; see `realtime.wiring.interception`."""
        if self._outer is not None:
            answers = self._outer.publish(publications, on_commit=on_commit)
        else:
            given = wiring.settings()
            steps = PublishingSteps(self._pick_store(), given.fallback_items, given.fallback_bytes)
            answers = steps.publish(publications)
        for publication, answer in zip(publications, answers, strict=True):
            # A repeated idempotency key publishes nothing.
            if isinstance(answer, Receipt) and not answer.repeated:
                self._published.append(_capture(publication, answer, on_commit=on_commit))
        return answers

    def positions(self, channels: Sequence[str]) -> list[Position | BrokerError]:
        """Return positions of the process; see `realtime.wiring.interception`."""
        if self._outer is not None:
            return self._outer.positions(channels)
        return self._pick_store().do(lambda store, now: store.positions(channels))

    def defer(self, deferred: Deferred) -> None:
        """Note a publication that waits for a commit."""
        self._deferred.append(deferred)
        if self._outer is not None:
            self._outer.defer(deferred)

    def begin(self) -> None:
        """Start to capture, with an empty fallback queue and without idempotency keys."""
        self._outer = intercept(self)
        if self._outer is None:
            self._pick_store().do(lambda store, now: store.forget())

    def end(self) -> None:
        """Stop capturing; publications that still wait for a commit will be delivered as usual."""
        intercept(self._outer)
        self._published = self._all()
        self._is_over = True

    def _all(self) -> list[CapturedPublication]:
        if self._is_over:
            return self._published
        waiting = [each.publication for each in self._deferred if each.is_waiting]
        return [*self._published, *(_capture(each, None, on_commit=True) for each in waiting)]

    def _pick_store(self) -> SharedStore:
        """Return the store of the process if it is the broker, so that test clients receive."""
        return wiring.shared_store() if wiring.is_memory() else self._store


@contextmanager
def capture_publications() -> Iterator[CapturedPublications]:
    """Collect what is published in the block, by the host's code, commands or the HTTP API.

    Everything is validated as usual. Nothing leaves the process: with ``memory://``, clients of
    this process receive the publications, and with Redis nobody does. Publications by clients are
    not collected.
    """
    captured = CapturedPublications()
    captured.begin()
    try:
        yield captured
    finally:
        captured.end()


class PublicationsMixin:
    """For a ``TestCase``: ``self.published`` has what each test publishes."""

    published: CapturedPublications

    def setUp(self) -> None:
        """Start to capture, before the ``setUp`` of the test."""
        self.published = CapturedPublications()
        self.published.begin()
        self.addCleanup(self.published.end)  # type: ignore[attr-defined]
        super().setUp()  # type: ignore[misc]


def _take(store: MemoryStore, now: float) -> bytes | None:
    raw = store.queue.take("test")
    if raw is not None:
        store.queue.end_attempt("test", raw, "handled", b"", 0)
    return raw


def _handle(handler: Callable[[Queued], Any], queued: Queued) -> None:
    (async_to_sync(handler) if iscoroutinefunction(handler) else handler)(queued)


def _capture(
    publication: Publication, receipt: Receipt | None, *, on_commit: bool
) -> CapturedPublication:
    body = msgspec.json.decode(publication.body)
    tags = body.get("tags", {})
    event = tags.pop(EVENT_TAG, None)
    fallback = publication.fallback
    options = fallback.options if fallback else b""
    return CapturedPublication(
        publication.channel,
        body["data"],
        event=event,
        tags=tags or None,
        fallback=fallback.name if fallback else None,
        fallback_when=str(fallback.when) if fallback and fallback.when else None,
        fallback_options=msgspec.json.decode(options) if options else None,
        idempotency_key=publication.idempotency_key,
        on_commit=on_commit,
        receipt=receipt,
    )
