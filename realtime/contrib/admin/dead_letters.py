"""Reads, retries and purges dead letters, by the broker for threads."""

from __future__ import annotations

import hashlib
from collections.abc import Set
from datetime import UTC, datetime
from typing import Final, NamedTuple

from realtime import wiring
from realtime.core.fallback_entry import Entry, decode_entry, excerpt_of
from realtime.errors import EnvelopeError

PAGE_ROWS: Final = 100
"""Rows on one page of the admin."""
DATA_CHARACTERS = 1000
"""Characters of the data that a page shows; the data of 100 entries may have six megabytes."""
PLACE = "dead"


class Letter(NamedTuple):
    """An entry as a page shows it."""

    key: str
    """A digest: an entry that cannot be read has no ID."""
    raw: bytes
    entry: Entry | None
    """None if it cannot be read."""

    @property
    def id(self) -> str:
        """The publication's ID, or an excerpt of what cannot be read."""
        return self.entry.id if self.entry else excerpt_of(self.raw)

    @property
    def channel(self) -> str:
        """The channel, or an empty string."""
        return self.entry.said.channel if self.entry else ""

    @property
    def published_at(self) -> datetime | None:
        """When it was published."""
        return _moment(self.entry.published_at) if self.entry else None

    @property
    def failed_at(self) -> datetime | None:
        """When the last attempt failed."""
        return _moment(self.entry.failed_at) if self.entry else None

    @property
    def data(self) -> str:
        """The beginning of the data."""
        if self.entry is None:
            return ""
        text = bytes(self.entry.said.data).decode(errors="replace")
        return text if len(text) <= DATA_CHARACTERS else f"{text[:DATA_CHARACTERS]}…"


class LetterList:
    """The dead letters as a sequence for Django's paginator, which reads one page of them."""

    def count(self) -> int:
        """Return the number of dead letters."""
        return wiring.sync_broker().queue_stats().dead

    def __len__(self) -> int:
        return self.count()

    def __getitem__(self, rows: slice) -> list[Letter]:
        return read_letters(rows.start, rows.stop - rows.start)


class MoveResult(NamedTuple):
    """The result of a retry or a purge."""

    done: list[str]
    """The IDs of the entries that were moved."""
    absent: int
    """Entries that somebody else had moved before."""
    unreadable: int
    """Entries that cannot be retried."""


def read_letters(start: int, count: int = PAGE_ROWS) -> list[Letter]:
    """Return dead letters, the oldest first.

    Raises:
        BrokerError: The broker cannot be reached.
    """
    if count < 1:  # the last position would be -1, by which Redis means the end of the list
        return []
    return [_letter(raw) for raw in wiring.sync_broker().queue_page(PLACE, start, count)]


def find_letters(keys: Set[str], start: int) -> list[Letter]:
    """Return the dead letters with these keys, which a page showed.

    New ones are added at the end, so an entry may only have moved towards the beginning.

    Args:
        keys: At most as many as a page shows.
        start: The number of entries before that page.
    """
    last = LetterList().count() // PAGE_ROWS
    found: dict[str, Letter] = {}
    for number in range(min(start // PAGE_ROWS, last), -1, -1):
        page = read_letters(number * PAGE_ROWS)
        found |= {letter.key: letter for letter in page if letter.key in keys}
        if len(found) == len(keys):
            break
    return list(found.values())


def move_letters(keys: Set[str], start: int, *, purging: bool) -> MoveResult:
    """Delete dead letters, or queue them again with their attempts reset.

    Raises:
        BrokerError: Not all of them may have been moved; repeating it is safe.
    """
    letters = find_letters(keys, start)
    movable = [letter for letter in letters if purging or letter.entry]
    done = [letter.id for letter in movable if _move(letter, purging)]
    skipped = len(letters) - len(movable)
    return MoveResult(done, len(keys) - len(done) - skipped, skipped)


def _move(letter: Letter, purging: bool) -> bool:
    written = b"" if purging or letter.entry is None else letter.entry.encode_reset()
    return wiring.sync_broker().move_entry(PLACE, letter.raw, written)


def _letter(raw: bytes) -> Letter:
    try:
        entry = decode_entry(raw)
    except EnvelopeError:
        entry = None
    return Letter(hashlib.sha256(raw).hexdigest(), raw, entry)


def _moment(seconds: float) -> datetime | None:
    if not seconds:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):  # anyone may have written it to Redis
        return None
