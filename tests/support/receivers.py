"""Receivers for fallbacks: a mail server, and a webhook server that can misbehave."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple

from aiosmtpd.controller import Controller

from tests.support.http_server import Quiet, serving


class Mails:
    """A mail server that stores what it receives; `refuse` maps recipients to responses."""

    def __init__(self) -> None:
        self.got: list[EmailMessage] = []
        self.recipients: list[list[str]] = []
        self.refuse: dict[str, str] = {}
        self.refuse_data = ""

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        if address in self.refuse:
            return self.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.refuse_data:
            return self.refuse_data
        message = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.got.append(message)
        self.recipients.append(list(envelope.rcpt_tos))
        return "250 OK"


class MailServer(NamedTuple):
    mails: Mails
    port: int


@contextmanager
def mail_server() -> Iterator[MailServer]:
    mails = Mails()
    with (
        socket.socket() as probe
    ):  # aiosmtpd connects to its own port at startup, so it must not be 0
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    controller = Controller(mails, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        yield MailServer(mails, port)
    finally:
        controller.stop()


class Post(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes


class Hooks:
    """A webhook server; `answer` may be replaced by a handler that misbehaves."""

    def __init__(self) -> None:
        self.got: list[Post] = []
        self.answer: Callable[[BaseHTTPRequestHandler], None] = answering(200)
        self.let_go = threading.Event()
        self.port = 0


def answering(status: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    """Return a handler that responds with this status and an empty body."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@contextmanager
def hook_server(tls: ssl.SSLContext | None = None) -> Iterator[Hooks]:
    hooks = Hooks()

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            hooks.got.append(Post(self.path, headers, body))
            with suppress(OSError):  # the client has gone
                hooks.answer(self)

        def handle(self) -> None:
            with suppress(OSError):  # a handshake that the other end aborted
                super().handle()

    with serving(Handler, tls) as hooks.port:
        try:
            yield hooks
        finally:
            hooks.let_go.set()
