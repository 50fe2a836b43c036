"""`manage.py fallback list|retry|purge|stats`: the operator's view of the queue for fallbacks."""

from __future__ import annotations

import asyncio
import json
import time
from argparse import RawDescriptionHelpFormatter
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from django.core.management.base import BaseCommand, CommandError, CommandParser

from realtime import wiring
from realtime.api.answers import queue_body
from realtime.brokers import Stats
from realtime.brokers.queue_commands import PLACES
from realtime.brokers.redis_queue import RedisQueue
from realtime.errors import BrokerError, ConfigurationError, EnvelopeError
from realtime.queued import REASON_LIMIT, Entry, opened, unreadable

BROKER_UNAVAILABLE = 3
LIST_LIMIT = 100
Found = tuple[bytes, Entry | None]


class Command(BaseCommand):
    help = "Look at what is queued for fallbacks, let it be tried again, or throw it away."
    requires_system_checks = ("realtime",)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.epilog = (
            "waiting: nobody has tried yet, or it is due again.\n"
            "later: an attempt failed, the next one comes by itself.\n"
            "dead: given up, with the reason; it stays until you say what to do.\n\n"
            "For people on a terminal, and one line of JSON each in a pipe.\n\n"
            "exit codes: 0 done; 1 it is not there; 2 wrong usage; 3 Redis is away"
        )
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        actions.add_parser("stats", help="how many wait, for how long, and what became of the rest")
        listing = actions.add_parser("list", help="what is there (what is dead)")
        _add_choice(listing, places=PLACES)
        listing.add_argument(
            "--limit", type=int, default=LIST_LIMIT, metavar="N", help=f"at most ({LIST_LIMIT})"
        )
        listing.add_argument("--data", action="store_true", help="with data, tags and options")
        retry = actions.add_parser("retry", help="try it again now, as if for the first time")
        _add_choice(retry, places=("dead", "later"))
        _add_selection(retry)
        purge = actions.add_parser("purge", help="throw it away for good")
        _add_choice(purge, places=PLACES)
        _add_selection(purge)
        purge.add_argument(
            "--no-input", "--noinput", action="store_false", dest="interactive",
            help="do not ask whether that is meant",
        )  # fmt: skip

    def handle(self, *args: Any, **options: Any) -> None:
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

    async def _list(self, queue: RedisQueue, options: dict[str, Any]) -> None:
        count = 0
        async for raw, entry in _chosen(queue, options):
            if count == options["limit"]:
                if self.stdout.isatty():
                    self.stdout.write("... and more (--limit)")
                break
            count += 1
            facts = _facts(raw, entry, with_data=options["data"])
            self.stdout.write(_line(facts) if self.stdout.isatty() else json.dumps(facts))
        if not count and self.stdout.isatty():
            self.stdout.write(f"nothing is {options['where']}")

    async def _move(self, queue: RedisQueue, options: dict[str, Any]) -> None:
        wanted = set(options["ids"])
        if bool(wanted) == options["all"]:
            raise CommandError("name ids (see `fallback list`), or --all", returncode=2)
        where, purging = options["where"], options["action"] == "purge"
        # First all of them: what is moved would shift the pages that are still to be read.
        chosen = [
            (raw, entry)
            async for raw, entry in _chosen(queue, options)
            if not wanted or (entry is not None and entry.id in wanted)
        ]
        if wanted and (absent := wanted - {entry.id for _, entry in chosen if entry}):
            raise CommandError(f"not {where}: {', '.join(sorted(absent))}")
        if purging and options["interactive"] and not self._means_it(len(chosen), where):
            raise CommandError("nothing was thrown away")
        moved = 0
        for raw, entry in chosen:
            if purging:
                moved += await queue.move(where, raw)
            elif entry is not None:
                moved += await queue.move(where, raw, entry.anew())
        self.stdout.write(f"{'thrown away' if purging else 'to be tried again'}: {moved}")

    def _means_it(self, count: int, where: str) -> bool:
        self.stdout.write(f"{count} that are {where} will be gone for good. Type 'yes' to go on: ")
        try:
            return input() == "yes"
        except EOFError:
            return False

    def _print_stats(self, stats: Stats) -> None:
        if not self.stdout.isatty():
            self.stdout.write(json.dumps(queue_body(stats)))
            return
        oldest = f", the next one for {stats.oldest_seconds:.0f} s" if stats.waiting else ""
        workers = f"{stats.hands} at a time" if stats.hands else "there is no worker: runfallback"
        self.stdout.write(
            f"waiting   {stats.waiting}{oldest}\n"
            f"in hand   {stats.in_hand} ({workers})\n"
            f"later     {stats.later}\n"
            f"dead      {stats.dead}\n"
            f"bytes     {stats.bytes}\n"
            f"so far    {stats.handled} handled, {stats.retried} retried, "
            f"{stats.taken_over} taken over, {stats.given_up} given up"
        )


def _add_choice(parser: CommandParser, *, places: tuple[str, ...]) -> None:
    parser.add_argument("--where", choices=places, default="dead", help="where to look (dead)")
    parser.add_argument("--fallback", metavar="NAME", help="only those of this fallback")


def _add_selection(parser: CommandParser) -> None:
    parser.add_argument("ids", nargs="*", metavar="ID", help="as `fallback list` shows them")
    parser.add_argument("--all", action="store_true", help="all of them")


async def _chosen(queue: RedisQueue, options: dict[str, Any]) -> AsyncIterator[Found]:
    """Yield what is at the place that the operator named, with the entry where it is one."""
    async for raw in queue.entries(options["where"]):
        entry = _opened(raw)
        if options["fallback"] in (None, entry.fallback if entry else None):
            yield raw, entry


def _opened(raw: bytes) -> Entry | None:
    try:
        return opened(raw)
    except EnvelopeError:
        return None


def _facts(raw: bytes, entry: Entry | None, *, with_data: bool) -> dict[str, Any]:
    if entry is None:
        return {"id": None, "reason": "this is no entry", "starts": unreadable(raw)}
    queued = entry.for_handler()
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
    text = "  ".join(map(_shown, (facts["id"], facts["fallback"], facts["channel"])))
    text += f"  {age} ago"
    if facts["attempts"]:
        reason = _shown(facts["reason"] or "its worker ended")
        text += f"  {facts['attempts']} attempts: {reason}"
    if "data" in facts:
        text += "\n    " + ascii(msgspec.json.encode(facts["data"]).decode())[1:-1]
    return text


def _shown(text: str) -> str:
    """Return what somebody has written into Redis, as a terminal may be given it (CWE-150)."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)[:REASON_LIMIT]


def _age(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
