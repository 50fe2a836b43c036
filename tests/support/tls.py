"""TLS in front of Valkey, whose wheel has none: a private CA, and a proxy with its certificate."""

from __future__ import annotations

import datetime
import ipaddress
import select
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.redis_server import RedisServer
from tests.support.sentinels import Sentinel

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
KEY_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Authority:
    """A company's private certificate authority."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder / name
        self._folder.mkdir()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            self._certificate(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(KEY_USAGE, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file = self._folder / "ca.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def server(self, *, address: str = "127.0.0.1", ended: bool = False) -> ssl.SSLContext:
        """Return the TLS context of a server with this address, or with an expired certificate."""
        found = x509.IPAddress(ipaddress.ip_address(address))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._issue("server.pem", found, NOW - DAY if ended else NOW + DAY))
        return context

    def site(self, host: str) -> Path:
        """Return a file with the key of a web site, followed by its certificate."""
        return self._issue("site.pem", x509.DNSName(host))

    def _issue(
        self, file_name: str, holder: x509.GeneralName, end: datetime.datetime = NOW + DAY
    ) -> Path:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        certificate = (
            self._certificate(name, key, end)
            .add_extension(x509.SubjectAlternativeName([holder]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        file = self._folder / file_name
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        return file

    def _certificate(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, end: datetime.datetime = NOW + DAY
    ) -> x509.CertificateBuilder:
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 2 * DAY)
            .not_valid_after(end)
            # Required from Python 3.13 on, which sets VERIFY_X509_STRICT (RFC 5280 §4.2.1.1).
            .add_extension(authority, critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        )


class TlsProxy:
    """Terminates TLS in front of a Valkey, in threads of its own.

    Not in the event loop of the test: when a loop ends, connections that it is still accepting are
    left open, and there are always some, since services reconnect until the end of their tests.
    """

    def __init__(self, server: RedisServer | Sentinel, context: ssl.SSLContext) -> None:
        self._redis = str(server.socket)
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._is_ending = False
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> TlsProxy:
        self._start(self._accept)
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_ending = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # ends `accept`
        self._threads[0].join()  # from here on, no connection is added
        self._listener.close()
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        self._threads.append(threading.Thread(target=target, args=args))
        self._threads[-1].start()

    def _accept(self) -> None:
        while not self._is_ending:
            with suppress(OSError):
                client, _ = self._listener.accept()
                secure = self._context.wrap_socket(
                    client, server_side=True, do_handshake_on_connect=False
                )
                self._open.add(secure)
                self._start(self._serve, secure)

    def _serve(self, client: ssl.SSLSocket) -> None:
        # Some tests cause failed handshakes on purpose. A `ValueError`: the socket was closed.
        with client, suppress(OSError, ValueError):
            client.do_handshake()
            with socket.socket(socket.AF_UNIX) as server:
                server.connect(self._redis)
                self._open.add(server)
                _pass(client, server)
                self._open.discard(server)
        self._open.discard(client)


def _pass(client: ssl.SSLSocket, server: socket.socket) -> None:
    """Pass bytes in both directions until either side ends."""
    while True:
        ready = [client] if client.pending() else select.select([client, server], [], [])[0]
        for each in ready:
            data = each.recv(1 << 16)
            if not data:
                return
            (server if each is client else client).sendall(data)
