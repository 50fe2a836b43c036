"""The settings of a host, and the errors for invalid ones."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.test import override_settings

from realtime import wiring
from realtime.conf import Settings, setting_names
from realtime.core.publication import Publication
from realtime.core.tally import Tally
from realtime.errors import ConfigurationError
from tests.support.eventually import eventually_sync
from tests.support.keys import entry
from tests.support.redis_server import RedisServer


def pem(key: Any) -> str:
    """Return the public half of a key."""
    encoding = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return str(key.public_key().public_bytes(*encoding).decode())


RSA_PEM, WEAK_PEM = (pem(rsa.generate_private_key(65537, bits)) for bits in (2048, 1024))
EC_PEM, ED_PEM = pem(ec.generate_private_key(ec.SECP256R1())), pem(Ed25519PrivateKey.generate())

GOOD: dict[str, Any] = {
    "redis": {"REDIS_URL": "redis://user:secret@localhost:6379/3"},
    "redis over TLS": {"REDIS_URL": "rediss://localhost?ssl_cert_reqs=none"},
    "a unix socket": {"REDIS_URL": "unix:///run/valkey.sock?db=2"},
    "IPv6": {"REDIS_URL": "redis://[::1]:6379"},
    "sentinels": {"REDIS_URL": "rediss+sentinel://user:secret@s1,s2:26379/mymaster/3"},
    "no redis": {"REDIS_URL": ""},
    "a prefix": {"REDIS_PREFIX": "shop-2.live:rt"},
    "whole seconds": {"PUBLISH_SECONDS": 2},
    "an API key": {"API_KEY": "k!~" * 40},
    "API keys": {"API_KEYS": [entry("shop", channels=["orders:*"], rate=2.5)]},
    "API keys as JSON": {"API_KEYS": json.dumps([entry("shop")])},
    "API keys in a file, which the keyring reads": {"API_KEYS": "@/no/such/file"},
    "a token secret": {"TOKEN_SECRET": "s" * 32},
    "no token secret": {"TOKEN_SECRET": ""},
    "a public key": {"TOKEN_PUBLIC_KEY": RSA_PEM, "TOKEN_AUDIENCE": "us"},
    "a curve": {"TOKEN_PUBLIC_KEY": EC_PEM},
    "an authorizer": {"AUTHORIZER": "tests.integration.test_authorizer.decide"},
    "no authorizer": {"AUTHORIZER": ""},
    "an address": {"URL": "https://notify.example.com"},
    "no address": {"URL": ""},
    "origins": {"ALLOWED_ORIGINS": ("https://a.example", "http://[::1]:3000")},
    "origins of apps": {"ALLOWED_ORIGINS": ["capacitor://localhost", "chrome-extension://abc"]},
    "all subdomains": {"ALLOWED_ORIGINS": ["https://*.example.com"]},
    "all origins": {"ALLOWED_ORIGINS": ["*"]},
    "no tracing": {"TRACING": False},
    "a default namespace": {"NAMESPACES": {"": {"allow_subscribe_for_client": True}}},
}


@pytest.mark.parametrize("given", GOOD.values(), ids=GOOD)
def test_valid_settings_are_accepted(given: dict[str, Any]) -> None:
    with override_settings(**{f"REALTIME_{name}": value for name, value in given.items()}):
        Settings.from_django()
        if given.get("REDIS_URL"):
            wiring.sync_broker()  # redis-py reads it too


def test_a_changed_setting_closes_the_connections_of_the_old_broker(own_redis: RedisServer) -> None:
    """They used to stay open until garbage collection, which then warned in a later test."""
    with override_settings(REALTIME_REDIS_URL=own_redis.url):
        broker = wiring.sync_broker()  # kept, so that nothing but us closes its connections
        broker.publish(Publication.of("public:conf", 1))
        with own_redis.client() as client:
            assert len(client.client_list(_type="normal")) == 2
    with own_redis.client() as client:
        eventually_sync(lambda: len(client.client_list(_type="normal")) == 1, seconds=2)
    assert broker


BAD: dict[str, tuple[str, Any]] = {
    "no text": ("REDIS_URL", b"redis://localhost"),
    "a list of sentinels": ("REDIS_URL", [("s1", 26379), ("s2", 26379)]),
    "the options of a channel layer": ("REDIS_URL", {"sentinels": [], "master_name": "m"}),
    "http": ("REDIS_URL", "http://localhost"),
    "no scheme": ("REDIS_URL", "localhost:6379"),
    "a bad port": ("REDIS_URL", "redis://localhost:port"),
    "a bad database": ("REDIS_URL", "redis://localhost/news"),
    "a bad IPv6 address": ("REDIS_URL", "redis://[::1"),
    "a socket without a path": ("REDIS_URL", "unix://"),
    "an option of ours": ("REDIS_URL", "redis://localhost?decode_responses=true"),
    "another option of ours": ("REDIS_URL", "redis://localhost?protocol=3"),
    "their retries": ("REDIS_URL", "redis://localhost?retry_on_timeout=yes"),
    "a password with a hash": ("REDIS_URL", "redis://:57#x@localhost"),
    "TLS without TLS": ("REDIS_URL", "redis://localhost?ssl_cert_reqs=none"),
    "a misspelt option": ("REDIS_URL", "rediss://localhost?ssl_ca_cert=/ca.pem"),
    "Celery's name for it": ("REDIS_URL", "rediss://localhost?ssl_cert_reqs=CERT_NONE"),
    "a hash tag in the prefix": ("REDIS_PREFIX", "a{b}"),
    "a glob in the prefix": ("REDIS_PREFIX", "rt*"),
    "a newline in the prefix": ("REDIS_PREFIX", "rt\n"),
    "an empty prefix": ("REDIS_PREFIX", ""),
    "a short token secret": ("TOKEN_SECRET", "s" * 31),
    "a key that is none": ("TOKEN_PUBLIC_KEY", "-----BEGIN PUBLIC KEY-----"),
    "a key of a kind that is not known": ("TOKEN_PUBLIC_KEY", ED_PEM),
    "a weak key": ("TOKEN_PUBLIC_KEY", WEAK_PEM),
    "an authorizer that is not there": ("AUTHORIZER", "tests.nobody"),
    "an authorizer without a module": ("AUTHORIZER", "decide"),
    "an authorizer that is no function": ("AUTHORIZER", "tests.integration.test_authorizer.HERE"),
    "no seconds": ("PUBLISH_SECONDS", 0),
    "NaN seconds": ("PUBLISH_SECONDS", math.nan),
    "endless seconds": ("PUBLISH_SECONDS", math.inf),
    "seconds as text": ("PUBLISH_SECONDS", "1"),
    "true seconds": ("PUBLISH_SECONDS", True),
    "half a ping": ("PING_SECONDS", 2.5),
    "a tiny outbox": ("OUTBOX_BYTES", 1024),
    "a tiny window": ("WINDOW_BYTES", 1024),
    "no channels": ("CHANNELS_PER_CONNECTION", 0),
    "a key that no header can carry": ("API_KEY", "schlüssel"),
    "a key with a newline": ("API_KEY", "key\n"),
    "a key with a space": ("API_KEY", " key"),
    "a key of None": ("API_KEY", None),
    "API keys that are none": ("API_KEYS", "keys"),
    "one API key": ("API_KEYS", entry("shop")),
    "an API key without a digest": ("API_KEYS", [{"name": "shop"}]),
    "an API key of None": ("API_KEYS", None),
    "an address without a scheme": ("URL", "localhost:8000"),
    "an address with port 0": ("URL", "https://notify.example.com:0"),
    "a public address with a password": ("PUBLIC_URL", "https://:pw@notify.example.com"),
    "a public address with an empty user": ("PUBLIC_URL", "https://@notify.example.com"),
    "a public address with port 0": ("PUBLIC_URL", "wss://notify.example.com:0/x"),
    "an origin with port 0": ("ALLOWED_ORIGINS", ["https://a.example:0"]),
    "one origin": ("ALLOWED_ORIGINS", "https://a.example"),
    "an origin with a path": ("ALLOWED_ORIGINS", ["https://a.example/"]),
    "an origin without a scheme": ("ALLOWED_ORIGINS", ["a.example"]),
    "a wildcard in the middle": ("ALLOWED_ORIGINS", ["https://a.*.example"]),
    "a wildcard that is all": ("ALLOWED_ORIGINS", ["https://*"]),
    "an origin that anybody can have": ("ALLOWED_ORIGINS", ["null"]),
    "an origin of another scheme": ("ALLOWED_ORIGINS", ["ws://a.example"]),
    "an origin with a bad port": ("ALLOWED_ORIGINS", ["https://a.example:x"]),
    "an origin with a user": ("ALLOWED_ORIGINS", ["https://a@b.example"]),
    "no origin": ("ALLOWED_ORIGINS", [None]),
    "a list of namespaces": ("NAMESPACES", ["news"]),
    "tracing as a number": ("TRACING", 1),
    "an unknown option": ("NAMESPACES", {"news": {"colour": True}}),
    "an option of the wrong type": ("NAMESPACES", {"news": {"allow_subscribe_for_client": 1}}),
    "a namespace in capitals": ("NAMESPACES", {"News": {}}),
    "an unknown overflow": ("NAMESPACES", {"news": {"overflow": "wait"}}),
}


@pytest.mark.parametrize(("name", "value"), BAD.values(), ids=BAD)
def test_invalid_settings_are_named(name: str, value: Any) -> None:
    with override_settings(**{f"REALTIME_{name}": value}):
        with pytest.raises(ConfigurationError) as caught:
            Settings.from_django()
        assert caught.value.setting.startswith(f"REALTIME_{name}")
        assert str(caught.value).isprintable()


def test_a_secret_is_not_in_the_error_that_it_causes() -> None:
    for name, value in [("API_KEY", "geheim\n"), ("REDIS_URL", "redis://u:geheim@h:port")]:
        with override_settings(**{f"REALTIME_{name}": value}):
            with pytest.raises(ConfigurationError) as caught:
                Settings.from_django()
            assert "geheim" not in str(caught.value)


def test_settings_are_read_again_when_a_test_overrides_them() -> None:
    with override_settings(REALTIME_PING_SECONDS=3):
        assert wiring.settings().ping_seconds == 3
    assert wiring.settings().ping_seconds == 25


def test_all_settings_have_the_prefix() -> None:
    assert all(name.startswith("REALTIME_") and name.isupper() for name in setting_names())


async def test_a_server_with_lifespan_reports_an_invalid_setting_and_does_not_start(settings):
    from realtime.routing import lifespan

    settings.REALTIME_REDIS_URL = ""
    sent = []

    async def receive():
        return {"type": "lifespan.startup"}

    async def send(message):
        sent.append(message)

    await lifespan({"type": "lifespan"}, receive, send)
    [answer] = sent
    assert answer["type"] == "lifespan.startup.failed"
    assert "REALTIME_REDIS_URL" in answer["message"]


async def test_a_stranger_learns_from_readyz_which_setting_is_wrong(settings, caplog, monkeypatch):
    """The text of an error may quote the system, such as a path. Only the log names the setting."""
    from realtime.http import health

    monkeypatch.setattr(health, "_tally", Tally())
    settings.REALTIME_REDIS_URL = ""
    for _ in range(3):
        answer = health.readyz()
        assert answer.status == 503
        assert b"not configured" in answer.body
        assert b"REALTIME_" not in answer.body
    assert caplog.text.count("not configured: REALTIME_REDIS_URL") == 1


def test_a_higher_channel_limit_allows_all_subscribes_in_one_frame() -> None:
    def frame(**given: int) -> tuple[int, int]:
        with override_settings(**{f"REALTIME_{name.upper()}": n for name, n in given.items()}):
            limits = wiring.limits()
        return limits.frame_bytes, limits.frame_commands

    assert frame() == frame(channels_per_connection=1) == (81_920, 1024)
    assert frame(channels_per_connection=1280) == (819_200, 2560)
    assert frame(channels_per_connection=1_000_000)[0] == 1024 * 1024
    assert frame(frame_bytes=1024) == (1024, 1024)
