"""A project that a real nginx serves below ``/app/live/``, whether it strips that prefix or not."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.conftest import NGINX
from tests.support.eventually import eventually_sync
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.service import KEY, Service

pytestmark = pytest.mark.nginx
CONF = """
daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}
http {{
    access_log off; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b;
    fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
    proxy_set_header Host $http_host;
    server {{ listen 127.0.0.1:{strips}; location /app/live/ {{ proxy_pass {service}/; }} }}
    server {{ listen 127.0.0.1:{keeps}; location /app/live/ {{ proxy_pass {service}; }} }}
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
    conf.write_text(CONF.format(folder=folder, service=service.http, **found))
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
