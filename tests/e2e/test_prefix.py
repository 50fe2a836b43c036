"""A project behind a real nginx at ``/app/live/``, with the prefix stripped or kept."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import httpx
import pytest
from playwright.async_api import Browser, Error
from websockets.asyncio.client import connect

from tests.conftest import NGINX
from tests.support.eventually import eventually_sync
from tests.support.pages import in_browser_loop, own_contexts
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.service import KEY, ROOT, Service

pytestmark = pytest.mark.nginx
# Its workers run as another user, if it is started by root: one that may not read this checkout.
USER = "user root;" if os.geteuid() == 0 else ""
CONF = """
{user} daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}
http {{
    access_log off; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b;
    fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
    proxy_set_header Host $http_host;
    types {{ text/javascript js; }}
    server {{
        listen 127.0.0.1:{strips};
        location /app/live/ {{ proxy_pass {service}/; }}
        location /app/live/static/ {{ alias {static}/; }}
    }}
    server {{
        listen 127.0.0.1:{keeps};
        location /app/live/ {{ proxy_pass {service}; }}
        location /app/live/static/ {{ alias {static}/; }}
    }}
}}
"""


@pytest.fixture(scope="module")
def ports(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, int]]:
    """The ports of an nginx that strips the prefix, and of one that keeps it."""
    folder = tmp_path_factory.mktemp("nginx")
    env = {"DJANGO_SETTINGS_MODULE": "tests.prefix_settings"}
    service = Service(redis_server.url, app="tests.asgi_endpoint:application", **env).start()
    found = {"strips": free_port(), "keeps": free_port()}
    conf = folder / "nginx.conf"
    static = ROOT / "realtime" / "static"
    conf.write_text(
        CONF.format(user=USER, folder=folder, service=service.http, static=static, **found)
    )
    nginx = subprocess.Popen([str(NGINX), "-c", str(conf)], stderr=subprocess.DEVNULL)
    try:
        eventually_sync(lambda: (folder / "pid").exists())
        yield found
    finally:
        nginx.terminate()
        nginx.wait(timeout=60)
        service.stop()


@pytest.mark.parametrize("proxy", ["strips", "keeps"])
async def test_every_door_is_open_below_a_prefix(ports: dict[str, int], proxy: str) -> None:
    site = f"http://127.0.0.1:{ports[proxy]}"
    channel = f"chat:{proxy}"
    async with httpx.AsyncClient(base_url=f"{site}/app/live", timeout=30) as client:
        assert (await client.get("/readyz")).json()["status"] == "live"
        description = (await client.get("/api/openapi.json")).json()
        assert description["servers"] == [{"url": "/app/live"}]
        assert (await client.post("/emulation", json={})).status_code == 400
        websocket = f"{site.replace('http', 'ws')}/app/live/connection/websocket"
        async with (
            client.stream("GET", f"/connection/sse?channel={channel}") as stream,
            connect(websocket, origin=site) as page,  # type: ignore[arg-type]
        ):
            assert stream.status_code == 200
            await page.send(
                f'{{"id":1,"connect":{{}}}}\n{{"id":2,"subscribe":{{"channel":"{channel}"}}}}'
            )
            said = ""
            while '"id":2' not in said:
                said = str(await page.recv())
            answer = await client.post(
                "/api/publish", json={"channel": channel, "data": 1}, headers=KEY
            )
            assert answer.status_code == 200
            assert json.loads(await page.recv())["push"]["pub"]["data"] == 1
            async for line in stream.aiter_lines():
                if line == "data: 1":
                    break


@pytest.mark.browser
@in_browser_loop
@pytest.mark.parametrize("kind", ["client", "module", "stream"])
@pytest.mark.parametrize("proxy", ["strips", "keeps"])
async def test_a_page_of_each_template_tag_connects_below_a_prefix(
    ports: dict[str, int], chromium: Browser, proxy: str, kind: str
) -> None:
    base = f"http://127.0.0.1:{ports[proxy]}/app/live"
    channel = f"public:{proxy}-{kind}"
    complaints: list[str] = []
    async with own_contexts(chromium) as browser, httpx.AsyncClient(timeout=30) as http:
        page = await browser.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(f"{base}/page/{kind}/{channel}")
        try:
            await page.get_by_text("listens").wait_for(timeout=60_000)
            published = {"channel": channel, "data": "it works"}
            answer = await http.post(f"{base}/api/publish", json=published, headers=KEY)
            assert answer.json()["result"]["nodes"] == 1
            await page.get_by_text("heard it works").wait_for(timeout=60_000)
        except Error:
            raise AssertionError(f"{complaints}; {await page.content()}") from None
        assert complaints == []
