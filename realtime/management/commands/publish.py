"""`manage.py publish CHANNEL JSON`: publish from a shell."""

from __future__ import annotations

import json
import sys
from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from realtime import wiring
from realtime.api.answers import result
from realtime.errors import BrokerUnavailable, InvalidData, OutcomeUnknown, RealtimeError, TooLarge
from realtime.publication import Publication, Receipt, When, decoded

STDIN_BYTES = 1024 * 1024  # white space may be much; what counts is the data, encoded compactly
NOT_PUBLISHED = 1
BROKER_UNAVAILABLE = 3
OUTCOME_UNKNOWN = 4


class Command(BaseCommand):
    help = "Publish on a channel: whoever listens there now gets it."
    requires_system_checks = ("realtime",)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.epilog = (
            "The receipt is for people on a terminal, and one line of JSON in a pipe.\n\n"
            "exit codes: 0 published; 1 not published: it cannot be as it is; 2 wrong usage;\n"
            "3 not published: Redis is away; 4 perhaps published: Redis did not answer"
        )
        parser.add_argument("channel", help="for example public:news")
        parser.add_argument("json", help="the data as JSON, for example '{\"n\":1}'; - for stdin")
        parser.add_argument("--event", help="what happened, for example order.shipped")
        parser.add_argument(
            "--tag",
            action="append",
            default=[],
            dest="tags",
            metavar="NAME=VALUE",
            help="delivered beside the data; may be repeated",
        )
        parser.add_argument(
            "--idempotency-key",
            metavar="KEY",
            help="the same key with the same content is published once in five minutes",
        )

        parser.add_argument(
            "--fallback", metavar="NAME", help="who gets it if nobody listens, for example email"
        )
        parser.add_argument(
            "--fallback-when", choices=list(When), help="always: whoever listens; default: nobody"
        )
        parser.add_argument(
            "--fallback-option",
            action="append",
            default=[],
            dest="fallback_options",
            metavar="NAME=VALUE",
            help="for the fallback alone, for example to=ada@example.com; may be repeated",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            receipt = self._publish(options)
        except OutcomeUnknown as error:
            raise CommandError(str(error), returncode=OUTCOME_UNKNOWN) from error
        except BrokerUnavailable as error:
            raise CommandError(f"not published: {error}", returncode=BROKER_UNAVAILABLE) from error
        except RealtimeError as error:
            text = str(error) or (type(error).__doc__ or "")
            raise CommandError(f"not published: {text}", returncode=NOT_PUBLISHED) from error
        self._print(options["channel"], receipt)

    def _publish(self, options: dict[str, Any]) -> Receipt:
        publication = Publication.of(
            options["channel"],
            decoded(_json(options["json"])),
            event=options["event"],
            tags=_pairs(options["tags"], "--tag"),
            idempotency_key=options["idempotency_key"],
            fallback=options["fallback"],
            fallback_when=options["fallback_when"],
            fallback_options=_pairs(options["fallback_options"], "--fallback-option"),
            sizes=wiring.namespaces().sizes,
        )
        return wiring.sync_publisher().publish(publication)

    def _print(self, channel: str, receipt: Receipt) -> None:
        if not self.stdout.isatty():
            self.stdout.write(json.dumps(result(receipt)))
            return
        said = "had been published" if receipt.repeated else "published"
        nodes = "1 node listens" if receipt.nodes == 1 else f"{receipt.nodes} nodes listen"
        there = nodes if receipt.nodes else "nobody listens, and nobody will get it later"
        if receipt.queued:
            there = (
                f"{nodes}, and its fallback has it"
                if receipt.nodes
                else "nobody listens: its fallback has it"
            )
        self.stdout.write(f"{said} on {channel} at {receipt.offset} ({receipt.epoch}): {there}")


def _json(argument: str) -> bytes:
    if argument != "-":
        return argument.encode("utf-8", "surrogateescape")
    data = sys.stdin.buffer.read(STDIN_BYTES + 1)
    if len(data) > STDIN_BYTES:
        raise TooLarge("stdin", len(data), STDIN_BYTES)
    return data


def _decoded(argument: str) -> str:
    """Return an argument as UTF-8, whatever the locale made of its bytes (PEP 383)."""
    return argument.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def _pairs(pairs: list[str], field: str) -> dict[str, str] | None:
    found = {}
    for pair in pairs:
        name, equals, value = _decoded(pair).partition("=")
        if not equals:
            raise InvalidData(f"{ascii(pair)[:40]} is not NAME=VALUE", field=field)
        found[name] = value
    return found or None
