"""docs/http-api.md: its examples work as shown, and its tables match the code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from realtime.api import answers, items
from realtime.api.methods import METHODS
from realtime.brokers.commands import IDEMPOTENCY_SECONDS
from realtime.core import json_text, limits, names, publication
from realtime.endpoint import BODY_SECONDS
from tests.support import prose
from tests.support.redis_server import RedisServer
from tests.support.service import ROOT, Service

PAGE = prose.read(ROOT / "docs" / "http-api.md")


def examples() -> Iterator[tuple[str, str]]:
    """Yield each command of the page with its documented output, in order."""
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = re.sub(r"\\\n\s+", "", part).partition("\n")
            yield command, output.strip()


def steady(text: str) -> str:
    """Leave out everything that is different each time."""
    text = re.sub(r'("epoch"|"request_id"|"uid")(: ?)"[0-9a-f]{16}"', r"\1\2…", text).strip()
    return re.sub(r'"name":"[^"]+_\d+"', "…", re.sub(r'"uptime":\d+', "…", text))


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
def test_the_examples_print_the_documented_output(
    own_redis: RedisServer, serve: Callable[..., Service]
) -> None:
    service = serve(own_redis.url, app="tests.asgi_endpoint:application")
    env = os.environ | {
        "KEY": "test-key",
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "TEST_REDIS_URL": own_redis.url,
    }
    ran = 0
    for command, shown in examples():
        line = command.replace("http://localhost:8000", service.http)
        line = line.replace("curl ", "curl --silent --show-error ")
        line = line.replace("python manage.py", f"{sys.executable} -m django")
        done = subprocess.run(
            ["bash", "-c", line], env=env, cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, ""), command
        assert steady(done.stdout) == steady(shown), command
        ran += 1
    assert ran >= 9


def test_the_table_of_reasons_matches_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \|", PAGE, re.MULTILINE)
    assert {reason: (int(status), int(code)) for reason, status, code in rows} == answers.STATUSES
    assert [reason for reason, *_ in rows] == list(answers.STATUSES)


@pytest.mark.parametrize(
    "said",
    [
        f"at most {limits.PUBLISH_BYTES // 1024} KiB for `publish`",
        f"up to {items.MANY_ITEMS} channels",
        f"up to {items.MANY_ITEMS} commands",
        f"up to {items.MANY_ITEMS} publications",
        f"at most {json_text.DATA_LIMIT // 1024} KiB",
        f"at most {json_text.DEPTH_LIMIT} levels deep",
        f"beyond {json_text.DEPTH_LIMIT} levels",
        f"at most {publication.TAGS_LIMIT} names",
        f"at most {publication.TAG_VALUE_LIMIT} characters",
        f"1 to {names.CHANNEL_LIMIT} characters",
        f"1 to {names.EVENT_LIMIT} characters",
        f"1 to {names.KEY_LIMIT} visible ASCII characters",
        f"within {BODY_SECONDS:.0f} seconds",
        f"more than {sys.int_info.default_max_str_digits} digits",
    ],
)
def test_the_limits_match_the_code(said: str) -> None:
    assert said in re.sub(r"\s+", " ", PAGE)


def test_the_five_minutes_match_the_code() -> None:
    assert IDEMPOTENCY_SECONDS == 5 * 60
    assert limits.MANY_BYTES == 1024 * 1024


def test_every_method_has_its_section() -> None:
    assert set(re.findall(r"^## `(\w+)`", PAGE, re.MULTILINE)) == set(METHODS)
