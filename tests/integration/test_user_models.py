"""Nodes are notified whichever model of the host saves a user or ends a session.

Django sends a signal only for the class that was saved. Each host is a separate process: it does
what a case says, and prints what the nodes were told.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.redis_server import RedisServer

ROOT = Path(__file__).resolve().parents[2]
HOST = """
import json, sys
import django
django.setup()
import redis
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection, models
from django.db.models.signals import post_delete, post_save
call_command("migrate", run_syncdb=True, verbosity=0)
client = redis.Redis.from_url(settings.REALTIME_REDIS_URL)
heard = client.pubsub()
heard.psubscribe(f"{settings.REALTIME_REDIS_PREFIX}:*", "end")
def told():
    client.publish("end", "")
    found = []
    while True:
        message = heard.get_message(timeout=5)
        if message["type"] != "pmessage":
            continue
        if message["channel"] == b"end":
            break
        data = message["data"]
        said = json.loads(data[data.index(b"{") :])  # behind the moment
        found.append([said["method"], said["user"]])
    return found
answers = {}
for name, (before, code) in json.loads(sys.argv[1]).items():
    there = dict(globals())
    exec(before, there)
    told()
    exec(code, there)
    answers[name] = told()
print(json.dumps(answers))
"""


def answers_of(host: str, cases: dict[str, Any], server: RedisServer) -> dict[str, Any]:
    """Let a host do what the cases say; return what the nodes were told in each."""
    env = {
        "DJANGO_SETTINGS_MODULE": host,
        "TEST_REDIS_URL": server.url,
        "TEST_REDIS_PREFIX": f"models-{os.getpid()}",
    }
    given = json.dumps({name: (before, code) for name, (before, code, _) in cases.items()})
    done = subprocess.run(
        [sys.executable, "-c", HOST, given], cwd=ROOT, env=os.environ | env,
        capture_output=True, text=True, encoding="utf-8", timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stderr, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# ---------------------------------------------------------------------------- Django's own models

USER = """
from django.contrib.auth.models import User
user = User(id={id}, username="{id}")
user.set_password("x")
user.save()
"""
PROXY = """
class {name}(User):
    class Meta:
        proxy = True
        app_label = "auth"
"""
CHILD = """
from django.contrib.auth.models import User
class {name}(User):
    badge = models.AutoField(primary_key=True)
    user = models.OneToOneField(User, models.CASCADE, parent_link=True)
    class Meta:
        app_label = "auth"
with connection.schema_editor() as editor:
    editor.create_model({name})
"""
PLAIN: dict[str, tuple[str, str, list[list[str]]]] = {
    "a proxy that is defined late saves": (
        USER.format(id=11) + PROXY.format(name="LateProxy"),
        "LateProxy.objects.get(pk=11).save()",
        [["recheck", "11"]],
    ),
    "a proxy deletes": (
        USER.format(id=12) + PROXY.format(name="DeletingProxy"),
        "DeletingProxy.objects.get(pk=12).delete()",
        [["disconnect", "12"]],
    ),
    "a child that is defined late saves": (
        CHILD.format(name="LateChild") + "child = LateChild.objects.create(id=13, username='13')",
        "child.is_active = False\nchild.save(update_fields=['is_active'])",
        [["recheck", "13"]],
    ),
    "a child saves what is no matter": (
        CHILD.format(name="OtherChild") + "child = OtherChild.objects.create(id=14, username='14')",
        "child.save(update_fields=['first_name'])",
        [],
    ),
    "a user is created": ("", USER.format(id=15), []),
    "nobody's row is saved": (
        "from django.contrib.auth.models import Group",
        "Group.objects.create(name='x').save()\nGroup.objects.all().delete()",
        [],
    ),
}


@pytest.fixture(scope="module")
def of_plain(redis_server: RedisServer) -> dict[str, Any]:
    return answers_of("tests.session_settings", PLAIN, redis_server)


@pytest.mark.parametrize("case", PLAIN)
def test_a_user_keeps_connections_by_being_saved_through_another_model(
    of_plain: dict[str, Any], case: str
) -> None:
    assert of_plain[case] == PLAIN[case][2]


# ------------------------------------------------------------------------------ a family of models

MODELS = "from tests.accounts.models import *\n"
CUSTOMER = MODELS + "one = Customer.objects.create(id={id}, username='{id}')\n"
STAFF = MODELS + "one = Staff.objects.create(id={id}, username='{id}')\nassert one.badge != {id}\n"
LOGIN = (
    MODELS
    + """
from tests.accounts.sessions import SessionStore
store = SessionStore()
store["_auth_user_id"] = "{id}"
store.create()
key = store.session_key
"""
)
FAMILY: dict[str, tuple[str, str, list[list[str]]]] = {
    "the user model": (CUSTOMER.format(id=20), "one.save()", [["recheck", "20"]]),
    "a proxy": (
        CUSTOMER.format(id=21),
        "CustomerProxy.objects.get(pk=21).save()",
        [["recheck", "21"]],
    ),
    "the parent": (
        CUSTOMER.format(id=22),
        "Account.objects.get(pk=22).save()",
        [["recheck", "22"]],
    ),
    "a proxy of the parent": (
        CUSTOMER.format(id=23),
        "AccountProxy.objects.get(pk=23).save()",
        [["recheck", "23"]],
    ),
    "a sibling": (
        CUSTOMER.format(id=24) + "Partner(account_ptr=one.account_ptr).save_base(raw=True)",
        "Partner.objects.get(pk=24).save()",
        [["recheck", "24"]],
    ),
    "a sibling that is created over a user": (
        CUSTOMER.format(id=25),
        "Partner(account_ptr=one.account_ptr, username='25').save()",
        [["recheck", "25"]],
    ),
    "a child with a key of its own": (
        "from tests.accounts.models import Staff\nStaff.objects.create(id=99, username='99')\n"
        + STAFF.format(id=26),
        "one.save()",
        [["recheck", "26"]],
    ),
    "a proxy of a child": (
        STAFF.format(id=27),
        "StaffProxy.objects.get(id=27).save()",
        [["recheck", "27"]],
    ),
    "a child that is created over a user": (
        CUSTOMER.format(id=28),
        "Staff(customer=one, username='28').save()",
        [["recheck", "28"]],
    ),
    "a parent that is created": (MODELS, "Account.objects.create(id=29, username='29')", []),
    "a fixture of a child": (
        STAFF.format(id=30),
        "one.save_base(raw=True)",
        [["recheck", "30"]],
    ),
    "deleting a proxy": (
        CUSTOMER.format(id=31),
        "CustomerProxy.objects.filter(pk=31).delete()",
        [["disconnect", "31"]],
    ),
    "deleting the parent": (
        CUSTOMER.format(id=32),
        "Account.objects.filter(pk=32).delete()",
        [["disconnect", "32"]],
    ),
    "deleting a child": (STAFF.format(id=33), "one.delete()", [["disconnect", "33"]]),
    "deleting a child alone": (STAFF.format(id=34), "one.delete(keep_parents=True)", []),
    "a session": (LOGIN.format(id=40), "store.delete()", [["disconnect", "40"]]),
    "a session by a proxy": (
        LOGIN.format(id=41),
        "LoginProxy.objects.get(pk=key).delete()",
        [["disconnect", "41"]],
    ),
    "a session by the parent": (
        LOGIN.format(id=42),
        "Session.objects.filter(pk=key).delete()",
        [["disconnect", "42"]],
    ),
    "rows of other models": (
        CUSTOMER.format(id=50) + "order = Order.objects.create(customer=one)",
        "order.save()\norder.delete()",
        [],
    ),
    "Django deletes rows of other models without fetching them": (
        MODELS,
        "assert not post_save.has_listeners(Order) and not post_delete.has_listeners(Order)",
        [],
    ),
}


@pytest.fixture(scope="module")
def of_family(redis_server: RedisServer) -> dict[str, Any]:
    return answers_of("tests.accounts_settings", FAMILY, redis_server)


@pytest.mark.parametrize("case", FAMILY)
def test_a_permission_is_revoked_through_a_related_model(
    of_family: dict[str, Any], case: str
) -> None:
    assert of_family[case] == FAMILY[case][2]


ENTITLED = """
import json
import django
django.setup()
from django.contrib.auth.models import User
from django.core.management import call_command
call_command("migrate", run_syncdb=True, verbosity=0)
from realtime.auth import sessions
from realtime.core.identity import Identity
ada = User.objects.create(username="ada")
[stamp] = sessions._stamps(ada)
others = ("2", "9" * 30, "-" + "9" * 30, "9" * 5000, "ada", "")
identities = [Identity(user, stamp=stamp) for user in (str(ada.pk), *others)]
print(json.dumps(sessions.still_entitled(identities)))
"""


def test_an_impossible_id_in_a_token_of_this_site_does_not_end_the_checks_of_others() -> None:
    """SQLite raised an OverflowError for all users of the node."""
    done = subprocess.run(
        [sys.executable, "-c", ENTITLED], cwd=ROOT, capture_output=True, text=True, timeout=120,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.session_settings"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [True, *[False] * 6]
