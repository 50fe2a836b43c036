"""``python -m notifier …``: parses the command line and calls what does the work.

Each command loads only what it needs: the launcher, which every start of the service waits for,
loads neither a server nor models. Parsed with argparse: a library would add options that complete
themselves in a shell, and a dependency of every deployment.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from notifier.command_help import PAGES, PROGRAM

EXPIRES_AT_MOST = 365 * 24 * 3600


class _Parser(argparse.ArgumentParser):
    """Prints the help of `command_help`, and one sentence for wrong use."""

    def __init__(self, **options: Any) -> None:
        options |= {"add_help": False, "allow_abbrev": False}
        super().__init__(**options)
        self.add_argument("-h", "--help", action="help")

    def format_help(self) -> str:
        return PAGES[self.prog.removeprefix(PROGRAM).strip()]

    def error(self, message: str) -> NoReturn:
        sentence = f"notifier: {message}: see `{self.prog} --help`."
        self.exit(2, " ".join(sentence.split()) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # in an ASCII locale "é" is printed as \\xe9
            stream.reconfigure(errors="backslashreplace")
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(options)
    except KeyboardInterrupt:  # before the event loop handled the signal
        return 130


def _run(options: argparse.Namespace) -> int:
    match options.command:
        case "serve" | "run":
            from notifier.launcher import launch

            return launch(options.command, stop_with_parent=getattr(options, "with_parent", False))
        case "check":
            from notifier.check import run_check

            return run_check(os.environ, as_json=options.json)
        case "token":
            from notifier.token_command import print_token

            return print_token(os.environ, options.user, options.channel, options.expires)
        case _:
            from notifier.key_commands import run_key_command

            return run_key_command(os.environ, options)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog=PROGRAM)
    parser.add_argument("--version", action=_ShowVersion, nargs=0)
    commands = _add_commands(parser, "command")
    commands.add_parser("serve", prog=f"{PROGRAM} serve")
    running = commands.add_parser("run", prog=f"{PROGRAM} run")
    running.add_argument("--stop-with-parent", action="store_true", dest="with_parent")
    checking = commands.add_parser("check", prog=f"{PROGRAM} check")
    checking.add_argument("--json", action="store_true")
    token = commands.add_parser("token", prog=f"{PROGRAM} token")
    token.add_argument("user", metavar="USER")
    token.add_argument("--channel", default="")
    token.add_argument("--expires", type=_seconds, default=600, metavar="SECONDS")
    _add_key_commands(commands.add_parser("keys", prog=f"{PROGRAM} keys"))
    return parser.parse_args(arguments)


def _add_commands(parser: argparse.ArgumentParser, dest: str) -> Any:
    return parser.add_subparsers(dest=dest, required=True, metavar="COMMAND", parser_class=_Parser)


def _add_key_commands(parser: argparse.ArgumentParser) -> None:
    commands = _add_commands(parser, "key_command")
    creating = commands.add_parser("create", prog=f"{PROGRAM} keys create")
    creating.add_argument("name", metavar="NAME")
    creating.add_argument("--channels", nargs="+", metavar="PATTERN")
    creating.add_argument("--methods", nargs="+", metavar="METHOD")
    creating.add_argument("--fallbacks", nargs="*", metavar="NAME", default=[])
    creating.add_argument("--rate", type=_rate, metavar="N")
    creating.add_argument("--file", metavar="PATH")
    listing = commands.add_parser("list", prog=f"{PROGRAM} keys list")
    listing.add_argument("file", nargs="?", default="", metavar="FILE")
    listing.add_argument("--json", action="store_true")
    commands.add_parser("check", prog=f"{PROGRAM} keys check").add_argument("file", metavar="FILE")


def _seconds(text: str) -> int:
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(EXPIRES_AT_MOST))
    if not is_number or not 1 <= int(text) <= EXPIRES_AT_MOST:
        raise argparse.ArgumentTypeError(f"must be a number of seconds, 1 to {EXPIRES_AT_MOST}")
    return int(text)


def _rate(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError("must be a number") from None
    return int(number) if number.is_integer() else number  # 100, not 100.0 in the file


class _ShowVersion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *arguments: Any, **options: Any) -> None:
        print(describe_version())
        parser.exit()


def describe_version() -> str:
    """Return the versions of the service and of what it runs on, in one line."""
    import django
    import redis

    from realtime import __version__

    python = ".".join(map(str, sys.version_info[:3]))
    return (
        f"notifier {__version__} (Python {python}, Django {django.get_version()}, redis-py "
        f"{redis.__version__})"
    )
