"""The parser for ``REDIS_URL``: which Redis URLs are valid, and what they mean.

redis-py passes on whatever the query contains and drops what follows a ``#``: a misspelt option
raises when the first connection is made, and a password with a ``#`` leads to another server. URLs
accepted here mean the same to redis-py and to Celery (`realtime.contrib.celery_settings`).

redis-py has no URL for Redis Sentinel, and each library that has one has its own. Ours names the
sentinels and the master (ADR-0039); its other parts mean the same as for one address.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from realtime.core.url_rules import is_line, read_url
from realtime.errors import ConfigurationError

SETTING = "REALTIME_REDIS_URL"
MEMORY_URL = "memory://"
"""Instead of a URL: the broker inside the process."""
SENTINEL_FORM = "redis+sentinel://user:password@host1:26379,host2:26379/mastername/number"
CLUSTER_FORM = "redis+cluster://user:password@host1:6379,host2:6379"
_MEANT = (
    "must be redis://user:password@host:port/number, rediss://…, unix:///path, "
    "redis+sentinel://host1,host2/mastername, redis+cluster://host1,host2, or memory:// for a "
    "single process; special characters in the password are percent-encoded: "
    "%40 (@), %23 (#), %2F (/), %3F (?)"
)
_PLAIN = ("db", "username", "password", "client_name")
_OF_SENTINELS = ("sentinel_username", "sentinel_password")
SENTINEL_PORT = 26379
REDIS_PORT = 6379
_YES, _NO = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")
_CERTIFICATES = ("required", "optional", "none")
_TLS: Mapping[str, tuple[str, ...]] = {
    "ssl_cert_reqs": _CERTIFICATES,
    "ssl_check_hostname": (*_YES, *_NO),
    "ssl_min_version": ("771", "772"),  # TLS 1.2 and 1.3, as `ssl.TLSVersion` numbers them
    "ssl_ca_certs": (),
    "ssl_ca_path": (),
    "ssl_ca_data": (),
    "ssl_certfile": (),
    "ssl_keyfile": (),
    "ssl_password": (),
    "ssl_ciphers": (),
}
"""The TLS options and their permitted values; an empty tuple permits any text."""
_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
_OPTION_NAME = re.compile(r"[a-zA-Z_]{1,40}")
_PRINTABLE = re.compile(r"[!-~]+")
_SENTINEL = ("redis+sentinel://", "rediss+sentinel://")
_CLUSTER = ("redis+cluster://", "rediss+cluster://")
_MASTER_NAME = re.compile(r"[A-Za-z0-9._-]+")  # what `sentinel monitor` accepts
# Celery and Lettuce; Centrifugo and go-redis.
_FOREIGN = re.compile(r"(rediss?-)?sentinels?://|redis.*[?&](sentinel_)?master_name=")
# Lettuce and Spring; go-redis.
_FOREIGN_CLUSTER = re.compile(r"rediss?-cluster://|redis.*[?&](is_cluster_mode|addr)=")

Address = tuple[str, int]
"""Host and port."""


class Sentinels(NamedTuple):
    """The sentinels that know the address of a master."""

    addresses: tuple[Address, ...]
    master_name: str
    username: str
    password: str


class RedisUrl(NamedTuple):
    """The parts of a Redis URL."""

    scheme: str
    """``redis``, ``rediss`` or ``unix``; of Redis itself, if there are sentinels."""
    host: str
    """Empty if there are sentinels or a cluster."""
    port: int
    path: str
    """Path of a Unix socket."""
    username: str
    password: str
    database: int
    tls: Mapping[str, str]
    """The ``ssl_…`` options as given."""
    client_name: str = ""
    sentinels: Sentinels | None = None
    cluster: tuple[Address, ...] = ()
    """Some of the nodes of a cluster, if it is one; they know all others."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names or addresses of all servers in the URL; none for a Unix socket."""
        if self.sentinels is not None:
            return tuple(host for host, _ in self.sentinels.addresses)
        if self.cluster:
            return tuple(host for host, _ in self.cluster)
        return (self.host,) if self.scheme != "unix" else ()

    @property
    def checks_hostname(self) -> bool:
        """Whether the certificate must match this host."""
        return self.tls.get("ssl_check_hostname", "true").lower() in _YES

    @property
    def checks_server(self) -> bool:
        """Whether TLS authenticates the server."""
        return self.tls.get("ssl_cert_reqs", "required") == "required" and self.checks_hostname

    @property
    def files(self) -> Mapping[str, str]:
        """The files and directories in the URL, by option."""
        return {name: self.tls[name] for name in _FILES if name in self.tls}


def read_redis_url(text: str) -> RedisUrl:
    """Parse a Redis URL.

    Raises:
        ConfigurationError: It is not usable. The message quotes no value: it may hold a password.
    """
    if _FOREIGN.match(text):
        raise _wrong(f"has another library's form for Redis Sentinel: use {SENTINEL_FORM}")
    if _FOREIGN_CLUSTER.match(text):
        raise _wrong(f"has another library's form for Redis Cluster: use {CLUSTER_FORM}")
    if is_sentinel_url(text):
        return _read_sentinel_url(text)
    if is_cluster_url(text):
        return _read_cluster_url(text)
    return _read_address(text, _PLAIN)


def is_sentinel_url(text: str) -> bool:
    """Tell whether a Redis URL names sentinels."""
    return text.startswith(_SENTINEL)


def is_cluster_url(text: str) -> bool:
    """Tell whether a Redis URL names nodes of a cluster."""
    return text.startswith(_CLUSTER)


def _read_sentinel_url(text: str) -> RedisUrl:
    scheme, _, rest = text.partition("+sentinel://")
    authority, _, rest = rest.partition("/")
    path, mark, query = rest.partition("?")
    user, at, hosts = authority.rpartition("@")
    name, _, number = path.partition("/")
    if "@" in rest or "#" in text:
        raise _wrong(_MEANT)  # as in `_read_address`
    if not _MASTER_NAME.fullmatch(name):
        raise _wrong(f"must name the master after the sentinels, as in {SENTINEL_FORM}")
    addresses = _read_hosts(hosts, "the sentinels", SENTINEL_FORM, SENTINEL_PORT)
    # What is left is the URL of a Redis, except for the address.
    options = dict(parse_qsl(query, keep_blank_values=True))
    return _read_address(
        f"{scheme}://{user}{at}master/{number}{mark}{query}", (*_PLAIN, *_OF_SENTINELS)
    )._replace(
        host="",
        port=0,
        sentinels=Sentinels(addresses, name, *(options.get(each, "") for each in _OF_SENTINELS)),
    )


def _read_cluster_url(text: str) -> RedisUrl:
    scheme, _, rest = text.partition("+cluster://")
    authority, slash, path = rest.partition("?")[0].partition("/")
    user, at, hosts = authority.rpartition("@")
    query = rest.partition("?")[2]
    if "#" in text or "@" in path:
        raise _wrong(_MEANT)  # as in `_read_address`
    addresses = _read_hosts(hosts, "some nodes of the cluster", CLUSTER_FORM, REDIS_PORT)
    read = _read_address(f"{scheme}://{user}{at}node{slash}{path}?{query}", _PLAIN)
    if read.database:
        raise _wrong("asks for a database, but Redis Cluster has only number 0")
    return read._replace(host="", port=0, cluster=addresses)


def _read_hosts(text: str, what: str, form: str, port: int) -> tuple[Address, ...]:
    addresses: list[Address] = []
    for each in text.split(","):
        parts = read_url(f"redis://{each}")
        if parts is None or not parts.hostname:
            raise _wrong(f"must list {what} as host:port, separated by commas, as in {form}")
        addresses.append((parts.hostname, parts.port or port))
    if len(set(addresses)) != len(addresses):
        raise _wrong("names an address twice")
    return tuple(addresses)


def _read_address(text: str, known: Sequence[str]) -> RedisUrl:
    parts, port = _split(text)
    if parts.scheme not in ("redis", "rediss", "unix") or parts.fragment:
        raise _wrong(_MEANT)
    if "@" in parts.query or (parts.scheme != "unix" and "@" in parts.path):
        raise _wrong(_MEANT)  # the end of a password that contains a / or a ?
    options = _options(parts, known)
    # Host names are not percent-encoded, but redis-py would decode them.
    if "%" in (parts.hostname or "") or not is_line(unquote(text)):
        raise _wrong(_MEANT)
    database = _database(parts, options)
    if parts.scheme == "unix":
        if not parts.path or parts.netloc.rpartition("@")[2]:
            raise _wrong("must be unix:///path, with three slashes")
    elif parts.netloc and not parts.hostname:
        raise _wrong(_MEANT)
    return RedisUrl(
        parts.scheme,
        unquote(parts.hostname or "localhost"),
        port,
        unquote(parts.path) if parts.scheme == "unix" else "",
        unquote(parts.username or "") or options.get("username", ""),
        unquote(parts.password or "") or options.get("password", ""),
        database,
        {name: value for name, value in options.items() if name in _TLS},
        options.get("client_name", ""),
    )


def _split(text: str) -> tuple[SplitResult, int]:
    if not _PRINTABLE.fullmatch(text):  # `urlsplit` would drop line breaks
        raise _wrong(_MEANT)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise _wrong(_MEANT) from None  # the cause would quote the password
    if port == 0:
        raise _wrong("has port 0: use 1 to 65535")
    return parts, port or REDIS_PORT


def _options(parts: SplitResult, known: Sequence[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known and name not in _TLS:
            shown = repr(name) if _OPTION_NAME.fullmatch(name) else "with an invalid name"
            raise _wrong(
                f"has an unknown option {shown}; known: {', '.join(known)} and, for rediss://, "
                f"{', '.join(_TLS)}"
            )
        if name in options:
            raise _wrong(f"has the option {name} twice")
        if not value:
            raise _wrong(f"has the option {name} without a value")
        if name in _TLS and parts.scheme != "rediss":
            raise _wrong(f"has the option {name}, which requires rediss:// (TLS)")
        _check_value(name, value)
        options[name] = value
    for name, given in (("username", parts.username), ("password", parts.password)):
        if given and name in options:
            raise _wrong(f"has the {name} twice, before the host and as an option")
    return options


def _check_value(name: str, value: str) -> None:
    known = _TLS.get(name, ())
    # redis-py reads booleans case-insensitively, and everything else as written.
    said = value.lower() if name == "ssl_check_hostname" else value
    if known and said not in known:
        raise _wrong(f"must use {' or '.join(known[:3])} for {name}, as in ?{name}={known[0]}")
    if name == "client_name" and not _PRINTABLE.fullmatch(value):
        raise _wrong("must use printable ASCII without spaces for client_name")  # CLIENT SETNAME


def _database(parts: SplitResult, options: Mapping[str, str]) -> int:
    in_path = "" if parts.scheme == "unix" else parts.path.strip("/")
    if in_path and "db" in options:
        raise _wrong("has the database number twice, in the path and in the option db")
    number = in_path or options.get("db", "0")
    if not (number.isascii() and number.isdecimal() and len(number) <= 9):
        raise _wrong("must have a database number as its path, as in redis://host:6379/0")
    return int(number)


def _wrong(problem: str) -> ConfigurationError:
    return ConfigurationError(SETTING, problem)
