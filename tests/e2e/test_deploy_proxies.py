"""The service behind each proxy of `deploy/`, started with its file as it is.

Only names, ports and paths are replaced, where the first lines of each file say so.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.conftest import CADDY, HAPROXY, NGINX
from tests.support.client import Client
from tests.support.eventually import eventually_sync
from tests.support.machine import within
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, KEY, ROOT, Service
from tests.support.tls import Authority
from tests.test_docs import section

DEPLOY = ROOT / "deploy"
HOST = "notify.example.com"
# nginx's workers run as another user, if it is started by root: one that may not read this folder.
AROUND_NGINX = """
{user} daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}
http {{
    access_log off; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b;
    fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
    {rest}
}}
"""
SITE_WITH_A_PATH = """
map $http_upgrade $notifier_connection {{ default upgrade; '' ''; }}
upstream notifier {{ server 127.0.0.1:8000; keepalive 32; }}
server {{
    listen 127.0.0.1:443 ssl; server_name notify.example.com;
    ssl_certificate /etc/ssl/notifier.pem; ssl_certificate_key /etc/ssl/notifier.key;
    include notifier-below-a-path.conf;
}}
"""


@dataclass
class Ports:
    """Where a proxy listens, and the service."""

    tls: int
    plain: int
    service: int

    def put_into(self, text: str, certificate: Path) -> str:
        """Replace what the first lines of a file say that one has to replace."""
        for old, new in {
            "127.0.0.1:8000": f"127.0.0.1:{self.service}",
            "/etc/ssl/notifier.pem": str(certificate),
            "/etc/ssl/notifier.key": str(certificate),
            "/etc/haproxy/notifier.pem": str(certificate),
        }.items():
            text = text.replace(old, new)
        # Ports that only root may use, and the addresses of all machines.
        text = re.sub(r"(listen |bind )(\S*?:)?443\b", rf"\g<1>\g<2>{self.tls}", text)
        return re.sub(r"(listen |bind )(\S*?:)?80\b", rf"\g<1>\g<2>{self.plain}", text)


@dataclass
class Site:
    """A proxy that is running, as its clients see it."""

    tls: int
    plain: int
    context: ssl.SSLContext
    server: str
    path: str = ""

    @property
    def origin(self) -> str:
        return f"https://{HOST}:{self.tls}"

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"https://127.0.0.1:{self.tls}{self.path}",
            headers={"Host": f"{HOST}:{self.tls}"},
            verify=self.context, timeout=60,
        )  # fmt: skip

    def websocket(self) -> str:
        return f"wss://{HOST}:{self.tls}{self.path}/connection/websocket"


NAMED = {"sni_hostname": HOST}


def nginx(folder: Path, rest: str, ports: Ports, authority: Authority) -> list[str]:
    for name in ("notifier-proxy.conf", "notifier-below-a-path.conf"):
        text = (DEPLOY / "nginx" / name).read_text(encoding="utf-8")
        (folder / name).write_text(text, encoding="utf-8")
    user = "user root;" if os.geteuid() == 0 else ""
    around = AROUND_NGINX.format(user=user, folder=folder, rest=rest)
    conf = folder / "nginx.conf"
    conf.write_text(ports.put_into(around, authority.site(HOST)), encoding="utf-8")
    return [str(NGINX), "-c", str(conf)]


def command_of(name: str, folder: Path, ports: Ports, authority: Authority) -> list[str]:
    if name == "nginx":
        rest = (DEPLOY / "nginx" / "notifier.conf").read_text(encoding="utf-8")
        return nginx(folder, rest, ports, authority)
    if name == "nginx below a path":
        return nginx(folder, SITE_WITH_A_PATH.format(), ports, authority)
    if name == "haproxy":
        text = (DEPLOY / "haproxy" / "haproxy.cfg").read_text(encoding="utf-8")
        conf = folder / "haproxy.cfg"
        conf.write_text(ports.put_into(text, authority.site(HOST)), encoding="utf-8")
        return [str(HAPROXY), "-W", "-f", str(conf)]
    return [str(CADDY), "run", "--config", str(DEPLOY / "caddy" / "Caddyfile")]


@pytest.fixture(scope="module")
def service(redis: RedisServer) -> Iterator[Service]:
    """With HTTPS=1, as behind a proxy."""
    service = Service(redis.url, DEPLOYED, ALLOWED_HOSTS=HOST).start()
    yield service
    service.stop()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("nginx", marks=pytest.mark.nginx),
        pytest.param("nginx below a path", marks=pytest.mark.nginx),
        pytest.param("haproxy", marks=pytest.mark.haproxy),
        pytest.param("caddy", marks=pytest.mark.caddy),
    ],
)
def site(
    request: pytest.FixtureRequest, service: Service, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("proxy")
    authority = Authority(folder, "ca")
    ports = Ports(free_port(), free_port(), service.port)
    command = command_of(request.param, folder, ports, authority)
    ca = authority.file
    if request.param == "caddy":  # it issues a certificate itself, as for a host in the internet
        ca = folder / "caddy/pki/authorities/local/root.crt"
    env = os.environ | {
        "XDG_DATA_HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
        "NOTIFIER_SITE": f"{HOST}:{ports.tls}",
        "NOTIFIER_UPSTREAM": f"127.0.0.1:{service.port}",
        "NOTIFIER_HTTP_PORT": str(ports.plain),
    }
    if request.param == "caddy":
        command = with_internal_authority(command, folder)
    with (folder / "log").open("wb") as log:
        proxy = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        path = "/notifier" if "path" in request.param else ""
        try:
            eventually_sync(lambda: answers(ports.tls, ca, path) or proxy.poll() is not None, 30)
            assert proxy.poll() is None
        except AssertionError:
            errors = [each for each in (folder / "log", folder / "error.log") if each.exists()]
            raise AssertionError("\n".join(each.read_text() for each in errors)) from None
        yield Site(
            ports.tls, ports.plain, ssl.create_default_context(cafile=ca), request.param, path
        )
    finally:
        # Caddy gives event streams ten seconds, unless told to quit.
        proxy.send_signal(signal.SIGQUIT if request.param == "caddy" else signal.SIGTERM)
        proxy.wait(timeout=60)


def with_internal_authority(command: list[str], folder: Path) -> list[str]:
    """Let Caddy issue the certificate by its own authority: Let's Encrypt is not reachable."""
    text = Path(command[-1]).read_text(encoding="utf-8")
    text = text.replace("\tadmin off\n", "\tadmin off\n\tskip_install_trust\n\tlocal_certs\n")
    (folder / "Caddyfile").write_text(text, encoding="utf-8")
    return [*command[:-1], str(folder / "Caddyfile")]


def answers(port: int, ca: Path, path: str) -> bool:
    try:
        context = ssl.create_default_context(cafile=ca)
        headers = {"Host": f"{HOST}:{port}"}
        with httpx.Client(verify=context, headers=headers, timeout=5) as client:
            url = f"https://127.0.0.1:{port}{path}/livez"
            return client.get(url, extensions=NAMED).status_code == 200
    except (OSError, httpx.HTTPError):
        return False


def test_the_page_shows_the_lines_of_nginx_as_they_are() -> None:
    [shown] = re.findall(
        r"^```nginx\n(.*?)^```$",
        section((ROOT / "docs/deploy.md").read_text(encoding="utf-8"), "## nginx"),
        re.M | re.S,
    )
    file = (DEPLOY / "nginx" / "notifier-proxy.conf").read_text(encoding="utf-8")
    assert shown == re.sub(r"^#.*\n", "", file, flags=re.M)


async def test_every_way_leads_through_the_proxy(site: Site) -> None:
    """A WebSocket and an event stream receive at once what was published by the API."""
    async with site.client() as http, within(60):
        page = await Client.open(
            site.websocket(), origin=site.origin, host="127.0.0.1", ssl=site.context
        )
        try:
            await page.subscribe("chat:proxy")
            async with http.stream(
                "GET", "/connection/sse?channel=chat:proxy", extensions=NAMED
            ) as stream:
                assert stream.status_code == 200
                lines = stream.aiter_lines()
                answer = await http.post(
                    "/api/publish",
                    json={"channel": "chat:proxy", "data": 1},
                    headers=KEY, extensions=NAMED,
                )  # fmt: skip
                assert answer.status_code == 200, answer.text
                assert (await page.push("pub", passing_over="state"))["data"] == 1
                while await anext(lines) != "data: 1":
                    pass
        finally:
            await page.close()


async def test_what_is_for_monitoring_is_not_public(site: Site) -> None:
    """Neither by another spelling; nginx lets this machine see it, which a test cannot leave."""
    is_nginx = not site.path and site.server == "nginx"
    async with site.client() as http:
        for path in ("/readyz", "/metrics", "/%72eadyz", "/%6Detrics"):
            answer = await http.get(path, extensions=NAMED)
            if is_nginx:
                rules = (DEPLOY / "nginx/notifier.conf").read_text(encoding="utf-8")
                name = "readyz" if "ead" in path else "metrics"
                assert re.search(rf"location = /{name} {{[^}}]*deny all;[^}}]*}}", rules)
            else:
                assert answer.status_code == 404, path
                assert "connections" not in answer.text


async def test_the_proxy_tells_the_service_that_it_uses_tls(site: Site) -> None:
    """Otherwise pages would be redirected for ever."""
    async with site.client() as http:
        answer = await http.get("/", extensions=NAMED)
        assert answer.status_code == 200
        assert "Strict-Transport-Security" in answer.headers
        if not site.path:
            [client] = set(re.findall(r'"(/static/realtime/client[^"]*\.js)"', answer.text))
            kept = await http.get(client, headers={"Accept-Encoding": "gzip"}, extensions=NAMED)
            assert kept.headers["Content-Encoding"] == "gzip"
            plain = f"http://127.0.0.1:{site.plain}/"
            redirect = await http.get(plain, headers={"Host": HOST})
            assert redirect.status_code in (301, 308)
            assert redirect.headers["Location"].startswith(f"https://{HOST}")


def test_browsers_speak_http_2(site: Site) -> None:
    if site.path:
        pytest.skip("that site is not ours")
    context = site.context
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", site.tls), timeout=60) as raw,
        context.wrap_socket(raw, server_hostname=HOST) as secured,
    ):
        assert secured.selected_alpn_protocol() == "h2"
    context.set_alpn_protocols(["http/1.1"])
