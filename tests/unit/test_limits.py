"""Rate and connection limits: the token bucket, floods, and logging."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.core.codes import TOO_MANY_COMMANDS, TOO_MANY_REQUESTS
from realtime.core.limits import (
    ADDRESSES_LIMIT,
    BUDGETS_LIMIT,
    REPORT_SECONDS,
    Bucket,
    ConnectionCounter,
    LimitCounts,
    Limits,
    PublicationBudgets,
    Rate,
    Subscriptions,
    Throttle,
    address_of,
)

RATES = st.builds(Rate, st.integers(1, 1000), st.integers(1, 300))
GAPS = st.lists(st.one_of(st.just(0.0), st.floats(0, 30)), min_size=1, max_size=300)


def passed(rate: Rate, moments: list[float]) -> list[float]:
    bucket = Bucket(rate)
    return [now for now in moments if bucket.take(now)]


def moments(start: float, gaps: list[float]) -> list[float]:
    found = [start]
    for gap in gaps:
        found.append(found[-1] + gap)
    return found


@given(RATES, st.floats(0, 1e6), GAPS)
def test_over_any_window_at_most_burst_and_rate_pass(rate: Rate, start: float, gaps: list[float]):
    """In exact arithmetic, apart from what a double cannot represent of the clock itself."""
    out = passed(rate, moments(start, gaps))
    for first in range(len(out)):
        for last in range(first, len(out)):
            window = Fraction(out[last]) - Fraction(out[first])
            assert last - first + 1 <= rate.burst + window * int(rate.per_second) + Fraction(1, 10)


@given(RATES, st.floats(0, 1e6), GAPS)
def test_nothing_is_refused_that_an_exact_bucket_would_allow(rate, start, gaps):
    level, at, bucket = Fraction(rate.burst), Fraction(start), Bucket(rate)
    for now in moments(start, gaps):
        came = (Fraction(now) - at) * int(rate.per_second)
        level, at = min(Fraction(rate.burst), level + came), Fraction(now)
        took = bucket.take(now)
        if abs(level - 1) > Fraction(1, 1000):  # otherwise rounding would decide
            assert took == (level >= 1)
        level -= took


def test_a_day_of_single_tokens_leaves_no_rounding_behind():
    """Ten a second for a day, and one that is never returned: a running sum would drift."""
    bucket = Bucket(Rate(10, 2))
    assert all(bucket.take(0.0) for _ in range(2))
    assert all(bucket.take(0.05 + number / 10) for number in range(1, 864_000))
    assert not bucket.take(86_399.95)


def test_a_bucket_is_full_again_after_a_rest():
    bucket = Bucket(Rate(10, 20))
    assert [bucket.take(5.0) for _ in range(21)] == [True] * 20 + [False]
    assert [bucket.take(6.0) for _ in range(11)] == [True] * 10 + [False]
    assert [bucket.take(60.0) for _ in range(21)] == [True] * 20 + [False]


def test_commands_over_the_burst_are_refused_and_twice_as_many_are_a_flood():
    throttle = Throttle(Rate(1, 3))
    said = [throttle.command(0.0) for _ in range(7)]
    assert said == [None] * 3 + [TOO_MANY_COMMANDS] * 3 + [TOO_MANY_REQUESTS]


def test_a_client_at_twice_the_rate_is_never_a_flood():
    """Half of the commands are executed, half are refused, and nobody is closed."""
    throttle = Throttle(Rate(10, 5))
    said = [throttle.command(number / 20) for number in range(2000)]
    assert TOO_MANY_REQUESTS not in said
    assert said[-100:].count(None) == pytest.approx(50, abs=1)


def test_an_expensive_command_costs_its_whole_price_or_nothing():
    throttle = Throttle(Rate(1, 10))
    assert throttle.command(0.0, 6) is None
    assert throttle.command(0.0, 6) is TOO_MANY_COMMANDS
    assert throttle.command(0.0, 4) is None, "what was refused was not counted as done"
    assert throttle.command(0.0, 6) is TOO_MANY_REQUESTS, "nor are its refusals free"


def test_a_command_that_costs_more_than_a_burst_is_never_executed():
    throttle = Throttle(Rate(100, 10))
    assert throttle.command(1e6, 11) is TOO_MANY_REQUESTS
    assert throttle.command(1e6, 10) is None


def test_a_cost_known_only_afterwards_becomes_a_debt():
    throttle = Throttle(Rate(1, 10))
    throttle.pay(0.0, 5)
    throttle.pay(0.0, 20)
    assert [throttle.command(now) for now in (0.0, 14.0, 15.0)] == [TOO_MANY_COMMANDS] * 3
    assert throttle.command(16.0) is None


@given(RATES, st.floats(0, 1e6), st.lists(st.tuples(st.floats(0, 30), st.integers(1, 50))))
def test_many_tokens_at_once_pass_like_single_ones(
    rate: Rate, start: float, asked: list[tuple[float, int]]
) -> None:
    bucket = Bucket(rate)
    level, at, now = Fraction(rate.burst), Fraction(start), start
    for gap, tokens in asked:
        now += gap
        level = min(Fraction(rate.burst), level + (Fraction(now) - at) * int(rate.per_second))
        at = Fraction(now)
        took = bucket.take(now, tokens)
        if abs(level - tokens) > Fraction(1, 1000):  # otherwise rounding would decide
            assert took == (level >= tokens)
        level -= tokens * took


def test_a_debt_is_told_until_it_is_paid():
    throttle = Throttle(Rate(1, 10))
    assert not throttle.is_in_debt(0.0)
    throttle.pay(0.0, 10)
    assert not throttle.is_in_debt(0.0)
    throttle.pay(0.0, 5)
    assert [throttle.is_in_debt(now) for now in (0.0, 4.9, 5.0)] == [True, True, False]


def test_a_client_that_keeps_reconnecting_publishes_no_faster():
    budgets, published, now = PublicationBudgets(Rate(10, 50)), 0, 0.0
    while now < 100.0:
        budget = budgets.take("192.0.2.1")
        while budget.take(now):
            published += 1
        budgets.give_back("192.0.2.1", budget, now)
        now += 0.25
    assert published == pytest.approx(50 + 10 * 100, abs=10)
    assert len(budgets) == 1


def test_the_budgets_of_an_address_are_for_as_many_connections():
    budgets = PublicationBudgets(Rate(1, 5))
    spent = [budgets.take("a") for _ in range(3)]
    for budget in spent:
        assert [budget.take(0.0) for _ in range(6)] == [True] * 5 + [False]
        budgets.give_back("a", budget, 0.0)
    assert {id(budgets.take("a")) for _ in range(3)} == set(map(id, spent))
    assert budgets.take("a").take(0.0, 5), "the fourth connection has its own"
    assert budgets.take("b").take(0.0, 5)


def test_a_full_budget_and_one_without_an_address_are_not_kept():
    budgets = PublicationBudgets(Rate(1, 5))
    budget = budgets.take("a")
    budget.take(0.0)
    budgets.give_back("", budget, 0.0)
    budgets.give_back("a", budget, 1.0)
    assert len(budgets) == 0


def test_budgets_are_bounded():
    budgets = PublicationBudgets(Rate(1, 5))
    for number in range(BUDGETS_LIMIT + 100):
        budget = budgets.take(f"a{number}")
        budget.take(0.0)
        budgets.give_back(f"a{number}", budget, 0.0)
    assert len(budgets) == BUDGETS_LIMIT
    assert budgets.take("a0").is_full(0.0)
    assert not budgets.take(f"a{BUDGETS_LIMIT}").is_full(0.0)


def test_a_limit_is_logged_once_a_minute_with_a_count():
    reached = LimitCounts()
    assert not list(reached.news(0.0))
    reached.count("commands", 3)
    assert list(reached.news(1.0)) == [("commands", 3)]
    reached.count("commands", 1000)
    reached.count("connections")
    assert list(reached.news(2.0)) == [("connections", 1)]
    assert not list(reached.news(REPORT_SECONDS))
    assert list(reached.news(REPORT_SECONDS + 1)) == [("commands", 1000)], "never untold"
    assert not list(reached.news(10 * REPORT_SECONDS))
    assert reached.counts == {"commands": 1003, "connections": 1}


@pytest.mark.parametrize(
    ("client", "counted"),
    [
        (("192.0.2.1", 40000), "192.0.2.1"),
        (["192.0.2.1", 40000], "192.0.2.1"),
        (("::ffff:192.0.2.1", 1), "192.0.2.1"),
        (("2001:db8:0:1:2:3:4:5", 1), "2001:db8:0:1::/64"),
        (("2001:DB8:0:1::", 1), "2001:db8:0:1::/64"),
        (("fe80::1%eth0", 1), "fe80::/64"),
        (None, ""),
        (("", 0), ""),
        (("unknown", 0), "unknown"),
        (("x" * 1000, 0), "x" * 64),
    ],
)
def test_an_address_is_counted_by_its_network(client, counted):
    assert address_of(client) == counted


NOBODY = {"channels_per_connection": 1, "commands": Rate(1, 1), "publications": Rate(1, 1)}


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.booleans()), max_size=60))
def test_connection_counts_stay_bounded_and_return_to_zero(steps):
    limits = Limits(
        connections=3,
        connections_per_user=1,
        connections_per_address=2,
        connect_seconds=1,
        **NOBODY,
    )
    crowd, inside = ConnectionCounter(limits), []
    for address, comes in steps:
        if not comes and inside:
            crowd.leave(inside.pop(0))
        elif comes:
            full, many = len(inside) >= 3, bool(address) and inside.count(address) >= 2
            expected = "connections" if full else "connections_per_address" if many else None
            assert crowd.enter(address) == expected
            inside += [address] if expected is None else []
        assert crowd.connections == len(inside)
    for address in inside:
        crowd.leave(address)
    assert crowd.is_empty


@given(RATES, GAPS, st.data())
def test_tokens_are_taken_all_or_none(rate: Rate, gaps: list[float], data: st.DataObject) -> None:
    bucket, taken = Bucket(rate), []
    for now in moments(0.0, gaps):
        count = data.draw(st.integers(1, 2 * rate.burst))
        if bucket.take(now, count):
            taken.append((now, count))
    for i, (first, _) in enumerate(taken):
        for j, (last, _) in enumerate(taken[i:], i):
            total = sum(count for _, count in taken[i : j + 1])
            assert total <= rate.burst + (last - first) * rate.per_second + 0.1


def test_a_reconnecting_address_keeps_its_used_subscription_budget() -> None:
    subscriptions = Subscriptions(Rate(1, 10))
    assert subscriptions.take("a", 10, now=0.0)
    assert not subscriptions.take("a", 1, now=0.5)
    assert subscriptions.take("b", 10, now=0.5)
    assert subscriptions.take("a", 1, now=1.5)
    assert subscriptions.take("", 100, now=1.5), "nobody in particular"
    assert Subscriptions(None).take("a", 10_000, now=0.0)


def test_the_address_table_is_bounded() -> None:
    subscriptions = Subscriptions(Rate(1, 10))
    for number in range(ADDRESSES_LIMIT + 100):
        subscriptions.take(f"a{number}", 1, now=0.0)
        subscriptions.take("busy", 0 if number else 10, now=0.0)
    assert len(subscriptions) == ADDRESSES_LIMIT
