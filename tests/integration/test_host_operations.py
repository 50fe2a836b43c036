"""Saves, logouts and tasks of the host succeed even if our part fails (issue 15, C16).

Each case runs in a separate process: a foreign project with users, whose nodes are unreachable.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.redis_server import RedisServer

ROOT = Path(__file__).resolve().parents[2]
BEGIN = """
import django
from django.conf import settings
django.setup()
from django.core.management import call_command
from django.contrib.auth import get_user_model
from django.db import transaction
call_command("migrate", verbosity=0)
User = get_user_model()
with transaction.atomic():
    user = User.objects.create_user("ada")
"""
SAVED = "assert User.objects.get().first_name == 'Ada', User.objects.get().first_name"
SAVE = "user.first_name = 'Ada'; user.save()"
REDIS_IS_AWAY = "unix:///nowhere.sock"


def run(code: str, **env: str) -> str:
    """Run code in the foreign project and return its log."""
    return execute(BEGIN + code, **env)


def execute(code: str, **env: str) -> str:
    names = {"DJANGO_SETTINGS_MODULE": "tests.session_settings", "TEST_REDIS_URL": REDIS_IS_AWAY}
    # In its development mode, Python logs each step of a loop that takes long here.
    names["PYTHONDEVMODE"] = ""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | names | env,
        capture_output=True, text=True, encoding="utf-8", timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


WAYS = {
    "at once": SAVE,
    "in a transaction": f"with transaction.atomic(): {SAVE}",
    "in a savepoint": f"with transaction.atomic(), transaction.atomic(): {SAVE}",
    "in a manual transaction": f"transaction.set_autocommit(False)\n{SAVE}\ntransaction.commit()",
}
BROKEN_SETTINGS = (
    "settings.REALTIME_REDIS_URL = 5\nfrom realtime import wiring\nwiring.settings.cache_clear()\n"
)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_user_is_saved_while_redis_is_away(way: str) -> None:
    assert "could not send a command to the nodes" in run(f"{way}\n{SAVED}")


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_user_is_saved_though_our_settings_are_broken(way: str) -> None:
    """Django logs `__qualname__` of a failed callback, and a `partial` has none.

    Django ticket 36487: a robust `on_commit` fails for a partial, which has no __qualname__.
    """
    log = run(f"{BROKEN_SETTINGS}{way}\n{SAVED}")
    assert "within ten seconds, not immediately" in log
    assert "REALTIME_REDIS_URL" in log


def test_nodes_are_notified_in_a_manual_transaction(redis_server: RedisServer) -> None:
    """getsentry/sentry#106268: on_commit() cannot be used in manual transaction management."""
    with redis_server.client() as client:
        heard = client.pubsub()
        heard.psubscribe("manual:*")
        assert heard.get_message(timeout=5)["type"] == "psubscribe"
        code = f"{WAYS['in a manual transaction']}\n{SAVED}"
        log = run(code, TEST_REDIS_URL=redis_server.url, TEST_REDIS_PREFIX="manual")
        assert log == ""
        assert b"recheck" in heard.get_message(timeout=5)["data"]


FREEZE = """
import os, signal
user.save()
os.kill(int(os.environ["TEST_REDIS_PID"]), signal.SIGSTOP)
"""
SAVE_IN_THREADS = """
from concurrent.futures import ThreadPoolExecutor
from django.db.models.signals import post_save
def save():
    post_save.send(sender=User, instance=user, created=False)
with ThreadPoolExecutor(10) as pool:
    for done in [pool.submit(save) for _ in range(10)]:
        done.result()
"""
THAW = """
os.kill(int(os.environ["TEST_REDIS_PID"]), signal.SIGCONT)
import redis
from tests.support.eventually import eventually_sync
with redis.Redis.from_url(settings.REALTIME_REDIS_URL) as client, client.pubsub() as heard:
    heard.psubscribe("*")
    assert heard.get_message(timeout=5)["type"] == "psubscribe"
    def tells():
        user.save()
        return heard.get_message(timeout=0.1)
    assert b"recheck" in eventually_sync(tells, 30)["data"]
"""


def test_each_save_waits_in_turn_for_a_frozen_redis(own_redis: RedisServer) -> None:
    """Each save used to wait for the timeout of a second: 10 saves took 10 s.

    Each timeout closes its connection, so Redis accepts one more for each following attempt. A slow
    machine may have reached the next attempt, five seconds later.
    """
    code = f"{FREEZE}for _ in range(10): {SAVE}\n{SAVED}{SAVE_IN_THREADS}"
    with own_redis.client() as client:
        before = client.info("stats")["total_connections_received"]
        log = run(code, TEST_REDIS_URL=own_redis.url, TEST_REDIS_PID=str(own_redis.pid))
        own_redis.thaw()
        accepted = client.info("stats")["total_connections_received"] - before
    assert accepted <= 3, "20 saves, and one connection on which a time-out was waited for"
    assert log.count("could not send a command to the nodes") == 1


def test_notifications_resume_when_redis_answers(own_redis: RedisServer) -> None:
    given = {"TEST_REDIS_URL": own_redis.url, "TEST_REDIS_PID": str(own_redis.pid)}
    assert (
        run(f"{FREEZE}{SAVE}\n{THAW}", **given).count("could not send a command to the nodes") == 1
    )


OPERATIONS = {
    "a signal that the host sends itself": """
from django.db.models.signals import post_save
post_save.send(sender=User, instance=user, created=False)
""",
    "deleting a user in a manual transaction": """
transaction.set_autocommit(False)
user.delete()
transaction.commit()
assert not User.objects.exists()
""",
    "deleting a session whose columns were not loaded": """
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
store = SessionStore()
store["_auth_user_id"] = str(user.pk)
store.create()
Session.objects.defer("expire_date", "session_data").get().delete()
assert not Session.objects.exists()
""",
    "a session that never had an end": """
from django.db.models.signals import post_delete
from django.contrib.sessions.models import Session
post_delete.send(sender=Session, instance=Session(session_key="x"))
""",
    "logging out without any database": """
from django.contrib.auth import logout
from django.contrib.sessions.backends.signed_cookies import SessionStore
from django.db import connections
from django.http import HttpRequest
request = HttpRequest()
request.session, request.user = SessionStore("key"), user
settings.DATABASES["default"] = connections.settings["default"] = {}
connections.close_all()
del connections["default"]
connections.configure_settings(None)
connections.settings["default"]["ENGINE"] = "django.db.backends.dummy"
logout(request)
assert request.user.is_anonymous
""",
    "logging out in an event loop": """
import asyncio
from django.contrib.auth import logout
from django.contrib.sessions.backends.signed_cookies import SessionStore
from django.http import HttpRequest
async def view():
    request = HttpRequest()
    request.session, request.user = SessionStore("key"), user
    logout(request)
    assert request.user.is_anonymous
asyncio.run(view())
""",
}


@pytest.mark.parametrize("code", OPERATIONS.values(), ids=OPERATIONS)
def test_an_operation_of_the_host_never_fails_because_of_us(code: str) -> None:
    run(code)


def test_publishing_in_an_event_loop_works_with_async_unsafe(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """`DJANGO_ALLOW_ASYNC_UNSAFE` is for notebooks, whose cells run in an event loop.

    Django ticket 31056 introduced the variable, for notebooks; see also
    django-extensions/django-extensions#1533.
    """
    code = f"""
import asyncio
from realtime import publish, publish_on_commit
async def cell():
    {SAVE}
    {SAVED}
    assert publish("a", 1).epoch
    publish_on_commit("a", 2)
asyncio.run(cell())
"""
    # An event loop has its own database connection, so the database must be a file.
    given = {"TEST_DATABASE": str(tmp_path / "db"), "DJANGO_ALLOW_ASYNC_UNSAFE": "true"}
    assert run(code, TEST_REDIS_URL=redis_server.url, **given) == ""


WRONG_ENGINE = """
import sys, types
wrong = sys.modules["wrong"] = types.ModuleType("wrong")
exec("from tests.session_settings import *; SESSION_ENGINE = 'nowhere.at_all'", vars(wrong))
import django
django.setup()
"""


def test_a_wrong_session_engine_does_not_stop_the_commands_of_the_host() -> None:
    assert "nowhere" in execute(WRONG_ENGINE, DJANGO_SETTINGS_MODULE="wrong")


@pytest.mark.parametrize("user", ["0", "None"])
def test_the_user_with_the_id_0_is_a_user(user: str) -> None:
    # tendenci/tendenci#965 assumed that the ids of users are truthy; likewise Django ticket 29974.
    run(f"""
from realtime.host.user_tokens import id_of, personal_channel
assert id_of(User(pk={user})) == {"0" if user == "0" else ""!r}
assert personal_channel(User(pk=0)) == "user:#0"
""")


def test_every_primary_key_has_a_channel() -> None:
    run("""
from uuid import UUID
from django.utils.functional import SimpleLazyObject
from realtime import personal_channel
from realtime.errors import InvalidName
assert personal_channel(7) == "user:#7"
assert personal_channel(UUID(int=7)) == "user:#00000000-0000-0000-0000-000000000007"
assert personal_channel(SimpleLazyObject(lambda: User(pk=7))) == "user:#7"
assert personal_channel(User(pk="a+b@example.com")) == "user:#,a=2Bb@example.com"
for user, reason in ((User(), "not saved yet"), ("ф" * 128, "255")):
    try:
        personal_channel(user)
    except InvalidName as error:
        assert reason in str(error), error
    else:
        raise AssertionError(user)
try:
    personal_channel({"id": 7})
except TypeError as error:
    assert "dict" in str(error)
""")


TASKS = """
from celery import Celery
from realtime.contrib.celery import LiveTask
app = Celery("shop", broker="memory://", set_as_current=True)
app.conf.task_always_eager = True
class Talkative(LiveTask):
    abstract = True
    def live_channel(self, task_id, user):
        raise KeyError(task_id)
    def live_end(self, state):
        raise KeyError("end")
@app.task(base=Talkative, bind=True)
def work(self):
    self.progress(object(), 1j)
    self.check_cancelled()
    return "done"
assert work.apply_async(eta="tomorrow").get() == "done"
"""


@pytest.mark.parametrize("broken", ["", BROKEN_SETTINGS], ids=["redis", "settings"])
def test_a_task_runs_even_when_progress_cannot_be_published(broken: str) -> None:
    assert "a task" in run(broken + TASKS)
