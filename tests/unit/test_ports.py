"""Two test processes never get the same port."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.ports import PORTS, free_port
from tests.support.redis_server import RedisServer
from tests.support.service import ROOT

TRY = "import sys; from tests.support.ports import _lock; print(_lock(int(sys.argv[1])))"


def test_a_reserved_port_is_not_given_to_another_process() -> None:
    def other_process_gets(port: int) -> str:
        command = [sys.executable, "-c", TRY, str(port)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout

    port = free_port()
    assert free_port() != port
    assert other_process_gets(port) == "False\n"
    assert other_process_gets(PORTS.stop + os.getpid()) == "True\n", "nobody has it"


def test_a_server_that_cannot_start_says_why_at_once() -> None:
    server = RedisServer(port=free_port()).start()
    try:
        with pytest.raises(AssertionError, match="Address already in use"):
            RedisServer(port=server.port).start()
    finally:
        server.stop()
