"""The rules of the environment: which variables are read, which are refused, and the errors."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.app_variables import APP_VARIABLES, LIMITS, WRITTEN, variable_of
from notifier.database import database_settings
from notifier.env import (
    IN_LINES,
    SECRETS,
    VARIABLES,
    BadEnvironment,
    Environment,
    is_debug_by_default,
    is_loopback,
    read_environment,
    read_secrets,
)
from realtime.conf import DECLARED, Settings, check_setting
from realtime.errors import ConfigurationError
from tests.support.keys import entry, secret_of
from tests.test_docs import code, page, rows, section

PRODUCTION = {
    "SECRET_KEY": "s" * 50,
    "NOTIFIER_API_KEY": "key",
    "REDIS_URL": "redis://127.0.0.1:6379/0",
    "ALLOWED_HOSTS": "notifier.example",
}
DEVELOPMENT = {"DEBUG": "1", "SECRET_KEY": "short"}


def refusal(environ: dict[str, str]) -> BadEnvironment:
    with pytest.raises(BadEnvironment) as caught:
        read_environment(environ)
    return caught.value


def test_production_needs_four_variables_and_defaults_the_rest():
    defaults = {name: DECLARED[name].default for name in WRITTEN} | {"api_keys": ()}
    assert read_environment(PRODUCTION) == Environment(
        host="127.0.0.1",
        port=8000,
        workers=1,
        secret_key="s" * 50,
        database=database_settings(""),
        debug=False,
        https=True,
        allowed_hosts=("notifier.example",),
        app=defaults | {"redis_url": "redis://127.0.0.1:6379/0", "api_key": "key"},
    )


@pytest.mark.parametrize("name", sorted(PRODUCTION))
def test_a_missing_variable_is_named(name):
    without = {key: value for key, value in PRODUCTION.items() if key != name}
    assert refusal(without).variable == name
    assert refusal(PRODUCTION | {name: ""}).variable == name


def test_debug_needs_only_a_secret_key_of_any_length():
    env = read_environment(DEVELOPMENT)
    assert env.debug
    assert not env.https
    assert env.redis_url == env.api_key == ""
    assert env.allowed_hosts == ("localhost", "127.0.0.1", "[::1]")


def test_a_short_secret_key_is_refused_outside_debug():
    assert refusal(PRODUCTION | {"SECRET_KEY": "s" * 49}).variable == "SECRET_KEY"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org"])
def test_debug_never_listens_on_a_public_address(host):
    assert refusal(DEVELOPMENT | {"HOST": host}).variable == "DEBUG"
    assert not is_debug_by_default({"HOST": host})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"])
def test_debug_listens_on_loopback(host):
    assert is_loopback(host)
    assert read_environment(DEVELOPMENT | {"HOST": host}).host == host
    assert is_debug_by_default({"HOST": host})


def test_an_explicit_setting_overrides_the_debug_default():
    assert is_debug_by_default({})
    assert not is_debug_by_default({"DEBUG": "0"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("PORT", "٨٠٨٠"),
        ("WEB_CONCURRENCY", "0"),
        ("WEB_CONCURRENCY", "2.5"),
        ("HSTS_SECONDS", "soon"),
        ("DEBUG", "maybe"),
        ("HTTPS", "2"),
        ("REDIS_URL", "localhost:6379"),
        ("REDIS_URL", "http://localhost:6379"),
        ("REDIS_URL", "redis://:57#x@host"),
        ("REDIS_URL", "redis://host?ssl_cert_reqs=none"),
        ("REDIS_URL", "rediss://host?ssl_cert_reqs=CERT_NONE"),
        ("REDIS_URL", "rediss://host?ssl_ca_cert=/ca.pem"),
        ("REDIS_URL", "rediss://host?ssl_ca_certs=/does/not/exist.pem"),
        ("REDIS_URL", "redis://host?protocol=3"),
        ("REDIS_URL", "memory://"),
        ("FORWARDED_ALLOW_IPS", "*,10.0.0.1"),
        ("NOTIFIER_REDIS_PREFIX", "rt*"),
        ("NOTIFIER_URL", "localhost:8000"),
        ("NOTIFIER_TOKEN_SECRET", "t" * 31),
        ("NOTIFIER_TOKEN_PUBLIC_KEY", "-----BEGIN PUBLIC KEY-----"),
        ("NOTIFIER_TOKEN_JWKS", "{}"),
        ("NOTIFIER_TOKEN_JWKS", "@/does/not/exist.json"),
        ("NOTIFIER_FALLBACKS", '{"orders": {"use": "pigeon"}}'),
        ("NOTIFIER_API_KEY", "two words"),
        ("NOTIFIER_API_KEY", "two\nlines"),
        ("NOTIFIER_API_KEY", " key"),
        ("NOTIFIER_API_KEY", "schlüssel"),
        ("NOTIFIER_API_KEYS", "{"),
        ("NOTIFIER_API_KEYS", "{}"),
        ("NOTIFIER_API_KEYS", "@/does/not/exist.json"),
        ("NOTIFIER_API_KEYS", "@/"),
        ("NOTIFIER_DEMO_KEY", "1"),
        ("ALLOWED_ORIGINS", "example.org"),
        ("ALLOWED_ORIGINS", "https://example.org/"),
        ("ALLOWED_ORIGINS", "https://good.example,null"),
        ("ALLOWED_ORIGINS", "https://*"),
        ("ALLOWED_ORIGINS", "https://user@example.org"),
        ("NOTIFIER_NAMESPACES", "{"),
        ("NOTIFIER_NAMESPACES", "[]"),
        ("NOTIFIER_CLOUDEVENTS", "{}"),
        ("NOTIFIER_CLOUDEVENTS", '[{"type": "x"}]'),
        ("NOTIFIER_TRACING", "maybe"),
        ("NOTIFIER_LIMITS", "{"),
        ("NOTIFIER_LIMITS", "[]"),
        ("NOTIFIER_LIMITS", '{"connexions": 1}'),
        ("NOTIFIER_LIMITS", '{"connections": "1"}'),
        ("NOTIFIER_LIMITS", '{"connections": true}'),
        ("NOTIFIER_LIMITS", '{"connections": 0}'),
        ("NOTIFIER_NAMESPACES", "@/does/not/exist.json"),
        ("NOTIFIER_NAMESPACES", '{"orders": {"fallback": "pigeon"}}'),
    ],
)
def test_an_invalid_value_is_refused_by_name(name, value):
    error = refusal(PRODUCTION | {name: value})
    assert error.variable == name
    assert str(error).startswith(f"{name} ")


def test_an_empty_flag_is_a_missing_one():
    """As in a file for Docker; HTTPS= turned the redirect, HSTS and secure cookies off."""
    assert read_environment(PRODUCTION | {"HTTPS": ""}).https


VALUES = st.one_of(
    st.text(max_size=60),
    st.sampled_from(["memory://", "[]", "{}", "{", "[1]", '{"a": 1}', "@", "@/", "1", "0", "-1"]),
    st.dictionaries(
        st.text(max_size=8),
        st.one_of(st.none(), st.integers(), st.text(max_size=8), st.just({}), st.just([])),
        max_size=3,
    ).map(json.dumps),
)


@given(st.sampled_from(sorted(APP_VARIABLES)), VALUES)
def test_whatever_a_variable_contains_its_only_error_is_a_sentence(name, value):
    """Anything else would be a traceback for whoever starts the service."""
    with suppress(BadEnvironment):
        read_environment(PRODUCTION | {name: value})


@pytest.mark.parametrize(
    ("variable", "name", "value"),
    [
        ("REDIS_URL", "redis_url", "redis://:57#x@host"),
        ("REDIS_URL", "redis_url", "rediss://host?ssl_cert_reqs=CERT_NONE"),
        ("ALLOWED_ORIGINS", "allowed_origins", "capacitor://localhost"),
        ("ALLOWED_ORIGINS", "allowed_origins", "tauri://localhost"),
        ("ALLOWED_ORIGINS", "allowed_origins", "chrome-extension://abcdefghijklmnop"),
        ("ALLOWED_ORIGINS", "allowed_origins", "https://*.example.com"),
        ("ALLOWED_ORIGINS", "allowed_origins", "https://example.com/"),
        ("NOTIFIER_API_KEY", "api_key", "two words"),
        ("NOTIFIER_REDIS_PREFIX", "redis_prefix", "a{b}"),
        ("NOTIFIER_URL", "url", "localhost:8000"),
        ("NOTIFIER_URL", "url", "https://notify.example.com:0"),
        ("NOTIFIER_TOKEN_PUBLIC_KEY", "token_public_key", "PUBLIC KEY"),
    ],
)
def test_the_app_accepts_every_value_that_the_environment_accepts(variable, name, value):
    """They share one parser: no value starts the launcher and then ends each worker."""
    given = [value] if name == "allowed_origins" else value
    problem = problem_of(lambda: read_environment(PRODUCTION | {variable: value}))
    assert problem.rstrip(".") == problem_of(lambda: check_setting(name, given))


def problem_of(read):
    try:
        read()
    except (BadEnvironment, ConfigurationError) as error:
        return error.problem
    return ""


def test_token_keys_may_be_empty_in_a_file_but_not_in_the_variable(tmp_path):
    file = tmp_path / "jwks.json"
    file.write_text('{"keys": []}')
    env = read_environment(PRODUCTION | {"NOTIFIER_TOKEN_JWKS": f"@{file}"})
    [notice] = env.notices
    assert notice.startswith("NOTIFIER_TOKEN_JWKS: its file contains no key for RS256")
    refusal(PRODUCTION | {"NOTIFIER_TOKEN_JWKS": file.read_text()})
    file.write_text('{"keys": [{}]}')
    assert "has no kid" in str(refusal(PRODUCTION | {"NOTIFIER_TOKEN_JWKS": f"@{file}"}))


def test_a_password_in_a_bad_redis_url_is_not_repeated():
    assert "hunter2" not in str(refusal(PRODUCTION | {"REDIS_URL": "http://:hunter2@redis"}))


def test_secrets_do_not_show_in_the_representation():
    shown = repr(read_environment(PRODUCTION | {"NOTIFIER_API_KEY": "hunter2"}))
    assert "hunter2" not in shown
    assert "s" * 50 not in shown


def test_lists_are_separated_by_commas():
    env = read_environment(
        PRODUCTION
        | {"ALLOWED_HOSTS": "a.example, b.example,", "ALLOWED_ORIGINS": "https://a.example:8443,*"}
    )
    assert env.allowed_hosts == ("a.example", "b.example")
    assert env.app["allowed_origins"] == ("https://a.example:8443", "*")


def test_namespaces_come_as_json_or_from_a_file(tmp_path):
    namespaces = {"orders": {"allow_subscribe_for_client": True}}
    file = tmp_path / "namespaces.json"
    file.write_text(json.dumps(namespaces))
    for value in (json.dumps(namespaces), f"@{file}"):
        env = read_environment(PRODUCTION | {"NOTIFIER_NAMESPACES": value})
        assert env.app["namespaces"] == namespaces


def test_api_keys_come_as_json_or_stay_in_their_file(tmp_path):
    keys = [entry("shop", channels=["orders:*"])]
    without = {name: value for name, value in PRODUCTION.items() if name != "NOTIFIER_API_KEY"}
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(keys))
    env = read_environment(without | {"NOTIFIER_API_KEYS": json.dumps(keys)})
    assert (env.api_key, env.app["api_keys"]) == ("", tuple(keys))
    env = read_environment(without | {"NOTIFIER_API_KEYS": f"@{file}"})
    assert env.app["api_keys"] == f"@{file}", "the app looks whether it has changed"


@pytest.mark.parametrize("from_file", [True, False])
def test_an_invalid_api_key_is_reported_without_its_secret(tmp_path, from_file):
    text = json.dumps([entry("shop"), {"name": "till", "sha256": secret_of("till")}])
    file = tmp_path / "keys.json"
    file.write_text(text)
    error = refusal(PRODUCTION | {"NOTIFIER_API_KEYS": f"@{file}" if from_file else text})
    said = "NOTIFIER_API_KEYS is invalid: key 2 (till): sha256 must be the SHA-256 of the secret"
    assert str(error).startswith(said)
    assert secret_of("till") not in str(error)
    assert entry("shop")["sha256"] not in str(error)


def test_the_single_api_key_must_differ_from_the_others():
    keys = json.dumps([entry("shop")])
    error = refusal(PRODUCTION | {"NOTIFIER_API_KEY": secret_of("shop"), "NOTIFIER_API_KEYS": keys})
    assert "another key has the same secret" in str(error)


def test_an_invalid_namespace_is_reported_in_one_sentence():
    with pytest.raises(
        BadEnvironment, match=r"NOTIFIER_NAMESPACES is invalid: \['orders'\]: unknown"
    ):
        read_environment(PRODUCTION | {"NOTIFIER_NAMESPACES": '{"orders": {"history": true}}'})


# --- secrets from files ---


@pytest.fixture
def secret(tmp_path):
    def write(text: str) -> str:
        file = tmp_path / "secret"
        file.write_text(text)
        return str(file)

    return write


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
@pytest.mark.parametrize(
    ("name", "value", "setting"),
    [
        ("SECRET_KEY", "f" * 50, ""),
        ("NOTIFIER_API_KEY", "from-a-file", "api_key"),
        ("NOTIFIER_TOKEN_SECRET", "t" * 32, "token_secret"),
        ("REDIS_URL", "redis://:pw@redis/1", "redis_url"),
        ("REDIS_URL", "rediss+sentinel://:pw@s1,s2/m/1?sentinel_password=pw", "redis_url"),
    ],
)
def test_each_secret_may_be_in_a_file(secret, name, value, setting, ending):
    environ = {key: other for key, other in PRODUCTION.items() if key != name}
    environ[f"{name}_FILE"] = secret(value + ending)
    env = read_environment(environ)
    assert (env.app[setting] if setting else env.secret_key) == value
    assert name in SECRETS


def test_a_secret_given_twice_is_refused(secret):
    error = refusal(PRODUCTION | {"SECRET_KEY_FILE": secret("g" * 50)})
    assert error.variable == "SECRET_KEY_FILE"
    assert "unset one" in str(error)
    assert "g" * 50 not in str(error)


@pytest.mark.parametrize("path", ["/does/not/exist", "/", "/dev/null"])
def test_a_file_without_a_secret_is_named_by_its_variable(path):
    without = {name: value for name, value in PRODUCTION.items() if name != "REDIS_URL"}
    assert refusal(without | {"REDIS_URL_FILE": path}).variable == "REDIS_URL_FILE"


def test_values_from_files_are_validated(secret):
    without = {name: value for name, value in PRODUCTION.items() if name != "SECRET_KEY"}
    error = refusal(without | {"SECRET_KEY_FILE": secret("short")})
    assert error.variable == "SECRET_KEY"


def test_secret_files_are_read_once(secret):
    once = read_secrets({"SECRET_KEY_FILE": secret("k" * 50), "PORT": "1"})
    assert once == {"SECRET_KEY": "k" * 50, "PORT": "1"}
    assert read_secrets(once) is once


def test_earlier_secret_keys_remain_valid():
    keys = ("a" * 50, "b" * 50)
    for text in (f"{keys[0]}, {keys[1]}", f"{keys[0]}\n{keys[1]}\n"):
        env = read_environment(PRODUCTION | {"SECRET_KEY_FALLBACKS": text})
        assert env.secret_key_fallbacks == keys
        assert keys[0] not in repr(env)
    assert (
        refusal(PRODUCTION | {"SECRET_KEY_FALLBACKS": "short"}).variable == "SECRET_KEY_FALLBACKS"
    )


def test_the_limits_variable_covers_every_integer_setting():
    whole = {
        field.name for field in fields(Settings) if type(getattr(Settings(), field.name)) is int
    }
    assert whole == LIMITS
    env = read_environment(PRODUCTION | {"NOTIFIER_LIMITS": '{"connections_per_address": 7}'})
    assert env.app["connections_per_address"] == 7
    assert not LIMITS & set(read_environment(PRODUCTION).app)


def test_rules_for_events_come_as_json():
    rules = [{"type": "a.*", "channel": "public:{subject}"}]
    env = read_environment(PRODUCTION | {"NOTIFIER_CLOUDEVENTS": json.dumps(rules)})
    assert env.app["cloudevents"] == rules
    assert read_environment(PRODUCTION).app["cloudevents"] == ()


@pytest.mark.parametrize("value", ["Optional", "never", "0"])
def test_the_token_expiry_variable_takes_one_of_two_words(value):
    assert read_environment(PRODUCTION | {"NOTIFIER_TOKEN_EXPIRY": "optional"}).app["token_expiry"]
    assert refusal(PRODUCTION | {"NOTIFIER_TOKEN_EXPIRY": value}).variable == (
        "NOTIFIER_TOKEN_EXPIRY"
    )


@pytest.mark.parametrize("value", ["user", "user:", "a b:#", "user:#4", "absent:#"])
def test_an_impossible_personal_namespace_is_refused(value):
    for good in ("#", "", "user:#", "public:#"):
        environ = PRODUCTION | {"NOTIFIER_PERSONAL_CHANNEL": good}
        assert read_environment(environ).app["personal_channel"] == good
    assert refusal(PRODUCTION | {"NOTIFIER_PERSONAL_CHANNEL": value}).variable == (
        "NOTIFIER_PERSONAL_CHANNEL"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "1" * 5000),
        ("WEB_CONCURRENCY", "9" * 5000),
        ("NOTIFIER_NAMESPACES", "[" * 50_000),
        ("NOTIFIER_LIMITS", '{"a":' * 50_000),
        ("NOTIFIER_CLOUDEVENTS", "[" * 50_000),
        ("NOTIFIER_FALLBACKS", "[" * 50_000),
    ],
)
def test_an_unparsable_value_is_reported_in_one_sentence(name, value):
    refused = refusal(PRODUCTION | {name: value})
    assert refused.variable == name
    assert len(str(refused)) < 200


# --- unusual values of every variable ---


def in_the_docs() -> set[str]:
    """Return the variables of docs/settings.md, including those that name files of secrets."""
    table = rows(section(page("settings.md"), "## The service: its environment"))
    told = {name for row in table for name in re.findall(r"`([A-Z_]+)`", row[0])}
    return told | {f"{name}_FILE" for name in SECRETS}


def test_the_variables_with_checked_text_match_the_docs():
    assert set(VARIABLES) == in_the_docs()
    assert len(set(VARIABLES)) == len(VARIABLES)


def test_variable_defaults_match_the_settings():
    table = rows(section(page("settings.md"), "## The service: its environment"))
    told = {code(row[0]): code(row[1]) for row in table}
    for name in WRITTEN:
        default = DECLARED[name].default
        written = int(default) if isinstance(default, bool) else default
        shown = default if isinstance(default, str) else json.dumps(written)
        assert told[variable_of(name)] in (shown, ""), name
        assert told[variable_of(name)] or not default, name


GOOD = {
    "NOTIFIER_NAMESPACES": '{"orders": {}}',
    "NOTIFIER_FALLBACKS": '{"orders": {"use": "log"}}',
    "NOTIFIER_LIMITS": '{"tags": 3}',
    "NOTIFIER_CLOUDEVENTS": "[]",
}


@pytest.mark.parametrize("control", ["\0", "\x07", "\x1b[2J", "\x7f", "\x85", "\u2028"])
@pytest.mark.parametrize("name", sorted(VARIABLES))
def test_a_control_character_is_smuggled_into_a_variable(name, control):
    for value in (f"a{control}b", f"{GOOD.get(name, PRODUCTION.get(name, 'a'))}{control}"):
        error = refusal(PRODUCTION | {name: value})
        assert error.variable == name
        assert "control character" in error.problem
        assert error.problem.isprintable(), "it would act on the terminal that shows it"


@pytest.mark.parametrize("break_", ["\n", "\r", "\t", "\r\n"])
@pytest.mark.parametrize("name", sorted(set(VARIABLES) - set(IN_LINES)))
def test_a_line_break_is_smuggled_into_a_variable(name, break_):
    assert refusal(PRODUCTION | {name: f"a{break_}b"}).variable == name


@pytest.mark.parametrize("blank", [" ", " " * 64, "\n", "\t \t", "\u2003"])
@pytest.mark.parametrize("name", sorted(VARIABLES))
def test_a_variable_of_spaces_is_taken_for_a_value(name, blank):
    """64 spaces used to be accepted as SECRET_KEY and NOTIFIER_TOKEN_SECRET."""
    error = refusal(PRODUCTION | {name: blank})
    assert error.variable == name
    assert "only whitespace" in error.problem


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HOST", "http://0.0.0.0"),
        ("HOST", "0.0.0.0:8000"),
        ("HOST", "a b"),
        ("HOST", "a%2eb"),
        ("ALLOWED_HOSTS", "https://a"),
        ("ALLOWED_HOSTS", "a b"),
        ("ALLOWED_HOSTS", "a.example:443"),
        ("ALLOWED_HOSTS", "a.example/x"),
        ("ALLOWED_HOSTS", "a%2eb"),
        ("ALLOWED_HOSTS", "*.a.example"),
        ("ALLOWED_HOSTS", "a..b"),
        ("ALLOWED_HOSTS", "b\u00fccher.example"),
        ("ALLOWED_HOSTS", "::1"),
        ("ALLOWED_HOSTS", "good.example, https://bad.example"),
        ("ALLOWED_ORIGINS", "https://a%2eb"),
        ("ALLOWED_ORIGINS", "https://*.a%2eb"),
        ("ALLOWED_ORIGINS", "https://a b"),
        ("METRICS_ADDRESS", "127.0.0.1"),
        ("METRICS_ADDRESS", "127.0.0.1:x"),
        ("METRICS_ADDRESS", "127.0.0.1:65536"),
        ("METRICS_ADDRESS", "http://127.0.0.1:9100"),
        ("METRICS_ADDRESS", "::1:9100"),
        ("FORWARDED_ALLOW_IPS", "http://10.0.0.1"),
        ("FORWARDED_ALLOW_IPS", "proxy.example"),
        ("FORWARDED_ALLOW_IPS", "10.0.0.1 10.0.0.2"),
        ("FORWARDED_ALLOW_IPS", "10.0.0.1/8"),
        ("FORWARDED_ALLOW_IPS", "::ffff:10.0.0.1"),
        ("FORWARDED_ALLOW_IPS", "::FFFF:0:0/96"),
        ("FORWARDED_ALLOW_IPS", "0:0:0:0:0:ffff:a00:1"),
        ("REDIS_URL", "redis://a%2eb:6379/0"),
        ("REDIS_URL", "redis://:a%0ab@h:6379/0"),
        ("REDIS_URL", "unix:///a%00b"),
        ("DATABASE_URL", "postgres://u:p@h/a%0ab"),
        ("DATABASE_URL", "postgres://u:a%00b@h/a"),
        ("EMAIL_URL", "smtp://h?timeout=x"),
        ("EMAIL_URL", "smtp://h?timeout=5"),
        ("EMAIL_URL", "smtp://h#x"),
        ("EMAIL_URL", "smtp://h/path"),
        ("EMAIL_URL", "smtp://a%2eb"),
        ("EMAIL_URL", "smtp://a b"),
        ("EMAIL_URL", "smtp://u:a%0d%0ab@h"),
        ("EMAIL_URL", "smtp://h:0"),
        ("EMAIL_URL", "console:x"),
        ("EMAIL_URL", "console://x"),
        ("EMAIL_URL", "file://host/path"),
        ("EMAIL_URL", "file:///a%00b"),
        ("DOCUMENTATION_URL", "docs.example.com"),
        ("DOCUMENTATION_URL", "javascript:alert(1)"),
        ("DOCUMENTATION_URL", "https://"),
        ("DOCUMENTATION_URL", "https://ada:secret@docs.example.com"),
        ("EMAIL_FROM", "a"),
        ("EMAIL_FROM", "a@"),
        ("EMAIL_FROM", "a@x, b@x"),
        ("EMAIL_FROM", "a b@x <"),
        ("NOTIFIER_TOKEN_SECRET", " " + "t" * 40),
        ("NOTIFIER_TOKEN_SECRET", "t" * 40 + " "),
        ("NOTIFIER_URL", "https://a%2eb"),
        ("NOTIFIER_URL", "https://a b"),
        ("NOTIFIER_URL", "https://a..b"),
    ]
    + [
        ("NOTIFIER_FALLBACKS", json.dumps({"a": {"use": "webhook", "url": url, "secret": "x"}}))
        for url in (
            "https://a\n.example/x",
            "https://a.example/x\r\nX-A: b",
            "https://a.example/\tx",
            "https://a.example/a b",
            "https://a.example/\0",
            "https://a%2eexample/x",
            "https://b\u00fccher.example/x",
        )
    ]
    + [
        ("NOTIFIER_FALLBACKS", json.dumps({"a": {"use": "email", option: "a@b\nBcc: c@d"}}))
        for option in ("from_email", "subject", "template")
    ],
)
def test_an_odd_value_is_accepted_silently(name, value):
    error = refusal(PRODUCTION | {name: value})
    assert error.variable == name
    assert str(error).isprintable()
    assert len(str(error)) < 300


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HOST", "::1"),
        ("HOST", "[::1]"),
        ("HOST", "0.0.0.0"),
        ("ALLOWED_HOSTS", "*"),
        ("ALLOWED_HOSTS", ".a.example, xn--bcher-kva.example, 192.0.2.1, [2001:db8::1], a_b"),
        ("METRICS_ADDRESS", "9100"),
        ("METRICS_ADDRESS", ":9100"),
        ("METRICS_ADDRESS", "[::1]:9100"),
        ("METRICS_ADDRESS", "localhost:0"),
        ("FORWARDED_ALLOW_IPS", "127.0.0.1, 10.0.0.0/8, ::1, fd00::/8"),
        ("FORWARDED_ALLOW_IPS", "*"),
        ("DATABASE_URL", "postgres://u:p@%2Fvar%2Frun/name"),
        ("EMAIL_URL", "smtp+tls://ada%40x:p%23@mail.example:587"),
        ("EMAIL_URL", "smtps://[::1]:465/"),
        ("EMAIL_URL", "console:"),
        ("EMAIL_URL", "file:///var/mails"),
        ("DOCUMENTATION_URL", "https://docs.example.com/0.1/"),
        ("DOCUMENTATION_URL", "http://localhost:8080"),
        ("EMAIL_FROM", "webmaster@localhost"),
        ("EMAIL_FROM", '"Ada, of sales" <ada@example.com>'),
        ("EMAIL_FROM", "J\u00fcrgen <j@example.com>"),
        ("NOTIFIER_NAMESPACES", '{\r\n\t"orders": {}\n}\n'),
        ("NOTIFIER_TOKEN_SECRET", "correct horse battery staple, and more"),
    ],
)
def test_an_ordinary_value_is_accepted(name, value):
    read_environment(PRODUCTION | {name: value})


def test_a_secret_file_holds_one_line(secret):
    without = {name: value for name, value in PRODUCTION.items() if name != "NOTIFIER_API_KEY"}
    for held in ("a\nb", " " * 40, "a\x07"):
        refused = refusal(without | {"NOTIFIER_API_KEY_FILE": secret(held)})
        assert refused.variable == "NOTIFIER_API_KEY"
