"""`manage.py listen CHANNEL…`: print publications, as a WebSocket client of the running service.

With ``--user``, it is one more connection of that user, and prints what reaches the user.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from django.core.management.base import BaseCommand, CommandError, CommandParser

from realtime import wiring
from realtime.client.events import (
    Event,
    GapFound,
    Live,
    MessageReceived,
    NotLive,
    Published,
    Reconnecting,
)
from realtime.client.wire import DEFAULT_URL
from realtime.core.publication import EVENT_TAG
from realtime.errors import BrokerError, RealtimeError
from realtime.identity.tokens import CHANNELS_LIMIT
from realtime.management.own_process import refuse_memory
from realtime.management.stop_signals import ignored_signals_text
from realtime.management.user_channels import UserChannels, find_channels, make_token

if TYPE_CHECKING:
    from realtime.client.listening import ListeningClient

FOLLOW_SECONDS = 5.0
"""The interval for looking up the channels of the user's connections."""

NEEDS_WEBSOCKETS = (
    "manage.py listen needs the package websockets, the extra django-realtime-notifier[listen]: "
    "pip install --upgrade websockets"
)


class Command(BaseCommand):
    help = (
        "Subscribe to channels of the running service, or to those of a user; print publications "
        "and gaps until Ctrl-C."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = (
            "On a terminal the output is text; in a pipe it is one line of JSON for each event. "
            "Changes of the connection state go to stderr. While a channel has a listener, its "
            "fallback for publications without one is not used: this command counts, too."
        )
        parser.add_argument("channels", nargs="*", metavar="CHANNEL")
        parser.add_argument(
            "--user",
            metavar="ID",
            help="instead of channels: show the publications and messages that reach this user "
            f"from now on, on at most {CHANNELS_LIMIT} channels: those to which the service "
            "subscribes the user, and those of the user's connections on all nodes, looked up "
            f"every {FOLLOW_SECONDS:g} s. It is one more connection of the user, made with a token "
            "of this project (REALTIME_TOKEN_SECRET): others see it in presence, the user's limit "
            "of connections counts it, and it stays on channels that the user leaves. It does not "
            "show joins, leaves, replies to the user's own commands, or whether the user's own "
            "clients have received anything",
        )
        parser.add_argument(
            "--url",
            help="URL of the service (default: REALTIME_URL of the environment or the settings, "
            f"or {DEFAULT_URL})",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        # Python raises KeyboardInterrupt unless SIGINT was ignored when it started.
        if text := ignored_signals_text([signal.SIGINT]):
            self.stderr.write(text, style_func=str)
        try:
            asyncio.run(self._listen(options))
        except KeyboardInterrupt:
            return
        except BrokenPipeError:
            # The reader has gone (`listen … | head -1`). Python would complain on exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except RealtimeError as error:
            raise CommandError(str(error)) from error

    async def _listen(self, options: dict[str, Any]) -> None:
        self._for_people = self.stdout.isatty()
        url = options["url"] or os.environ.get("REALTIME_URL") or wiring.settings().url
        self._never_live_at = url or DEFAULT_URL
        channels, user = list(dict.fromkeys(options["channels"])), options["user"]
        if bool(channels) == bool(user):
            raise CommandError("name channels, or a user with --user, but not both")
        # Only here: its library is an extra, and `--help` works without it.
        try:
            from realtime.client.listening import ListeningClient
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "websockets":
                raise
            raise CommandError(NEEDS_WEBSOCKETS) from error
        if not user:
            await ListeningClient(url or DEFAULT_URL, channels, self._tell).run()
        refuse_memory()

        async def identify() -> tuple[str, list[str]]:
            found = await asyncio.to_thread(find_channels, user)
            self._tell_of_user(found)
            return make_token(user, found.channels), found.channels

        client = ListeningClient(url or DEFAULT_URL, [], self._tell, identify=identify)
        await asyncio.gather(client.run(), _follow(client, user))

    def _tell_of_user(self, found: UserChannels) -> None:
        text = f"{found.connections} connections on {len(found.channels) + found.omitted} channels"
        if found.omitted:
            text += f", of which {found.omitted} are not shown"
        if found.silent_nodes:
            text += f"; {found.silent_nodes} nodes did not answer, so there may be more"
        self.stderr.write(f"the user has {text}", style_func=str)
        self.stderr.flush()

    def _tell(self, event: Event) -> None:
        match event:
            case Published() | GapFound() | MessageReceived():
                line = _human(event) if self._for_people else json.dumps(_facts(event))
                self.stdout.write(_encodable(line, self.stdout.encoding))
                self.stdout.flush()
            case _:
                self._tell_address(event)
                self.stderr.write(_state(event), style_func=str)
                self.stderr.flush()

    def _tell_address(self, event: Event) -> None:
        """Name the address once, if nobody has answered there yet: it may be the wrong one."""
        if self._never_live_at and isinstance(event, Reconnecting):
            place = _printable(self._never_live_at)
            self.stderr.write(
                f"no service at {place}: start it, or name another address with --url or "
                "REALTIME_URL",
                style_func=str,
            )
        self._never_live_at = ""


def _state(event: Live | NotLive | Reconnecting) -> str:
    match event:
        case Live():
            places = ", ".join(f"{c} from {p.offset}" for c, p in event.positions.items())
            return f"live: {places}"
        case NotLive():
            return f"not live: {_printable(event.reason)}"
        case Reconnecting():
            return f"reconnecting in {event.seconds:.1f} s: {_printable(event.reason)}"


async def _follow(client: ListeningClient, user: str) -> NoReturn:
    """Let the client reconnect when the user's other connections have new channels."""
    while True:
        await asyncio.sleep(FOLLOW_SECONDS)
        with suppress(BrokerError):  # the client reports an outage itself
            found = await asyncio.to_thread(find_channels, user)
            if not set(found.channels) <= set(client.channels):
                await client.reconnect("the user has other channels now")


def _facts(event: Published | GapFound | MessageReceived) -> dict[str, Any]:
    if isinstance(event, MessageReceived):
        return {"type": "message", "data": event.data}
    if isinstance(event, Published):
        epoch, offset = event.position
        facts = {"type": "publication", "channel": event.channel, "epoch": epoch, "offset": offset}
        return {**facts, "data": event.data, "tags": event.tags}
    gap, reason = event.missed
    facts = {"type": "gap", "channel": event.channel, "epoch": gap.epoch}
    return {**facts, "from": gap.first, "to": gap.last, "missed": gap.missed, "reason": reason}


def _human(event: Published | GapFound | MessageReceived) -> str:
    if isinstance(event, MessageReceived):
        return _printable(f"message  {json.dumps(event.data, ensure_ascii=False)}")
    if isinstance(event, GapFound):
        gap, reason = event.missed
        missed = f"{gap.missed} missed" if gap.missed else "some may be missing"
        span = f"{gap.first}–{gap.last}" if gap.last else f"{gap.first}–?"
        return f"{event.channel} {span}  {missed} ({_printable(reason)})"
    name = event.tags.get(EVENT_TAG, "")
    others = {key: value for key, value in event.tags.items() if key != EVENT_TAG}
    parts = [f"{event.channel} {event.position.offset}", name]
    parts.append(json.dumps(event.data, ensure_ascii=False))
    parts += [f"{key}={value}" for key, value in others.items()]
    return _printable("  ".join(filter(None, parts)))


def _printable(text: str) -> str:
    """Escape terminal control characters: anyone may have published the text (CWE-150)."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _encodable(text: str, encoding: str | None) -> str:
    """Escape what the terminal's encoding lacks: with ASCII, that is every non-ASCII character."""
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
