"""`manage.py publish CHANNEL JSON`: publish from a shell."""

from __future__ import annotations

import json
import sys
from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from realtime import wiring
from realtime.api.answers import result
from realtime.core.json_text import decode_json
from realtime.core.publication import Publication, Receipt, When
from realtime.errors import BrokerUnavailable, InvalidData, OutcomeUnknown, RealtimeError, TooLarge
from realtime.management.own_process import refuse_memory

STDIN_BYTES = 1024 * 1024  # may include much white space; the limit on data counts compact JSON
NOT_PUBLISHED = 1
BROKER_UNAVAILABLE = 3
OUTCOME_UNKNOWN = 4


class Command(BaseCommand):
    help = "Publish to a channel: all current subscribers receive it."
    requires_system_checks = ("realtime",)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.epilog = (
            "On a terminal the receipt is text; in a pipe it is one line of JSON.\n\n"
            "exit codes: 0 published; 1 not published, the publication is invalid; 2 wrong usage;\n"
            "3 not published, Redis is unreachable; 4 outcome unknown, Redis did not respond"
        )
        parser.add_argument("channel", help="for example public:news")
        parser.add_argument("json", help="the data as JSON, for example '{\"n\":1}'; - reads stdin")
        parser.add_argument("--event", help="name of the event, for example order.shipped")
        parser.add_argument(
            "--tag",
            action="append",
            default=[],
            dest="tags",
            metavar="NAME=VALUE",
            help="a tag delivered with the data; repeatable",
        )
        parser.add_argument(
            "--idempotency-key",
            metavar="KEY",
            help="publish the same key and content only once within five minutes",
        )

        parser.add_argument(
            "--fallback",
            metavar="NAME",
            help="fallback that handles it if no one is subscribed, for example email",
        )
        parser.add_argument(
            "--fallback-when",
            choices=list(When),
            help="run the fallback always, or only if nobody is subscribed (default)",
        )
        parser.add_argument(
            "--fallback-option",
            action="append",
            default=[],
            dest="fallback_options",
            metavar="NAME=VALUE",
            help="an option for the fallback, for example to=ada@example.com; repeatable",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        refuse_memory(BROKER_UNAVAILABLE)
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
        namespaces = wiring.namespaces()
        publication = Publication.of(
            options["channel"],
            decode_json(_json(options["json"])),
            event=options["event"],
            tags=_pairs(options["tags"], "--tag"),
            idempotency_key=options["idempotency_key"],
            fallback=options["fallback"],
            fallback_when=options["fallback_when"],
            fallback_options=_pairs(options["fallback_options"], "--fallback-option"),
            sizes=namespaces.sizes,
        )
        return wiring.publish_sync(namespaces.complete(publication))

    def _print(self, channel: str, receipt: Receipt) -> None:
        if not self.stdout.isatty():
            self.stdout.write(json.dumps(result(receipt)))
            return
        said = "already published" if receipt.repeated else "published"
        nodes = "1 node subscribed" if receipt.nodes == 1 else f"{receipt.nodes} nodes subscribed"
        there = nodes if receipt.nodes else "no subscribers; no one receives it later"
        if receipt.queued:
            there = (
                f"{nodes}, and queued for its fallback"
                if receipt.nodes
                else "no subscribers; queued for its fallback"
            )
        self.stdout.write(f"{said} on {channel} at {receipt.offset} ({receipt.epoch}): {there}")


def _json(argument: str) -> bytes:
    if argument != "-":
        return argument.encode("utf-8", "surrogateescape")
    data = sys.stdin.buffer.read(STDIN_BYTES + 1)
    if len(data) > STDIN_BYTES:
        raise TooLarge("stdin", len(data), STDIN_BYTES)
    return data


def _decode_argument(argument: str) -> str:
    """Return an argument as UTF-8, however the locale decoded its bytes (PEP 383)."""
    return argument.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def _pairs(pairs: list[str], field: str) -> dict[str, str] | None:
    found = {}
    for pair in pairs:
        name, equals, value = _decode_argument(pair).partition("=")
        if not equals:
            raise InvalidData(f"{ascii(pair)[:40]} is not NAME=VALUE", field=field)
        found[name] = value
    return found or None
