"""The limits on login attempts."""

from __future__ import annotations

import pytest
from django.test import override_settings

from notifier import login_limit
from notifier.login_limit import (
    ADDRESS,
    IPV6_SITE,
    NAME,
    NAME_CHARACTERS,
    NAME_FROM_ADDRESS,
    WINDOW_SECONDS,
)
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.usefixtures("wired")


def attempts(count: int, *, address: str = "192.0.2.1", name: str = "ada") -> list[int]:
    return [login_limit.seconds_to_wait(address, name) for _ in range(count)]


def test_one_address_may_try_one_username_five_times():
    assert attempts(NAME_FROM_ADDRESS) == [0] * NAME_FROM_ADDRESS
    [wait] = attempts(1)
    assert 0 < wait <= WINDOW_SECONDS
    assert attempts(1, name="ben") == [0]
    assert attempts(1, address="192.0.2.2") == [0]


def test_upper_case_counts_as_the_same_username():
    attempts(NAME_FROM_ADDRESS)
    assert attempts(1, name="ADA") != [0]


@pytest.mark.parametrize("name", ["ada ", "\u2003ada", "ａda", "𝐚da", "ⓐⓓⓐ", "ａＤＡ", "a\u1d48a"])
def test_another_spelling_counts_as_the_same_username(name: str):
    attempts(NAME_FROM_ADDRESS)
    assert attempts(1, name=name) != [0]


def test_an_account_has_one_counter_for_all_its_spellings():
    """A database that compares without case or accents finds an account by more names."""
    names = [f"ada by name {n}" for n in range(NAME_FROM_ADDRESS)]
    for name in names:
        assert login_limit.seconds_to_wait("192.0.2.1", name, lambda: "7") == 0
    assert login_limit.seconds_to_wait("192.0.2.1", "another", lambda: "7") > 0
    assert login_limit.seconds_to_wait("192.0.2.1", "of somebody else", lambda: "8") == 0


def test_many_addresses_cannot_try_one_account_by_many_spellings():
    for n in range(NAME):
        assert login_limit.seconds_to_wait(f"192.0.2.{n}", f"name {n}", lambda: "7") == 0
    assert login_limit.seconds_to_wait("198.51.100.1", "another", lambda: "7") > 0


def test_a_successful_login_resets_the_attempts_on_the_account():
    for n in range(3 * ADDRESS):
        assert login_limit.seconds_to_wait("192.0.2.1", f"name {n}", lambda: "7") == 0
        login_limit.forget("192.0.2.1", f"name {n}", "7")


def test_a_refused_flood_looks_up_no_account():
    def find() -> str:
        raise AssertionError("refused already")

    attempts(NAME_FROM_ADDRESS)
    assert login_limit.seconds_to_wait("192.0.2.1", "ada", find) > 0


def test_unknown_usernames_are_counted_like_known_ones(redis_server: RedisServer, wired: str):
    """The commands sent to Redis, and their timing, do not reveal whether an account exists."""
    with redis_server.client() as client:
        counters = []
        for name, account in (("ada", "7"), ("eve", login_limit.NOBODY)):
            before = set(client.scan_iter(f"{wired}:{{0}}:login:*"))
            login_limit.seconds_to_wait(f"192.0.2.{len(before)}", name, lambda a=account: a)
            counters.append(len(set(client.scan_iter(f"{wired}:{{0}}:login:*")) - before))
    assert counters == [5, 5]


def test_one_address_cannot_try_many_usernames():
    assert [attempts(1, name=f"name {n}") for n in range(ADDRESS)] == [[0]] * ADDRESS
    assert attempts(1, name="another") != [0]


def test_many_addresses_cannot_try_one_username():
    assert [attempts(1, address=f"192.0.2.{n}") for n in range(NAME)] == [[0]] * NAME
    assert attempts(1, address="198.51.100.1") != [0]
    assert attempts(1, address="198.51.100.1", name="ben") == [0]


def test_one_attacker_cannot_lock_out_the_owner_of_a_username():
    attempts(NAME + 10)
    assert attempts(1, address="198.51.100.1") == [0]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("", "192.0.2.1", False),
    ],
)
def test_an_ipv6_address_is_counted_by_its_network(one: str, other: str, same: bool):
    attempts(NAME_FROM_ADDRESS, address=one)
    assert (attempts(1, address=other) != [0]) is same


def test_the_owner_of_an_ipv6_48_tries_from_each_of_its_networks(
    redis_server: RedisServer, wired: str
):
    """An attempt that is refused for its /48 creates no key, whatever its network and name."""
    networks = (f"2001:db8:1:{n:x}::1" for n in range(2 * IPV6_SITE))
    waits = [
        login_limit.seconds_to_wait(address, f"name {n}") for n, address in enumerate(networks)
    ]
    assert [wait > 0 for wait in waits] == [False] * IPV6_SITE + [True] * IPV6_SITE
    with redis_server.client() as client:
        keys = set(client.scan_iter(f"{wired}:{{0}}:login:*"))
    assert len(keys) == 1 + 5 * IPV6_SITE
    assert attempts(1, address="2001:db8:2::1") == [0], "another /48"
    assert attempts(1) == [0], "an address of IPv4"


def test_the_first_network_of_a_48_has_its_own_counter():
    for n in range(ADDRESS):
        assert login_limit.seconds_to_wait("2001:db8:1::1", f"name {n}") == 0
    assert login_limit.seconds_to_wait("2001:db8:1::1", "another") > 0
    assert login_limit.seconds_to_wait("2001:db8:1:1::1", "another") == 0


def test_a_successful_login_resets_the_attempts_of_a_48():
    for n in range(IPV6_SITE + 1):
        address = f"2001:db8:1:{n:x}::1"
        assert login_limit.seconds_to_wait(address, f"name {n}") == 0
        login_limit.forget(address, f"name {n}")


def test_a_successful_login_resets_the_attempts():
    for _ in range(3 * ADDRESS):
        assert attempts(1) == [0]
        login_limit.forget("192.0.2.1", "ada")


def test_all_counters_expire(redis_server: RedisServer, wired: str):
    attempts(3)
    login_limit.forget("192.0.2.1", "ada")
    login_limit.forget("192.0.2.9", "of nobody")
    login_limit.forget("2001:db8::1", "of nobody")
    with redis_server.client() as client:
        keys = list(client.scan_iter(f"{wired}:{{0}}:login:*"))
        assert keys
        assert all(0 < client.ttl(key) <= WINDOW_SECONDS for key in keys)
        assert not any(b"ada" in key for key in keys)


@pytest.mark.parametrize("name", ["", "\udcff", "a\nb", "{x}", "n" * 300])
def test_unusual_usernames_are_counted_too(name: str):
    attempts(NAME_FROM_ADDRESS, name=name)
    assert attempts(1, name=name) != [0]


def test_no_login_is_possible_without_redis():
    with (
        override_settings(REALTIME_REDIS_URL="unix:///nowhere.sock"),
        pytest.raises(login_limit.CannotCount),
    ):
        attempts(1)


def test_a_name_of_combining_characters_is_cut_before_it_is_normalized() -> None:
    """Normalizing takes time in the square of their number: 64 KiB stopped the process."""
    name = "a" + "\u0344" * 16_000 + "\u0323" * 16_000
    assert login_limit._Who(name)._folded == login_limit._Who(name[:NAME_CHARACTERS])._folded
