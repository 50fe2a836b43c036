"""What the host saves, logs out or sends is done, whatever goes wrong with us (issue 15, C16).

Each case is a process of its own: a foreign project with users, whose nodes nobody can reach.
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
    assert "could not tell the nodes" in run(f"{way}\n{SAVED}")


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_user_is_saved_though_our_settings_are_broken(way: str) -> None:
    """Django logs `__qualname__` of what failed after the commit, and a `partial` has none."""
    log = run(f"{BROKEN_SETTINGS}{way}\n{SAVED}")
    assert "within ten seconds, not at once" in log
    assert "REALTIME_REDIS_URL" in log


def test_in_a_manual_transaction_the_nodes_are_told(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        heard = client.pubsub()
        heard.psubscribe("manual:*")
        assert heard.get_message(timeout=5)["type"] == "psubscribe"
        code = f"{WAYS['in a manual transaction']}\n{SAVED}"
        log = run(code, TEST_REDIS_URL=redis_server.url, TEST_REDIS_PREFIX="manual")
        assert log == ""
        assert b"recheck" in heard.get_message(timeout=5)["data"]


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
def test_an_operation_of_the_host_never_fails_for_us(code: str) -> None:
    run(code)


def test_a_host_that_allows_it_may_publish_and_save_in_an_event_loop(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """`DJANGO_ALLOW_ASYNC_UNSAFE` is for notebooks, whose cells run in an event loop."""
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
    # An event loop has a connection of its own, so the database must be a file.
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
    run(f"""
from realtime.shortcuts import id_of, personal_channel
assert id_of(User(pk={user})) == {"0" if user == "0" else ""!r}
assert personal_channel(User(pk=0)) == "user:#0"
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
def test_a_task_is_sent_and_runs_whatever_goes_wrong_with_telling(broken: str) -> None:
    assert "a task" in run(broken + TASKS)
