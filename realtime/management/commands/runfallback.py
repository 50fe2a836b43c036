"""`manage.py runfallback`: the worker that delivers the queue to the fallbacks' handlers."""

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
from realtime.fallbacks.registry import handlers, threads
from realtime.fallbacks.worker import LEAST_LEASE_SECONDS, Worker, WorkerOptions
from realtime.management.own_process import refuse_memory
from realtime.management.stop_signals import ignored_signals_text, signals_to_handle

logger = logging.getLogger(__name__)

STUCK = 70
"""Exit code of a worker whose handlers hang (EX_SOFTWARE in sysexits.h); start another one."""
DEFAULTS = WorkerOptions()
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Command(BaseCommand):
    help = "Run the fallback worker: deliver queued publications to their handlers."
    requires_system_checks = ("realtime",)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.epilog = (
            "Several workers share the queue. On SIGTERM or Ctrl-C, a worker takes no more\n"
            "entries, finishes those in progress, and exits. On a second signal it returns them\n"
            "to the queue and exits immediately. If SIGINT was ignored at start, as in the\n"
            "background of a script, Ctrl-C has no effect and the worker says so.\n\n"
            f"exit codes: 0 stopped by a signal; {STUCK} all handler slots are hung"
        )
        parser.add_argument(
            "--hands", type=_number(1, 1000), default=DEFAULTS.hands, metavar="N",
            help=f"maximum number of concurrent handlers ({DEFAULTS.hands})",
        )  # fmt: skip
        parser.add_argument(
            "--attempts", type=_number(1, 1000), default=DEFAULTS.attempts, metavar="N",
            help=f"attempts before an entry is dead ({DEFAULTS.attempts}); "
            "`fallback list` shows dead entries",
        )  # fmt: skip
        parser.add_argument(
            "--timeout", type=_number(0.1, 86_400), default=DEFAULTS.handler_seconds,
            metavar="SECONDS",
            help=f"fail an attempt that takes longer ({DEFAULTS.handler_seconds:g})",
        )  # fmt: skip
        parser.add_argument(
            "--lease", type=_number(LEAST_LEASE_SECONDS, 86_400), default=DEFAULTS.lease_seconds,
            metavar="SECONDS",
            help="after a worker dies, others take over its entries once this time has passed "
            f"({DEFAULTS.lease_seconds:g})",
        )  # fmt: skip

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            wiring.redis_url()
            refuse_memory()
            asyncio.run(_work(_options(options)))
        except ConfigurationError as error:
            raise CommandError(str(error)) from error


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
    known = wiring.trace_handlers(handlers(wiring.fallbacks(), running))
    worker = Worker(queue, known, options, threads=running)
    asked: list[int] = []

    def leave(number: int) -> None:
        if asked:
            logger.warning("stopping immediately: returning the entries in hand")
        else:
            logger.info("stopping: finishing the entries in hand")
        asked.append(number)
        worker.stop()

    if text := ignored_signals_text(STOP_SIGNALS):
        sys.stderr.write(f"{text}\n")
    loop = asyncio.get_running_loop()
    for number in signals_to_handle(STOP_SIGNALS):
        loop.add_signal_handler(number, leave, number)
    logger.info("handling fallbacks: %s; %d at a time", ", ".join(sorted(known)), options.hands)
    try:
        await worker.run()
    finally:
        await queue.aclose()
    logger.info("the fallback worker has stopped")
    if worker.hung_handlers:
        # Nothing else ends a hung thread, or a task that ignores its cancellation.
        logging.shutdown()
        sys.stderr.flush()
        os._exit(0 if asked else STUCK)


def _number(least: float, most: float) -> Callable[[str], float]:
    """Return an option's type: a number within a range, an integer if the minimum is one."""

    def number(text: str) -> float:
        try:
            value = int(text) if isinstance(least, int) else float(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise ArgumentTypeError(f"{text!r} is not a number from {least:g} to {most:g}")
        return value

    return number
