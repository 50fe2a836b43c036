"""`manage.py fallback list|retry|purge|stats`: inspect and repair the queue for fallbacks."""

from __future__ import annotations

import asyncio
import json
import time
from argparse import RawDescriptionHelpFormatter
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import msgspec
from django.core.management.base import BaseCommand, CommandError, CommandParser

from realtime import wiring
from realtime.api.answers import queue_body
from realtime.brokers.fallback_queue import PLACES
from realtime.core.fallback_entry import (
    REASON_LIMIT,
    Entry,
    decode_entry,
    excerpt_of,
)
from realtime.errors import BrokerError, ConfigurationError, EnvelopeError
from realtime.management.own_process import refuse_memory

if TYPE_CHECKING:
    from realtime.brokers import Stats
    from realtime.brokers.fallback_queue import FallbackQueue

BROKER_UNAVAILABLE = 3
LIST_LIMIT = 100
Found = tuple[bytes, Entry | None]


class Command(BaseCommand):
    help = "List, retry, or purge the publications queued for fallbacks."
    requires_system_checks = ("realtime",)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.epilog = (
            "waiting: not tried yet, or due for another attempt.\n"
            "later: an attempt failed; the next one is scheduled.\n"
            "dead: all attempts failed; the entry stays until you retry or purge it.\n\n"
            "On a terminal the output is text; in a pipe it is one line of JSON for each entry.\n\n"
            "exit codes: 0 success; 1 entry not found; 2 wrong usage; 3 Redis is unreachable"
        )
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        actions.add_parser("stats", help="show the length and age of the queue, and the totals")
        listing = actions.add_parser("list", help="list entries (default: dead ones)")
        _add_choice(listing, places=PLACES)
        listing.add_argument(
            "--limit",
            type=int,
            default=LIST_LIMIT,
            metavar="N",
            help=f"maximum number of entries ({LIST_LIMIT})",
        )
        listing.add_argument("--data", action="store_true", help="include data, tags, and options")
        retry = actions.add_parser("retry", help="queue entries again and reset their attempts")
        _add_choice(retry, places=("dead", "later"))
        _add_selection(retry)
        purge = actions.add_parser("purge", help="delete entries permanently")
        _add_choice(purge, places=PLACES)
        _add_selection(purge)
        purge.add_argument(
            "--no-input", "--noinput", action="store_false", dest="interactive",
            help="do not ask for confirmation",
        )  # fmt: skip

    def handle(self, *args: Any, **options: Any) -> None:
        refuse_memory(BROKER_UNAVAILABLE)
        try:
            asyncio.run(self._handle(options))
        except BrokerError as error:
            raise CommandError(str(error), returncode=BROKER_UNAVAILABLE) from error
        except ConfigurationError as error:
            raise CommandError(str(error)) from error

    async def _handle(self, options: dict[str, Any]) -> None:
        queue = wiring.queue()
        try:
            if options["action"] == "stats":
                self._print_stats(await queue.stats())
            elif options["action"] == "list":
                await self._list(queue, options)
            else:
                await self._move(queue, options)
        finally:
            await queue.aclose()

    async def _list(self, queue: FallbackQueue, options: dict[str, Any]) -> None:
        count = 0
        async for raw, entry in _choose(queue, options):
            if count == options["limit"]:
                if self.stdout.isatty():
                    self.stdout.write("... more entries exist (see --limit)")
                break
            count += 1
            facts = _facts(raw, entry, with_data=options["data"])
            self.stdout.write(_line(facts) if self.stdout.isatty() else json.dumps(facts))
        if not count and self.stdout.isatty():
            self.stdout.write(f"no {options['where']} entries")

    async def _move(self, queue: FallbackQueue, options: dict[str, Any]) -> None:
        wanted = set(options["ids"])
        if bool(wanted) == options["all"]:
            raise CommandError("give IDs (see `fallback list`) or --all", returncode=2)
        where, purging = options["where"], options["action"] == "purge"
        # Collect all of them first: moving entries would shift the pages still to be read.
        chosen = [
            (raw, entry)
            async for raw, entry in _choose(queue, options)
            if not wanted or (entry is not None and entry.id in wanted)
        ]
        if wanted and (absent := wanted - {entry.id for _, entry in chosen if entry}):
            raise CommandError(f"not found among {where} entries: {', '.join(sorted(absent))}")
        if purging and options["interactive"] and not self._means_it(len(chosen), where):
            raise CommandError("cancelled; nothing was deleted")
        moved = 0
        for raw, entry in chosen:
            if purging:
                moved += await queue.move(where, raw)
            elif entry is not None:
                moved += await queue.move(where, raw, entry.encode_reset())
        self.stdout.write(f"{'deleted' if purging else 'queued again'}: {moved}")

    def _means_it(self, count: int, where: str) -> bool:
        self.stdout.write(
            f"This deletes {count} {where} entries permanently. Type 'yes' to continue: "
        )
        try:
            return input() == "yes"
        except EOFError:
            return False

    def _print_stats(self, stats: Stats) -> None:
        if not self.stdout.isatty():
            self.stdout.write(json.dumps(queue_body(stats)))
            return
        oldest = f", oldest {stats.oldest_seconds:.0f} s" if stats.waiting else ""
        workers = (
            f"capacity {stats.hands}" if stats.hands else "no worker is running; start runfallback"
        )
        self.stdout.write(
            f"waiting   {stats.waiting}{oldest}\n"
            f"in hand   {stats.in_hand} ({workers})\n"
            f"later     {stats.later}\n"
            f"dead      {stats.dead}\n"
            f"bytes     {stats.bytes}\n"
            f"total     {stats.handled} handled, {stats.retried} retried, "
            f"{stats.taken_over} taken over, {stats.given_up} given up"
        )


def _add_choice(parser: CommandParser, *, places: tuple[str, ...]) -> None:
    parser.add_argument(
        "--where", choices=places, default="dead", help="state of the entries (dead)"
    )
    parser.add_argument("--fallback", metavar="NAME", help="only entries of this fallback")


def _add_selection(parser: CommandParser) -> None:
    parser.add_argument("ids", nargs="*", metavar="ID", help="an ID that `fallback list` shows")
    parser.add_argument("--all", action="store_true", help="all entries")


async def _choose(queue: FallbackQueue, options: dict[str, Any]) -> AsyncIterator[Found]:
    """Yield the items at the place that the operator named, with the parsed entry if it is one."""
    async for raw in queue.entries(options["where"]):
        entry = _decode_or_none(raw)
        if options["fallback"] in (None, entry.fallback if entry else None):
            yield raw, entry


def _decode_or_none(raw: bytes) -> Entry | None:
    try:
        return decode_entry(raw)
    except EnvelopeError:
        return None


def _facts(raw: bytes, entry: Entry | None, *, with_data: bool) -> dict[str, Any]:
    if entry is None:
        return {"id": None, "reason": "unreadable entry", "starts": excerpt_of(raw)}
    queued = entry.queued
    facts = {
        "id": entry.id,
        "fallback": entry.fallback,
        "channel": queued.channel,
        "attempts": entry.failures,
        "published_at": entry.published_at,
        "failed_at": entry.failed_at or None,
        "reason": entry.reason or None,
    }
    if with_data:
        facts |= {"data": queued.data, "tags": queued.tags, "options": queued.options}
    return facts


def _line(facts: dict[str, Any]) -> str:
    if facts["id"] is None:
        return f"{facts['starts']}  {facts['reason']}"
    age = _age(time.time() - facts["published_at"])
    text = "  ".join(map(_escape, (facts["id"], facts["fallback"], facts["channel"])))
    text += f"  {age} ago"
    if facts["attempts"]:
        reason = _escape(facts["reason"] or "the worker died")
        text += f"  {facts['attempts']} attempts: {reason}"
    if "data" in facts:
        text += "\n    " + ascii(msgspec.json.encode(facts["data"]).decode())[1:-1]
    return text


def _escape(text: str) -> str:
    """Escape text from Redis, which anyone may have written, for a terminal (CWE-150)."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)[:REASON_LIMIT]


def _age(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
