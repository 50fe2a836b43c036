"""`manage.py probe`: publish and listen all the time, and report what is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
from argparse import ArgumentTypeError
from typing import TYPE_CHECKING, Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from realtime import wiring
from realtime.client.wire import DEFAULT_URL
from realtime.errors import RealtimeError
from realtime.management.stop_signals import ignored_signals_text

if TYPE_CHECKING:
    from realtime.client.probe_ledger import ProbeLedger

NEEDS_EXTRAS = (
    "manage.py probe needs the extras django-realtime-notifier[listen,metrics]: "
    "pip install --upgrade websockets prometheus-client"
)
KEY_VARIABLE = "REALTIME_PROBE_KEY"
PORTS = 65535
CONNECTIONS_LIMIT = 1000


class Command(BaseCommand):
    help = (
        "Publish to a channel of its own over HTTP, listen over WebSockets, and report each "
        "publication that was lost: told (a gap) or silent, which must never happen."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = (
            f"The API key is REALTIME_API_KEY of the settings, or {KEY_VARIABLE} of the "
            "environment. Exit codes: 0 nothing was lost silently; 1 something was, or the probe "
            "could not start; 2 wrong usage."
        )
        parser.add_argument(
            "--url",
            action="append",
            dest="urls",
            help="service or node to listen at; repeatable (default: REALTIME_URL of the "
            f"environment or the settings, or {DEFAULT_URL})",
        )
        parser.add_argument(
            "--publish-url",
            help="site whose HTTP API publishes, such as http://127.0.0.1:8000 (default: that of "
            "the first --url)",
        )
        parser.add_argument("--channel", help="default: public:probe-… with a random end")
        parser.add_argument(
            "--connections",
            type=_positive,
            default=2,
            help="listeners for each --url; with several workers they land on several (default: 2)",
        )
        parser.add_argument(
            "--every", type=float, default=1.0, help="seconds between two publications (default: 1)"
        )
        parser.add_argument(
            "--seconds", type=float, help="stop after this time (default: at Ctrl-C)"
        )
        parser.add_argument(
            "--metrics-address",
            type=_address,
            metavar="ADDRESS:PORT",
            help="serve the probe's own /metrics there, such as 127.0.0.1:9101",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if text := ignored_signals_text([signal.SIGINT]):
            self.stderr.write(text, style_func=str)
        try:
            ledger = self._probe(options)
        except TimeoutError as error:
            raise CommandError("the listeners were not live within 30 s") from error
        except (RealtimeError, OSError) as error:
            raise CommandError(str(error)) from error
        self._tell(ledger.summary)
        if ledger.silent:
            raise CommandError(f"{ledger.silent} publications were lost silently")

    def _probe(self, options: dict[str, Any]) -> ProbeLedger:
        # Only here: their libraries are extras, and `--help` works without them.
        try:
            from prometheus_client import start_http_server

            from realtime.client.probe import Probe, ProbeOptions, site_of
            from realtime.http.exposition import registry_of
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ("websockets", "prometheus_client"):
                raise
            raise CommandError(NEEDS_EXTRAS) from error
        urls = options["urls"] or [_default_url()]
        probe = Probe(
            ProbeOptions(
                urls=urls,
                publish_url=options["publish_url"] or site_of(urls[0]),
                api_key=_api_key(),
                channel=options["channel"] or f"public:probe-{secrets.token_hex(4)}",
                connections=options["connections"],
                every_seconds=options["every"],
            ),
            self._tell,
        )
        if options["metrics_address"]:
            host, port = options["metrics_address"]
            start_http_server(port, host, registry_of(probe.ledger.read))
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(probe.run(options["seconds"]))
        return probe.ledger

    def _tell(self, sentence: str) -> None:
        self.stdout.write(sentence)
        self.stdout.flush()


def _default_url() -> str:
    return os.environ.get("REALTIME_URL") or wiring.settings().url or DEFAULT_URL


def _api_key() -> str:
    key = os.environ.get(KEY_VARIABLE) or wiring.settings().api_key
    if not key:
        raise CommandError(
            f"no API key: set {KEY_VARIABLE} to a key that may publish to the probe's channel"
        )
    return key


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) <= CONNECTIONS_LIMIT):
        raise ArgumentTypeError(f"{text!r} is not a number from 1 to {CONNECTIONS_LIMIT}")
    return int(text)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and 0 < int(port[:9]) <= PORTS):
        raise ArgumentTypeError(f"{text!r} is not ADDRESS:PORT, such as 127.0.0.1:9101")
    return host.strip("[]") or "127.0.0.1", int(port)
