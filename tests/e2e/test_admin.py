"""The pages of `realtime.contrib.admin` in a foreign project that follows docs/howto/admin.md."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from html import unescape
from typing import Any, NamedTuple

import httpx
import pytest
import redis as redis_py
from playwright.async_api import Browser
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from realtime.brokers.queue_commands import QueueCommands
from realtime.core.fallback_entry import decode_entry
from tests.e2e.test_howtos import RUNSERVER, live_project, text_of
from tests.support.eventually import eventually_sync
from tests.support.host import Host, files_of
from tests.support.pages import in_browser_loop, own_contexts
from tests.support.redis_server import RedisServer

Browse = Callable[[str], httpx.Client]
KEYS = QueueCommands("rt").keys
SETTINGS = """
# Django logs each 403 with a traceback; any other traceback of a served project is an error.
LOGGING = {"version": 1, "disable_existing_loggers": False}
LOGGING["loggers"] = {"django.request": {"level": "ERROR"}}
"""
STAFF = """
import json
from django.contrib.auth.models import Permission, User
from django.test import Client

def session_of(name, *permissions, **flags):
    user = User.objects.create_user(name, is_staff=True, **flags)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client.cookies["sessionid"].value

views = ("view_deadletter", "view_liveuser", "view_livechannel")
print(json.dumps({
    "root": session_of("root", is_superuser=True),
    "viewer": session_of("viewer", *views),
    "repairer": session_of("repairer", *views, "retry_deadletter"),
    "nobody": session_of("nobody"),
}))
"""
EACH_COMMAND = """
from django.core.management import call_command
call_command("makemigrations", check_changes=True, dry_run=True)
call_command("dumpdata", use_base_manager=True)
call_command("check", fail_level="WARNING")
"""
EACH_PAGE = """
import json
from django.contrib.auth.models import User
from django.test import Client
client = Client(headers={"Host": "127.0.0.1"})
client.force_login(User.objects.get(username="root"))
start = "/admin/realtime_admin/"
pages = ["deadletter/", "liveuser/", "liveuser/user/?id=7", "livechannel/",
         "livechannel/channel/?name=orders:all"]
answers = [client.get(start + page) for page in pages]
def post(page, **fields):
    answers.append(client.post(start + page, fields, follow=True))

post("deadletter/", action="retry", selected="a")
post("liveuser/user/", id="7", confirmed="yes")
print(json.dumps([[answer.status_code, answer.text] for answer in answers]))
"""
ATTACK = "<script>window.evil = 1</script>"


class Site(NamedTuple):
    """The project while it runs."""

    host: Host
    url: str
    sessions: dict[str, str]
    store: Any
    """The Redis of the project."""


@pytest.fixture(scope="module")
def site(redis_of_module: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("admin")
    host = live_project(redis_of_module, folder, "admin")
    with (folder / "mysite/settings.py").open("a") as file:
        file.write(SETTINGS)
    sessions = json.loads(shell(host, STAFF))
    store = redis_py.Redis.from_url(redis_of_module.url)
    with host.served(folder / "log", *RUNSERVER) as url:
        yield Site(host, url, sessions, store)
    store.close()


@pytest.fixture(scope="module")
def redis_of_module() -> Iterator[RedisServer]:
    server = RedisServer().start()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _empty_queue(site: Site) -> None:
    site.store.delete(*KEYS)


def shell(host: Host, code: str) -> str:
    return host.run("manage.py", "shell", "--no-imports", "-v", "0", "-c", code)


@pytest.fixture
def browse(site: Site) -> Iterator[Browse]:
    """Return browsers with a logged-in user and a CSRF cookie."""
    opened: list[httpx.Client] = []

    def open_browser(user: str) -> httpx.Client:
        client = httpx.Client(base_url=f"{site.url}/admin/realtime_admin/", follow_redirects=True)
        client.cookies.update({"sessionid": site.sessions[user], "csrftoken": "c" * 32})
        opened.append(client)
        return client

    yield open_browser
    for client in opened:
        client.close()


def post(client: httpx.Client, address: str, /, **fields: Any) -> httpx.Response:
    return client.post(address, data={"csrfmiddlewaretoken": "c" * 32, **fields})


def letter(number: int, **more: Any) -> bytes:
    said = {
        "epoch": "e", "offset": number, "at": 1, "channel": "orders:all", "fallback": "log",
        "data": {"n": number}, "reason": "the mail server said no", "failed_at": 2, **more,
    }  # fmt: skip
    return b"5 " + json.dumps(said).encode()


def keys_on(page: httpx.Response) -> list[str]:
    return re.findall(r'name="selected" value="(\w+)"', page.text)


def dead(site: Site) -> list[str]:
    return [decode_entry(raw).id for raw in site.store.lrange(KEYS.dead, 0, -1)]


@contextmanager
def online(site: Site, user: str) -> Iterator[tuple[Any, str]]:
    """Connect a user; yield the socket and the ID of the connection."""
    address = f"{site.url.replace('http', 'ws')}/connection/websocket"
    cookie = {"Cookie": f"sessionid={site.sessions[user]}"}
    with connect(address, additional_headers=cookie, origin=site.url) as socket:  # type: ignore[arg-type]
        socket.send('{"id": 1, "connect": {}}')
        yield socket, json.loads(str(socket.recv(timeout=10)).split("\n")[0])["connect"]["client"]


# --- a guest of the project ---


def test_the_index_lists_the_pages_for_those_who_may_view_them(site: Site, browse: Browse) -> None:
    titles = ("Dead letters", "Live users", "Channels")
    for user, is_listed in (("root", True), ("viewer", True), ("nobody", False)):
        text = browse(user).get(f"{site.url}/admin/").text
        assert [title in text for title in titles] == [is_listed] * 3


def test_the_project_needs_no_migration_and_no_table(site: Site) -> None:
    said = shell(site.host, EACH_COMMAND)
    assert "No changes detected" in said
    assert "auth.permission" in said
    assert "realtime_admin.deadletter" not in said


# --- permissions ---


@pytest.mark.parametrize("page", ["deadletter/", "liveuser/", "liveuser/user/", "livechannel/"])
def test_a_page_refuses_staff_without_its_permission(site: Site, browse: Browse, page: str) -> None:
    assert browse("nobody").get(page).status_code == 403
    assert post(browse("nobody"), page, action="purge", id="1").status_code == 403
    stranger = httpx.get(f"{site.url}/admin/realtime_admin/{page}")
    assert stranger.is_redirect
    assert "/login/" in stranger.headers["location"]


def test_an_action_refuses_those_who_may_only_view(site: Site, browse: Browse) -> None:
    site.store.rpush(KEYS.dead, letter(1))
    viewer, repairer = browse("viewer"), browse("repairer")
    page = viewer.get("deadletter/")
    assert "Retry selected" not in page.text
    [key] = keys_on(page)
    for client, action in ((viewer, "retry"), (viewer, "purge"), (repairer, "purge")):
        answer = post(client, "deadletter/", action=action, selected=key, confirmed="yes")
        assert answer.status_code == 403
    assert post(viewer, "liveuser/user/", id="1", confirmed="yes").status_code == 403
    assert dead(site) == ["e-1"]


@pytest.mark.parametrize("page", ["deadletter/", "liveuser/user/"])
def test_a_form_of_another_site_is_refused(site: Site, browse: Browse, page: str) -> None:
    fields = {"action": "retry", "selected": "a", "id": "1", "confirmed": "yes"}
    assert browse("root").post(page, data=fields).status_code == 403


# --- dead letters ---


def test_a_dead_letter_is_retried(site: Site, browse: Browse) -> None:
    site.store.rpush(KEYS.dead, letter(1), letter(2))
    client = browse("repairer")
    page = client.get("deadletter/")
    assert "the mail server said no" in page.text
    answer = post(client, "deadletter/", action="retry", selected=keys_on(page)[1])
    assert "1 dead letter was queued again." in answer.text
    [raw] = site.store.lrange(KEYS.waiting, 0, -1)
    assert (decode_entry(raw).id, decode_entry(raw).failures, dead(site)) == ("e-2", 0, ["e-1"])
    answer = post(client, "deadletter/", action="retry", selected=keys_on(page)[1])
    assert "Not among the dead letters any more: 1" in answer.text
    assert "e-2" in client.get(f"{site.url}/admin/").text, "the log names it"


def test_purging_asks_first(site: Site, browse: Browse) -> None:
    site.store.rpush(KEYS.dead, letter(1), letter(2), letter(3))
    client = browse("root")
    chosen = keys_on(client.get("deadletter/"))[:2]
    asked = post(client, "deadletter/", action="purge", selected=chosen)
    assert "permanently" in asked.text
    assert len(dead(site)) == 3, "nothing happens before the answer"
    assert keys_on(asked) == chosen
    answer = post(client, "deadletter/", action="purge", selected=chosen, confirmed="yes")
    assert "2 dead letters were purged." in answer.text
    assert dead(site) == ["e-3"]


def test_a_page_has_a_hundred_rows_and_finds_those_that_moved_meanwhile(
    site: Site, browse: Browse
) -> None:
    site.store.rpush(KEYS.dead, *(letter(n) for n in range(101)))
    client = browse("root")
    assert len(keys_on(client.get("deadletter/"))) == 100
    last = client.get("deadletter/?p=2")
    [key] = keys_on(last)
    assert "Page 2 of 2 (101 in total)" in last.text
    site.store.lpop(KEYS.dead)  # now it is on the first page
    answer = post(client, "deadletter/", action="retry", selected=key, p="2")
    assert "1 dead letter was queued again." in answer.text
    shown = re.findall(r'name="shown" value="(\w+)"', client.get("deadletter/").text)
    answer = post(client, "deadletter/", action="retry all", shown=shown)
    assert "99 dead letters were queued again." in answer.text
    assert client.get("deadletter/?p=nonsense").status_code == 200
    assert post(client, "deadletter/", action="retry", selected="a", p="9" * 6).status_code == 200


def test_what_anyone_may_have_written_is_escaped(site: Site, browse: Browse) -> None:
    hostile = letter(
        1, channel=ATTACK, fallback=ATTACK, reason=ATTACK, data=ATTACK, epoch=f"{ATTACK}\0"
    )
    site.store.rpush(KEYS.dead, hostile, ATTACK, b"\xff", letter(2, at=10**18, data="x" * 9000))
    client = browse("root")
    page = client.get("deadletter/")
    assert ATTACK not in page.text
    assert ATTACK in unescape(page.text)
    assert "x" * 1001 not in page.text
    chosen = keys_on(page)
    assert len(chosen) == 4
    asked = post(client, "deadletter/", action="purge", selected=chosen)
    assert ATTACK not in asked.text
    answer = post(client, "deadletter/", action="retry", selected=chosen)
    assert "Not readable, so they can only be purged: 2" in answer.text
    post(client, "deadletter/", action="purge", selected=chosen, confirmed="yes")
    assert site.store.llen(KEYS.dead) == 0
    log = client.get(f"{site.url}/admin/").text
    assert (ATTACK in log, f"{ATTACK}\\x00" in unescape(log)) == (False, True)
    for address in ("livechannel/?q=", "livechannel/channel/?name=", "liveuser/user/?id="):
        answer = client.get(address + ATTACK)
        assert (answer.status_code, ATTACK in answer.text) == (200, False)
    asked = post(client, "liveuser/user/", id=ATTACK, client=ATTACK)
    assert (asked.status_code, ATTACK in asked.text) == (200, False)


# --- users and channels ---


def test_a_connection_of_a_user_is_closed(site: Site, browse: Browse) -> None:
    client = browse("root")
    with online(site, "root") as (first, one), online(site, "root") as (second, other):
        eventually_sync(lambda: one in client.get("liveuser/user/?id=1").text)
        eventually_sync(lambda: other in client.get("liveuser/user/?id=1").text)
        assert re.search(r"<bdi>1</bdi></a></th>\s*<td>2</td>", client.get("liveuser/").text)
        asked = post(client, "liveuser/user/", id="1", client=one)
        assert f"This closes the connection <bdi>{one}</bdi>" in asked.text
        answer = post(client, "liveuser/user/", id="1", client=one, confirmed="yes")
        assert "The command to disconnect was sent" in answer.text
        assert closed(first) == 3503
        eventually_sync(lambda: one not in client.get("liveuser/user/?id=1").text)
        assert other in client.get("liveuser/user/?id=1").text
        post(client, "liveuser/user/", id="1", confirmed="yes")
        assert closed(second) == 3503
    assert "Disconnected" in shell(
        site.host,
        "from django.contrib.admin.models import LogEntry;"
        "print([entry.change_message for entry in LogEntry.objects.all()])",
    )


def closed(socket: Any) -> int:
    """Read until the connection ends; return the close code."""
    with suppress(ConnectionClosed):
        for _ in socket:
            pass
    return int(socket.close_code)


def test_channels_are_found_and_show_who_is_on_them(site: Site, browse: Browse) -> None:
    client = browse("viewer")
    with online(site, "viewer") as (socket, own):
        socket.send('{"id": 2, "subscribe": {"channel": "orders:all"}}')
        eventually_sync(lambda: "orders:all" in client.get("livechannel/").text)
        assert "orders:all" in client.get("livechannel/?q=ders").text
        assert "orders:all" not in client.get("livechannel/?q=chat:*").text
        text = client.get("livechannel/channel/?name=orders:all").text
        assert "1 connection is on this channel." in text
        assert "enable “presence”" in text
        personal = {"name": "user:#2"}
        eventually_sync(lambda: own in client.get("livechannel/channel/", params=personal).text)
        text = client.get("livechannel/channel/", params=personal).text
        assert 'href="/admin/realtime_admin/liveuser/user/?id=2"' in text


# --- other brokers ---


def test_pages_say_that_redis_is_away(site: Site) -> None:
    away = copy(site.host)
    away.env = away.env | {"REDIS_URL": "unix:///nowhere.sock"}
    answers = json.loads(shell(away, EACH_PAGE).splitlines()[0])  # the log follows
    for status, text in answers:
        assert status == 200
        assert "Redis cannot be reached at present." in text
        assert "nowhere.sock" not in text


def test_pages_work_with_the_broker_inside_the_process(site: Site) -> None:
    alone = copy(site.host)
    alone.env = alone.env | {"REDIS_URL": "memory://"}
    answers = json.loads(shell(alone, EACH_PAGE))
    assert [status for status, _ in answers] == [200] * 7
    assert not any("errornote" in text for _, text in answers)


# --- in a browser ---


@pytest.mark.browser
@in_browser_loop
async def test_a_person_purges_a_dead_letter(site: Site, chromium: Browser) -> None:
    site.store.rpush(KEYS.dead, letter(1, data=ATTACK, channel=ATTACK), letter(2))
    async with own_contexts(chromium) as browser:
        page = await browser.new_page()
        cookie = {"name": "sessionid", "value": site.sessions["root"], "url": site.url}
        await page.context.add_cookies([cookie])  # type: ignore[list-item]
        await page.goto(f"{site.url}/admin/realtime_admin/deadletter/")
        await page.get_by_label("e-1").check()
        await page.get_by_role("button", name="Purge selected").click()
        await page.get_by_role("button", name="Purge").click()
        await page.get_by_text("1 dead letter was purged.").wait_for()
        assert await page.evaluate("window.evil") is None
    assert dead(site) == ["e-2"]


def test_the_documentation_names_each_permission() -> None:
    text = text_of("admin")
    assert files_of(text)
    for name in ("retry_deadletter", "purge_deadletter", "disconnect_liveuser", "view_livechannel"):
        assert name in text
