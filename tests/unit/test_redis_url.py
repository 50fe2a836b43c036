"""Valid values of REDIS_URL, and that redis-py reads them in the same way."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio.connection import parse_url

from realtime.core.redis_address import host_part, master_url, sentinel_urls, user_part
from realtime.core.redis_url import (
    is_sentinel_url,
    read_redis_url,
)
from realtime.core.url_rules import is_line
from realtime.errors import ConfigurationError


def problem(url: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read_redis_url(url)
    assert caught.value.setting == "REALTIME_REDIS_URL"
    assert caught.value.problem.isprintable()
    return caught.value.problem


@pytest.mark.parametrize(
    ("url", "host", "port", "database"),
    [
        ("redis://localhost", "localhost", 6379, 0),
        ("redis://user:secret@redis.example:6380/3", "redis.example", 6380, 3),
        ("redis://redis.example?db=3&client_name=shop", "redis.example", 6379, 3),
        ("redis:///2", "localhost", 6379, 2),
        ("redis://[::1]:6379", "::1", 6379, 0),
        ("rediss://h/1?ssl_cert_reqs=none", "h", 6379, 1),
    ],
)
def test_an_address_has_parts(url, host, port, database):
    found = read_redis_url(url)
    assert (found.host, found.port, found.database) == (host, port, database)


def test_a_unix_socket_has_a_path():
    found = read_redis_url("unix://u:p@/run/valkey.sock?db=2")
    assert (found.path, found.database, found.password) == ("/run/valkey.sock", 2, "p")


@pytest.mark.parametrize(
    "url", ["redis://u:p%40%23%2F%3F@h", "redis://h?username=u&password=p%40%23%2F%3F"]
)
def test_special_characters_in_a_password_are_escaped(url):
    found = read_redis_url(url)
    assert (found.username, found.password, found.host) == ("u", "p@#/?", "h")


@pytest.mark.parametrize(
    "url",
    [
        "redis://:57#x@host",
        "redis://user:57#x@host",
        "redis://:57?x@host",
        "redis://user:57?x=y@host",
        "redis://:57/x@host",
        "redis://user:57/0@host",
        "redis://:57[x@host",
        "redis://:hunter2#x@host:6379/0",
        "redis://host#fragment",
        "redis://:57",
        "redis://:57@",
    ],
)
def test_a_password_with_a_special_character_leads_to_no_other_server(url):
    """`redis://:57#x@host` was read as port 57 of this machine, without a password.

    cameronmaske/celery-once#135: a # in the password gives netloc=':57', and the rest is the
    fragment.
    """
    said = problem(url)
    assert "%23" in said
    assert "57" not in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://localhost",
        "redis://localhost:port",
        "redis://localhost:65536",
        "redis://localhost:0",
        "redis://localhost/news",
        "redis://localhost/1/2",
        "redis://localhost/-1",
        "redis://localhost?db=x",
        "redis://localhost/1?db=1",
        "redis://[::1",
        "unix://",
        "unix://run/valkey.sock",
        "redis://local\nhost",
        " redis://localhost",
        "redis://lócalhost",
        "redis://u:p@h?password=q",
        "redis://h?password=",
        "redis://h?client_name=a%20b",
    ],
)
def test_urls_that_redis_py_reads_differently_are_refused(url):
    problem(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://h?ssl_cert_reqs=none", "ssl_cert_reqs, which requires rediss://"),
        ("unix:///s?ssl_ca_certs=/a", "ssl_ca_certs, which requires rediss://"),
        ("rediss://h?ssl_ca_cert=/a", "unknown option 'ssl_ca_cert'; known"),
        ("redis://h?passwort=x", "unknown option 'passwort'; known"),
        ("redis://h?decode_responses=true", "an unknown option 'decode_responses'"),
        ("redis://h?a-secret-!=x", "an unknown option with an invalid name"),
        ("rediss://h?ssl_cert_reqs=CERT_NONE", "required or optional or none for ssl_cert_reqs"),
        ("rediss://h?ssl_cert_reqs=None", "required or optional or none for ssl_cert_reqs"),
        ("rediss://h?ssl_check_hostname=maybe", "for ssl_check_hostname"),
        ("rediss://h?ssl_min_version=TLSv1_2", "771 or 772 for ssl_min_version"),
        ("rediss://h?ssl_cert_reqs=none&ssl_cert_reqs=required", "ssl_cert_reqs twice"),
        ("rediss://h?ssl_ca_certs=", "ssl_ca_certs without a value"),
    ],
)
def test_an_invalid_option_is_named(url, said):
    """Each raised at the first connection, or was misread by `check --deploy`.

    redis/redis-py#3217 (`ssl_…` on redis://), wandb/weave#6907 (unknown options fail at the first
    command), celery/celery#8113 (`CERT_REQUIRED` is Celery's word, not that of redis-py).
    """
    assert said in problem(url)


def test_url_options_control_tls_verification():
    assert read_redis_url("rediss://h?ssl_check_hostname=Yes").checks_server
    assert not read_redis_url("rediss://h?ssl_check_hostname=N").checks_server
    assert not read_redis_url("rediss://h?ssl_cert_reqs=optional").checks_server
    files = {"ssl_ca_certs": "/ca.pem", "ssl_keyfile": "/key.pem"}
    url = "rediss://h?ssl_ca_certs=/ca.pem&ssl_keyfile=/key.pem&ssl_password=x"
    assert read_redis_url(url).files == files


PIECES = (
    "redis", "rediss", "unix", "://", "/", ":", "@", "#", "?", "&", "=", "57", "0", "host", "u",
    "%40", "db", "password", "ssl_cert_reqs", "none", "[", "]", "::1", ".", " ",
)  # fmt: skip


@given(
    st.lists(st.sampled_from(PIECES), max_size=9)
    .map("".join)
    .flatmap(lambda rest: st.sampled_from(["redis://", "rediss://", "unix:///", ""]).map(
        lambda scheme: scheme + rest
    ))
)  # fmt: skip
def test_redis_py_reads_the_same_address(url):
    try:
        ours = read_redis_url(url)
    except ConfigurationError:
        return
    theirs = dict(parse_url(url))
    assert theirs.get("db", 0) == ours.database
    assert theirs.get("username", "") == ours.username
    assert theirs.get("password", "") == ours.password
    if ours.scheme == "unix":
        assert theirs["path"] == ours.path
    else:
        assert theirs.get("host", "localhost") == ours.host
        assert theirs.get("port", 6379) == ours.port


def test_sentinels_and_the_master_have_credentials_of_their_own():
    url = read_redis_url(
        "rediss+sentinel://u:p%40@h1:1,h2,[::1]:2/my-master/3"
        "?sentinel_username=s&sentinel_password=q%2F&ssl_ca_certs=/ca.pem&client_name=shop"
    )
    assert url.sentinels is not None
    assert url.sentinels.master_name == "my-master"
    assert url.hosts == ("h1", "h2", "::1")
    tls = "ssl_ca_certs=%2Fca.pem&client_name=shop"
    assert master_url(url, ("10.0.0.1", 6379)) == f"rediss://u:p%40@10.0.0.1:6379/3?{tls}"
    assert sentinel_urls(url, url.sentinels) == [
        f"rediss://s:q%2F@{address}/0?{tls}" for address in ("h1:1", "h2:26379", "[::1]:2")
    ]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis+sentinel://h1,h2", "must name the master after the sentinels"),
        ("redis+sentinel://h1,h2/0/mymaster", "must have a database number as its path"),
        ("redis+sentinel://h1,h2/my%20master", "must name the master"),
        ("redis+sentinel:///mymaster", "must list the sentinels as host:port"),
        ("redis+sentinel://h1,,h2/mymaster", "must list the sentinels as host:port"),
        ("redis+sentinel://h1:0/mymaster", "must list the sentinels as host:port"),
        ("redis+sentinel://h1,h2:1,h1:26379/mymaster", "names an address twice"),
        ("redis+sentinel://h1/mymaster/0?db=1", "database number twice"),
        ("redis+sentinel://h1/mymaster?sentinel_user=a", "unknown option 'sentinel_user'; known"),
        ("redis+sentinel://h1/mymaster?sentinel_password=", "without a value"),
        ("redis+sentinel://h1/mymaster?ssl_ca_certs=/a", "requires rediss:// (TLS)"),
        ("redis://h1?sentinel_password=x", "unknown option 'sentinel_password'; known"),
    ],
)
def test_a_url_of_sentinels_that_cannot_work_is_explained(url, said):
    assert said in problem(url)


@pytest.mark.parametrize(
    "url",
    ["redis+sentinel://u:p#x@h1/m", "redis+sentinel://u:p/x@h1/m", "redis+sentinel://u:p?x@h1/m"],
)
def test_a_special_character_in_the_password_of_a_master_is_explained(url):
    assert "%23" in problem(url)


@pytest.mark.parametrize(
    "url",
    [
        "sentinel://:pw@h1:26379;sentinel://h2:26379",  # Celery (kombu)
        "redis-sentinel://pw@h1:26379,h2:26379/0#mymaster",  # Lettuce
        "redis+sentinel://h1:26379?sentinel_master_name=m&addr=h2:26379",  # Centrifugo
        "redis://h1:26379?master_name=m&addr=h2:26379",  # go-redis
    ],
)
def test_the_form_of_another_library_is_answered_with_ours(url):
    said = problem(url)
    assert "has another library's form for Redis Sentinel" in said
    assert "redis+sentinel://user:password@host1:26379,host2:26379/mastername" in said
    assert "pw" not in said


def test_a_list_of_hosts_is_answered_with_the_form_for_sentinels():
    assert "redis+sentinel://" in problem("redis://h1:26379,h2:26379/mymaster")


def test_a_cluster_is_named_by_some_of_its_nodes():
    url = read_redis_url("rediss+cluster://me:p%40w@h1,[::1]:7001,h3:7002/0?ssl_ca_certs=/ca.pem")
    assert url.cluster == (("h1", 6379), ("::1", 7001), ("h3", 7002))
    assert url.hosts == ("h1", "::1", "h3")
    assert (url.scheme, url.host, url.port, url.database) == ("rediss", "", 0, 0)
    assert (url.username, url.password) == ("me", "p@w")
    assert master_url(url, ("10.0.0.1", 7003)) == (
        "rediss://me:p%40w@10.0.0.1:7003/0?ssl_ca_certs=%2Fca.pem"
    )


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis+cluster://h1,h2/1", "asks for a database"),
        ("redis+cluster://h1,h2?db=1", "asks for a database"),
        ("redis+cluster://h1,,h2", "must list some nodes of the cluster as host:port"),
        ("redis+cluster://", "must list some nodes of the cluster as host:port"),
        ("redis+cluster://h1:1,h1:1", "names an address twice"),
        ("redis+cluster://h1?sentinel_password=x", "unknown option 'sentinel_password'"),
        ("redis+cluster://h1?ssl_ca_certs=/ca.pem", "requires rediss://"),
        ("redis+cluster://h1/0#secret", "percent-encoded"),
        ("rediss-cluster://h1", "another library's form for Redis Cluster"),
        ("redis://h1:7000?addr=h2:7000", "another library's form for Redis Cluster"),
    ],
)
def test_the_url_of_a_cluster_is_wrong(url, expected):
    with pytest.raises(ConfigurationError) as refused:
        read_redis_url(url)
    said = str(refused.value)
    assert expected in said
    assert "secret" not in said


WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=0x24F), max_size=8).filter(is_line)
ADDRESSES = st.tuples(
    st.sampled_from(["h1", "redis.example", "10.0.0.1", "::1"]), st.integers(1, 65535)
)


@given(WORDS, WORDS, WORDS, WORDS, ADDRESSES, st.lists(ADDRESSES, min_size=1, unique=True))
def test_servers_behind_sentinels_get_exactly_what_the_url_says(
    username, password, sentinel_username, sentinel_password, master, sentinels
):
    """Hypothesis: whatever the credentials, redis-py reads them from the URLs that we write."""
    given_by = {"sentinel_username": sentinel_username, "sentinel_password": sentinel_password}
    hosts = ",".join(map(host_part, sentinels))
    query = urlencode({name: value for name, value in given_by.items() if value})
    text = f"redis+sentinel://{user_part(username, password)}{hosts}/m/2?{query}"
    url = read_redis_url(text)
    assert is_sentinel_url(text)
    assert url.sentinels is not None
    expected = [(master, username, password, 2)]
    expected += [(each, sentinel_username, sentinel_password, 0) for each in sentinels]
    urls = [master_url(url, master), *sentinel_urls(url, url.sentinels)]
    for one, (address, user, secret, database) in zip(urls, expected, strict=True):
        theirs = dict(parse_url(one))
        assert (theirs["host"], theirs["port"]) == address
        assert theirs.get("username", "") == user
        assert theirs.get("password", "") == secret
        assert theirs["db"] == database
