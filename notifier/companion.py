"""``python -m notifier.companion --lifeline FD MODULE …``: another process that the launcher owns.

It runs a module as ``python -m MODULE …`` does, and ends when the launcher is gone, however that
ended. So whatever is run here needs to know nothing of launchers.
"""

from __future__ import annotations

import argparse
import os
import runpy
import signal
import sys
import threading

STOP_SECONDS = 15.0
"""What it has to end after SIGTERM, before it just ends."""


def watch_lifeline(lifeline: int) -> None:
    """End this process when the other end of the pipe is closed: as if it was asked to, at first.

    A thread: it still ends the process when the module hangs.
    """

    def watch() -> None:
        os.read(lifeline, 1)  # nobody writes: this returns at the end of the launcher
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(STOP_SECONDS)
        # Children of the module, too: this process leads a group, see `notifier.fleet`.
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def main(arguments: list[str] | None = None) -> None:
    """Run a module until it ends, or the launcher does."""
    parser = argparse.ArgumentParser(
        prog="notifier.companion",
        description="A process beside the workers; the launcher starts it.",
    )
    parser.add_argument("--lifeline", type=int, required=True, help="ends when the launcher does")
    parser.add_argument("module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    watch_lifeline(options.lifeline)
    sys.argv = [options.module, *options.arguments]
    runpy.run_module(options.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
