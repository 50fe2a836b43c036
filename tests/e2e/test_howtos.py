"""Follows the pages of docs/howto: one project with the files of all of them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, Page

from tests.e2e.test_sdks import tells_what_was_missed
from tests.support.celery_worker import CeleryWorker
from tests.support.eventually import eventually
from tests.support.host import Host, files_of
from tests.support.overheard_channel import Heard
from tests.support.pages import becomes_true, in_browser_loop, own_contexts
from tests.support.push_service import push_service
from tests.support.receivers import mail_server
from tests.support.redis_server import RedisServer
from tests.support.service import KEY, ROOT, Service

HOWTO = ROOT / "docs" / "howto"
PAGES = ("view", "model-signal", "celery", "management-command")
USER = "from django.contrib.auth.models import User; ada = User.objects.create(username='ada');"


class Project(Host):
    """A project with the files that the pages show."""

    def python(self, code: str) -> str:
        return self.run("manage.py", "shell", "--no-imports", "-v", "0", "-c", USER + code)


@pytest.fixture(scope="module")
def made(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("howto")
    project = Project(folder, f"{folder}:{ROOT}", redis.url)
    for page in ("django-host", *PAGES):
        files = files_of(text_of(page))
        assert files
        project.write(files)
    project.run("manage.py", "makemigrations", "orders")
    return project


@pytest.fixture
def project(made: Project) -> Project:
    """The project, with an empty database."""
    (made.folder / "db.sqlite3").unlink(missing_ok=True)
    made.run("manage.py", "migrate")
    return made


def text_of(page: str) -> str:
    return (HOWTO / f"{page}.md").read_text()


def printed_by(line: str) -> str:
    """Run a line of a page that needs no project, and return what it prints."""
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.webpush_settings"}
    command = [sys.executable, "-m", "django", *line.split()[2:]]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def lines_of(page: str) -> str:
    """Return the shell lines of a page."""
    [lines] = re.findall(r"^```sh\n(.*?)^```$", text_of(page), re.M | re.S)
    return lines.strip()


def test_every_howto_is_listed() -> None:
    listed = set(re.findall(r"\(([\w-]+)\.md\)", text_of("README")))
    assert listed == {path.stem for path in HOWTO.glob("*.md")} - {"README"}


def test_from_a_view(project: Project, heard: Heard) -> None:
    code = (
        "from orders.models import Order; order = Order.objects.create(user=ada);"
        "from django.test import Client; client = Client(SERVER_NAME='localhost');"
        "print(client.post(f'/orders/{order.pk}/ship/').json())"
    )
    assert "{'nodes': 0, 'mailed': True}" in project.python(code)
    assert {"title": "Shipped", "text": "Order 1 is on its way."} in heard.data_on("user:#1")


def test_from_the_signal_of_a_model(project: Project, heard: Heard) -> None:
    code = """
from django.db import transaction
from orders.models import Order
order = Order.objects.create(user=ada)
try:
    with transaction.atomic():
        order.state = "lost"
        order.save()
        raise KeyError
except KeyError:
    order.state = "shipped"
    order.save()
"""
    project.python(code)
    states = [data["state"] for data in heard.data_on("user:#1")]
    assert states == ["new", "shipped"]


def test_from_a_celery_task(project: Project, heard: Heard, tmp_path: Path) -> None:
    env = {**project.env, "DJANGO_SETTINGS_MODULE": "mysite.settings"}
    worker = CeleryWorker(tmp_path / "log", app="mysite", cwd=project.folder, **env)
    try:
        worker.wait_until_ready()
        code = (
            "from orders.models import Order; [Order.objects.create(user=ada) for _ in range(3)];"
            "from orders.tasks import ship_all; ship_all.start(live_user=ada)"
        )
        project.python(code)
        states = heard.until("user:#1", "succeeded", seconds=20)
    finally:
        worker.kill()
    words = [data["state"] for data in states if "task" in data]
    assert words[:2] == ["waiting", "started"]
    assert states[-1]["message"] == "3 orders shipped."


def test_from_a_management_command(project: Project, heard: Heard) -> None:
    project.python("from orders.models import Order; Order.objects.create(user=ada)")
    assert "1 shipped, 0 nodes listened" in project.run("manage.py", "ship_new")
    line = lines_of("management-command").replace("python", sys.executable, 1)
    project.shell(["sh", "-c", line])
    assert heard.data_on("orders:all") == [{"shipped": 1}, {"shipped": 3}]


def test_from_cron(project: Project, heard: Heard) -> None:
    """The line as cron passes it to the shell: without the time, and with its percent signs."""
    line = lines_of("cron").split("&&", 1)[1].replace(r"\%", "%")
    line = line.replace(".venv/bin/python", sys.executable)
    first, again = [json.loads(project.shell(["sh", "-c", line])) for _ in range(2)]
    assert again == first | {"repeated": True}
    assert heard.data_on("orders:all") == [{"text": "Good morning"}]


def test_from_any_other_language(redis: RedisServer, serve: Any, heard: Heard) -> None:
    namespaces = '{"orders": {}}'
    service: Service = serve(redis.url, "deployed", NOTIFIER_NAMESPACES=namespaces)
    env = {**os.environ, "URL": service.http, "KEY": "test-key"}
    for _ in range(2):
        done = subprocess.run(
            ["sh", "-c", lines_of("any-language")], env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["result"]["offset"] >= 1
    assert heard.data_on("orders:all") == [{"number": 7}]


def test_a_page_can_follow_any_other(redis: RedisServer, tmp_path: Path) -> None:
    """None takes an address or a field away that another one needs."""
    host = live_project(redis, tmp_path, "view")
    for page in ("live-page", "htmx", "admin", "model-signal", "template-tag", "testing", "view"):
        host.write(files_of(text_of(page)))
        host.run("manage.py", "makemigrations", "--check")  # it checks the project, too
        assert '"admin/"' in (host.folder / "mysite/urls.py").read_text()


# --- live pages; each changes the project of django-host ---


def live_project(redis: RedisServer, folder: Path, page: str) -> Host:
    """Create the project of `django-host`, then follow a page."""
    host = Host(folder, f"{folder}:{ROOT}", redis.url)
    host.write(files_of(text_of("django-host")))
    host.write(files_of(text_of(page)))
    host.run("manage.py", "makemigrations", "orders")
    host.run("manage.py", "migrate")
    return host


RUNSERVER = ("manage.py", "runserver", "--noreload")


@asynccontextmanager
async def windows(chromium: Browser, url: str, until: str) -> AsyncIterator[list[Page]]:
    """Open two windows, and wait for the DOM event that says that each is live."""
    async with own_contexts(chromium) as browser:
        opened = [await browser.new_page() for _ in range(2)]
        for page in opened:
            await page.add_init_script(
                f"document.addEventListener('{until}', () => {{ window.isLive = true; }})"
            )
            await page.goto(url)
            await becomes_true(page, "window.isLive")
        yield opened


@pytest.mark.browser
@in_browser_loop
async def test_a_live_page_by_one_tag(
    redis: RedisServer, tmp_path: Path, chromium: Browser
) -> None:
    host = await asyncio.to_thread(live_project, redis, tmp_path, "template-tag")
    with host.served(tmp_path / "log", *RUNSERVER) as url:
        async with windows(chromium, f"{url}/orders/", "realtime:subscribed") as (page, other):
            await page.get_by_role("button").click()
            await other.get_by_text("order.shipped: 1042").wait_for()


@pytest.fixture(scope="module")
def live_page(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Host:
    host = live_project(redis, tmp_path_factory.mktemp("live"), "live-page")
    with (host.folder / "mysite/settings.py").open("a", encoding="utf-8") as settings:
        settings.write(f'REALTIME_API_KEY = "{KEY["X-API-Key"]}"\n')
    code = "from orders.models import Order; Order.objects.create(title='A bicycle')"
    host.run("manage.py", "shell", "--no-imports", "-v", "0", "-c", code)
    return host


@pytest.mark.node
def test_centrifuge_js_since_the_position_of_a_page(live_page: Host, tmp_path: Path) -> None:
    with live_page.served(tmp_path / "log", *RUNSERVER) as url, httpx.Client(base_url=url) as page:
        read = page.get("/orders.json").json()["position"]
        body = {"channel": "orders:all", "data": "in between"}
        assert page.post("/live/api/publish", json=body, headers=KEY).status_code == 200
        now = page.get("/orders.json").json()["position"]
        assert now["offset"] == read["offset"] + 1
        sockets = f"{url.replace('http', 'ws', 1)}/connection/websocket"
        tells_what_was_missed(sockets, "orders:all", read, now)


def test_a_live_page_that_misses_nothing(live_page: Host, tmp_path: Path) -> None:
    """tests/e2e/test_live_pages.py tests this in a browser."""
    host = live_page
    with host.served(tmp_path / "log", *RUNSERVER) as url, httpx.Client(base_url=url) as page:
        shown = page.get("/orders/").text
        [config] = re.findall(r'<script id="realtime-config"[^>]*>(.*?)</script>', shown)
        position = json.loads(config)["positions"]["orders:all"]
        rows = page.get("/orders/rows/")
        known = {"If-None-Match": rows.headers["etag"]}
        assert page.get("/orders/rows/", headers=known).status_code == 304
        [csrf] = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', shown)
        assert page.post("/orders/1/ship/", data={"csrfmiddlewaretoken": csrf}).is_redirect
        assert "A bicycle: shipped" in page.get("/orders/rows/", headers=known).text
        [config] = re.findall(r"realtime-config[^>]*>(.*?)</script>", page.get("/orders/").text)
        now = json.loads(config)["positions"]["orders:all"]
        assert (now["epoch"], now["offset"]) == (position["epoch"], position["offset"] + 1)
        fetched = page.get("/orders.json").json()
        assert fetched["orders"] == [{"title": "A bicycle", "state": "shipped"}]
        assert fetched["position"] == now
        body = {"channels": ["orders:all"]}
        asked = page.post("/live/api/position", json=body, headers=KEY)
        assert asked.json()["result"]["positions"] == {"orders:all": now}


@pytest.mark.browser
@in_browser_loop
async def test_with_web_push(redis: RedisServer, tmp_path: Path, chromium: Browser) -> None:
    """tests/e2e/test_webpush.py tests what a push service gets."""
    [key] = re.findall(r'"(.+)"', printed_by(lines_of("webpush")))
    host = await asyncio.to_thread(Host, tmp_path, f"{tmp_path}:{ROOT}", redis.url)
    host.env["WEBPUSH_PRIVATE_KEY"] = key
    host.write([*files_of(text_of("django-host")), *files_of(text_of("webpush"))])
    await asyncio.to_thread(host.run, "manage.py", "migrate")
    with host.served(tmp_path / "log", *RUNSERVER) as url:
        async with own_contexts(chromium) as browser:
            page = await browser.new_page()
            problems: list[Any] = []
            page.on("pageerror", lambda problem: problems.append(problem))
            answer = await page.goto(f"{url}/webpush/config/")
            assert answer is not None
            assert answer.status == 401, "guests have nothing to be notified of"
            await page.goto(f"{url}/orders/")
            await page.wait_for_load_state("networkidle")
            # The headless shell denies notifications, so there is nothing to ask.
            assert await page.locator("#notify").is_hidden()
            assert not problems


LOGIN = """
from django.contrib.auth.models import User
from django.test import Client
from orders.models import Order
ada = User.objects.create(username="ada", email="ada@example.com")
for title in ("A bicycle", "A lamp", "A boat"):
    Order.objects.create(title=title, user=ada)
client = Client()
client.force_login(ada)
print(client.cookies["sessionid"].value)
"""


@pytest.mark.browser
@in_browser_loop
async def test_an_order_that_reaches_its_customer(
    redis: RedisServer, tmp_path: Path, chromium: Browser
) -> None:
    """The page while it is open, then the browser behind a push service, then the mail."""
    [key] = re.findall(r'"(.+)"', printed_by("python manage.py webpush_keys"))
    host = await asyncio.to_thread(Host, tmp_path, f"{tmp_path}:{ROOT}", redis.url)
    host.env["WEBPUSH_PRIVATE_KEY"] = key
    host.write([*files_of(text_of("django-host")), *files_of(text_of("reach-a-customer"))])
    with mail_server() as mails, push_service() as push:
        with (tmp_path / "mysite/settings.py").open("a", encoding="utf-8") as settings:
            settings.write("REALTIME_WEBPUSH_ALLOW_PRIVATE = True\n")
            settings.write(f"EMAIL_HOST, EMAIL_PORT = '127.0.0.1', {mails.port}\n")
        for command in (["makemigrations", "orders"], ["migrate"]):
            await asyncio.to_thread(host.run, "manage.py", *command)
        shell = ("manage.py", "shell", "--no-imports", "-v", "0", "-c", LOGIN)
        session = (await asyncio.to_thread(host.run, *shell)).strip()
        command = (sys.executable, "manage.py", "runfallback")
        worker = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, env=host.env)
        try:
            with host.served(tmp_path / "log", *RUNSERVER) as url:
                cookies = {"sessionid": session}
                async with (
                    httpx.AsyncClient(base_url=url, cookies=cookies, timeout=60) as customer,
                    own_contexts(chromium) as browser,
                ):

                    async def post(path: str, body: Any = None) -> None:
                        csrf = (await customer.get("/webpush/config/")).json()["csrf"]
                        headers = {"X-CSRFToken": csrf}
                        answer = await customer.post(path, json=body, headers=headers)
                        assert answer.status_code in (200, 201), answer.text

                    context = await browser.new_context()
                    await context.add_cookies([{"name": "sessionid", "value": session, "url": url}])
                    page = await context.new_page()
                    subscription = push.add("phone")
                    await post("/webpush/subscribe/", subscription)
                    await page.goto(f"{url}/orders/")
                    await eventually(lambda: not is_unheard(redis, "user:#1"))
                    await post("/orders/1/ship/")
                    await page.get_by_text("Shipped: A bicycle is on its way.").wait_for()
                    await page.close()
                    await eventually(lambda: is_unheard(redis, "user:#1"))
                    await post("/orders/2/ship/")
                    phone = await asyncio.to_thread(push.wait_for, "phone")
                    assert [each["body"] for each in phone.messages] == ["A lamp is on its way."]
                    phone.status = 410
                    await post("/orders/3/ship/")
                    await eventually(lambda: mails.mails.got, seconds=60)
        finally:
            worker.terminate()
            assert await worker.wait() == 0
    [mail] = mails.mails.got
    assert (mail["To"], mail["Subject"]) == ("ada@example.com", "Shipped")
    assert "A boat is on its way." in mail.get_content()


def is_unheard(redis: RedisServer, channel: str) -> bool:
    """Tell whether no node is subscribed to a channel of the usual prefix."""
    with redis.client() as client:
        return client.pubsub_numsub(f"rt:{{0}}:ch:{channel}")[0][1] == 0  # type: ignore[no-any-return]


@pytest.mark.browser
@in_browser_loop
async def test_with_an_outbox(redis: RedisServer, tmp_path: Path, chromium: Browser) -> None:
    """tests/faults/test_outbox.py tests what is certain."""
    host = await asyncio.to_thread(live_project, redis, tmp_path, "outbox")
    code = "from orders.models import Order; Order.objects.create(title='A bicycle')"
    await asyncio.to_thread(host.run, "manage.py", "shell", "--no-imports", "-v", "0", "-c", code)
    line = lines_of("outbox").replace("python", sys.executable, 1)
    worker = await asyncio.create_subprocess_exec(*line.split(), cwd=host.folder, env=host.env)
    try:
        with host.served(tmp_path / "log", *RUNSERVER) as url:
            async with windows(chromium, f"{url}/orders/", "live") as (page, other):
                await page.get_by_role("button", name="Ship it").click()
                await other.get_by_text("shipped: 1").wait_for()
    finally:
        worker.terminate()
        assert await worker.wait() == 0


def test_with_jinja2(redis: RedisServer, tmp_path: Path) -> None:
    host = live_project(redis, tmp_path, "jinja2")
    code = (
        "from django.test import RequestFactory; from orders.views import shipped;"
        "print(shipped(RequestFactory().get('/orders/')).text)"
    )
    shown = host.run("manage.py", "shell", "--no-imports", "-v", "0", "-c", code)
    assert '"channels": ["orders:all"]' in shown
    assert '<script type="module" src="/static/realtime/page.js"></script>' in shown


@pytest.mark.browser
@in_browser_loop
async def test_with_htmx(redis: RedisServer, tmp_path: Path, chromium: Browser) -> None:
    host = await asyncio.to_thread(live_project, redis, tmp_path, "htmx")
    code = "from orders.models import Order; Order.objects.create(title='A <b>red</b> bicycle')"
    await asyncio.to_thread(host.run, "manage.py", "shell", "--no-imports", "-v", "0", "-c", code)
    with host.served(tmp_path / "log", *RUNSERVER) as url:
        async with windows(chromium, f"{url}/orders/", "htmx:sseOpen") as opened:
            for page in opened:
                await page.get_by_text("A <b>red</b> bicycle: new").wait_for()
            attack = json.dumps("<b class=evil hx-post='/orders/1/ship/' hx-trigger=load>x</b>")
            publish = ("manage.py", "publish", "orders:all", attack, "--event", "order.shipped")
            await asyncio.to_thread(host.run, *publish)
            await opened[0].get_by_role("button", name="Ship it").click()
            for page in opened:
                await page.get_by_text("A <b>red</b> bicycle was shipped").wait_for()
                await page.get_by_text("A <b>red</b> bicycle: shipped").wait_for()
                assert await page.locator(".evil").count() == 0, "a publication is not markup"
