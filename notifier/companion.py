"""``python -m notifier.companion --lifeline FD MODULE …``: run another process for the launcher.

Runs a module as ``python -m MODULE …`` would, and exits when the launcher is gone, however it
ended. So the modules need not know about launchers.
"""

from __future__ import annotations

import argparse
import os
import runpy
import signal
import sys
import threading

STOP_SECONDS = 15.0
"""How long it has to exit after SIGTERM before it is killed."""


def watch_lifeline(lifeline: int) -> None:
    """Stop this process when the other end of the pipe closes: first with SIGTERM, then by force.

    A thread, so that it works even if the module hangs.
    """

    def watch() -> None:
        os.read(lifeline, 1)  # nothing is ever written: returns when the launcher has gone
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(STOP_SECONDS)
        # Including children of the module: this process leads a group, see `notifier.fleet`.
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def main(arguments: list[str] | None = None) -> None:
    """Run a module until it or the launcher ends."""
    parser = argparse.ArgumentParser(
        prog="notifier.companion",
        description="A companion process of the workers, started by the launcher.",
    )
    parser.add_argument(
        "--lifeline", type=int, required=True, help="a pipe that closes when the launcher exits"
    )
    parser.add_argument("module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    watch_lifeline(options.lifeline)
    sys.argv = [options.module, *options.arguments]
    runpy.run_module(options.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
