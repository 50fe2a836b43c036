"""`manage.py runfallback`: the worker that empties the queue for fallbacks."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from argparse import ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from realtime import wiring
from realtime.errors import ConfigurationError
from realtime.fallbacks import handlers, threads
from realtime.management.stop_signals import heeded, notice
from realtime.worker import LEAST_LEASE_SECONDS, Worker, WorkerOptions

logger = logging.getLogger(__name__)

STUCK = 70
"""Exit code of a worker whose handlers hang (EX_SOFTWARE of sysexits.h); start another one."""
DEFAULTS = WorkerOptions()
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Command(BaseCommand):
    help = "Let fallbacks have what nobody heard: take it from Redis, and try until it is done."
    requires_system_checks = ("realtime",)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.epilog = (
            "Several of them share the work. SIGTERM or Ctrl-C: it takes nothing more, ends what\n"
            "it has in hand and leaves; once more: it puts that back and leaves at once.\n"
            "Ctrl-C does nothing where SIGINT was ignored at its start, as in the background of a\n"
            "script; it says so.\n\n"
            f"exit codes: 0 asked to leave; {STUCK} as many handlers hang as it has hands"
        )
        parser.add_argument(
            "--hands", type=_number(1, 1000), default=DEFAULTS.hands, metavar="N",
            help=f"how many it handles at the same time ({DEFAULTS.hands})",
        )  # fmt: skip
        parser.add_argument(
            "--attempts", type=_number(1, 1000), default=DEFAULTS.attempts, metavar="N",
            help=f"after so many that failed it gives up ({DEFAULTS.attempts}); "
            "`fallback list` shows what it gave up",
        )  # fmt: skip
        parser.add_argument(
            "--timeout", type=_number(0.1, 86_400), default=DEFAULTS.handler_seconds,
            metavar="SECONDS",
            help=f"an attempt that takes longer has failed ({DEFAULTS.handler_seconds:g})",
        )  # fmt: skip
        parser.add_argument(
            "--lease", type=_number(LEAST_LEASE_SECONDS, 86_400), default=DEFAULTS.lease_seconds,
            metavar="SECONDS",
            help="so long after its death others take over what it had in hand "
            f"({DEFAULTS.lease_seconds:g})",
        )  # fmt: skip

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            wiring.redis_url()
        except ConfigurationError as error:
            raise CommandError(str(error)) from error
        asyncio.run(_work(_options(options)))


def _options(options: dict[str, Any]) -> WorkerOptions:
    return WorkerOptions(
        hands=int(options["hands"]),
        attempts=int(options["attempts"]),
        handler_seconds=options["timeout"],
        lease_seconds=options["lease"],
    )


async def _work(options: WorkerOptions) -> None:
    queue = wiring.queue()
    running = threads()
    known = handlers(wiring.fallbacks(), running)
    worker = Worker(queue, known, options, threads=running)
    asked: list[int] = []

    def leave(number: int) -> None:
        asked.append(number)
        worker.stop()

    if text := notice(STOP_SIGNALS):
        sys.stderr.write(f"{text}\n")
    loop = asyncio.get_running_loop()
    for number in heeded(STOP_SIGNALS):
        loop.add_signal_handler(number, leave, number)
    logger.info("handling fallbacks: %s; %d at a time", ", ".join(sorted(known)), options.hands)
    try:
        await worker.run()
    finally:
        await queue.aclose()
    if worker.left:
        # Nothing else ends a thread that hangs, or a task that refuses to be cancelled.
        logging.shutdown()
        sys.stderr.flush()
        os._exit(0 if asked else STUCK)


def _number(least: float, most: float) -> Callable[[str], float]:
    """Return the type of an option: a number within a range, whole if the least one is."""

    def number(text: str) -> float:
        try:
            value = int(text) if isinstance(least, int) else float(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise ArgumentTypeError(f"{text!r} is no number from {least:g} to {most:g}")
        return value

    return number
