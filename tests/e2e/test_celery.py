"""Live progress of real tasks, with a real Celery worker and a real Valkey."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu.exceptions import EncodeError, OperationalError

from realtime.contrib.celery import cancel_task, kombu_url, task_states
from realtime.contrib.records import records
from tests.support.celery_worker import CeleryWorker
from tests.support.eventually import eventually_sync
from tests.support.overheard_channel import Heard
from tests.support.redis_server import RedisServer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def worker(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CeleryWorker]:
    log = tmp_path_factory.mktemp("celery") / "log"
    running = CeleryWorker(log, TEST_REDIS_URL=redis.url)
    running.wait_until_ready()
    yield running
    running.stop()


@pytest.fixture
def tasks(worker: CeleryWorker, redis: RedisServer, settings: Any) -> Any:
    """The host's tasks, as its web process sees them."""
    settings.REALTIME_REDIS_URL = redis.url
    settings.REALTIME_REDIS_PREFIX = "rt"
    from tests.shop import celery

    celery.use_redis_of_settings(600)
    return celery


def ended(task_id: str, seconds: float = 20) -> dict[str, Any]:
    """Return the last state of a task once it has ended."""

    def end() -> Any:
        [state] = task_states([task_id])
        return state if state and state["state"] in ("succeeded", "failed", "cancelled") else None

    return eventually_sync(end, seconds)


def test_a_task_reports_its_progress(tasks: Any, heard: Heard) -> None:
    task_id = tasks.count.start(20, 0.05)
    assert ended(task_id)["message"] == "counted to 20"
    states = heard.until(f"job:{task_id}", "succeeded")
    words = [state["state"] for state in states]
    assert words[:2] == ["waiting", "started"]
    assert set(words[2:-1]) == {"progress"}
    done = [state["done"] for state in states[2:-1]]
    assert done == sorted(set(done))
    assert {state["total"] for state in states[2:-1]} == {20}
    assert states[2]["message"] == f"step {done[0]}"
    assert [state["at"] for state in states] == sorted(state["at"] for state in states)
    assert {state["task"] for state in states} == {task_id}
    assert task_states([task_id, "unknown"]) == [states[-1], None]


def test_a_fast_loop_is_throttled_and_its_end_is_published(tasks: Any, heard: Heard) -> None:
    started = time.monotonic()
    task_id = tasks.count.start(20_000)
    ended(task_id)
    seconds = time.monotonic() - started
    states = heard.until(f"job:{task_id}", "succeeded")
    assert len(states) <= 3 + seconds / 0.2 + 1
    assert states[-1]["state"] == "succeeded"


def test_the_latest_progress_is_published_without_a_successor(
    tasks: Any, heard: Heard, tmp_path: Path
) -> None:
    go_on = tmp_path / "go on"
    task_id = tasks.pause.start(str(go_on), live_user="7")
    eventually_sync(lambda: (task_states([task_id])[0] or {}).get("done") == 2)
    assert [data.get("done") for data in heard.data_on("user:#7")] == [None, None, 2]
    go_on.touch()
    assert ended(task_id)["state"] == "succeeded"


def test_progress_for_a_user_goes_to_the_personal_channel(tasks: Any, heard: Heard) -> None:
    task_id = tasks.count.start(3, live_user="42")
    states = heard.until("user:#42", "succeeded")
    assert {state["task"] for state in states} == {task_id}
    assert states[0]["state"] == "waiting"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("row 7: 'abc' is no amount", "row 7: 'abc' is no amount"),
        ("", "ValueError: see the log of the worker, task "),
    ],
)
def test_a_failure_shows_only_its_user_facing_message(
    tasks: Any, heard: Heard, text: str, message: str
) -> None:
    task_id = tasks.fail.start(text)
    state = ended(task_id)
    assert state["state"] == "failed"
    assert state["message"] == (message if text else message + task_id)
    assert heard.until(f"job:{task_id}", "failed")[-1] == state


def test_a_task_whose_event_loop_is_cancelled_fails(tasks: Any, heard: Heard) -> None:
    """It used to end the process of Celery's pool, and was restarted up to its limit."""
    task_id = tasks.run_a_loop.start()
    assert ended(task_id)["message"].startswith("RuntimeError: ")
    words = [state["state"] for state in heard.until(f"job:{task_id}", "failed")]
    assert words == ["waiting", "started", "failed"]


def test_a_retry_is_reported(tasks: Any, heard: Heard) -> None:
    task_id = tasks.try_again.start()
    assert ended(task_id)["message"] == "in the end"
    words = [state["state"] for state in heard.until(f"job:{task_id}", "succeeded")]
    assert words == ["waiting", *["started", "retried"] * 2, "started", "succeeded"]


def test_a_running_task_can_be_cancelled(tasks: Any, heard: Heard) -> None:
    task_id = tasks.endless.start()
    heard.until(f"job:{task_id}", "progress")
    cancel_task(task_id)
    assert ended(task_id)["state"] == "cancelled"
    # An AsyncResult that has seen the end is in a reference cycle: the garbage collector would find
    # it in a later test, which uses another Redis.
    assert tasks.app.backend.get_state(task_id) == "REVOKED"


def test_a_waiting_task_can_be_cancelled(tasks: Any, heard: Heard, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    before = [tasks.pause.start(str(go_on)) for _ in range(2)]  # as many as the worker has hands
    for task_id in before:
        heard.until(f"job:{task_id}", "progress")
    task_id = tasks.endless.start()
    cancel_task(task_id)
    go_on.touch()
    assert ended(task_id)["state"] == "cancelled"
    words = [state["state"] for state in heard.until(f"job:{task_id}", "cancelled")]
    assert words == ["waiting", "cancelled"]


def test_a_task_id_can_be_reused(tasks: Any, heard: Heard) -> None:
    task_id = "every-night"
    tasks.endless.apply_async(task_id=task_id)
    heard.until(f"job:{task_id}", "progress")
    cancel_task(task_id)
    assert ended(task_id)["state"] == "cancelled"
    tasks.count.apply_async([1], task_id=task_id)
    states = heard.until(f"job:{task_id}", "succeeded")
    assert "run" not in states[-2]  # it is a new task, which starts for the first time
    assert ended(task_id)["message"] == "counted to 1"


def test_a_task_that_cannot_be_sent_has_failed(tasks: Any, heard: Heard) -> None:
    with pytest.raises(TypeError, match="total"):
        tasks.count.apply_async(task_id="without-arguments")
    with pytest.raises(EncodeError):
        tasks.count.apply_async([object()], task_id="not-json")
    for task_id in ("without-arguments", "not-json"):
        [state] = task_states([task_id])
        assert state is not None
        assert (state["state"], state["message"]) == ("failed", "the task could not be queued")
        assert heard.until(f"job:{task_id}", "failed")[-1] == state
        assert task_id not in dict(records().silent(-1))  # nothing sends it later


async def test_a_task_can_be_started_in_an_event_loop(tasks: Any) -> None:
    """Celery allows this, and blocks the event loop while it waits for Redis."""
    task_id = tasks.count.start(1)
    state = await asyncio.to_thread(ended, task_id)
    assert state["state"] == "succeeded"


def test_the_log_says_when_redis_is_away_and_when_it_is_back(
    own_redis: RedisServer, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.REALTIME_REDIS_URL = own_redis.url
    from tests.shop import celery

    celery.use_redis_of_settings(600)
    own_redis.kill()
    caplog.set_level("INFO", "realtime.contrib.records")
    for _ in range(3):
        with pytest.raises(OperationalError):
            celery.count.apply_async([1], retry=False, ignore_result=True)
    assert caplog.text.count("cannot publish the progress of tasks") == 1
    own_redis.start()
    eventually_sync(lambda: task_states(["x"]) and "publishing progress works again" in caplog.text)


def test_a_task_whose_pool_process_dies_again_and_again_fails(tasks: Any) -> None:
    state = ended(tasks.die.start(), seconds=60)  # Celery checks its pool every five seconds
    assert state["state"] == "failed"
    assert state["message"] == "the task was started 5 times, and its worker died each time"


def test_a_task_that_ignores_cancellation_is_killed_and_reported(tasks: Any, heard: Heard) -> None:
    task_id = tasks.hang.start()
    state = ended(task_id)
    assert state["state"] == "failed"
    assert state["message"].startswith("TimeLimitExceeded")
    assert heard.until(f"job:{task_id}", "failed")


def test_a_task_succeeds_when_its_states_cannot_be_published(
    tasks: Any, worker: CeleryWorker
) -> None:
    assert ended(tasks.unheard.start())["message"] == "done all the same"
    assert "cannot publish the states of tests.shop.celery.unheard" in worker.log


def test_a_duplicate_message_is_executed_once(tasks: Any, heard: Heard) -> None:
    task_id = tasks.count.start(1)
    ended(task_id)
    tasks.app.send_task(tasks.count.name, [1], task_id=task_id)
    marker = tasks.count.start(1)
    ended(marker)
    words = [state["state"] for state in heard.until(f"job:{marker}", "succeeded", task_id)]
    assert words.count("succeeded") == 1
    assert words.count("started") == 1


def test_a_task_called_directly_runs_as_a_function(wired: str) -> None:
    from tests.shop import celery

    assert celery.count(3) == "counted to 3"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("redis://h:1/2", "redis://h:1/2"),
        ("redis://h?db=2&password=p%40", "redis://:p%40@h:6379/2"),
        ("redis://[::1]:1/2", "redis://[::1]:1/2"),
        ("rediss://h/0", "rediss://h:6379/0?ssl_cert_reqs=required"),
        (
            "rediss://u:p@h/0?ssl_ca_certs=/a&ssl_check_hostname=no",
            "rediss://u:p@h:6379/0?ssl_cert_reqs=required&ssl_ca_certs=%2Fa"
            "&ssl_check_hostname=false",
        ),
        ("unix:///run/valkey.sock", "redis+socket:///run/valkey.sock?virtual_host=0"),
        ("unix://u:p@/run/v.sock?db=3", "redis+socket://u:p@/run/v.sock?virtual_host=3"),
        (
            "redis+sentinel://u:p%40@h1,[::1]:2/m/3",
            "sentinel://u:p%40@h1:26379/3;sentinel://u:p%40@[::1]:2/3",
        ),
    ],
)
def test_the_redis_url_is_given_in_the_form_that_celery_reads(ours: str, theirs: str) -> None:
    assert kombu_url(ours) == theirs


def test_everything_else_works_without_celery() -> None:
    """Celery is an optional extra: only its own module imports it."""
    code = (
        "import sys; sys.modules['celery'] = sys.modules['kombu'] = None\n"
        "import django; django.setup()\n"
        "import realtime.transports.websocket, realtime.http.views, realtime.endpoint\n"
        "import realtime.fallbacks.worker\n"
        "from realtime import fallback, publish\n"
        "from django.core.management import call_command; call_command('check')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
