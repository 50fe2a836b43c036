"""`manage.py …` as a process, with a pipe or a terminal to print to."""

from __future__ import annotations

import json
import os
import pty
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.dispositions import ORDINARY, dispositions

ROOT = Path(__file__).resolve().parents[2]


class Command:
    """One running command; `line` and `said` wait for its output."""

    def __init__(
        self,
        *arguments: str,
        terminal: bool = False,
        signals: Mapping[signal.Signals, Any] = ORDINARY,
        **env: str,
    ) -> None:
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._errors: queue.Queue[str | None] = queue.Queue()
        ours, theirs = pty.openpty() if terminal else os.pipe()
        with dispositions(signals):
            self.process = subprocess.Popen(
                [sys.executable, "-m", "django", *arguments],
                cwd=ROOT,
                env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", **env},
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=subprocess.PIPE,
            )
        os.close(theirs)
        assert self.process.stderr is not None
        self._out = os.fdopen(ours, "rb", 0)
        self._threads = [
            threading.Thread(target=_read, args=args)
            for args in [(self._out, self._lines), (self.process.stderr, self._errors)]
        ]
        for thread in self._threads:
            thread.start()

    def line(self, seconds: float = 60) -> str | None:
        """Return the next line of stdout; None at its end."""
        return self._lines.get(timeout=seconds)

    def facts(self) -> Any:
        return json.loads(self.line() or "null")

    def said(self, start: str, seconds: float = 60) -> str:
        """Return the next line of stderr with this start; other lines are skipped."""
        while (line := self._errors.get(timeout=seconds)) is not None:
            if line.startswith(start):
                return line
        raise AssertionError(f"it ended without saying {start!r}")

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=60)

    def ended(self) -> int:
        return self.process.wait(timeout=60)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(timeout=60)
        for thread in self._threads:
            thread.join(timeout=60)
        self._out.close()
        assert self.process.stderr is not None
        self.process.stderr.close()


def _read(file: Any, lines: queue.Queue[str | None]) -> None:
    with suppress(OSError, ValueError):  # reading a terminal whose other end has closed raises
        for line in file:
            lines.put(line.decode().rstrip("\r\n"))
    lines.put(None)
